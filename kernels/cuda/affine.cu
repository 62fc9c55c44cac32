// Affine codes on the min-max grid, and back to weights. Equations:
// kernels/affine_math.h; layout: kernels/affine_ops.h; definition:
// kernels/reference/affine_reference.cc, whose bytes these give for finite
// weights.
//
// Groups of 8 to 256 elements, a power of two: a thread holds chunks of 8
// elements of a group in registers, group_size / 8 lanes own a group, and a
// thread has 64 bytes of loads in flight before the first use. Other groups: a
// warp owns a group and reads it twice, the second time from the cache.
// The search: affine_search.cu.
// Tested by tests/kernels/affine_cuda_test.cc.
#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/affine_launch.h"
#include "kernels/cuda/cuda_ops.h"

namespace qs::cuda {
namespace {

// 64 bytes of loads a thread hide the latency of memory.
template <class T>
constexpr int kInFlight = 64 / (kChunk * static_cast<int>(sizeof(T)));

template <class T>
struct DecodeParams {
  using Element = T;
  const uint8_t* codes;
  const T* scales;
  const uint8_t* zero_points;
  int64_t count;
  int64_t group_size;
  int bits;
  bool weight_vectors;
  bool code_vectors;  // 8-byte aligned
  T* weight;
};

// One chunk of a group that is in the registers of `lanes` neighbouring lanes.
template <class Thread, class Params, class Memory, class T>
QS_KERNEL void EncodeRegisters(Thread& t, const Params& a, const Memory& memory,
                               int lanes, const Chunk<T>& chunk,
                               int64_t begin) {
  float low = 0.0f;
  float high = 0.0f;
  uint32_t top = 0;
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    const float w = chunk.At(j);
    low = w < low ? w : low;
    high = w > high ? w : high;
    const uint32_t magnitude = FloatBits(w) & 0x7fffffffu;
    top = magnitude > top ? magnitude : top;
  }
  BoundsOverLanes(t, lanes, &low, &high);
  if (begin >= a.count) return;
  if (IsNonFinite(top)) {
    for (int j = 0; j < kChunk; ++j) {
      ReportIfNonFinite(memory, chunk.At(j), begin + j);
    }
  }
  const affine::Spec spec = {kDTypeOf<T>, a.bits, a.symmetric};
  const affine::Grid grid = affine::MinMaxGrid(spec, {low, high, true});
  const int64_t group = begin >> a.group_shift;
  if (group << a.group_shift == begin) StoreGrid(a, memory, group, grid);
  const GridCoder<T> coder(spec, grid);
  CodeWords words = {{0, 0}};
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    words.w[j / 4] |= coder.Code(chunk.At(j)) << (j % 4 * 8);
  }
  StoreByteCodes(memory.codes, begin, a.count, words, a.code_vectors);
}

template <class Thread, class Params>
QS_KERNEL void AffineEncodeKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const auto memory = MemoryOf(t, a);
  const int lanes = (1 << a.group_shift) / kChunk;
  const int64_t stride = int64_t{t.BlockSize()} * kChunk;
  const int64_t tile = stride * kInFlight<T>;
  for (int64_t base = t.BlockIndex() * tile; base < a.count;
       base += t.GridSize() * tile) {
    const int64_t begin = base + t.ThreadIndex() * kChunk;
    Chunk<T> chunks[kInFlight<T>];
    QS_UNROLL
    for (int u = 0; u < kInFlight<T>; ++u) {
      chunks[u] = LoadChunk<T>(memory.weight, begin + u * stride, a.count,
                               a.weight_vectors);
    }
    QS_UNROLL
    for (int u = 0; u < kInFlight<T>; ++u) {
      EncodeRegisters(t, a, memory, lanes, chunks[u], begin + u * stride);
    }
  }
}

// A group of any size a warp.
template <class Thread, class Params>
QS_KERNEL void AffineEncodeAnyKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const auto memory = MemoryOf(t, a);
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warps = t.BlockSize() / kWarpSize;
  const int64_t groups = a.count / a.group_size;
  for (int64_t base = t.BlockIndex() * warps; base < groups;
       base += t.GridSize() * warps) {
    const int64_t group = base + t.ThreadIndex() / kWarpSize;
    const int64_t begin = group * a.group_size;
    const int64_t end = group < groups ? begin + a.group_size : begin;
    affine::Range range;
    QS_NO_UNROLL
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      AddToRange(memory, i, &range);
    }
    BoundsOverLanes(t, kWarpSize, &range.low, &range.high);
    if (group >= groups) continue;
    const affine::Spec spec = {kDTypeOf<T>, a.bits, a.symmetric};
    const affine::Grid grid = affine::MinMaxGrid(spec, range);
    if (lane == 0) StoreGrid(a, memory, group, grid);
    const GridCoder<T> coder(spec, grid);
    QS_NO_UNROLL
    for (int64_t i = begin + lane; i < end; i += kWarpSize) {
      memory.codes.Set(i, coder.Code(Widen(memory.weight.Get(i))));
    }
  }
}

template <class Thread>
QS_KERNEL void AffineResetKernel(Thread& t, NoShared&,
                                 const AffineResetParams& a) {
  const auto memory = t.Global(a.first_non_finite, 1);
  if (t.ThreadIndex() == 0) memory.Set(0, ~Counter{0});
}

