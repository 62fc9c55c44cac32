// The 8-bit coding of absmax ("double quantization") and its decoding.
// Equations: kernels/nested_absmax.h, whose bytes these give.
//
// Encode: the mean (nested_mean.h), then a warp codes a nested block of 256,
// 8 values a lane. One value comes from 32 to 4096 weights, so this is a small
// part of the whole.
// Tested by tests/kernels/nf4_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nested_device.h"
#include "kernels/cuda/nested_mean.h"
#include "kernels/cuda/nf4_device.h"

namespace qs::cuda {
namespace {

constexpr int kPerLane = static_cast<int>(kNestedBlockSize) / kWarpSize;

QS_KERNEL int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

struct NestedEncodeParams {
  const float* absmax;
  int64_t count;
  Nf4Rule rule;
  uint8_t* codes;
  float* nested_absmax;
  const float* offset;
  float midpoints[kNestedMidpoints];
};

struct NestedDecodeParams {
  const uint8_t* codes;
  const float* nested_absmax;
  const float* offset;
  int64_t count;
  float* absmax;
  float levels[kNestedLevels];
};

struct NestedLevelTable {
  float values[kNestedLevels];
};

// kCpu: the nearest level to d / max rounded to one of 65536 steps.
QS_KERNEL int SteppedCode(const NestedMidpointTable& midpoints, float t) {
  const float h = (ClampUnit(t) + 1.0f) * 0.5f;
  const int step = static_cast<int>(fmaf(h, 65535.0f, 0.5f));
  return midpoints.CountBelow(-1.0f + static_cast<float>(2 * step) / 65535.0f);
}

// d / max, whose code is looked for.
struct NestedScale {
  bool cuda;
  float max_abs;
  float reciprocal;

  QS_KERNEL int Code(const NestedMidpointTable& midpoints, float d) const {
    if (max_abs == 0.0f || IsNonFinite(FloatBits(max_abs))) return 0;
    const float t = d == 0.0f ? 0.0f : d * reciprocal;
    return cuda ? midpoints.Nearest(nf4::Flush(t)) : SteppedCode(midpoints, t);
  }
};

template <class Thread>
QS_KERNEL NestedScale MakeNestedScale(Thread& t, const float (&d)[kPerLane],
                                      bool cuda) {
  float top = 0.0f;
  QS_UNROLL
  for (int k = 0; k < kPerLane; ++k) {
    const float magnitude = BitsFloat(FloatBits(d[k]) & 0x7fffffffu);
    top = top < magnitude ? magnitude : top;
  }
  QS_UNROLL
  for (int mask = 1; mask < kWarpSize; mask *= 2) {
    const float other = t.ShuffleXor(top, mask);
    top = top < other ? other : top;
  }
  const float reciprocal = 1.0f / top;
  return {cuda, top, cuda ? nf4::Flush(reciprocal) : reciprocal};
}

template <class Thread>
QS_KERNEL void NestedEncodeKernel(Thread& t, NestedMidpointTable& midpoints,
                                  const NestedEncodeParams& a) {
  midpoints.Fill(t, a.midpoints);
  t.Barrier();
  const auto absmax = t.Global(a.absmax, a.count);
  const auto codes = t.Global(a.codes, a.count);
  const auto out = t.Global(a.nested_absmax, NestedRuns(a.count));
  const float offset = t.Global(a.offset, 1).Get(0);
  const bool cuda = a.rule == Nf4Rule::kCuda;
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warps = t.BlockSize() / kWarpSize;
  for (int64_t base = t.BlockIndex() * warps; base < NestedRuns(a.count);
       base += t.GridSize() * warps) {
    const int64_t block = base + t.ThreadIndex() / kWarpSize;
    const int64_t first = block * kNestedBlockSize;
    const int size = static_cast<int>(Least(a.count - first, kNestedBlockSize));
    float d[kPerLane];
    QS_UNROLL
    for (int k = 0; k < kPerLane; ++k) {
      const int i = lane + k * kWarpSize;
      d[k] = i < size ? absmax.Get(first + i) - offset : 0.0f;
      if (cuda) d[k] = nf4::Flush(d[k]);
    }
    const NestedScale scale = MakeNestedScale(t, d, cuda);
    QS_UNROLL
    for (int k = 0; k < kPerLane; ++k) {
      const int i = lane + k * kWarpSize;
      if (i < size) codes.Set(first + i, scale.Code(midpoints, d[k]));
    }
    if (lane == 0 && size > 0) out.Set(block, scale.max_abs);
  }
}

template <class Thread>
QS_KERNEL void NestedDecodeKernel(Thread& t, NestedLevelTable& shared,
                                  const NestedDecodeParams& a) {
  for (int i = t.ThreadIndex(); i < kNestedLevels; i += t.BlockSize()) {
    shared.values[i] = a.levels[i];
  }
  t.Barrier();
  const auto codes = t.Global(a.codes, a.count);
  const auto scales = t.Global(a.nested_absmax, NestedRuns(a.count));
  const auto absmax = t.Global(a.absmax, a.count);
  const float offset = t.Global(a.offset, 1).Get(0);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.count; i += stride) {
    const float product =
        shared.values[codes.Get(i)] * scales.Get(i / kNestedBlockSize);
    absmax.Set(i, product + offset);
  }
}

QS_DEFINE_ENTRY(NestedEncodeKernel, NestedMidpointTable)
QS_DEFINE_ENTRY(NestedDecodeKernel, NestedLevelTable)

}  // namespace

int LaunchNestedEncode(const NestedEncodeArgs& args, cudaStream_t stream) {
  if (args.num_blocks <= 0 || !IsPointer(args.absmax) ||
      !IsPointer(args.codes) || !IsPointer(args.nested_absmax) ||
      !IsPointer(args.offset)) {
    return kCudaInvalidValue;
  }
  // The codes lend their memory to the mean before they are written.
  const int code =
      LaunchMean(args.absmax, args.num_blocks, args.codes, args.offset, stream);
  if (code != 0) return code;
  NestedEncodeParams params{args.absmax, args.num_blocks,    args.rule,
                            args.codes,  args.nested_absmax, args.offset,
                            {}};
  const std::array<float, kNestedMidpoints> midpoints = NestedMidpoints();
  std::copy(midpoints.begin(), midpoints.end(), params.midpoints);
  const LaunchShape shape = ShapeFor(NestedRuns(args.num_blocks) * kWarpSize);
  return QS_LAUNCH(NestedEncodeKernel, NestedMidpointTable, params, shape.grid,
                   shape.block, stream);
}

int LaunchNestedDecode(const NestedDecodeArgs& args, cudaStream_t stream) {
  if (args.num_blocks < 0) return kCudaInvalidValue;
  if (args.num_blocks == 0) return 0;
  if (!IsPointer(args.codes) || !IsPointer(args.nested_absmax) ||
      !IsPointer(args.offset) || !IsPointer(args.absmax)) {
    return kCudaInvalidValue;
  }
  NestedDecodeParams params{args.codes,      args.nested_absmax, args.offset,
                            args.num_blocks, args.absmax,        {}};
  std::copy_n(NestedLevels(), kNestedLevels, params.levels);
  const LaunchShape shape = ShapeFor(args.num_blocks);
  return QS_LAUNCH(NestedDecodeKernel, NestedLevelTable, params, shape.grid,
                   shape.block, stream);
}

}  // namespace qs::cuda
