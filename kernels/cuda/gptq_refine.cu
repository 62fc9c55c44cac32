// Coordinate descent on codes, and least squares on the scales of groups that
// lie in a block, beside the library's products. Definition:
// kernels/reference/gptq_refine_reference.cc; layouts: gptq_launch.h.
//
// A warp has a row. Four columns of a block are a lane's, with their gradient
// in registers: a column's lane decides, all lanes follow. H's rows come from
// the cache, where all warps need the same. What changed outside the block is a
// product afterwards.
// Tested by tests/kernels/gptq_refine_cuda_test.cc.
#include <cmath>

#include "kernels/cuda/gptq_launch.h"
#include "kernels/cuda/gptq_refine_device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

using namespace refine;

constexpr int kBlock = static_cast<int>(gptq::kBlock);
constexpr int kSlots = kBlock / kWarpSize;  // columns of a lane

template <class T, class Arguments>
struct Typed {
  using Element = T;
  Arguments args;
};

template <class Thread, class Params>
QS_KERNEL void StartKernel(Thread& t, NoShared&, const Params& p) {
  using T = typename Params::Element;
  const RefineState& a = p.args.state;
  const int64_t rows = a.weight.rows, cols = a.weight.cols;
  const int64_t padded = (rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const auto weight =
      t.Global(static_cast<const T*>(a.weight.data), rows * cols);
  const auto codes = t.Global(a.codes, rows * cols);
  const auto gradient = t.Global(a.gradient, padded * cols);
  const auto out = t.Global(p.args.d, kSolveTile * cols);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < kSolveTile * cols; i += stride) {
    const int64_t row = p.args.first + i / cols;
    float d = 0;
    if (row < rows) {
      const int64_t at = row * cols + i % cols;
      const int64_t group = row * a.groups + i % cols / a.grid.group_size;
      const float steps =
          static_cast<float>(codes.Get(at)) - ZeroAt(t, a, group);
      d = Decoded(a, steps, ScaleAt(t, a, group)) - Widen(weight.Get(at));
    }
    out.Set(i, d);
    gradient.Set(p.args.first * cols + i, a.damping * d);
  }
}

// One row's columns of a block, lane + 32 j in slot j. What is beyond the block
// has a scale of 0 and never changes.
template <class Thread>
class BlockRow {
 public:
  QS_KERNEL BlockRow(Thread& t, const RefineBlockArgs& a, int64_t row)
      : t_(t),
        a_(a),
        s_(a.state),
        row_(row),
        size_(static_cast<int>(a.end - a.begin)),
        lane_(t.ThreadIndex() % kWarpSize),
        max_code_(static_cast<float>((1 << s_.grid.bits) - 1)),
        h_(t.Global(s_.hessian, s_.weight.cols * s_.weight.cols)) {
    const int64_t cols = s_.weight.cols;
    const int64_t padded =
        (s_.weight.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
    const auto codes = t.Global(s_.codes, s_.weight.rows * cols);
    const auto gradient = t.Global(s_.gradient, padded * cols);
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      const int i = lane_ + j * kWarpSize;
      steps_[j] = scale_[j] = zero_[j] = g_[j] = 0;
      diagonal_[j] = 1;
      if (i < size_) {
        const int64_t col = a.begin + i;
        scale_[j] = ScaleAt(t, s_, GroupAt(i));
        zero_[j] = ZeroAt(t, s_, GroupAt(i));
        steps_[j] = static_cast<float>(codes.Get(row * cols + col)) - zero_[j];
        g_[j] = gradient.Get(row * cols + col);
        diagonal_[j] = h_.Get(col * (cols + 1)) + s_.damping;
      }
      start_[j] = Decoded(s_, steps_[j], scale_[j]);
    }
  }

  // The passes over the block. Whether anything changed.
  QS_KERNEL bool Run() {
    bool changed = false;
    for (int pass = 0; pass < gptq::kBlockPasses; ++pass) {
      bool moved = SweepCodes();
      if (a_.refits && RefitScales()) moved = true;
      if (!moved) break;
      changed = true;
    }
    return changed;
  }

