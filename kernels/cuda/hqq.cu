// The HQQ family's entry, integer zero points of the solver, and decoding.
// Equations: kernels/hqq_math.h; layout: kernels/hqq_ops.h; definition:
// kernels/reference/hqq_reference.cc, whose bytes these give.
//
// Which kernels solve: hqq_solve.cu (groups in registers), hqq_steps.cu (any
// group, step by step), hqq_search.cu (BEST).
// Tested by tests/kernels/hqq_cuda_test.cc.
#include "kernels/cuda/affine_launch.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/hqq_launch.h"

namespace qs::cuda {
namespace {

template <class T>
struct DecodeParams {
  using Element = T;
  const uint8_t* codes;
  const T* scales;
  const T* zeros;
  int64_t count;
  int64_t group_size;
  int axis;
  bool weight_vectors;
  bool code_vectors;
  T* weight;
};

template <class Thread>
QS_KERNEL void HqqResetKernel(Thread& t, NoShared&, const HqqParams& a) {
  const auto bad = t.Global(a.first_non_finite, 1);
  const auto facts = t.Global(a.facts, 1);
  if (t.ThreadIndex() != 0) return;
  bad.Set(0, ~Counter{0});
  facts.Set(0, HqqDeviceFacts{0, 0, INFINITY, 0.0f, 0});
}

// Eight codes a thread, whatever groups they are of.
template <class Thread, class Params>
QS_KERNEL void HqqDecodeKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const int64_t groups = a.count / a.group_size;
  const auto codes = t.Global(a.codes, a.count);
  const auto scales = t.Global(a.scales, groups);
  const auto zeros = t.Global(a.zeros, groups);
  const auto weight = t.Global(a.weight, a.count);
  const int64_t stride = int64_t{t.BlockSize()} * kChunk;
  for (int64_t begin = t.BlockIndex() * stride + t.ThreadIndex() * kChunk;
       begin < a.count; begin += t.GridSize() * stride) {
    const CodeWords words =
        LoadByteCodes(codes, begin, a.count, a.code_vectors);
    // The group of the first, and where it is in it.
    int64_t group = a.axis == 1 ? begin / a.group_size : begin % groups;
    int64_t within = a.axis == 1 ? begin % a.group_size : 0;
    T values[kChunk];
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (begin + j >= a.count) break;
      const float zero = Widen(zeros.Get(group));
      const float scale = Widen(scales.Get(group));
      const uint32_t code = words.w[j / 4] >> (j % 4 * 8) & 0xffu;
      Narrow(Rounded<T>(static_cast<float>(code) - zero) * scale, &values[j]);
      if (a.axis == 0) {
        group = group + 1 == groups ? 0 : group + 1;
      } else if (++within == a.group_size) {
        within = 0;
        ++group;
      }
    }
    StoreChunk(weight, begin, a.count, values, a.weight_vectors);
  }
}

// A group a warp.
template <class Thread, class T>
QS_KERNEL void IntegersOf(Thread& t, const HqqParams& a, T) {
  const auto weight = t.Global(static_cast<const T*>(a.weight), a.count);
  const auto codes = t.Global(a.codes, a.count);
  const auto zero_points = t.Global(a.zero_points, a.groups);
  const auto inverse = t.Global(a.inverse, a.groups);
  const auto zero = t.Global(a.zero, a.groups);
  const hqq::Spec spec = a.spec();
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warps = t.BlockSize() / kWarpSize;
  for (int64_t base = t.BlockIndex() * warps; base < a.groups;
       base += t.GridSize() * warps) {
    const int64_t g = base + t.ThreadIndex() / kWarpSize;
    const int64_t begin = g * a.group_size;
    const int64_t end = g < a.groups ? begin + a.group_size : begin;
    hqq::Bounds bounds = {INFINITY, -INFINITY};
    QS_NO_UNROLL
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      const float w = Widen(weight.Get(i));
      bounds.low = w < bounds.low ? w : bounds.low;
      bounds.high = w > bounds.high ? w : bounds.high;
    }
    BoundsOverLanes(t, kWarpSize, &bounds.low, &bounds.high);
    if (g >= a.groups) continue;
    bounds = {bounds.low + 0.0f, bounds.high + 0.0f};
    affine::Grid grid;
    const bool rounded =
        hqq::RoundedGrid(spec, bounds, inverse.Get(g), zero.Get(g), &grid);
    if (!rounded) {
      grid = affine::MinMaxGrid(hqq::AffineSpec(spec), hqq::WithZero(bounds));
    }
    if (lane == 0) {
      StoreElement(t, a.scales, a.stored, a.groups, g, grid.scale);
      zero_points.Set(g, static_cast<uint8_t>(grid.zero_point));
    }
    const SearchCoder search(hqq::AffineSpec(spec), grid);
    const GridCoder<T> coder(hqq::AffineSpec(spec), grid);
    QS_NO_UNROLL
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      const float w = Widen(weight.Get(i));
      codes.Set(i, rounded ? search.Code(w) : coder.Code(w));
    }
  }
}

template <class Thread>
QS_KERNEL void HqqIntegersKernel(Thread& t, NoShared&, const HqqParams& a) {
  if (a.dtype == DType::kBF16) {
    IntegersOf(t, a, BF16{});
  } else if (a.dtype == DType::kF16) {
    IntegersOf(t, a, F16{});
  } else {
    IntegersOf(t, a, float{});
  }
}

