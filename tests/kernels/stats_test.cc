// Error statistics against long double, and that they depend on nothing but
// their input.
#include <bit>
#include <cmath>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

struct Exact {
  long double squared = 0, absolute = 0, max = 0, weight = 0, decoded = 0,
              dot = 0, dot_magnitude = 0;
};

void Add(float w, float v, Exact* e) {
  const long double a = w;
  const long double b = v;
  e->squared += (a - b) * (a - b);
  e->absolute += fabsl(a - b);
  e->max = std::max(e->max, fabsl(a - b));
  e->weight += a * a;
  e->decoded += b * b;
  e->dot += a * b;
  e->dot_magnitude += fabsl(a * b);
}

bool Near(double got, long double want, long double magnitude,
          double tolerance) {
  return fabsl(got - want) <= magnitude * tolerance;
}

void CheckSums(const ErrorSums& got, const Exact& want, int64_t count) {
  CHECK(got.count == count);
  const double t = kErrorSumTolerance;
  CHECK(Near(got.squared_error, want.squared, want.squared, t));
  CHECK(Near(got.absolute_error, want.absolute, want.absolute, t));
  CHECK(Near(got.max_absolute_error, want.max, want.max, kMaxErrorTolerance));
  CHECK(Near(got.weight_squared, want.weight, want.weight, t));
  CHECK(Near(got.decoded_squared, want.decoded, want.decoded, t));
  CHECK(Near(got.dot, want.dot, want.dot_magnitude, t));
}

// Every field by its bits.
bool Same(const ErrorSums& a, const ErrorSums& b) {
  const auto bits = [](double x) { return std::bit_cast<uint64_t>(x); };
  return a.count == b.count && a.histogram == b.histogram &&
         bits(a.squared_error) == bits(b.squared_error) &&
         bits(a.absolute_error) == bits(b.absolute_error) &&
         bits(a.max_absolute_error) == bits(b.max_absolute_error) &&
         bits(a.weight_squared) == bits(b.weight_squared) &&
         bits(a.decoded_squared) == bits(b.decoded_squared) &&
         bits(a.dot) == bits(b.dot);
}

struct Result {
  ErrorSums sums;
  ErrorSums rtn;
  std::vector<double> groups;
};

Result RunErrors(StatsOps& ops, const TestTensor& weight,
                 const TestTensor& decoded, int64_t group_size,
                 const std::vector<float>& steps, int rtn_bits = 0) {
  Stream stream;
  Result r;
  r.groups.assign(static_cast<size_t>(CeilDiv(weight.count(), group_size)), -1);
  REQUIRE(
      ops.Errors({weight.View(), decoded.View(), group_size,
                  steps.empty() ? nullptr : steps.data(), &r.sums,
                  r.groups.data(), rtn_bits == 0 ? nullptr : &r.rtn, rtn_bits},
                 stream)
          .ok());
  return r;
}

// A decoding of some kind: the weights moved by up to half a step.
TestTensor Decoded(const TestTensor& weight, DType dtype, uint64_t seed) {
  TestTensor decoded(dtype, weight.count(), 1);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> factor(0.8f, 1.25f);
  for (int64_t i = 0; i < weight.count(); ++i) {
    StoreFromFloat(decoded.data(), dtype, i, weight.at(i) * factor(random));
    if (!std::isfinite(decoded.at(i))) {
      StoreFromFloat(decoded.data(), dtype, i, weight.at(i));
    }
  }
  return decoded;
}

struct Case {
  const TestTensor& weight;
  const TestTensor& decoded;
  int64_t group_size;
  std::vector<float> steps;
};

template <class Body>
void ForCases(const Body& body) {
  uint64_t seed = 700;
  for (int64_t count : {1, 15, 64, 1000, 4096, 9001}) {
    for (int64_t group_size : {1, 32, 64, 100, 128, 160, 5000}) {
      if (count > 4096 && group_size == 1) continue;
      for (Kind kind : kAllKinds) {
        for (DType dtype : kWeightTypes) {
          ++seed;
          const TestTensor weight = TestTensor::Make(
              dtype, count, kind, seed, static_cast<int64_t>(seed % 3));
          const TestTensor decoded = Decoded(weight, dtype, seed);
          std::vector<float> steps;
          for (int64_t g = 0; g < CeilDiv(count, group_size); ++g) {
            const float w = std::fabs(weight.at(g * group_size));
            steps.push_back(g % 7 == 3 ? 0.0f : w * 0.4f);
          }
          if (seed % 4 == 0) steps.clear();
          INFO(DTypeName(dtype)
               << " n " << count << " group " << group_size << " kind "
               << static_cast<int>(kind) << " seed " << seed);
          body(Case{weight, decoded, group_size, std::move(steps)});
        }
      }
    }
  }
}

