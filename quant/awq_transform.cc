// Tested by tests/quant/awq_fold_test.cc.
#include "quant/awq_transform.h"

#include <cmath>

namespace qs {
namespace {

float Rounded(DType dtype, float x) {
  alignas(float) unsigned char storage[sizeof(float)];
  StoreFromFloat(storage, dtype, 0, x);
  return LoadAsFloat(storage, dtype, 0);
}

float At(std::span<const float> values, int64_t i) {
  return values.empty() ? 1.0f : values[static_cast<size_t>(i)];
}

// Calls body(index, column, divisor of the row) for every element.
template <class Body>
void ForElements(const AwqTransform& transform, int64_t rows, int64_t cols,
                 int64_t first_row, const Body& body) {
  for (int64_t r = 0; r < rows; ++r) {
    const float divisor = At(transform.row_divisors, first_row + r);
    for (int64_t k = 0; k < cols; ++k) body(r * cols + k, k, divisor);
  }
}

}  // namespace

void TransformRows(const AwqTransform& transform, const TensorView& in,
                   int64_t first_row, bool rounded, MutableTensorView out) {
  if (!transform.values.empty()) {
    for (int64_t i = 0; i < in.num_elements(); ++i) {
      StoreFromFloat(out.data, out.dtype, i,
                     transform.values[static_cast<size_t>(i)]);
    }
    return;
  }
  const bool divides = !transform.row_divisors.empty();
  ForElements(transform, in.rows, in.cols, first_row,
              [&](int64_t i, int64_t k, float divisor) {
                float x = LoadAsFloat(in.data, in.dtype, i) *
                          At(transform.column_scales, k);
                if (rounded) x = Rounded(in.dtype, x);
                if (divides) x /= divisor;
                StoreFromFloat(out.data, out.dtype, i, x);
              });
}

void RestoreRows(const AwqTransform& transform, const TensorView& in,
                 int64_t first_row, MutableTensorView out) {
  ForElements(transform, in.rows, in.cols, first_row,
              [&](int64_t i, int64_t k, float divisor) {
                StoreFromFloat(out.data, out.dtype, i,
                               LoadAsFloat(in.data, in.dtype, i) /
                                   At(transform.column_scales, k) * divisor);
              });
}

double GeometricMean(std::span<const float> values) {
  if (values.empty()) return 1;
  double sum = 0;
  for (float v : values) sum += std::log(v);
  return std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace qs
