// TensorView, MutableTensorView: non-owning, contiguous row-major tensors in
// the memory of one device. Storing one needs the owner to outlive it.
#ifndef QS_KERNELS_BASE_TENSOR_VIEW_H_
#define QS_KERNELS_BASE_TENSOR_VIEW_H_

#include <cstdint>

#include "kernels/base/dtype.h"

namespace qs {

// A matrix [rows, cols]; a flat run of n elements is [1, n].
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t num_elements() const { return rows * cols; }
  int64_t num_bytes() const { return num_elements() * DTypeBytes(dtype); }
};

struct MutableTensorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t num_elements() const { return rows * cols; }
  operator TensorView() const { return {data, dtype, rows, cols}; }
};

}  // namespace qs

#endif  // QS_KERNELS_BASE_TENSOR_VIEW_H_
