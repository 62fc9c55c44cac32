// Every SIMD target and thread count against the reference; rows alone and
// together.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

// Rows of codes that are equal.
int64_t EqualRows(const GptqCase& c, const GptqResult& a, const GptqResult& b) {
  int64_t equal = 0;
  for (int64_t r = 0; r < c.rows; ++r) {
    equal +=
        std::memcmp(a.codes.data() + r * c.cols, b.codes.data() + r * c.cols,
                    static_cast<size_t>(c.cols)) == 0
            ? 1
            : 0;
  }
  return equal;
}

template <class Body>
void ForCases(const Body& body) {
  unsigned seed = 20;
  for (const std::string order :
       {"none", "desc_act", "desc_act_static", "gar"}) {
    for (int bits : {2, 3, 4, 8}) {
      for (int64_t group_size : {24, 32, 128, 160, 300}) {
        if (order == "gar" && group_size == 300) continue;
        ++seed;
        GptqCase c = MakeGptqCase({.rows = 37,
                                   .cols = 302,
                                   .seed = seed,
                                   .dtype = seed % 3 == 0   ? DType::kBF16
                                            : seed % 3 == 1 ? DType::kF16
                                                            : DType::kF32});
        c.order = order;
        c.grid.bits = bits;
        c.grid.group_size = group_size;
        c.grid.symmetric = seed % 2 == 0;
        c.grid.scale_dtype = c.dtype;
        c.grid.decoded_dtype = seed % 5 == 0 ? c.dtype : DType::kF32;
        c.range = group_size == 32 ? GptqRange::kMse : GptqRange::kMinMax;
        if (order == "desc_act_static") c.range = GptqRange::kCurvature;
        INFO(order << " bits " << bits << " group_size " << group_size
                   << " seed " << seed);
        body(c);
      }
    }
  }
}

TEST_CASE("every SIMD target gives the reference's rows, but for ties") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  REQUIRE(SimdTargets().size() >= 2);
  int64_t rows = 0, equal = 0;
  ForCases([&](const GptqCase& c) {
    const GptqResult want = RunGptq(*reference, c);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      const GptqResult got = RunGptq(*one, c);
      REQUIRE(ForceSimdTargetForTest("").ok());
      const int64_t same = EqualRows(c, got, want);
      // With 8 bits a rounding is as likely to differ as F32 is coarse.
      if (c.grid.bits < 8) CHECK(same >= c.rows * 8 / 10);
      rows += c.rows;
      equal += same;
      CHECK(got.relative_error() ==
            Approx(want.relative_error()).epsilon(0.02));
      if (c.order == "desc_act_static") {
        CHECK(got.scales == want.scales);
        if (!c.grid.symmetric) CHECK(got.zero_points == want.zero_points);
      }
      for (int64_t r = 0; r < c.rows; ++r) {
        const auto at = static_cast<size_t>(r);
        CHECK(got.signal[at] == Approx(want.signal[at]).epsilon(1e-5));
      }
    }
  });
  INFO(equal << " of " << rows << " rows are equal");
  CHECK(equal * 100 >= rows * 97);
}

TEST_CASE("threads change no byte, nor does the partition of the rows") {
  for (const std::string order : {"desc_act", "desc_act_static"}) {
    GptqCase c = MakeGptqCase({.rows = 150, .cols = 700, .seed = 9});
    c.order = order;
    c.grid.group_size = 70;
    const auto one = NewCpuBackend(1);
    const auto three = NewCpuBackend(3);
    const GptqResult a = RunGptq(*one, c);
    const GptqResult b = RunGptq(*three, c);
    CHECK(a.factor == b.factor);
    CHECK(a.codes == b.codes);
    CHECK(a.scales == b.scales);
    CHECK(a.row_loss == b.row_loss);
    CHECK(a.error == b.error);
    CHECK(a.signal == b.signal);
    // Rows 3 to 50 by themselves.
    GptqCase part = c;
    part.rows = 47;
    part.weight.assign(c.weight.begin() + 3 * 700 * 4,
                       c.weight.begin() + 50 * 700 * 4);
    const GptqResult p = RunGptq(*one, part);
    CHECK(std::memcmp(p.codes.data(), a.codes.data() + 3 * 700, 47 * 700) == 0);
    CHECK(std::memcmp(p.scales.data(), a.scales.data() + 3 * 10 * 4,
                      47 * 10 * 4) == 0);
    for (size_t r = 0; r < 47; ++r) CHECK(p.error[r] == a.error[r + 3]);
  }
}

// Moments of `tokens` tokens, not symmetric in their last bits, as sums of
// shards may be.
GptqCase FactorProblem(int64_t size, int64_t tokens) {
  GptqCase c = MakeGptqCase({.rows = 1,
                             .cols = size,
                             .tokens = tokens,
                             .seed = static_cast<unsigned>(size)});
  c.order = "desc_act";
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      c.hessian[static_cast<size_t>(i * size + j)] *= 1 + 0x1p-22f;
    }
  }
  return c;
}

