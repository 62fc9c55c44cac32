// Tested by tests/quant/quant_spec_test.cc.
#include "quant/quantized_tensor.h"

#include <cmath>
#include <limits>

namespace qs {

double RelativeOutputError(const OutputError& e) {
  if (e.signal > 0) return e.error / e.signal;
  return e.error > 0 ? std::numeric_limits<double>::infinity() : 0;
}

double MeanSquaredError(const ErrorSums& s) {
  return s.count == 0 ? 0 : s.squared_error / static_cast<double>(s.count);
}

double MeanAbsoluteError(const ErrorSums& s) {
  return s.count == 0 ? 0 : s.absolute_error / static_cast<double>(s.count);
}

double RelativeFrobeniusError(const ErrorSums& s) {
  if (s.squared_error == 0) return 0;
  if (s.weight_squared == 0) return std::numeric_limits<double>::infinity();
  return std::sqrt(s.squared_error / s.weight_squared);
}

double SqnrDb(const ErrorSums& s) {
  if (s.count == 0) return 0;
  if (s.squared_error == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(s.weight_squared / s.squared_error);
}

double CosineSimilarity(const ErrorSums& s) {
  if (s.count == 0) return 0;
  if (s.weight_squared == 0 || s.decoded_squared == 0) {
    // No direction to compare: equal vectors still count as equal.
    return s.squared_error == 0 ? 1 : 0;
  }
  return s.dot / (std::sqrt(s.weight_squared) * std::sqrt(s.decoded_squared));
}

}  // namespace qs