Exact ExactErrors(const Case& c, std::vector<Exact>* groups) {
  Exact all;
  groups->assign(static_cast<size_t>(CeilDiv(c.weight.count(), c.group_size)),
                 {});
  for (int64_t i = 0; i < c.weight.count(); ++i) {
    Add(c.weight.at(i), c.decoded.at(i), &all);
    Add(c.weight.at(i), c.decoded.at(i),
        &(*groups)[static_cast<size_t>(i / c.group_size)]);
  }
  return all;
}

TEST_CASE("errors agree with long double on every SIMD target") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  const auto two = NewCpuBackend(2);
  ForCases([&](const Case& c) {
    std::vector<Exact> groups;
    const Exact want = ExactErrors(c, &groups);
    const auto run = [&](Backend& backend) {
      const Result r = RunErrors(backend.stats(), c.weight, c.decoded,
                                 c.group_size, c.steps);
      CheckSums(r.sums, want, c.weight.count());
      for (size_t g = 0; g < groups.size(); ++g) {
        REQUIRE(Near(r.groups[g], groups[g].squared, groups[g].squared,
                     kErrorSumTolerance));
      }
      return r;
    };
    const Result definition = run(*reference);
    const Result best = run(*one);
    CHECK(best.sums.histogram == definition.sums.histogram);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      const Result r = run(*two);
      REQUIRE(r.sums.histogram == best.sums.histogram);
      REQUIRE(ForceSimdTargetForTest("").ok());
    }
  });
}

TEST_CASE("the yardstick agrees with long double on every SIMD target") {
  const auto reference = NewReferenceBackend();
  const auto cpu = NewCpuBackend(1);
  ForCases([&](const Case& c) {
    const int bits = 2 + static_cast<int>(c.weight.count() % 7);
    const float half = std::ldexp(1.0f, bits - 1);
    Exact want;
    for (int64_t begin = 0; begin < c.weight.count(); begin += c.group_size) {
      const int64_t end = std::min(c.weight.count(), begin + c.group_size);
      float absmax = 0;
      for (int64_t i = begin; i < end; ++i) {
        absmax = std::max(absmax, std::fabs(c.weight.at(i)));
      }
      const float scale = absmax / (half - 0.5f);
      for (int64_t i = begin; i < end; ++i) {
        const float w = c.weight.at(i);
        const float inv_scale = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
        const float code = std::rint(w * inv_scale);
        Add(w, std::clamp(code, -half, half - 1) * scale, &want);
      }
    }
    const auto run = [&](Backend& backend) {
      const Result r = RunErrors(backend.stats(), c.weight, c.decoded,
                                 c.group_size, c.steps, bits);
      CheckSums(r.rtn, want, c.weight.count());
      CHECK(r.rtn.histogram == std::array<int64_t, kHistogramBins>{});
      const Result without = RunErrors(backend.stats(), c.weight, c.decoded,
                                       c.group_size, c.steps);
      CHECK(Same(r.sums, without.sums));
      CHECK(r.groups == without.groups);
    };
    run(*reference);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      run(*cpu);
      REQUIRE(ForceSimdTargetForTest("").ok());
    }
  });
}

TEST_CASE("a rerun and another thread count give the same bytes") {
  const int64_t n = 1'500'123;
  const TestTensor weight = TestTensor::Make(DType::kBF16, n, Kind::kGauss, 3);
  const TestTensor decoded = Decoded(weight, DType::kBF16, 3);
  for (int64_t group_size : {64, 96, 5000, 2'000'000}) {
    INFO("group " << group_size);
    const std::vector<float> steps(static_cast<size_t>(CeilDiv(n, group_size)),
                                   0.01f);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      const Result want = RunErrors(NewCpuBackend(1)->stats(), weight, decoded,
                                    group_size, steps, 4);
      for (int threads : {1, 2, 3}) {
        const Result got = RunErrors(NewCpuBackend(threads)->stats(), weight,
                                     decoded, group_size, steps, 4);
        CHECK(Same(got.sums, want.sums));
        CHECK(Same(got.rtn, want.rtn));
        CHECK(got.groups == want.groups);
      }
      REQUIRE(ForceSimdTargetForTest("").ok());
    }
  }
}

