// hqq's solver with the groups in registers: axis 1, groups of 32 to 256.
// Definition: kernels/reference/hqq_reference.cc, whose bytes this gives; order
// of the sums: kernels/hqq_sums.h.
//
// A warp takes 512 elements at a time, 16 rows of 32: a lane holds one column,
// which is how torch adds them. All of their groups step together until every
// zero stands still; what a step costs is 16 elements a lane, with the sums of
// columns through shared memory and the last eight additions of a group's sum
// on a lane of its own. Errors of elements are added down the columns for each
// of the steps, a block of threads for 2^2p rows at a time, so that 128 bytes a
// step and 8192 or more weights go to memory.
//
// When the tensor stops is known when all errors are: the solver goes on to the
// last step, a kernel adds up the errors and finds the stop, and the few groups
// that still moved after it are solved again.
// Tested by tests/kernels/hqq_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/hqq_launch.h"
#include "kernels/cuda/hqq_rows.h"
#include "kernels/cuda/nested_mean.h"

namespace qs::cuda {
namespace {

template <int kGroupRowsValue>
struct SolveParams {
  static constexpr int kGroupRows = kGroupRowsValue;  // rows of a group
  static constexpr int kGroups = kRows / kGroupRows;  // that a warp holds
  HqqParams hqq;
  int64_t rows;
  int power;             // 2^p rows a chunk, 2^p chunks a block
  int64_t whole_blocks;  // of rows
  float* sums;           // [iterations, whole_blocks, 32]
  float* tails;          // [iterations, 2, 32]: level 0 and 1 of the rest
  float* errors;         // [iterations]: means

