// The reference of the GPTQ family against what its equations promise, its
// ladder, and wrong arguments. Golden files: gptq_golden_test.cc.
#include <cmath>
#include <limits>

#include "kernels/backend.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

// W - Q in processing order.
std::vector<double> LostWeights(const GptqCase& c, const GptqResult& r) {
  std::vector<double> lost;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t p = 0; p < c.cols; ++p) {
      const int64_t at = row * c.cols + r.order[static_cast<size_t>(p)];
      lost.push_back(
          static_cast<double>(LoadAsFloat(c.weight.data(), c.dtype, at)) -
          static_cast<double>(r.decoded[static_cast<size_t>(at)]));
    }
  }
  return lost;
}

// d H d^T of a row with the damping that was used.
double DampedError(const GptqCase& c, const GptqResult& r,
                   const std::vector<double>& lost, int64_t row) {
  double mean = 0;
  for (int64_t i = 0; i < c.cols; ++i) mean += c.H(i, i);
  mean /= static_cast<double>(c.cols);
  double sum = 0;
  for (int64_t i = 0; i < c.cols; ++i) {
    for (int64_t j = 0; j < c.cols; ++j) {
      const double h = c.H(r.order[static_cast<size_t>(i)],
                           r.order[static_cast<size_t>(j)]) +
                       (i == j ? r.facts.damping * mean : 0);
      sum += lost[static_cast<size_t>(row * c.cols + i)] * h *
             lost[static_cast<size_t>(row * c.cols + j)];
    }
  }
  return sum;
}

TEST_CASE("the factor is upper triangular and squares to the damped moment") {
  for (const auto& backend : AllBackends()) {
    for (const std::string order : {"none", "desc_act", "gar"}) {
      GptqCase c = MakeGptqCase({.rows = 1, .cols = 200, .seed = 3});
      c.order = order;
      GptqResult r;
      FactorCase(*backend, c, &r);
      double mean = 0;
      for (int64_t i = 0; i < c.cols; ++i) mean += c.H(i, i) / 200;
      for (int64_t i = 0; i < c.cols; ++i) {
        for (int64_t j = 0; j < c.cols; ++j) {
          const auto at = static_cast<size_t>(i * c.cols + j);
          if (j < i) REQUIRE(r.factor[at] == 0);
          double sum = 0;
          for (int64_t k = std::max(i, j); k < c.cols; ++k) {
            sum += static_cast<double>(r.factor[size_t(i * c.cols + k)]) *
                   r.factor[size_t(j * c.cols + k)];
          }
          const double h = c.H(r.order[size_t(i)], r.order[size_t(j)]) +
                           (i == j ? c.damping * mean : 0);
          // Backward error of a Cholesky factorisation in F32: n eps sqrt(ab).
          const double size =
              std::sqrt(c.H(r.order[size_t(i)], r.order[size_t(i)]) *
                        c.H(r.order[size_t(j)], r.order[size_t(j)])) +
              c.damping * mean;
          REQUIRE(std::abs(sum - h) <= 200 * 0x1p-23 * size);
        }
      }
    }
  }
}

TEST_CASE("errors spread by U are what the weights lost") {
  // E U = W - Q: with e_p = (w - q) R[p,p] of the loop, sum e_p^2 is
  // d H_damped d^T, row by row.
  for (const auto& backend : AllBackends()) {
    for (const std::string order :
         {"none", "desc_act", "desc_act_static", "gar"}) {
      for (int64_t group_size : {32, 64, 320}) {
        GptqCase c = MakeGptqCase({.rows = 5, .cols = 320, .seed = 5});
        c.order = order;
        if (order == "gar" && group_size == 320) continue;
        c.grid.group_size = group_size;
        c.grid.symmetric = group_size == 64;
        INFO(backend->name() << " " << order << " " << group_size);
        const GptqResult r = RunGptq(*backend, c);
        const std::vector<double> lost = LostWeights(c, r);
        for (int64_t row = 0; row < c.rows; ++row) {
          CHECK(r.row_loss[static_cast<size_t>(row)] ==
                Approx(DampedError(c, r, lost, row)).epsilon(2e-3));
        }
      }
    }
  }
}

TEST_CASE("d R is the loop's error of every column") {
  const auto backend = NewReferenceBackend();
  GptqCase c = MakeGptqCase({.rows = 3, .cols = 160, .seed = 8});
  c.order = "desc_act_static";
  const GptqResult r = RunGptq(*backend, c);
  const std::vector<double> lost = LostWeights(c, r);
  for (int64_t row = 0; row < c.rows; ++row) {
    double squares = 0;
    for (int64_t p = 0; p < c.cols; ++p) {
      double e = 0;  // (W - Q) R, and so E = (W - Q) U^-1
      for (int64_t k = 0; k <= p; ++k) {
        e += lost[static_cast<size_t>(row * c.cols + k)] *
             static_cast<double>(r.factor[static_cast<size_t>(k * c.cols + p)]);
      }
      squares += e * e;
    }
    CHECK(squares ==
          Approx(r.row_loss[static_cast<size_t>(row)]).epsilon(1e-5));
  }
}

