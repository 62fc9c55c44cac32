// hqq's solver step by step, for groups of any size along either axis.
// Definition: kernels/reference/hqq_reference.cc, whose bytes this gives.
//
// A thread owns a group: its residuals are added in the order of torch, which
// is one long chain (hqq_sums.h). Along axis 0 a warp reads 32 groups side by
// side. The mean error of the tensor, whose fall decides whether there is
// another step, is nested_mean.h's sum; once it stopped, launches that were
// enqueued for further steps do nothing.
// Tested by tests/kernels/hqq_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/hqq_launch.h"
#include "kernels/cuda/nested_mean.h"

namespace qs::cuda {
namespace {

struct StepParams {
  HqqParams hqq;
  MeanParams mean;  // but for its values and result
  int step;
};

// The errors of the elements, in their flat order.
template <class Thread>
class Errors {
 public:
  QS_KERNEL Errors(const Thread& t, const HqqParams& a)
      : a_(a),
        weight_(t, a.weight, a.dtype, a.count),
        inverse_(t.Global(a.inverse, a.groups)),
        zero_(t.Global(a.zero, a.groups)),
        max_code_(a.spec().max_code()) {}

  QS_KERNEL float Get(int64_t i) const {
    const int64_t g = a_.GroupOf(i);
    const HqqGrid grid = {inverse_.Get(g), zero_.Get(g), max_code_};
    return fabsf(grid.Error(weight_.Get(i)));
  }

 private:
  const HqqParams& a_;
  const Elements weight_;
  const GlobalMemory<float> inverse_;
  const GlobalMemory<float> zero_;
  const float max_code_;
};

template <class Thread>
QS_KERNEL void HqqStartKernel(Thread& t, NoShared&, const HqqParams& a) {
  const Elements weight(t, a.weight, a.dtype, a.count);
  const auto inverse = t.Global(a.inverse, a.groups);
  const auto zero = t.Global(a.zero, a.groups);
  const auto still = t.Global(a.still, a.groups);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t g = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       g < a.groups; g += stride) {
    hqq::Bounds bounds = {INFINITY, -INFINITY};
    for (int64_t k = 0; k < a.group_size; ++k) {
      const float w = weight.Get(a.Index(g, k));
      bounds.low = w < bounds.low ? w : bounds.low;
      bounds.high = w > bounds.high ? w : bounds.high;
      ReportNonFinite(t, a, w, a.Index(g, k));
    }
    bounds = {bounds.low + 0.0f, bounds.high + 0.0f};
    const hqq::Start start = hqq::StartOf(a.spec(), bounds);
    inverse.Set(g, start.inverse);
    zero.Set(g, start.zero);
    still.Set(g, a.iterations);
  }
}

template <class Thread>
QS_KERNEL void HqqErrorGroupsKernel(Thread& t, MeanShared& shared,
                                    const StepParams& a) {
  if (t.Global(a.hqq.facts, 1).Get(0).stopped != 0) return;
  SumGroups(t, shared, a.mean, Errors<Thread>(t, a.hqq));
}

// One block: the mean error, and whether the step after this is begun.
template <class Thread>
QS_KERNEL void HqqErrorMeanKernel(Thread& t, MeanShared& shared,
                                  const StepParams& a) {
  const auto memory = t.Global(a.hqq.facts, 1);
  HqqDeviceFacts facts = memory.Get(0);
  if (facts.stopped != 0) return;
  facts.error = MeanOf(t, shared, a.mean, Errors<Thread>(t, a.hqq));
  if (t.ThreadIndex() != 0) return;
  facts.iterations = a.step + 1;
  if (facts.error < facts.best) {
    facts.best = facts.error;
  } else {
    facts.stopped = 1;
  }
  memory.Set(0, facts);
}

// A step of every group, if it was begun.
template <class Thread>
QS_KERNEL void HqqMoveKernel(Thread& t, NoShared&, const StepParams& a) {
  const HqqParams& p = a.hqq;
  if (t.Global(p.facts, 1).Get(0).iterations <= a.step) return;
  const Elements weight(t, p.weight, p.dtype, p.count);
  const auto inverse = t.Global(p.inverse, p.groups);
  const auto zero = t.Global(p.zero, p.groups);
  const auto still = t.Global(p.still, p.groups);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t g = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       g < p.groups; g += stride) {
    if (still.Get(g) <= a.step) continue;  // at rest
    const HqqGrid grid = {inverse.Get(g), zero.Get(g), p.spec().max_code()};
    const float sum = hqq::GroupSum(
        hqq::GroupSumOrder(p.axis, g, p.groups), p.group_size,
        [&](int64_t k) { return grid.Residual(weight.Get(p.Index(g, k))); });
    const float next =
        hqq::NextOr(grid.zero, sum / static_cast<float>(p.group_size));
    if (next == grid.zero) still.Set(g, a.step);
    zero.Set(g, next);
  }
}

