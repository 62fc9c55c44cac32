// The 8-bit coding of absmax ("double quantization") and its decoding.
// Equations: kernels/nested_absmax.h, whose bytes these give.
//
// Encode: the mean (nested_mean.h), then a warp codes a nested block of 256,
// 8 values a lane. The nearest level is found among the 255 midpoints in shared
// memory by bisection: one value comes from 32 to 4096 weights, so this is a
// small part of the whole.
// Tested by tests/kernels/nf4_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nested_mean.h"
#include "kernels/cuda/nf4_device.h"

namespace qs::cuda {
namespace {

constexpr int kLevels = 256;
constexpr int kMidpoints = kLevels - 1;
constexpr int kPerLane = static_cast<int>(kNestedBlockSize) / kWarpSize;

QS_HD int64_t NestedBlocks(int64_t count) {
  return (count + kNestedBlockSize - 1) / kNestedBlockSize;
}

QS_KERNEL int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

struct NestedEncodeParams {
  const float* absmax;
  int64_t count;
  Nf4Rule rule;
  uint8_t* codes;
  float* nested_absmax;
  const float* offset;
  float midpoints[kMidpoints];
};

struct NestedDecodeParams {
  const uint8_t* codes;
  const float* nested_absmax;
  const float* offset;
  int64_t count;
  float* absmax;
  float levels[kLevels];
};

struct NestedShared {
  float table[kLevels];
};

// Midpoints strictly below x.
QS_KERNEL int CountBelow(const NestedShared& shared, float x) {
  int below = 0;
  QS_UNROLL
  for (int step = 128; step > 0; step /= 2) {
    if (shared.table[below + step - 1] < x) below += step;
  }
  return below;
}

// kCuda: the nearest level to t; a tie goes to the even one.
QS_KERNEL int NearestCode(const NestedShared& shared, float t) {
  const int below = CountBelow(shared, t);
  const bool tie = below < kMidpoints && shared.table[below] == t;
  return tie ? below + below % 2 : below;
}

// kCpu: the nearest level to d / max rounded to one of 65536 steps.
QS_KERNEL int SteppedCode(const NestedShared& shared, float t) {
  const float h = (ClampUnit(t) + 1.0f) * 0.5f;
  const int step = static_cast<int>(fmaf(h, 65535.0f, 0.5f));
  return CountBelow(shared, -1.0f + static_cast<float>(2 * step) / 65535.0f);
}

// d / max, whose code is looked for.
struct NestedScale {
  bool cuda;
  float max_abs;
  float reciprocal;

  QS_KERNEL int Code(const NestedShared& shared, float d) const {
    if (max_abs == 0.0f || IsNonFinite(FloatBits(max_abs))) return 0;
    const float t = d == 0.0f ? 0.0f : d * reciprocal;
    return cuda ? NearestCode(shared, nf4::Flush(t)) : SteppedCode(shared, t);
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
QS_KERNEL void NestedEncodeKernel(Thread& t, NestedShared& shared,
                                  const NestedEncodeParams& a) {
  for (int i = t.ThreadIndex(); i < kMidpoints; i += t.BlockSize()) {
    shared.table[i] = a.midpoints[i];
  }
  t.Barrier();
  const auto absmax = t.Global(a.absmax, a.count);
  const auto codes = t.Global(a.codes, a.count);
  const auto out = t.Global(a.nested_absmax, NestedBlocks(a.count));
  const float offset = t.Global(a.offset, 1).Get(0);
  const bool cuda = a.rule == Nf4Rule::kCuda;
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warps = t.BlockSize() / kWarpSize;
  for (int64_t base = t.BlockIndex() * warps; base < NestedBlocks(a.count);
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
      if (i < size) codes.Set(first + i, scale.Code(shared, d[k]));
    }
    if (lane == 0 && size > 0) out.Set(block, scale.max_abs);
  }
}

template <class Thread>
QS_KERNEL void NestedDecodeKernel(Thread& t, NestedShared& shared,
                                  const NestedDecodeParams& a) {
  for (int i = t.ThreadIndex(); i < kLevels; i += t.BlockSize()) {
    shared.table[i] = a.levels[i];
  }
  t.Barrier();
  const auto codes = t.Global(a.codes, a.count);
  const auto scales = t.Global(a.nested_absmax, NestedBlocks(a.count));
  const auto absmax = t.Global(a.absmax, a.count);
  const float offset = t.Global(a.offset, 1).Get(0);
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < a.count; i += stride) {
    const float product =
        shared.table[codes.Get(i)] * scales.Get(i / kNestedBlockSize);
    absmax.Set(i, product + offset);
  }
}

QS_DEFINE_ENTRY(NestedEncodeKernel, NestedShared)
QS_DEFINE_ENTRY(NestedDecodeKernel, NestedShared)

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
  const std::array<float, kMidpoints> midpoints = NestedMidpoints();
  std::copy(midpoints.begin(), midpoints.end(), params.midpoints);
  const LaunchShape shape = ShapeFor(NestedBlocks(args.num_blocks) * kWarpSize);
  return QS_LAUNCH(NestedEncodeKernel, NestedShared, params, shape.grid,
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
  std::copy_n(NestedLevels(), kLevels, params.levels);
  const LaunchShape shape = ShapeFor(args.num_blocks);
  return QS_LAUNCH(NestedDecodeKernel, NestedShared, params, shape.grid,
                   shape.block, stream);
}

}  // namespace qs::cuda