template <class Thread, class Params>
QS_KERNEL void AffineDecodeKernel(Thread& t, NoShared&, const Params& a) {
  using T = typename Params::Element;
  const int64_t groups = a.count / a.group_size;
  const auto codes = t.Global(a.codes, a.count);
  const auto scales = t.Global(a.scales, groups);
  const bool centred = a.zero_points == nullptr;
  const auto zero_points = t.Global(a.zero_points, centred ? 0 : groups);
  const auto weight = t.Global(a.weight, a.count);
  const int64_t stride = int64_t{t.BlockSize()} * kChunk;
  for (int64_t begin = t.BlockIndex() * stride + t.ThreadIndex() * kChunk;
       begin < a.count; begin += t.GridSize() * stride) {
    const CodeWords words =
        LoadByteCodes(codes, begin, a.count, a.code_vectors);
    T values[kChunk];
    int64_t group = begin / a.group_size;
    int64_t next = (group + 1) * a.group_size;
    float scale = 0.0f;
    int zero = 1 << (a.bits - 1);
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      if (begin + j == next) {
        ++group;
        next += a.group_size;
      }
      if ((j == 0 || begin + j == next - a.group_size) && group < groups) {
        scale = Widen(scales.Get(group));
        if (!centred) zero = zero_points.Get(group);
      }
      const int code = static_cast<int>(words.w[j / 4] >> (j % 4 * 8) & 0xffu);
      Narrow(static_cast<float>(code - zero) * scale, &values[j]);
    }
    StoreChunk(weight, begin, a.count, values, a.weight_vectors);
  }
}

QS_DEFINE_ENTRY(AffineEncodeKernel, NoShared)
QS_DEFINE_ENTRY(AffineEncodeAnyKernel, NoShared)
QS_DEFINE_ENTRY(AffineResetKernel, NoShared)
QS_DEFINE_ENTRY(AffineDecodeKernel, NoShared)

template <class T>
int EncodeTyped(const AffineEncodeArgs& args, cudaStream_t stream) {
  const AffineParams<T> params = MakeAffineParams<T>(args);
  if (params.group_shift >= 0) {
    const LaunchShape shape =
        ShapeFor(CeilDiv(params.count, kChunk * kInFlight<T>));
    return QS_LAUNCH(AffineEncodeKernel, NoShared, params, shape.grid,
                     shape.block, stream);
  }
  const LaunchShape shape =
      ShapeFor(params.count / params.group_size * kWarpSize);
  return QS_LAUNCH(AffineEncodeAnyKernel, NoShared, params, shape.grid,
                   shape.block, stream);
}

template <class T>
int DecodeTyped(const AffineDecodeArgs& args, cudaStream_t stream) {
  const MutableTensorView& weight = args.weight;
  const DecodeParams<T> params = {args.codes,
                                  static_cast<const T*>(args.scales),
                                  args.zero_points,
                                  weight.num_elements(),
                                  args.group_size,
                                  args.bits,
                                  IsAligned(weight.data, sizeof(Words)),
                                  IsAligned(args.codes, sizeof(CodeWords)),
                                  static_cast<T*>(weight.data)};
  const LaunchShape shape = ShapeFor(CeilDiv(params.count, kChunk));
  return QS_LAUNCH(AffineDecodeKernel, NoShared, params, shape.grid,
                   shape.block, stream);
}

}  // namespace

int LaunchAffineEncode(const AffineEncodeArgs& args, cudaStream_t stream) {
  if (!IsAffineServable(args.weight, args.bits, args.group_size) ||
      !IsPointer(args.first_non_finite)) {
    return kCudaInvalidValue;
  }
  const bool empty = args.weight.num_elements() == 0;
  const bool asymmetric = !args.symmetric;
  if (!empty && (!IsPointer(args.codes) ||
                 !IsElementPointer(args.scales, args.weight.dtype) ||
                 (asymmetric && !IsPointer(args.zero_points)))) {
    return kCudaInvalidValue;
  }
  const AffineResetParams reset = {
      reinterpret_cast<Counter*>(args.first_non_finite)};
  const int code =
      QS_LAUNCH(AffineResetKernel, NoShared, reset, 1, kWarpSize, stream);
  if (code != 0 || empty) return code;
  if (args.search == AffineSearch::kBestRange) {
    return LaunchAffineSearch(args, stream);
  }
  return WithType(args.weight.dtype, [&](auto type) {
    return EncodeTyped<decltype(type)>(args, stream);
  });
}

int LaunchAffineDecode(const AffineDecodeArgs& args, cudaStream_t stream) {
  if (!IsAffineServable(args.weight, args.bits, args.group_size)) {
    return kCudaInvalidValue;
  }
  if (args.weight.num_elements() == 0) return 0;
  if (!IsPointer(args.codes) ||
      !IsElementPointer(args.scales, args.weight.dtype)) {
    return kCudaInvalidValue;
  }
  return WithType(args.weight.dtype, [&](auto type) {
    return DecodeTyped<decltype(type)>(args, stream);
  });
}

}  // namespace qs::cuda