  QS_HD int64_t blocks() const {
    return (rows + (int64_t{1} << (2 * power)) - 1) >> (2 * power);
  }
};

// Adds the errors of the chunks of eight warps, from number `first` of `whole`
// in their block of rows, to those before; a chunk that is not whole is level
// 0 of the tensor. By all threads.
template <class Thread, class Params>
QS_KERNEL void AddChunks(Thread& t, const Params& a,
                         SolveShared<Params::kGroups>& shared, int64_t first,
                         int64_t whole, int64_t chunks) {
  const int iterations = a.hqq.iterations;
  const auto tails = t.Global(a.tails, int64_t{iterations} * 2 * kWarpSize);
  for (int i = t.ThreadIndex(); i < iterations * kWarpSize;
       i += t.BlockSize()) {
    const int k = i / kWarpSize;
    const int column = i % kWarpSize;
    float sum = first == 0 ? 0.0f : shared.level[k][column];
    for (int w = 0; w < kWarps && first + w < whole; ++w) {
      sum += shared.errors[k][w][column];
    }
    shared.level[k][column] = sum;
    if (whole < chunks && whole >= first && whole < first + kWarps) {
      tails.Set(2 * k * kWarpSize + column,
                shared.errors[k][whole - first][column]);
    }
  }
}

// Stores the errors of a block of rows. `level0`: nothing was stored there.
template <class Thread, class Params>
QS_KERNEL void StoreChunks(Thread& t, const Params& a,
                           SolveShared<Params::kGroups>& shared, int64_t block,
                           bool level0) {
  const int iterations = a.hqq.iterations;
  const auto sums = t.Global(a.sums, iterations * a.whole_blocks * kWarpSize);
  const auto tails = t.Global(a.tails, int64_t{iterations} * 2 * kWarpSize);
  for (int i = t.ThreadIndex(); i < iterations * kWarpSize;
       i += t.BlockSize()) {
    const int k = i / kWarpSize;
    const int column = i % kWarpSize;
    const float sum = shared.level[k][column];
    if (block < a.whole_blocks) {
      sums.Set((k * a.whole_blocks + block) * kWarpSize + column, sum);
      continue;
    }
    tails.Set((2 * k + 1) * kWarpSize + column, sum);
    if (level0) tails.Set(2 * k * kWarpSize + column, 0.0f);
  }
}

template <class Thread, class Params>
QS_KERNEL void HqqSolveKernel(Thread& t, SolveShared<Params::kGroups>& shared,
                              const Params& a) {
  RowSolver<Thread, Params> solver(t, a, shared);
  const int warp = t.ThreadIndex() / kWarpSize;
  const int64_t chunk_rows = int64_t{1} << a.power;
  for (int64_t block = t.BlockIndex(); block < a.blocks();
       block += t.GridSize()) {
    const int64_t begin = block << (2 * a.power);
    int64_t end = (block + 1) << (2 * a.power);
    end = end < a.rows ? end : a.rows;
    const int64_t whole = (end - begin) >> a.power;
    const int64_t chunks = (end - begin + chunk_rows - 1) >> a.power;
    for (int64_t first = 0; first < chunks; first += kWarps) {
      const int64_t from = begin + (first + warp) * chunk_rows;
      int64_t to = from + chunk_rows;
      to = to < end ? to : end;
      QS_NO_UNROLL
      for (int64_t row = from; row < to; row += kRows) {
        solver.Load(row, static_cast<int>(to - row < kRows ? to - row : kRows));
        solver.template Solve<true>(a.hqq.iterations, row == from);
        solver.Store(true);
        t.WarpBarrier();
      }
      t.Barrier();
      AddChunks(t, a, shared, first, whole, chunks);
      t.Barrier();
    }
    StoreChunks(t, a, shared, block, whole == chunks);
    t.Barrier();
  }
}

// A step a block: the mean error.
template <class Thread, class Params>
QS_KERNEL void HqqMeansKernel(Thread& t, MeanShared& shared, const Params& a) {
  const int iterations = a.hqq.iterations;
  const auto sums = t.Global(a.sums, iterations * a.whole_blocks * kColumns);
  const auto tails = t.Global(a.tails, int64_t{iterations} * 2 * kColumns);
  const auto errors = t.Global(a.errors, iterations);
  MeanParams mean = {};
  mean.count = a.hqq.count;
  mean.quads = a.rows;
  mean.shift = a.power;
  for (int64_t k = t.BlockIndex(); k < iterations; k += t.GridSize()) {
    // The blocks of rows are to levels 2 and 3 what rows are to 0 and 1.
    const int64_t first = k * a.whole_blocks;
    const int64_t in_level3 = a.whole_blocks >> a.power << a.power;
    const float level3 =
        SumChunks(t, shared, mean, sums, first, in_level3 >> a.power);
    if (t.ThreadIndex() < kColumns) {
      const float level2 =
          SumQuads(t, sums, first + in_level3, a.whole_blocks - in_level3);
      float low = 0.0f;
      if (a.whole_blocks < a.blocks()) {
        const int64_t at = 2 * k * kColumns + t.ThreadIndex();
        low = tails.Get(at) + tails.Get(at + kColumns);
      }
      shared.columns[t.ThreadIndex()] = (low + level2) + level3;
    }
    t.Barrier();
    if (t.ThreadIndex() == 0) {
      errors.Set(
          k, FinishSum(shared, mean, sums) / static_cast<float>(a.hqq.count));
    }
    t.Barrier();
  }
}

// One warp: where the tensor stopped.
template <class Thread, class Params>
QS_KERNEL void HqqStopKernel(Thread& t, NoShared&, const Params& a) {
  const auto errors = t.Global(a.errors, a.hqq.iterations);
  const auto memory = t.Global(a.hqq.facts, 1);
  if (t.ThreadIndex() != 0) return;
  HqqDeviceFacts facts = memory.Get(0);
  QS_NO_UNROLL
  for (int k = 0; k < a.hqq.iterations && facts.stopped == 0; ++k) {
    facts.error = errors.Get(k);
    facts.iterations = k + 1;
    if (facts.error < facts.best) {
      facts.best = facts.error;
    } else {
      facts.stopped = 1;
    }
  }
  memory.Set(0, facts);
}

// Groups that moved after the tensor had stopped, again; and the sum of steps.
template <class Thread, class Params>
QS_KERNEL void HqqAgainKernel(Thread& t, SolveShared<Params::kGroups>& shared,
                              const Params& a) {
  const int iterations = t.Global(a.hqq.facts, 1).Get(0).iterations;
  const auto still = t.Global(a.hqq.still, a.hqq.groups);
  RowSolver<Thread, Params> solver(t, a, shared);
  const int lane = t.ThreadIndex() % kWarpSize;
  Counter steps = 0;
  const int64_t stride = t.GridSize() * kWarps * kRows;
  for (int64_t base = t.BlockIndex() * kWarps * kRows; base < a.rows;
       base += stride) {
    const int64_t row = base + t.ThreadIndex() / kWarpSize * kRows;
    const int64_t left = row < a.rows ? a.rows - row : 0;
    const int count = static_cast<int>(left < kRows ? left : kRows);
    int own = 0;
    if (lane < count / Params::kGroupRows) {
      own = still.Get(row / Params::kGroupRows + lane);
    }
    steps += static_cast<Counter>(own < iterations ? own : iterations);
    if (!t.AnyInWarp(own > iterations)) continue;
    solver.Load(row, count);
    solver.template Solve<false>(iterations, true);
    solver.Store(false);
    t.WarpBarrier();
  }
  steps = AddCountsOverWarp(t, steps);
  if (lane == 0) AddSteps(t, a.hqq, steps);
}

// Where it saves registers, the compiler spills for sm_100 and later; for sm_90
// it does not, and 80 registers leave room for three blocks, 116 for two.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
QS_DEFINE_LARGE_ENTRY(HqqSolveKernel, SolveShared<Args::kGroups>)
#else
QS_DEFINE_ENTRY(HqqSolveKernel, SolveShared<Args::kGroups>)
#endif
QS_DEFINE_ENTRY(HqqMeansKernel, MeanShared)
QS_DEFINE_ENTRY(HqqStopKernel, NoShared)
QS_DEFINE_LARGE_ENTRY(HqqAgainKernel, SolveShared<Args::kGroups>)

template <int kGroupRows>
int Solve(const HqqParams& hqq, const ErrorShape& shape, uint8_t* workspace,
          cudaStream_t stream) {
  using Params = SolveParams<kGroupRows>;
  using Shared [[maybe_unused]] = SolveShared<Params::kGroups>;  // emulated
  const HqqLayout layout(hqq.count, hqq.group_size, hqq.iterations);
  const Params a = {hqq,
                    shape.rows,
                    shape.power,
                    shape.whole_blocks,
                    reinterpret_cast<float*>(workspace + layout.sums),
                    reinterpret_cast<float*>(workspace + layout.tails),
                    reinterpret_cast<float*>(workspace + layout.errors)};
  int code =
      QS_LAUNCH(HqqSolveKernel, Shared, a, std::min(a.blocks(), kMaxGrid),
                kMaxBlockThreads, stream);
  if (code != 0) return code;
  code = QS_LAUNCH(HqqMeansKernel, MeanShared, a,
                   std::min<int64_t>(hqq.iterations, kMaxGrid), kMeanThreads,
                   stream);
  if (code != 0) return code;
  code = QS_LAUNCH(HqqStopKernel, NoShared, a, 1, kWarpSize, stream);
  if (code != 0) return code;
  const int64_t warps = CeilDiv(a.rows, kRows);
  return QS_LAUNCH(HqqAgainKernel, Shared, a,
                   std::min(CeilDiv(warps, kWarps), kMaxGrid), kMaxBlockThreads,
                   stream);
}

}  // namespace

int LaunchHqqSolve(const HqqParams& a, const ErrorShape& shape,
                   uint8_t* workspace, cudaStream_t stream) {
  switch (a.group_size) {
    case 32:
      return Solve<1>(a, shape, workspace, stream);
    case 64:
      return Solve<2>(a, shape, workspace, stream);
    case 128:
      return Solve<4>(a, shape, workspace, stream);
    case 256:
      return Solve<8>(a, shape, workspace, stream);
    default:
      return kCudaInvalidValue;
  }
}

}  // namespace qs::cuda
