// A program that runs one kernel on the host emulation, the one that its
// argument names: for emulation_race_test, which says what ThreadSanitizer must
// find. Prints "done" when the result is right.
#include <cstdio>
#include <cstring>

#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

constexpr int kThreads = 64;

enum class Kind {
  kBarrier,      // values go through shared memory, past a barrier
  kNoBarrier,    // ... past nothing
  kWarpBarrier,  // ... within a warp, past its barrier
  kShuffle,      // ... within a warp, past a shuffle, which orders nothing
  kUnevenWarps,  // as kBarrier; the warps pass different numbers of their own
  kBlockWord,    // every block writes one global word
  kBlockAtomic,  // ... atomically
  kOtherBlock,   // a block reads what another wrote
  kDiverged,     // a thread misses the barrier: an error
};

struct Shared {
  int values[kThreads];
};

struct Args {
  int64_t* out;  // one element a block, then one of all
  int64_t blocks;
  Kind kind;
};

// What thread i of a block gets from another one through shared memory.
template <class Thread>
QS_KERNEL int Exchange(Thread& t, Shared& shared, Kind kind) {
  const int i = t.ThreadIndex();
  shared.values[i] = i;
  if (kind == Kind::kDiverged && i == 5) return 0;
  const bool warps = kind == Kind::kWarpBarrier || kind == Kind::kShuffle;
  if (kind == Kind::kUnevenWarps && i < kWarpSize) t.WarpBarrier();
  if (kind == Kind::kWarpBarrier) t.WarpBarrier();
  if (kind == Kind::kShuffle) t.ShuffleXor(i, 1);
  if (!warps && kind != Kind::kNoBarrier) t.Barrier();
  return shared.values[warps ? i ^ 1 : kThreads - 1 - i];
}

template <class Thread>
QS_KERNEL void RacyKernel(Thread& t, Shared& shared, const Args& a) {
  auto out = t.Global(a.out, a.blocks + 1);
  const int got = Exchange(t, shared, a.kind);
  if (t.ThreadIndex() != 0) return;
  const int64_t me = t.BlockIndex();
  if (a.kind == Kind::kBlockWord) out.Set(a.blocks, got);
  if (a.kind == Kind::kBlockAtomic) out.AtomicAdd(a.blocks, got);
  out.Set(me, a.kind == Kind::kOtherBlock ? out.Get((me + 1) % a.blocks) : got);
}

int RunKernel(Kind kind, int64_t blocks) {
  EmulatedDevice& device = EmulatedDevice::Get();
  const auto count = static_cast<size_t>(blocks + 1);
  auto* out = static_cast<int64_t*>(
      device.Allocate(static_cast<int64_t>(count * sizeof(int64_t))));
  std::memset(out, 0, count * sizeof(int64_t));
  const Args args{out, blocks, kind};
  const int code =
      QS_LAUNCH(RacyKernel, Shared, args, blocks, kThreads, nullptr);
  if (kind == Kind::kDiverged) {
    // What waited has left, and the next launch has fibers.
    return code == 0 ? 1 : RunKernel(Kind::kBarrier, blocks);
  }
  if (code != 0) return 1;
  const bool warps = kind == Kind::kWarpBarrier || kind == Kind::kShuffle;
  const int64_t want = warps ? 1 : kThreads - 1;
  for (int64_t i = 0; i < blocks; ++i) {
    if (out[i] != want) return 1;
  }
  return kind != Kind::kBlockAtomic || out[blocks] == blocks * want ? 0 : 1;
}

struct Case {
  const char* name;
  Kind kind;
  int64_t blocks;
};

// More blocks than the emulation runs at a time, where nothing must be found.
constexpr Case kCases[] = {
    {"barrier", Kind::kBarrier, 33},
    {"no_barrier", Kind::kNoBarrier, 1},
    {"warp_barrier", Kind::kWarpBarrier, 33},
    {"shuffle", Kind::kShuffle, 1},
    {"uneven_warps", Kind::kUnevenWarps, 33},
    {"block_word", Kind::kBlockWord, 2},
    {"block_atomic", Kind::kBlockAtomic, 33},
    {"other_block", Kind::kOtherBlock, 2},
    {"diverged", Kind::kDiverged, 33},
};

int Main(const char* name) {
  for (const Case& c : kCases) {
    if (std::strcmp(c.name, name) != 0) continue;
    if (RunKernel(c.kind, c.blocks) != 0) return 1;
    std::puts("done");
    return 0;
  }
  return 2;
}

}  // namespace
}  // namespace qs::cuda

int main(int argc, char** argv) {
  return argc == 2 ? qs::cuda::Main(argv[1]) : 2;
}