// Codes, float grids, and the sum of the groups' steps.
template <class Thread>
QS_KERNEL void HqqWriteKernel(Thread& t, NoShared&, const HqqParams& a) {
  const Elements weight(t, a.weight, a.dtype, a.count);
  const auto codes = t.Global(a.codes, a.count);
  const auto inverse = t.Global(a.inverse, a.groups);
  const auto zero = t.Global(a.zero, a.groups);
  const auto still = t.Global(a.still, a.groups);
  const int iterations = t.Global(a.facts, 1).Get(0).iterations;
  Counter steps = 0;
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.count; i += stride) {
    if (a.zeros != nullptr) {
      const int64_t g = a.GroupOf(i);
      const HqqGrid grid = {inverse.Get(g), zero.Get(g), a.spec().max_code()};
      codes.Set(i, static_cast<uint8_t>(grid.Code(weight.Get(i))));
    }
    if (i >= a.groups) continue;
    if (a.zeros != nullptr) StoreFloats(t, a, i, inverse.Get(i), zero.Get(i));
    const int own = still.Get(i);
    steps += static_cast<Counter>(own < iterations ? own : iterations);
  }
  steps = AddCountsOverWarp(t, steps);
  if (t.ThreadIndex() % kWarpSize == 0) AddSteps(t, a, steps);
}

QS_DEFINE_ENTRY(HqqStartKernel, NoShared)
QS_DEFINE_LARGE_ENTRY(HqqErrorGroupsKernel, MeanShared)
QS_DEFINE_LARGE_ENTRY(HqqErrorMeanKernel, MeanShared)
QS_DEFINE_ENTRY(HqqMoveKernel, NoShared)
QS_DEFINE_ENTRY(HqqWriteKernel, NoShared)

int LaunchStep(const StepParams& a, const ErrorShape& errors,
               const LaunchShape& groups, cudaStream_t stream) {
  int code = 0;
  if (errors.whole_blocks > 0) {
    code = QS_LAUNCH(HqqErrorGroupsKernel, MeanShared, a,
                     std::min(errors.whole_blocks, kMaxGrid), kMeanThreads,
                     stream);
    if (code != 0) return code;
  }
  code = QS_LAUNCH(HqqErrorMeanKernel, MeanShared, a, 1, kMeanThreads, stream);
  if (code != 0) return code;
  return QS_LAUNCH(HqqMoveKernel, NoShared, a, groups.grid, groups.block,
                   stream);
}

}  // namespace

int LaunchHqqSteps(const HqqParams& a, uint8_t* workspace,
                   cudaStream_t stream) {
  const HqqLayout layout(a.count, a.group_size, a.iterations);
  const ErrorShape errors(a.count);
  const LaunchShape groups = ShapeFor(a.groups);
  int code =
      QS_LAUNCH(HqqStartKernel, NoShared, a, groups.grid, groups.block, stream);
  StepParams step = {
      a,
      {nullptr, a.count, errors.rows, errors.power,
       reinterpret_cast<float*>(workspace + layout.sums), nullptr},
      0};
  for (; step.step < a.iterations && code == 0; ++step.step) {
    code = LaunchStep(step, errors, groups, stream);
  }
  if (code != 0) return code;
  const LaunchShape shape = ShapeFor(a.count);
  return QS_LAUNCH(HqqWriteKernel, NoShared, a, shape.grid, shape.block,
                   stream);
}

}  // namespace qs::cuda
