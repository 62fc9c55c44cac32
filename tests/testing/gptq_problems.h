// Random GPTQ problems with correlated inputs and a few loud channels.
#ifndef QS_TESTS_TESTING_GPTQ_PROBLEMS_H_
#define QS_TESTS_TESTING_GPTQ_PROBLEMS_H_

#include <cstdint>
#include <random>
#include <vector>

#include "tests/testing/gptq_cases.h"

namespace qs {

struct ProblemShape {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;  // 0: four for each column
  unsigned seed = 0;
  DType dtype = DType::kF32;
};

// Inputs are a quarter as many latent normal numbers, mixed, plus some noise;
// every 37th channel is 12 times as loud.
inline std::vector<float> RandomMoment(const ProblemShape& shape) {
  std::mt19937 random(shape.seed);
  std::normal_distribution<float> gauss;
  const int64_t n = shape.cols;
  const int64_t latent = n / 4 + 1;
  std::vector<float> mix(static_cast<size_t>(n * latent));
  for (float& m : mix) m = gauss(random);
  std::vector<double> sum(static_cast<size_t>(n * n));
  std::vector<float> x(static_cast<size_t>(n));
  std::vector<float> z(static_cast<size_t>(latent));
  const int64_t tokens = shape.tokens > 0 ? shape.tokens : 4 * n;
  for (int64_t t = 0; t < tokens; ++t) {
    for (float& value : z) value = gauss(random);
    for (int64_t i = 0; i < n; ++i) {
      float value = shape.tokens > 0 ? 0.0f : 2 * gauss(random);
      for (int64_t k = 0; k < latent; ++k) {
        value += mix[static_cast<size_t>(i * latent + k)] *
                 z[static_cast<size_t>(k)];
      }
      x[static_cast<size_t>(i)] = i % 37 == 5 ? 12 * value : value;
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        sum[static_cast<size_t>(i * n + j)] +=
            static_cast<double>(x[static_cast<size_t>(i)]) *
            x[static_cast<size_t>(j)];
      }
    }
  }
  return {sum.begin(), sum.end()};
}

inline GptqCase MakeGptqCase(const ProblemShape& shape) {
  GptqCase c;
  c.rows = shape.rows;
  c.cols = shape.cols;
  c.dtype = shape.dtype;
  c.hessian = RandomMoment(shape);
  c.grid.group_size = 32;
  std::mt19937 random(shape.seed + 1000);
  std::normal_distribution<float> gauss(0.0f, 0.02f);
  c.weight.resize(
      static_cast<size_t>(c.rows * c.cols * DTypeBytes(shape.dtype)));
  for (int64_t i = 0; i < c.rows * c.cols; ++i) {
    StoreFromFloat(c.weight.data(), shape.dtype, i, gauss(random));
  }
  return c;
}

// The identity but for `off` between columns p and q: whichever of them comes
// first has a pivot of 1 - off^2.
inline GptqCase OnePairCase(int64_t size, int64_t p, int64_t q, float off) {
  GptqCase c;
  c.rows = 1;
  c.cols = size;
  c.hessian.assign(static_cast<size_t>(size * size), 0.0f);
  for (int64_t i = 0; i < size; ++i) {
    c.hessian[static_cast<size_t>(i * (size + 1))] = 1;
  }
  c.hessian[static_cast<size_t>(p * size + q)] = off;
  c.hessian[static_cast<size_t>(q * size + p)] = off;
  return c;
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_GPTQ_PROBLEMS_H_