  QS_KERNEL void Store(bool changed) {
    t_.WarpBarrier();  // the lanes of a group have read its scale
    const int64_t cols = s_.weight.cols;
    const auto codes = t_.Global(s_.codes, s_.weight.rows * cols);
    const int64_t padded =
        (s_.weight.rows + kSolveTile - 1) / kSolveTile * kSolveTile;
    const auto d = t_.Global(a_.d, padded * kBlock);
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      const int i = lane_ + j * kWarpSize;
      const float now = Decoded(s_, steps_[j], scale_[j]);
      d.Set(row_ * kBlock + i, changed ? now - start_[j] : 0.0f);
      if (!changed || i >= size_) continue;
      codes.Set(row_ * cols + a_.begin + i,
                static_cast<uint8_t>(static_cast<int>(steps_[j] + zero_[j])));
      if (a_.refits && (a_.begin + i) % s_.grid.group_size == 0) {
        StoreScale(t_, s_, GroupAt(i), scale_[j]);
      }
    }
  }

 private:
  QS_KERNEL int64_t GroupAt(int i) const {
    return row_ * s_.groups + (a_.begin + i) / s_.grid.group_size;
  }
  // H_damped[c, this lane's column of slot j].
  QS_KERNEL float H(int c, int j) const {
    const int i = lane_ + j * kWarpSize;
    if (i >= size_) return 0.0f;
    const float h = h_.Get((a_.begin + c) * s_.weight.cols + a_.begin + i);
    return i == c ? h + s_.damping : h;
  }

  // In order; columns that stay as they are change nothing for those behind
  // them, so the next that does not is looked for by all lanes at once.
  QS_KERNEL bool SweepCodes() {
    bool moved = false;
    QS_UNROLL
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int next = 0; next < kWarpSize;) {
        const float steps = WantedSteps(slot);
        const bool wants = lane_ >= next && steps != steps_[slot];
        if (!t_.AnyInWarp(wants)) break;
        const int first = FirstLane(wants);
        const float by = t_.ShuffleFrom(
            Decoded(s_, steps, scale_[slot]) -
                Decoded(s_, steps_[slot], scale_[slot]),
            first);
        if (lane_ == first) steps_[slot] = steps;
        const int c = slot * kWarpSize + first;
        QS_UNROLL
        for (int j = 0; j < kSlots; ++j) g_[j] = fmaf(by, H(c, j), g_[j]);
        moved = true;
        next = first + 1;
      }
    }
    return moved;
  }

  QS_KERNEL int FirstLane(bool wants) {
    int first = wants ? lane_ : kWarpSize;
    QS_UNROLL
    for (int mask = 1; mask < kWarpSize; mask *= 2) {
      const int other = t_.ShuffleXor(first, mask);
      first = other < first ? other : first;
    }
    return first;
  }

  // The steps that lower the error, or those that are.
  QS_KERNEL float WantedSteps(int j) const {
    const float scale = scale_[j];
    if (!(scale > 0)) return steps_[j];
    const float wanted =
        rintf(steps_[j] - g_[j] / (diagonal_[j] * scale));
    const float steps =
        affine::Clamp(wanted, -zero_[j], max_code_ - zero_[j]);
    const float by = Decoded(s_, steps, scale) - Decoded(s_, steps_[j], scale);
    return by * (2 * g_[j] + by * diagonal_[j]) < 0 ? steps : steps_[j];
  }

  QS_KERNEL bool RefitScales() {
    bool moved = false;
    const int size = static_cast<int>(s_.grid.group_size);
    for (int first = 0; first < size_; first += size) {
      const int last = first + size < size_ ? first + size : size_;
      if (RefitGroup(first, last)) moved = true;
    }
    return moved;
  }

  QS_KERNEL bool IsIn(int j, int first, int last) const {
    const int i = lane_ + j * kWarpSize;
    return first <= i && i < last;
  }

  // product[j] = sum over the group of x_i H_damped[i, j].
  QS_KERNEL void Multiply(int first, int last, const float (&x)[kSlots],
                          float (&product)[kSlots]) {
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) product[j] = 0;
    QS_UNROLL
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const int i = slot * kWarpSize + lane;
        if (i < first || i >= last) continue;
        const float xi = t_.ShuffleFrom(x[slot], lane);
        QS_UNROLL
        for (int j = 0; j < kSlots; ++j) {
          product[j] = fmaf(xi, H(i, j), product[j]);
        }
      }
    }
  }

  QS_KERNEL bool RefitGroup(int first, int last) {
    float product[kSlots];
    Multiply(first, last, steps_, product);
    float slope = 0, curvature = 0, scale = 0;
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      if (!IsIn(j, first, last)) continue;
      slope += steps_[j] * g_[j];
      curvature += steps_[j] * product[j];
      scale = scale_[j];
    }
    slope = SumOverWarp(t_, slope);
    curvature = SumOverWarp(t_, curvature);
    // The scale of a lane that has a column of the group.
    scale = t_.ShuffleFrom(scale, first % kWarpSize);
    const float wanted =
        affine::RoundTo(s_.grid.scale_dtype, scale - slope / curvature);
    if (!(curvature > 0) || !IsUsable(s_, wanted, scale)) return false;
    float by[kSlots];
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      by[j] = IsIn(j, first, last) ? Decoded(s_, steps_[j], wanted) -
                                         Decoded(s_, steps_[j], scale)
                                   : 0.0f;
    }
    Multiply(first, last, by, product);
    float gain = 0;
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) gain += by[j] * (2 * g_[j] + product[j]);
    if (!(SumOverWarp(t_, gain) < 0)) return false;
    QS_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      if (IsIn(j, first, last)) scale_[j] = wanted;
      g_[j] += product[j];
    }
    return true;
  }

  Thread& t_;
  const RefineBlockArgs& a_;
  const RefineState& s_;
  const int64_t row_;
  const int size_;
  const int lane_;
  const float max_code_;
  const GlobalMemory<const float> h_;
  float steps_[kSlots];
  float scale_[kSlots];
  float zero_[kSlots];
  float g_[kSlots];
  float diagonal_[kSlots];  // damped
  float start_[kSlots];     // decoded
};

