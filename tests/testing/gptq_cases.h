// GPTQ problems and their solution by a backend, for tests.
#ifndef QS_TESTS_TESTING_GPTQ_CASES_H_
#define QS_TESTS_TESTING_GPTQ_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "tests/testing/catch_compat.h"

namespace qs {

struct GptqCase {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
  std::vector<uint8_t> weight;  // bytes
  std::vector<float> hessian;
  GptqGrid grid;
  std::string order = "none";  // none, desc_act, desc_act_static, gar
  double damping = 0.01;
  double dead_diagonal = 0;
  bool in_f64 = false;
  GptqRange range = GptqRange::kMinMax;
  double norm = 2.4;
  std::vector<int32_t> positions;  // order[position]; empty: as `order` says

  int64_t groups() const { return CeilDiv(cols, grid.group_size); }
  TensorView View() const { return {weight.data(), dtype, rows, cols}; }
  double H(int64_t i, int64_t j) const {
    return hessian[static_cast<size_t>(i * cols + j)];
  }
};

struct GptqResult {
  std::vector<float> factor;
  GptqFactorFacts facts;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;  // bytes
  std::vector<uint8_t> zero_points;
  std::vector<double> row_loss;
  std::vector<int32_t> order;
  std::vector<int32_t> group_index;
  std::vector<float> decoded;
  std::vector<double> error, signal;
  DType scale_dtype = DType::kF32;

  float scale(int64_t at) const {
    return LoadAsFloat(scales.data(), scale_dtype, at);
  }
  double relative_error() const {
    return std::accumulate(error.begin(), error.end(), 0.0) /
           std::accumulate(signal.begin(), signal.end(), 0.0);
  }
};

// Descending by the diagonal, ascending index among equals.
inline std::vector<int32_t> SortedByDiagonal(const GptqCase& c, int64_t begin,
                                             int64_t end) {
  std::vector<int32_t> order(static_cast<size_t>(end - begin));
  std::iota(order.begin(), order.end(), static_cast<int32_t>(begin));
  const auto value = [&](int32_t i) {
    return c.H(i, i) == 0 ? c.dead_diagonal : c.H(i, i);
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return value(a) > value(b); });
  return order;
}

inline std::vector<int32_t> PositionsOf(const GptqCase& c) {
  if (!c.positions.empty()) return c.positions;
  if (c.order != "gar") {
    std::vector<int32_t> order = SortedByDiagonal(c, 0, c.cols);
    if (c.order == "none") std::iota(order.begin(), order.end(), 0);
    return order;
  }
  const int64_t size = c.grid.group_size;
  std::vector<std::vector<int32_t>> runs;
  for (int64_t begin = 0; begin + size <= c.cols; begin += size) {
    runs.push_back(SortedByDiagonal(c, begin, begin + size));
  }
  std::stable_sort(runs.begin(), runs.end(), [&](auto& a, auto& b) {
    return c.H(a[0], a[0]) > c.H(b[0], b[0]);
  });
  std::vector<int32_t> order;
  for (const auto& run : runs)
    order.insert(order.end(), run.begin(), run.end());
  for (auto i = static_cast<int64_t>(order.size()); i < c.cols; ++i) {
    order.push_back(static_cast<int32_t>(i));
  }
  return order;
}

inline GptqSolveArgs SolveArgs(const GptqCase& c, GptqResult* result,
                               int64_t* bad) {
  result->codes.resize(static_cast<size_t>(c.rows * c.cols));
  const int64_t grids = c.rows * c.groups();
  result->scales.resize(
      static_cast<size_t>(grids * DTypeBytes(c.grid.scale_dtype)));
  result->zero_points.resize(static_cast<size_t>(grids));
  result->row_loss.resize(static_cast<size_t>(c.rows));
  result->scale_dtype = c.grid.scale_dtype;
  GptqSolveArgs args;
  args.weight = c.View();
  args.factor = result->factor.data();
  args.order = result->order.data();
  args.grid = c.grid;
  args.static_groups = c.order == "desc_act_static";
  if (c.order == "gar") args.group_index = result->group_index.data();
  args.range = c.range;
  args.norm = c.norm;
  args.codes = result->codes.data();
  args.scales = result->scales.data();
  args.zero_points = c.grid.symmetric ? nullptr : result->zero_points.data();
  args.row_loss = result->row_loss.data();
  args.first_non_finite = bad;
  return args;
}

