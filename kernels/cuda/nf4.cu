// NF4/FP4 codes for given absmax values (recode), and back to weights (decode).
// Equations: kernels/nf4_math.h; layout: kernels/nf4_ops.h; definition:
// kernels/reference/nf4_reference.cc, whose bytes these give.
//
// A thread takes one chunk of 8 elements at a time: 16-byte accesses to the
// weight and 4-byte ones to the codes, coalesced, where the caller's pointers
// are aligned. Limits: as nf4_encode.cu.
// Tested by tests/kernels/nf4_cuda_test.cc.
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"

namespace qs::cuda {
namespace {

template <class T, bool kFp4Value>
struct RecodeParams {
  using Element = T;
  static constexpr bool kFp4 = kFp4Value;
  const T* weight;
  int64_t count;
  int block_shift;
  bool weight_vectors;  // 16-byte aligned
  bool packed_vectors;  // 4-byte aligned
  const float* absmax;
  uint8_t* packed;
  BinTable table;
};

template <class T>
struct DecodeParams {
  using Element = T;
  const uint8_t* packed;
  const float* absmax;
  int64_t count;
  int block_shift;
  bool weight_vectors;
  bool packed_vectors;
  T* weight;
  float levels[16];  // by code
};

template <class Thread, class Params>
QS_KERNEL void RecodeKernel(Thread& t, SharedBins& shared, const Params& a) {
  using T = typename Params::Element;
  FillBins(t, a.table, shared);
  t.Barrier();
  const auto weight = t.Global(a.weight, a.count);
  const auto packed = t.Global(a.packed, (a.count + 1) / 2);
  const auto absmaxes = t.Global(a.absmax, BlockCount(a.count, a.block_shift));
  const int lane = t.ThreadIndex() % kWarpSize;
  const Ranker<Params::kFp4> ranker(shared, a.table, lane);
  const int64_t stride = int64_t{t.BlockSize()} * kChunk;
  for (int64_t begin = t.BlockIndex() * stride + t.ThreadIndex() * kChunk;
       begin < a.count; begin += t.GridSize() * stride) {
    const auto chunk = LoadChunk<T>(weight, begin, a.count, a.weight_vectors);
    const float absmax = absmaxes.Get(begin >> a.block_shift);
    const uint32_t codes =
        absmax > 0.0f ? PackCodes(chunk,
                                  [&](float w) {
                                    return ranker.Code(
                                        ranker.Rank(ClampUnit(w / absmax)));
                                  })
                      : a.table.zero_codes;
    StoreCodes(packed, begin, a.count, codes, a.packed_vectors);
  }
}

template <class Thread, class Params>
QS_KERNEL void DecodeKernel(Thread& t, SharedLevels& shared, const Params& a) {
  using T = typename Params::Element;
  FillLevels(t, a.levels, shared);
  t.Barrier();
  const auto weight = t.Global(a.weight, a.count);
  const auto packed = t.Global(a.packed, (a.count + 1) / 2);
  const auto absmaxes = t.Global(a.absmax, BlockCount(a.count, a.block_shift));
  const int lane = t.ThreadIndex() % kWarpSize;
  const int64_t stride = int64_t{t.BlockSize()} * kChunk;
  for (int64_t begin = t.BlockIndex() * stride + t.ThreadIndex() * kChunk;
       begin < a.count; begin += t.GridSize() * stride) {
    const uint32_t codes = LoadCodes(packed, begin, a.count, a.packed_vectors);
    const float absmax = absmaxes.Get(begin >> a.block_shift);
    T values[kChunk];
    QS_UNROLL
    for (int j = 0; j < kChunk; ++j) {
      const float level = shared.levels[codes >> NibbleShift(j) & 15u][lane];
      Narrow(level * absmax, &values[j]);
    }
    StoreChunk(weight, begin, a.count, values, a.weight_vectors);
  }
}

QS_DEFINE_ENTRY(RecodeKernel, SharedBins)
QS_DEFINE_ENTRY(DecodeKernel, SharedLevels)

template <class T, bool kFp4>
int RecodeTyped(const Nf4RecodeArgs& args, cudaStream_t stream) {
  RecodeParams<T, kFp4> params;
  params.weight = static_cast<const T*>(args.weight.data);
  params.count = args.weight.num_elements();
  params.block_shift = Log2(args.block_size);
  params.weight_vectors = IsAligned(args.weight.data, sizeof(Words));
  params.packed_vectors = IsAligned(args.packed, sizeof(uint32_t));
  params.absmax = args.absmax;
  params.packed = args.packed;
  params.table = MakeBinTable(args.codebook, Nf4Rule::kCpu);
  const LaunchShape shape = ShapeFor(CeilDiv(params.count, kChunk));
  return QS_LAUNCH(RecodeKernel, SharedBins, params, shape.grid, shape.block,
                   stream);
}

template <class T>
int DecodeTyped(const Nf4DecodeArgs& args, cudaStream_t stream) {
  DecodeParams<T> params;
  params.packed = args.packed;
  params.absmax = args.absmax;
  params.count = args.weight.num_elements();
  params.block_shift = Log2(args.block_size);
  params.weight_vectors = IsAligned(args.weight.data, sizeof(Words));
  params.packed_vectors = IsAligned(args.packed, sizeof(uint32_t));
  params.weight = static_cast<T*>(args.weight.data);
  const float* levels = CodebookLevels(args.codebook);
  for (int code = 0; code < 16; ++code) params.levels[code] = levels[code];
  const LaunchShape shape = ShapeFor(CeilDiv(params.count, kChunk));
  return QS_LAUNCH(DecodeKernel, SharedLevels, params, shape.grid, shape.block,
                   stream);
}

}  // namespace

int LaunchNf4Recode(const Nf4RecodeArgs& args, cudaStream_t stream) {
  if (!IsServable(args.weight, args.block_size)) return kCudaInvalidValue;
  if (args.weight.num_elements() == 0) return 0;
  if (!IsPointer(args.packed) || !IsPointer(args.absmax)) {
    return kCudaInvalidValue;
  }
  return WithType(args.weight.dtype, [&](auto type) {
    using T = decltype(type);
    return args.codebook == Codebook::kFp4
               ? RecodeTyped<T, true>(args, stream)
               : RecodeTyped<T, false>(args, stream);
  });
}

int LaunchNf4Decode(const Nf4DecodeArgs& args, cudaStream_t stream) {
  if (!IsServable(args.weight, args.block_size)) return kCudaInvalidValue;
  if (args.weight.num_elements() == 0) return 0;
  if (!IsPointer(args.packed) || !IsPointer(args.absmax)) {
    return kCudaInvalidValue;
  }
  return WithType(args.weight.dtype, [&](auto type) {
    return DecodeTyped<decltype(type)>(args, stream);
  });
}

}  // namespace qs::cuda
