// AWQ problems and their solution by a backend, for tests.
#ifndef QS_TESTS_TESTING_AWQ_CASES_H_
#define QS_TESTS_TESTING_AWQ_CASES_H_

#include <cmath>
#include <functional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs::awq_cases {

// What a site gives: H of random tokens with a few loud columns, its factor,
// and scales.
struct Input {
  Input(int64_t size, int64_t tokens, uint64_t seed) : n(size) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> gauss;
    std::vector<double> x(static_cast<size_t>(tokens * n));
    for (int64_t i = 0; i < tokens * n; ++i) {
      x[static_cast<size_t>(i)] = gauss(random) * (i % n % 13 == 0 ? 9 : 1);
    }
    moment.resize(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < tokens; ++t) {
          sum += x[static_cast<size_t>(t * n + i)] *
                 x[static_cast<size_t>(t * n + j)];
        }
        moment[static_cast<size_t>(i * n + j)] = static_cast<float>(sum);
      }
      scales.push_back(static_cast<float>(std::exp(gauss(random))));
    }
    factor = ReversedCholesky();
  }

  // H = R R^T, R upper triangular.
  std::vector<float> ReversedCholesky() const {
    std::vector<double> r(moment.begin(), moment.end());
    const auto at = [&](int64_t i, int64_t j) -> double& {
      return r[static_cast<size_t>(i * n + j)];
    };
    for (int64_t j = n - 1; j >= 0; --j) {
      for (int64_t k = j + 1; k < n; ++k) at(j, j) -= at(j, k) * at(j, k);
      at(j, j) = std::sqrt(at(j, j));
      for (int64_t i = 0; i < j; ++i) {
        for (int64_t k = j + 1; k < n; ++k) at(i, j) -= at(i, k) * at(j, k);
        at(i, j) /= at(j, j);
      }
    }
    std::vector<float> out(r.begin(), r.end());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) out[static_cast<size_t>(i * n + j)] = 0;
    }
    return out;
  }

  const int64_t n;
  std::vector<float> moment, factor, scales;
};

struct Case {
  const TestTensor& weight;
  const Input& input;
  int64_t rows;
  AwqGridSpec grid;
  bool huge = false;  // squares leave F32

  std::string Describe() const {
    std::ostringstream text;
    text << DTypeName(weight.View().dtype) << " [" << rows << ", " << input.n
         << "] group " << grid.group_size << " bits " << grid.bits
         << (grid.symmetric ? " symmetric" : " asymmetric") << " rule "
         << static_cast<int>(grid.rule) << " scales "
         << DTypeName(grid.scale_dtype);
    return text.str();
  }
  size_t groups() const {
    return static_cast<size_t>(rows * input.n / grid.group_size);
  }
};

struct Codes {
  std::vector<uint8_t> codes, scales, zero_points;
  std::vector<uint32_t> decoded;  // bits
  std::vector<float> w_mean;
  bool operator==(const Codes&) const = default;
};

inline Codes RunElementwise(Backend& backend, const Case& c) {
  Codes out;
  out.codes.resize(static_cast<size_t>(c.weight.count()));
  out.decoded.resize(out.codes.size());
  out.zero_points.resize(c.groups());
  out.scales.resize(c.groups() *
                    static_cast<size_t>(DTypeBytes(c.grid.scale_dtype)));
  out.w_mean.resize(static_cast<size_t>(c.input.n));
  const std::vector<float> high(c.groups(), 0.015f);
  const std::vector<float> low(c.groups(), -0.02f);
  AwqQuantizeArgs args;
  args.weight = c.weight.View(c.rows);
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.low = c.grid.bits % 2 == 0 ? nullptr : low.data();
  args.high = c.grid.bits % 2 == 0 ? nullptr : high.data();
  args.codes = out.codes.data();
  args.group_scales = out.scales.data();
  args.zero_points = out.zero_points.data();
  args.decoded = reinterpret_cast<float*>(out.decoded.data());
  REQUIRE(backend.awq().Quantize(args, backend.stream()).ok());
  const TensorView weights[] = {args.weight, args.weight};
  REQUIRE(backend.awq()
              .Statistics({weights, c.grid.group_size, out.w_mean.data()},
                          backend.stream())
              .ok());
  return out;
}

inline std::vector<double> RunLosses(Backend& backend, const Case& c,
                                     bool factored, int64_t stride) {
  std::vector<float> scales(c.input.scales);
  for (float s : c.input.scales) scales.push_back(std::sqrt(s));
  std::vector<double> losses(2);
  const TensorView weights[] = {c.weight.View(c.rows), c.weight.View(c.rows)};
  AwqScaleLossArgs args;
  args.weights = weights;
  args.grid = c.grid;
  args.scales = scales.data();
  args.candidates = 2;
  args.second_moment = factored ? nullptr : c.input.moment.data();
  args.factor = factored ? c.input.factor.data() : nullptr;
  args.row_stride = stride;
  args.losses = losses.data();
  REQUIRE(backend.awq().ScaleLosses(args, backend.stream()).ok());
  return losses;
}