TEST_CASE("a factor in the memory of its moment is the same, on every step") {
  struct Step {
    double damping;
    bool lost_pivots;
    int64_t tokens;
  };
  // F32; F64; F64 with pivots replaced; the diagonal alone.
  const Step steps[] = {
      {0.01, false, 40}, {1e-6, false, 40}, {0, true, 40}, {0.01, false, 0}};
  for (const int64_t size : {1, 2, 31, 300, 513, 1100}) {
    for (const Step& step : steps) {
      GptqCase c = FactorProblem(size, 40);
      c.damping = step.damping;
      if (step.tokens == 0) std::fill(c.hessian.begin(), c.hessian.end(), 0);
      for (const std::string order : {"none", "desc_act"}) {
        c.order = order;
        INFO("size " << size << " damping " << step.damping << " " << order);
        std::vector<std::unique_ptr<Backend>> backends;
        backends.push_back(NewCpuBackend(1));
        backends.push_back(NewCpuBackend(3));
        if (size <= 300) backends.push_back(NewReferenceBackend());
        for (const auto& backend : backends) {
          GptqResult apart, in_place;
          FactorCase(*backend, c, &apart);
          FactorCase(*backend, c, &in_place, /*in_place=*/true);
          REQUIRE(in_place.factor == apart.factor);
          CHECK(in_place.facts.in_f64 == apart.facts.in_f64);
          CHECK(in_place.facts.damping == apart.facts.damping);
          CHECK(in_place.facts.dropped_pivots == apart.facts.dropped_pivots);
          if (size < 300) continue;
          CHECK((apart.facts.dropped_pivots > 0) == step.lost_pivots);
          CHECK(apart.facts.diagonal_only == (step.tokens == 0));
        }
      }
    }
  }
}

TEST_CASE("F64 in strips of columns is the reference's factor") {
  const auto reference = NewReferenceBackend();
  const auto cpu = NewCpuBackend(2);
  for (const int64_t size : {511, 512, 513, 700}) {
    GptqCase c = FactorProblem(size, 40);
    c.damping = 1e-6;
    GptqResult want, got;
    FactorCase(*reference, c, &want);
    FactorCase(*cpu, c, &got);
    INFO("size " << size);
    CHECK(got.facts.in_f64);
    double worst = 0;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        const auto at = static_cast<size_t>(i * size + j);
        const double gap = std::fabs(double{got.factor[at]} - want.factor[at]);
        worst = std::max(worst,
                         gap / want.factor[static_cast<size_t>(i * size + i)]);
      }
    }
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("refining is the same on every target's rows, but for ties") {
  const auto reference = NewReferenceBackend();
  // Groups in a block of columns, wider than one, and a whole row.
  for (int64_t group_size :
       {int64_t{32}, int64_t{100}, int64_t{160}, int64_t{300}}) {
    const DType decoded = group_size % 100 == 0 ? DType::kF32 : DType::kBF16;
    INFO("groups of " << group_size);
    GptqCase c = MakeGptqCase({.rows = 70, .cols = 302, .seed = 12});
    c.order = "desc_act_static";
    c.grid = {.bits = 3,
              .group_size = group_size,
              .symmetric = decoded == DType::kF32,
              .scale_dtype = DType::kBF16,
              .decoded_dtype = decoded};
    const GptqResult start = RunGptq(*reference, c);
    const auto refine = [&](Backend& backend) {
      GptqResult r = start;
      GptqRefineArgs args;
      args.weight = c.View();
      args.hessian = c.hessian.data();
      args.damping = c.damping;
      args.grid = c.grid;
      args.codes = r.codes.data();
      args.scales = r.scales.data();
      args.zero_points = c.grid.symmetric ? nullptr : r.zero_points.data();
      std::vector<double> row_error(static_cast<size_t>(c.rows));
      args.row_error = row_error.data();
      REQUIRE(backend.gptq().Refine(args, backend.stream()).ok());
      MeasureCase(backend, c, &r);
      for (size_t i = 0; decoded == DType::kF32 && i < r.error.size(); ++i) {
        CHECK(row_error[i] == Approx(r.error[i]).epsilon(1e-3));
      }
      return r;
    };
    const GptqResult want = refine(*reference);
    CHECK(want.relative_error() < 0.97 * start.relative_error());
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      const GptqResult got = refine(*NewCpuBackend(1));
      CHECK(refine(*NewCpuBackend(2)).codes == got.codes);
      REQUIRE(ForceSimdTargetForTest("").ok());
      CHECK(EqualRows(c, got, want) >= c.rows * 8 / 10);
      CHECK(got.relative_error() ==
            Approx(want.relative_error()).epsilon(0.02));
    }
  }
}

}  // namespace
}  // namespace qs