QS_DEFINE_ENTRY(HqqResetKernel, NoShared)
QS_DEFINE_ENTRY(HqqDecodeKernel, NoShared)
QS_DEFINE_ENTRY(HqqIntegersKernel, NoShared)

bool IsHqqShape(const TensorView& weight, int64_t group_size, int axis) {
  const int64_t n = weight.num_elements();
  if (!IsFloatWeight(weight.dtype) || n < 0 || group_size < 1 ||
      n % group_size != 0 || (axis != 0 && axis != 1)) {
    return false;
  }
  return n == 0 || IsElementPointer(weight.data, weight.dtype);
}

bool IsHqqServable(const HqqEncodeArgs& args, const void* workspace) {
  const int b = args.bits;
  const bool integer = args.zero_points != nullptr;
  if (!IsHqqShape(args.weight, args.group_size, args.axis) ||
      !(b == 8 || b == 4 || b == 3 || b == 2 || b == 1) ||
      args.iterations < 0 || args.iterations > 1000 ||
      !IsFloatWeight(args.stored) || (args.zeros == nullptr) != integer ||
      (integer &&
       (b == 1 || args.axis != 1 || args.stored != args.weight.dtype)) ||
      !IsPointer(args.first_non_finite)) {
    return false;
  }
  if (workspace == nullptr || !IsAligned(workspace, 256)) return false;
  return args.weight.num_elements() == 0 ||
         (IsPointer(args.codes) && IsElementPointer(args.scales, args.stored) &&
          (integer || IsElementPointer(args.zeros, args.stored)));
}

HqqParams MakeHqqParams(const HqqEncodeArgs& args, uint8_t* workspace) {
  HqqParams a;
  a.weight = args.weight.data;
  a.dtype = args.weight.dtype;
  a.count = args.weight.num_elements();
  a.group_size = args.group_size;
  a.groups = a.count / a.group_size;
  a.axis = a.groups == 1 ? 1 : args.axis;  // the same run
  a.stored = args.stored;
  a.bits = args.bits;
  a.round_zero = args.round_zero;
  a.iterations = args.iterations;
  a.codes = args.codes;
  a.scales = args.scales;
  a.zeros = args.zeros;
  a.zero_points = args.zero_points;
  a.first_non_finite = reinterpret_cast<Counter*>(args.first_non_finite);
  const HqqLayout layout(a.count, a.group_size, a.iterations);
  a.inverse = reinterpret_cast<float*>(workspace + layout.inverse);
  a.zero = reinterpret_cast<float*>(workspace + layout.zero);
  a.still = reinterpret_cast<int32_t*>(workspace + layout.still);
  a.facts = reinterpret_cast<HqqDeviceFacts*>(workspace + layout.facts);
  return a;
}

template <class T>
int DecodeTyped(const HqqDecodeArgs& args, cudaStream_t stream) {
  const MutableTensorView& weight = args.weight;
  const DecodeParams<T> params = {args.codes,
                                  static_cast<const T*>(args.scales),
                                  static_cast<const T*>(args.zeros),
                                  weight.num_elements(),
                                  args.group_size,
                                  args.axis,
                                  IsAligned(weight.data, sizeof(Words)),
                                  IsAligned(args.codes, sizeof(CodeWords)),
                                  static_cast<T*>(weight.data)};
  const LaunchShape shape = ShapeFor(CeilDiv(params.count, kChunk));
  return QS_LAUNCH(HqqDecodeKernel, NoShared, params, shape.grid, shape.block,
                   stream);
}

}  // namespace

int LaunchHqqIntegers(const HqqParams& a, cudaStream_t stream) {
  const LaunchShape shape = ShapeFor(a.groups * kWarpSize);
  return QS_LAUNCH(HqqIntegersKernel, NoShared, a, shape.grid, shape.block,
                   stream);
}

int64_t HqqEncodeWorkspaceBytes(const HqqEncodeArgs& args) {
  return HqqLayout(args.weight.num_elements(), args.group_size, args.iterations)
      .bytes;
}

int LaunchHqqEncode(const HqqEncodeArgs& args, void* workspace,
                    cudaStream_t stream) {
  if (!IsHqqServable(args, workspace)) return kCudaInvalidValue;
  auto* bytes = static_cast<uint8_t*>(workspace);
  const HqqParams a = MakeHqqParams(args, bytes);
  int code = QS_LAUNCH(HqqResetKernel, NoShared, a, 1, kWarpSize, stream);
  if (code != 0 || a.count == 0) return code;
  if (args.solver == HqqSolver::kBest) return LaunchHqqSearch(a, stream);
  code = InRegisters(a) ? LaunchHqqSolve(a, ErrorShape(a.count), bytes, stream)
                        : LaunchHqqSteps(a, bytes, stream);
  if (code != 0 || a.zero_points == nullptr) return code;
  return LaunchHqqIntegers(a, stream);
}

int LaunchHqqDecode(const HqqDecodeArgs& args, cudaStream_t stream) {
  if (!IsHqqShape(args.weight, args.group_size, args.axis)) {
    return kCudaInvalidValue;
  }
  if (args.weight.num_elements() == 0) return 0;
  const DType dtype = args.weight.dtype;
  if (!IsPointer(args.codes) || !IsElementPointer(args.scales, dtype) ||
      !IsElementPointer(args.zeros, dtype)) {
    return kCudaInvalidValue;
  }
  return WithType(dtype, [&](auto type) {
    return DecodeTyped<decltype(type)>(args, stream);
  });
}

}  // namespace qs::cuda
