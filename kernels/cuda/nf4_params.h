// What the kernels of NF4's codes are given alike, and how it is set on the
// host.
// Tested by tests/kernels/nf4_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_NF4_PARAMS_H_
#define QS_KERNELS_CUDA_NF4_PARAMS_H_

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/nf4_device.h"
#include "kernels/cuda/vocabulary.h"
#include "kernels/nf4_ops.h"

namespace qs::cuda {

using Counter = unsigned long long;  // what atomicMin takes

// Sets what all of them have. `args`: those of LaunchNf4Encode, LaunchNf4Decode
// or LaunchNestedRefine.
template <class Args, class Params>
void SetParams(const Args& args, Params& params) {
  params.weight = static_cast<decltype(params.weight)>(args.weight.data);
  params.count = args.weight.num_elements();
  params.block_shift = Log2(args.block_size);
  params.weight_vectors = IsAligned(args.weight.data, sizeof(Words));
  params.packed_vectors = IsAligned(args.packed, sizeof(uint32_t));
  params.packed = args.packed;
  params.absmax = args.absmax;
}

// What every encoder has.
template <class T>
struct EncodeParams {
  using Element = T;
  const T* weight;
  int64_t count;
  int block_shift;  // log2 of the block size
  Nf4Rule rule;
  bool weight_vectors;  // 16-byte aligned
  bool packed_vectors;  // 4-byte aligned
  uint8_t* packed;
  float* absmax;
  Counter* first_non_finite;

  void Set(const Nf4EncodeArgs& args) {
    SetParams(args, *this);
    rule = args.rule;
    first_non_finite = reinterpret_cast<Counter*>(args.first_non_finite);
  }
};

template <class T>
struct EncodeMemory {
  GlobalMemory<const T> weight;
  GlobalMemory<uint8_t> packed;
  GlobalMemory<float> absmax;
  GlobalMemory<Counter> first_non_finite;
};

template <class Thread, class T>
QS_KERNEL EncodeMemory<T> MemoryOf(const Thread& t, const EncodeParams<T>& a) {
  return {t.Global(a.weight, a.count), t.Global(a.packed, (a.count + 1) / 2),
          t.Global(a.absmax, BlockCount(a.count, a.block_shift)),
          t.Global(a.first_non_finite, 1)};
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NF4_PARAMS_H_