TEST_CASE("an input of independent elements is rounded to nearest") {
  for (const auto& backend : AllBackends()) {
    GptqCase c = MakeGptqCase({.rows = 4, .cols = 128, .seed = 1});
    std::fill(c.hessian.begin(), c.hessian.end(), 0.0f);
    for (int64_t i = 0; i < c.cols; ++i) c.hessian[size_t(i * 129)] = 7;
    c.grid.group_size = 32;
    const GptqResult solved = RunGptq(*backend, c);
    GptqResult rounded = solved;
    int64_t bad = 0;
    GptqSolveArgs args = SolveArgs(c, &rounded, &bad);
    args.factor = nullptr;
    args.static_groups = true;
    REQUIRE(backend->gptq().Solve(args, backend->stream()).ok());
    CHECK(solved.codes == rounded.codes);
    CHECK(solved.scales == rounded.scales);
  }
}

TEST_CASE("a moment that cannot be factored climbs the ladder") {
  for (const auto& backend : AllBackends()) {
    INFO(backend->name());
    // Fewer tokens than columns and no damping: pivots are lost.
    GptqCase few =
        MakeGptqCase({.rows = 2, .cols = 96, .tokens = 8, .seed = 2});
    few.damping = 0;
    GptqResult r = RunGptq(*backend, few);
    CHECK(r.facts.dropped_pivots >= 80);
    CHECK_FALSE(r.facts.diagonal_only);
    // A damping below F32's rounding: F64 does it, or more damping.
    few.damping = 1e-9;
    r = RunGptq(*backend, few);
    CHECK(r.facts.dropped_pivots == 0);
    CHECK(r.relative_error() < 1);
    // One direction shared by all: F32 does not do.
    GptqCase shared = MakeGptqCase({.rows = 2, .cols = 96, .seed = 2});
    for (int64_t i = 0; i < 96 * 96; ++i) shared.hessian[size_t(i)] += 1e8f;
    r = RunGptq(*backend, shared);
    CHECK(r.facts.damping == Approx(0.01));
    // Not positive: the damping is raised.
    GptqCase negative = MakeGptqCase({.rows = 2, .cols = 8, .seed = 2});
    negative.grid.group_size = 8;
    for (int64_t i = 0; i < 8; ++i) {
      for (int64_t j = 0; j < 8; ++j) {
        negative.hessian[size_t(i * 8 + j)] = i == j ? 1.0f : -0.15f;
      }
    }
    r = RunGptq(*backend, negative);
    CHECK(r.facts.damping_retries > 0);
    CHECK(r.facts.damping > 0.05);
    CHECK(r.facts.damping <= 0.3);
  }
}

TEST_CASE("columns that no token reached are counted and harm nothing") {
  for (const auto& backend : AllBackends()) {
    GptqCase c = MakeGptqCase({.rows = 3, .cols = 64, .seed = 4});
    c.grid.group_size = 32;
    for (int64_t i = 0; i < 64; ++i) {
      for (int64_t dead : {5, 40}) {
        c.hessian[size_t(i * 64 + dead)] = c.hessian[size_t(dead * 64 + i)] = 0;
      }
    }
    CHECK(RunGptq(*backend, c).facts.dead_columns == 2);
    c.dead_diagonal = 1;
    CHECK(RunGptq(*backend, c).facts.dead_columns == 2);
    std::fill(c.hessian.begin(), c.hessian.end(), 0.0f);
    c.dead_diagonal = 0;
    const GptqResult r = RunGptq(*backend, c);
    CHECK(r.facts.diagonal_only);
    CHECK(r.facts.dead_columns == 64);
  }
}

TEST_CASE("refining lowers the error of every row") {
  for (const auto& backend : AllBackends()) {
    for (bool symmetric : {true, false}) {
      GptqCase c = MakeGptqCase({.rows = 9, .cols = 200, .seed = 6});
      c.order = "desc_act_static";
      c.grid = {.bits = 3,
                .group_size = 40,
                .symmetric = symmetric,
                .scale_dtype = DType::kBF16};
      GptqResult before = RunGptq(*backend, c);
      GptqResult after = before;
      GptqRefineArgs args;
      args.weight = c.View();
      args.hessian = c.hessian.data();
      args.damping = c.damping;
      args.grid = c.grid;
      args.codes = after.codes.data();
      args.scales = after.scales.data();
      args.zero_points = symmetric ? nullptr : after.zero_points.data();
      REQUIRE(backend->gptq().Refine(args, backend->stream()).ok());
      MeasureCase(*backend, c, &after);
      const auto lost_before = LostWeights(c, before);
      const auto lost_after = LostWeights(c, after);
      for (int64_t r = 0; r < c.rows; ++r) {
        CHECK(DampedError(c, after, lost_after, r) <=
              DampedError(c, before, lost_before, r) * (1 + 1e-5));
      }
      CHECK(after.relative_error() < 0.95 * before.relative_error());
      CHECK(after.codes != before.codes);
      CHECK(after.scales != before.scales);
    }
  }
}

