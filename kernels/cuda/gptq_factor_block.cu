// What the reversed factorisation needs around a block of columns that a
// library factors (gptq_factor_cuda.cc). Layouts: gptq_launch.h.
//
// With J the identity's rows in reverse, H = R R^T with R upper is the ordinary
// J H J = (J R J) (J R J)^T with J R J lower. A triangle stored by rows above
// the diagonal is one by columns below it, so that J H J as the library wants
// it, and R back, is the block mirrored at its other diagonal:
//   (i, j) <-> (size - 1 - j, size - 1 - i).
// A tile and its mirror image pass through shared memory, so that both are read
// and written by rows.
// Tested by tests/kernels/gptq_factor_cuda_test.cc.
#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

constexpr int kTile = 32;  // elements a side
constexpr int kRowsAtOnce = kMaxBlockThreads / kTile;

// One more, so that a column is in as many banks as rows.
template <class T>
struct MirrorShared {
  T here[kTile][kTile + 1];
  T there[kTile][kTile + 1];
};

// Two elements that change places; each pair once. `here` is the element nearer
// to the first row and column.
struct Pair {
  int64_t i, j;
  int64_t size;

  QS_KERNEL bool exists() const { return i <= j && i + j < size - 1; }
  // Offsets in a matrix of `n` columns.
  QS_KERNEL int64_t here(int64_t n) const { return i * n + j; }
  QS_KERNEL int64_t there(int64_t n) const {
    return (size - 1 - j) * n + size - 1 - i;
  }
};

// The block of threads is kTile wide.
template <class Thread, class T>
QS_KERNEL void MirrorKernel(Thread& t, MirrorShared<T>& shared,
                            const FactorMirrorArgs<T>& a) {
  const int64_t n = a.matrix.size;
  const auto matrix = t.Global(a.matrix.a, n * n);
  const int64_t corner = a.begin * (n + 1);
  const int64_t size = a.end - a.begin;
  const int64_t tiles = (size + kTile - 1) / kTile;
  const int x = t.ThreadIndex() % kTile;
  for (int64_t tile = t.BlockIndex(); tile < tiles * tiles;
       tile += t.GridSize()) {
    const int64_t first_i = tile / tiles * kTile,
                  first_j = tile % tiles * kTile;
    if (first_j < first_i || first_i + first_j >= size - 1) continue;
    for (int y = t.ThreadIndex() / kTile; y < kTile; y += kRowsAtOnce) {
      const Pair by_row = {first_i + y, first_j + x, size};
      const Pair by_column = {first_i + x, first_j + y, size};
      if (by_row.exists()) {
        shared.here[y][x] = matrix.Get(corner + by_row.here(n));
      }
      if (by_column.exists()) {
        shared.there[y][x] = matrix.Get(corner + by_column.there(n));
      }
    }
    t.Barrier();
    for (int y = t.ThreadIndex() / kTile; y < kTile; y += kRowsAtOnce) {
      const Pair by_row = {first_i + y, first_j + x, size};
      const Pair by_column = {first_i + x, first_j + y, size};
      if (by_row.exists()) {
        matrix.Set(corner + by_row.here(n), shared.there[x][y]);
      }
      if (by_column.exists()) {
        matrix.Set(corner + by_column.there(n), shared.here[x][y]);
      }
    }
    t.Barrier();
  }
}

// One block of threads.
template <class Thread, class T>
QS_KERNEL void RootsKernel(Thread& t, NoShared&, const FactorRootsArgs<T>& a) {
  const int64_t n = a.panel.matrix.size;
  const auto matrix = t.Global(a.panel.matrix.a, n * n);
  const auto diagonal = t.Global(a.panel.diagonal, n);
  bool failed = t.Global(a.info, 1).Get(0) != 0;
  for (int64_t c = a.panel.begin + t.ThreadIndex(); c < a.panel.end;
       c += t.BlockSize()) {
    const auto root = static_cast<double>(matrix.Get(c * (n + 1)));
    // NaN has failed, too.
    failed = failed || !(root * root > a.panel.rule.least * diagonal.Get(c));
  }
  if (failed) t.Global(a.panel.state, 2).AtomicMax(0, 1);
}

template <class Args>
using MirrorSharedOf = MirrorShared<typename Args::Element>;

QS_DEFINE_ENTRY(MirrorKernel, MirrorSharedOf<Args>)
QS_DEFINE_ENTRY(RootsKernel, NoShared)

template <class T>
bool IsBlock(const FactorMatrix<T>& matrix, int64_t begin, int64_t end) {
  return IsPointer(matrix.a) && begin >= 0 && begin < end && end <= matrix.size;
}

template <class T>
int Mirror(const FactorMirrorArgs<T>& args, cudaStream_t stream) {
  if (!IsBlock(args.matrix, args.begin, args.end)) return kCudaInvalidValue;
  const int64_t tiles = CeilDiv(args.end - args.begin, kTile);
  return QS_LAUNCH(MirrorKernel, MirrorShared<T>, args,
                   std::min(tiles * tiles, kMaxGrid), kMaxBlockThreads, stream);
}

template <class T>
int Roots(const FactorRootsArgs<T>& args, cudaStream_t stream) {
  const FactorPanelArgs<T>& panel = args.panel;
  if (!IsBlock(panel.matrix, panel.begin, panel.end) ||
      !IsPointer(panel.diagonal) || !IsPointer(panel.state) ||
      !IsPointer(args.info)) {
    return kCudaInvalidValue;
  }
  return QS_LAUNCH(RootsKernel, NoShared, args, 1, kMaxBlockThreads, stream);
}

}  // namespace

int LaunchFactorMirror(const FactorMirrorArgs<float>& args,
                       cudaStream_t stream) {
  return Mirror(args, stream);
}
int LaunchFactorMirror(const FactorMirrorArgs<double>& args,
                       cudaStream_t stream) {
  return Mirror(args, stream);
}
int LaunchFactorRoots(const FactorRootsArgs<float>& args, cudaStream_t stream) {
  return Roots(args, stream);
}
int LaunchFactorRoots(const FactorRootsArgs<double>& args,
                      cudaStream_t stream) {
  return Roots(args, stream);
}

}  // namespace qs::cuda