// `in_place`: in the memory of (a copy of) H.
inline void FactorCase(Backend& backend, const GptqCase& c, GptqResult* result,
                       bool in_place = false) {
  result->order = PositionsOf(c);
  result->factor = c.hessian;
  if (!in_place) std::fill(result->factor.begin(), result->factor.end(), NAN);
  GptqFactorArgs args;
  args.hessian = in_place ? result->factor.data() : c.hessian.data();
  args.size = c.cols;
  args.order = result->order.data();
  args.damping = c.damping;
  args.dead_diagonal = c.dead_diagonal;
  args.in_f64 = c.in_f64;
  args.factor = result->factor.data();
  args.facts = &result->facts;
  const absl::Status status = backend.gptq().Factor(args, backend.stream());
  INFO(status.ToString());
  REQUIRE(status.ok());
}

// Decoded weights and output errors of result->codes.
inline void MeasureCase(Backend& backend, const GptqCase& c,
                        GptqResult* result) {
  result->decoded.resize(result->codes.size());
  const bool ordered = c.order == "desc_act" || c.order == "gar";
  GptqDecodeArgs decode;
  decode.codes = result->codes.data();
  decode.scales = result->scales.data();
  decode.zero_points = c.grid.symmetric ? nullptr : result->zero_points.data();
  decode.grid = c.grid;
  decode.group_index = ordered ? result->group_index.data() : nullptr;
  decode.weight = {result->decoded.data(), DType::kF32, c.rows, c.cols};
  REQUIRE(backend.gptq().Decode(decode, backend.stream()).ok());
  result->error.resize(static_cast<size_t>(c.rows));
  result->signal.resize(static_cast<size_t>(c.rows));
  REQUIRE(backend.gptq()
              .OutputError({c.View(), decode.weight, c.hessian.data(),
                            result->error.data(), result->signal.data()},
                           backend.stream())
              .ok());
}

inline GptqResult RunGptq(Backend& backend, const GptqCase& c) {
  GptqResult result;
  FactorCase(backend, c, &result);
  // Dynamic runs are groups of positions; group-aware ones are stored groups.
  result.group_index.resize(static_cast<size_t>(c.cols));
  for (int64_t p = 0; p < c.cols; ++p) {
    const int32_t column = result.order[static_cast<size_t>(p)];
    result.group_index[static_cast<size_t>(column)] = static_cast<int32_t>(
        (c.order == "desc_act" ? p : column) / c.grid.group_size);
  }
  std::vector<uint8_t> dead(static_cast<size_t>(c.cols));
  for (int64_t i = 0; i < c.cols; ++i) {
    dead[static_cast<size_t>(i)] = c.H(i, i) == 0 ? 1 : 0;
  }
  int64_t bad = 0;
  GptqSolveArgs args = SolveArgs(c, &result, &bad);
  if (c.dead_diagonal > 0) args.zeroed = dead.data();
  const absl::Status status = backend.gptq().Solve(args, backend.stream());
  INFO(status.ToString());
  REQUIRE(status.ok());
  REQUIRE(bad == -1);
  MeasureCase(backend, c, &result);
  return result;
}

// Squared output error of codes after five sweeps from `start`.
inline double ErrorOfDescent(Backend& backend, const GptqCase& c,
                             GptqResult start) {
  std::vector<double> error(static_cast<size_t>(c.rows));
  GptqRefineArgs args;
  args.weight = c.View();
  args.hessian = c.hessian.data();
  args.damping = c.damping;
  args.grid = c.grid;
  args.sweeps = 5;
  args.codes = start.codes.data();
  args.scales = start.scales.data();
  args.row_error = error.data();
  REQUIRE(backend.gptq().Refine(args, backend.stream()).ok());
  return std::accumulate(error.begin(), error.end(), 0.0);
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_GPTQ_CASES_H_