std::string Message(const absl::Status& status) {
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST_CASE("moments that are none are refused") {
  for (const auto& backend : AllBackends()) {
    GptqCase c = MakeGptqCase({.rows = 1, .cols = 40, .seed = 1});
    std::vector<float> factor(1600);
    GptqFactorFacts facts;
    GptqFactorArgs args;
    args.hessian = c.hessian.data();
    args.size = 40;
    args.factor = factor.data();
    args.facts = &facts;
    const auto factorize = [&] {
      return backend->gptq().Factor(args, backend->stream());
    };
    c.hessian[3 * 40 + 7] = NAN;
    CHECK(Message(factorize()) ==
          "hessian: got NaN at [3, 7], allowed finite numbers");
    c.hessian[3 * 40 + 7] = INFINITY;
    CHECK(Message(factorize()).find("hessian: got Inf at [3, 7]") == 0);
    c.hessian[3 * 40 + 7] = 0;
    c.hessian[5 * 41] = -1;
    CHECK(Message(factorize()) ==
          "hessian: got -1 at [5, 5], allowed a diagonal of 0 or more");
    c.hessian[5 * 41] = 1;
    std::vector<int32_t> order(40, 2);
    args.order = order.data();
    CHECK(Message(factorize()).find("order: got 2 at position 1") == 0);
    args.order = nullptr;
    for (double damping :
         {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()}) {
      args.damping = damping;
      CHECK(Message(factorize()).find("damping: got") == 0);
    }
    args.damping = 0.01;
    args.size = 0;
    CHECK(Message(factorize()) == "size: got 0, allowed 1 or more");
  }
}

TEST_CASE("wrong arguments are refused") {
  for (const auto& backend : AllBackends()) {
    GptqCase c = MakeGptqCase({.rows = 2, .cols = 64, .seed = 1});
    GptqResult r = RunGptq(*backend, c);
    int64_t bad = 0;
    GptqSolveArgs args = SolveArgs(c, &r, &bad);
    const auto solve = [&] {
      return backend->gptq().Solve(args, backend->stream());
    };
    for (int bits : {0, 1, 9}) {
      args.grid.bits = bits;
      CHECK(Message(solve()).find("bits: got") == 0);
    }
    args.grid.bits = 4;
    for (int64_t size : {0, -1, 65}) {
      args.grid.group_size = size;
      CHECK(Message(solve()).find("group_size: got") == 0);
    }
    args.grid.group_size = 32;
    args.range = GptqRange::kCurvature;
    args.static_groups = false;
    CHECK(Message(solve()).find("range: ") == 0);
    args.range = GptqRange::kMinMax;
    args.grid.symmetric = false;
    args.zero_points = nullptr;
    CHECK(Message(solve()).find("zero_points: null") == 0);
    args.grid.symmetric = true;
    args.grid.scale_dtype = DType::kI32;
    CHECK(Message(solve()).find("scale_dtype: got I32") == 0);
    args.grid.scale_dtype = DType::kF32;
    args.weight.dtype = DType::kU8;
    CHECK(Message(solve()).find("weight.dtype: got U8") == 0);
    args.weight.dtype = DType::kF32;
    args.first_non_finite = nullptr;
    CHECK(Message(solve()) == "first_non_finite: null");
  }
}

TEST_CASE("a weight that is not finite is found") {
  for (const auto& backend : AllBackends()) {
    GptqCase c = MakeGptqCase({.rows = 40, .cols = 64, .seed = 1});
    GptqResult r = RunGptq(*backend, c);
    int64_t bad = 0;
    for (int64_t at : {0, 77, 40 * 64 - 1}) {
      GptqCase broken = c;
      StoreFromFloat(broken.weight.data(), broken.dtype, at, NAN);
      GptqSolveArgs args = SolveArgs(broken, &r, &bad);
      REQUIRE(backend->gptq().Solve(args, backend->stream()).ok());
      CHECK(bad == at);
    }
  }
}

TEST_CASE("a checkpoint ends every operation with its status") {
  for (const auto& backend : AllBackends()) {
    GptqCase c = MakeGptqCase({.rows = 8, .cols = 300, .seed = 1});
    GptqResult r = RunGptq(*backend, c);
    const PanelCheck stop = [](double done) {
      CHECK((done >= 0 && done <= 1));
      return absl::CancelledError("stop");
    };
    GptqFactorArgs factor;
    factor.hessian = c.hessian.data();
    factor.size = c.cols;
    factor.factor = r.factor.data();
    factor.facts = &r.facts;
    factor.checkpoint = stop;
    CHECK(backend->gptq().Factor(factor, backend->stream()).code() ==
          absl::StatusCode::kCancelled);
    r = RunGptq(*backend, c);
    int64_t bad = 0;
    GptqSolveArgs solve = SolveArgs(c, &r, &bad);
    solve.checkpoint = stop;
    CHECK(backend->gptq().Solve(solve, backend->stream()).code() ==
          absl::StatusCode::kCancelled);
  }
}

}  // namespace
}  // namespace qs