TEST_CASE("a histogram worked by hand") {
  // Distances in steps: 0, 1/64, 1/32, 1/2, 31/32, 1, 1000.
  const std::vector<float> distances = {0,          1 / 64.0f, 1 / 32.0f, 0.5f,
                                        31 / 32.0f, 1,         1000};
  const auto n = static_cast<int64_t>(distances.size());
  TestTensor weight(DType::kF32, n);
  TestTensor decoded(DType::kF32, n);
  for (int64_t i = 0; i < n; ++i) {
    StoreFromFloat(weight.data(), DType::kF32, i, 0);
    StoreFromFloat(decoded.data(), DType::kF32, i,
                   -2 * distances[static_cast<size_t>(i)]);
  }
  for (const auto& backend : AllBackends()) {
    const Result r = RunErrors(backend->stats(), weight, decoded, 100, {2.0f});
    std::array<int64_t, kHistogramBins> want{};
    want[0] = 2;
    want[1] = 1;
    want[16] = 1;
    want[31] = 3;
    CHECK(r.sums.histogram == want);
    for (float step : {0.0f, -1.0f}) {
      const Result none =
          RunErrors(backend->stats(), weight, decoded, 100, {step});
      CHECK(none.sums.histogram[0] == n);
    }
  }
}

// As many elements as make every digit of the counters carry.
TEST_CASE("a large histogram agrees with the reference") {
  for (int64_t n : {1 << 16, 300'001}) {
    const TestTensor weight = TestTensor::Make(DType::kBF16, n, Kind::kGauss,
                                               static_cast<uint64_t>(n));
    const TestTensor decoded = Decoded(weight, DType::kBF16, 5);
    for (float step : {0.02f, 0.3f, 1e30f}) {
      const std::vector<float> steps(static_cast<size_t>(CeilDiv(n, 64)), step);
      const Result want =
          RunErrors(NewReferenceBackend()->stats(), weight, decoded, 64, steps);
      for (const std::string& target : SimdTargets()) {
        INFO("target " << target << " n " << n << " step " << step);
        REQUIRE(ForceSimdTargetForTest(target).ok());
        const Result got =
            RunErrors(NewCpuBackend(1)->stats(), weight, decoded, 64, steps);
        CHECK(got.sums.histogram == want.sums.histogram);
        REQUIRE(ForceSimdTargetForTest("").ok());
      }
    }
  }
}

TEST_CASE("sums of parts add up to the whole") {
  ErrorSums a, b;
  a.count = 2;
  a.squared_error = 1;
  a.max_absolute_error = 3;
  a.histogram[4] = 2;
  b.count = 1;
  b.squared_error = 2;
  b.max_absolute_error = 1;
  b.dot = -1;
  b.histogram[4] = 1;
  a.Add(b);
  CHECK(a.count == 3);
  CHECK(a.squared_error == 3);
  CHECK(a.max_absolute_error == 3);
  CHECK(a.dot == -1);
  CHECK(a.histogram[4] == 3);
}

TEST_CASE("wrong arguments are refused") {
  const TestTensor weight = TestTensor::Make(DType::kF32, 8, Kind::kGauss, 1);
  ErrorSums sums;
  for (const auto& backend : AllBackends()) {
    StatsOps& ops = backend->stats();
    const auto message = [](const absl::Status& status) {
      CHECK(status.code() == absl::StatusCode::kInvalidArgument);
      return std::string(status.message());
    };
    ErrorSumsArgs args;
    args.weight = args.decoded = weight.View();
    args.group_size = 0;
    args.sums = &sums;
    CHECK(message(ops.Errors(args, backend->stream())) ==
          "group_size: got 0, allowed 1 or more");
    args.group_size = 4;
    args.decoded.cols = 7;
    CHECK(message(ops.Errors(args, backend->stream())) ==
          "decoded: got F32 [1, 7], allowed the weight's F32 [1, 8]");
    args.decoded = weight.View();
    args.sums = nullptr;
    CHECK(message(ops.Errors(args, backend->stream())) == "sums: null");
    args.sums = &sums;
    args.rtn = &sums;
    for (int bits : {1, 9}) {
      args.rtn_bits = bits;
      CHECK(
          message(ops.Errors(args, backend->stream())).find("rtn_bits: got") ==
          0);
    }
  }
}

}  // namespace
}  // namespace qs
