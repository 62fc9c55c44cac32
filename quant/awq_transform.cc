// Tested by tests/quant/awq_fold_test.cc.
#include "quant/awq_transform.h"

#include <cmath>
#include <vector>

#include "quant/float_types.h"

namespace qs {
namespace {

// [cols], of what may be empty, which is ones.
std::vector<float> ColumnScales(const AwqTransform& transform, int64_t cols) {
  return transform.column_scales.empty()
             ? std::vector<float>(static_cast<size_t>(cols), 1.0f)
             : transform.column_scales;
}

float DivisorOf(const AwqTransform& transform, int64_t row) {
  return transform.row_divisors.empty()
             ? 1.0f
             : transform.row_divisors[static_cast<size_t>(row)];
}

// Calls body(a row of `in`, of `out`, its divisor, the columns' scales) for
// every row.
template <class In, class Out, class Body>
void ForRows(const AwqTransform& transform, const TensorView& in,
             int64_t first_row, const MutableTensorView& out,
             const Body& body) {
  const std::vector<float> scales = ColumnScales(transform, in.cols);
  const auto* from = static_cast<const typename In::Stored*>(in.data);
  auto* to = static_cast<typename Out::Stored*>(out.data);
  for (int64_t r = 0; r < in.rows; ++r) {
    body(from, to, DivisorOf(transform, first_row + r), scales.data());
    from += in.cols;
    to += in.cols;
  }
}

template <class In, class Out>
void Transform(const AwqTransform& transform, const TensorView& in,
               int64_t first_row, bool rounded, const MutableTensorView& out) {
  const bool divides = !transform.row_divisors.empty();
  ForRows<In, Out>(
      transform, in, first_row, out,
      [&](const auto* from, auto* to, float divisor, const float* scales) {
        for (int64_t k = 0; k < in.cols; ++k) {
          float x = In::Widen(from[k]) * scales[k];
          if (rounded) x = In::Widen(In::Narrow(x));
          if (divides) x /= divisor;
          to[k] = Out::Narrow(x);
        }
      });
}

template <class In, class Out>
void Restore(const AwqTransform& transform, const TensorView& in,
             int64_t first_row, const MutableTensorView& out) {
  ForRows<In, Out>(
      transform, in, first_row, out,
      [&](const auto* from, auto* to, float divisor, const float* scales) {
        for (int64_t k = 0; k < in.cols; ++k) {
          to[k] = Out::Narrow(In::Widen(from[k]) / scales[k] * divisor);
        }
      });
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
  WithFloatType(in.dtype, [&](auto from) {
    WithFloatType(out.dtype, [&](auto to) {
      Transform<decltype(from), decltype(to)>(transform, in, first_row, rounded,
                                              out);
    });
  });
}

void RestoreRows(const AwqTransform& transform, const TensorView& in,
                 int64_t first_row, MutableTensorView out) {
  WithFloatType(in.dtype, [&](auto from) {
    WithFloatType(out.dtype, [&](auto to) {
      Restore<decltype(from), decltype(to)>(transform, in, first_row, out);
    });
  });
}

double GeometricMean(std::span<const float> values) {
  if (values.empty()) return 1;
  double sum = 0;
  for (float v : values) sum += std::log(v);
  return std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace qs