// What solved codes can be expected to leave: all sums in double.
inline double RunExpectedLoss(Backend& backend, const Case& c, int64_t stride) {
  const TensorView weight = c.weight.View(c.rows);
  std::vector<float> curvature;
  for (float s : c.input.scales) curvature.push_back(3 * s);
  double loss = 0;
  AwqScaleLossArgs args;
  args.weights = {&weight, 1};
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.candidates = 1;
  args.curvature = curvature.data();
  args.row_stride = stride;
  args.losses = &loss;
  REQUIRE(backend.awq().ScaleLosses(args, backend.stream()).ok());
  return loss;
}

struct Limits {
  std::vector<float> low, high;
  bool operator==(const Limits&) const = default;
};

inline Limits RunClip(Backend& backend, const Case& c) {
  Limits limits;
  limits.low.resize(c.groups());
  limits.high.resize(c.groups());
  AwqClipArgs args;
  args.weight = c.weight.View(c.rows);
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.second_moment = c.input.moment.data();
  args.low = limits.low.data();
  args.high = limits.high.data();
  REQUIRE(backend.awq().ClipSearch(args, backend.stream()).ok());
  return limits;
}

// d H_gg d^T of every group for given limits, in double.
inline std::vector<double> ClipErrors(const Case& c, const Limits& limits) {
  const auto reference = NewReferenceBackend();
  std::vector<uint8_t> codes(static_cast<size_t>(c.weight.count()));
  std::vector<uint8_t> zero_points(c.groups());
  std::vector<float> scales(c.groups()), decoded(codes.size());
  AwqQuantizeArgs args;
  args.weight = c.weight.View(c.rows);
  args.grid = c.grid;
  args.scales = c.input.scales.data();
  args.low = limits.low.data();
  args.high = limits.high.data();
  args.codes = codes.data();
  args.group_scales = scales.data();
  args.zero_points = zero_points.data();
  args.decoded = decoded.data();
  REQUIRE(reference->awq().Quantize(args, reference->stream()).ok());
  std::vector<double> errors;
  const int64_t size = c.grid.group_size;
  const int64_t groups = c.input.n / size;
  uint8_t stored[4];
  for (int64_t g = 0; g < c.rows * groups; ++g) {
    const int64_t first = g % groups * size;
    std::vector<double> d;
    for (int64_t i = 0; i < size; ++i) {
      float w = c.weight.at(g * size + i) *
                c.input.scales[static_cast<size_t>(first + i)];
      if (c.grid.rule == AwqRule::kAutoAwq) {
        StoreFromFloat(stored, c.weight.View().dtype, 0, w);
        w = LoadAsFloat(stored, c.weight.View().dtype, 0);
      }
      d.push_back(
          (static_cast<double>(decoded[static_cast<size_t>(g * size + i)]) -
           static_cast<double>(w)) /
          c.input.scales[static_cast<size_t>(first + i)]);
    }
    double error = 0;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        error += d[static_cast<size_t>(i)] * d[static_cast<size_t>(j)] *
                 static_cast<double>(c.input.moment[static_cast<size_t>(
                     (first + i) * c.input.n + first + j)]);
      }
    }
    errors.push_back(error);
  }
  return errors;
}

inline void ForCases(const std::function<void(const Case&)>& body) {
  for (int64_t n : {48, 96, 160}) {
    const Input input(n, 2 * n, 7);
    for (DType dtype : kWeightTypes) {
      for (Kind kind : {Kind::kGauss, Kind::kBlocks, Kind::kOneSigned}) {
        const int64_t rows = n == 160 ? 37 : 5;
        const TestTensor weight =
            TestTensor::Make(dtype, rows * n, kind, 11, n == 96 ? 1 : 0);
        for (int bits : {2, 3, 4, 8}) {
          for (bool symmetric : {true, false}) {
            body(
                {weight,
                 input,
                 rows,
                 {bits, n == 48 ? 24 : 32, symmetric, AwqRule::kAutoAwq, dtype},
                 kind == Kind::kBlocks});
            for (DType scales : kWeightTypes) {
              body(
                  {weight,
                   input,
                   rows,
                   {bits, n == 48 ? 24 : 32, symmetric, AwqRule::kBest, scales},
                   kind == Kind::kBlocks});
            }
          }
        }
      }
    }
  }
}

}  // namespace qs::awq_cases

#endif  // QS_TESTS_TESTING_AWQ_CASES_H_