template <class Thread>
QS_KERNEL void BlockKernel(Thread& t, NoShared&, const RefineBlockArgs& a) {
  ForWarpUnits(t, a.state.weight.rows, [&](int64_t row) {
    BlockRow<Thread> block(t, a, row);
    const bool changed = IsActive(t, a.state, row) && block.Run();
    block.Store(changed);
    if (changed) MarkChanged(t, a.state, row);
  });
}

template <class Thread>
QS_KERNEL void DampKernel(Thread& t, NoShared&, const RefineDampArgs& a) {
  const int64_t rows = a.state.weight.rows, cols = a.state.weight.cols;
  const int64_t padded = (rows + kSolveTile - 1) / kSolveTile * kSolveTile;
  const auto gradient = t.Global(a.state.gradient, padded * cols);
  const auto d = t.Global(a.d, padded * a.stride);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < rows * a.width; i += stride) {
    const int64_t row = i / a.width, col = i % a.width;
    const int64_t at = row * cols + a.begin + col;
    gradient.Set(at, fmaf(a.state.damping, d.Get(row * a.stride + col),
                          gradient.Get(at)));
  }
}

QS_DEFINE_ENTRY(StartKernel, NoShared)
QS_DEFINE_LARGE_ENTRY(BlockKernel, NoShared)
QS_DEFINE_ENTRY(DampKernel, NoShared)

}  // namespace

int LaunchRefineStart(const RefineStartArgs& args, cudaStream_t stream) {
  if (!IsServableState(args.state) || args.state.weight.data == nullptr ||
      args.first < 0 || args.first >= args.state.weight.rows ||
      !IsPointer(args.d)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(kSolveTile * args.state.weight.cols);
  return WithType(args.state.weight.dtype, [&](auto type) {
    const Typed<decltype(type), RefineStartArgs> params = {args};
    return QS_LAUNCH(StartKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

int LaunchRefineBlock(const RefineBlockArgs& args, cudaStream_t stream) {
  if (!IsServableState(args.state) || args.begin < 0 ||
      args.begin >= args.end || args.end - args.begin > kBlock ||
      args.end > args.state.weight.cols || !IsPointer(args.d) ||
      (args.refits && args.begin % args.state.grid.group_size != 0)) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.state.weight.rows * kWarpSize);
  return QS_LAUNCH(BlockKernel, NoShared, args, shape.grid, shape.block,
                   stream);
}

int LaunchRefineDamp(const RefineDampArgs& args, cudaStream_t stream) {
  if (!IsServableState(args.state) || !IsPointer(args.d) || args.width < 1 ||
      args.stride < args.width || args.begin < 0 ||
      args.begin + args.width > args.state.weight.cols) {
    return kCudaInvalidValue;
  }
  const LaunchShape shape = ShapeFor(args.state.weight.rows * args.width);
  return QS_LAUNCH(DampKernel, NoShared, args, shape.grid, shape.block, stream);
}

}  // namespace qs::cuda
