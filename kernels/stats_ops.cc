// Tested by tests/kernels/stats_test.cc.
#include "kernels/stats_ops.h"

#include <algorithm>

namespace qs {

void ErrorSums::Add(const ErrorSums& other) {
  count += other.count;
  squared_error += other.squared_error;
  absolute_error += other.absolute_error;
  max_absolute_error = std::max(max_absolute_error, other.max_absolute_error);
  weight_squared += other.weight_squared;
  decoded_squared += other.decoded_squared;
  dot += other.dot;
  for (size_t i = 0; i < histogram.size(); ++i) {
    histogram[i] += other.histogram[i];
  }
}

}  // namespace qs
