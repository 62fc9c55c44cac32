// Second moments: the CPU implementation against the reference, threads, where
// a stream of tokens is cut, and wrong arguments.
#include <cmath>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/finite_ops.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs {
namespace {

struct Moments {
  std::vector<double> sum, abs_sum;
  int64_t bad = -2;

  explicit Moments(int64_t inputs)
      : sum(static_cast<size_t>(inputs * inputs)),
        abs_sum(static_cast<size_t>(inputs)) {}
  bool operator==(const Moments&) const = default;
};

void Add(Backend& backend, const TensorView& x, Moments* moments) {
  REQUIRE(backend.gram()
              .Accumulate({x, moments->sum.data(), moments->abs_sum.data(),
                           &moments->bad},
                          backend.stream())
              .ok());
}

Moments Sum(Backend& backend, const TensorView& x) {
  Moments moments(x.cols);
  Add(backend, x, &moments);
  return moments;
}

TEST_CASE("every SIMD target sums what the reference sums") {
  for (DType dtype : kWeightTypes) {
    for (int64_t inputs : {1, 7, 130, 600}) {
      const int64_t tokens = inputs > 200 ? 300 : 2100;
      const TestTensor x =
          TestTensor::Make(dtype, tokens * inputs, Kind::kOutlier, 3);
      const TensorView view = {x.View().data, dtype, tokens, inputs};
      const Moments want = Sum(*NewReferenceBackend(), view);
      for (const std::string& target : SimdTargets()) {
        INFO(DTypeName(dtype) << " " << inputs << " target " << target);
        REQUIRE(ForceSimdTargetForTest(target).ok());
        const Moments got = Sum(*NewCpuBackend(1), view);
        REQUIRE(ForceSimdTargetForTest("").ok());
        CHECK(got.bad == -1);
        for (int64_t i = 0; i < inputs; ++i) {
          const auto at = static_cast<size_t>(i);
          CHECK(got.abs_sum[at] == Approx(want.abs_sum[at]).epsilon(1e-5));
          for (int64_t j = i; j < inputs; ++j) {
            const auto ij = static_cast<size_t>(i * inputs + j);
            const double size =
                std::sqrt(want.sum[static_cast<size_t>(i * inputs + i)] *
                          want.sum[static_cast<size_t>(j * inputs + j)]);
            // F32 sums over a run: sqrt(2048) roundings of 2^-24, times 8.
            REQUIRE(std::abs(got.sum[ij] - want.sum[ij]) <= 3e-6 * size);
          }
        }
      }
    }
  }
}

TEST_CASE("threads change no byte, nor does a stream's cut at whole runs") {
  const int64_t inputs = 1100;
  const int64_t tokens = kGramRunTokens + 100;
  const TestTensor x =
      TestTensor::Make(DType::kBF16, tokens * inputs, Kind::kGauss, 5);
  const auto* data = static_cast<const uint16_t*>(x.View().data);
  const Moments one =
      Sum(*NewCpuBackend(1), {data, DType::kBF16, tokens, inputs});
  CHECK(Sum(*NewCpuBackend(3), {data, DType::kBF16, tokens, inputs}) == one);
  const auto backend = NewCpuBackend(2);
  Moments parts(inputs);
  Add(*backend, {data, DType::kBF16, kGramRunTokens, inputs}, &parts);
  Add(*backend, {data + kGramRunTokens * inputs, DType::kBF16, 100, inputs},
      &parts);
  CHECK(parts == one);
}

TEST_CASE("the finished moment is symmetric") {
  const int64_t inputs = 150;
  const TestTensor x =
      TestTensor::Make(DType::kF32, 40 * inputs, Kind::kGauss, 5);
  for (const auto& backend : AllBackends()) {
    const Moments moments =
        Sum(*backend, {x.View().data, DType::kF32, 40, inputs});
    std::vector<float> h(static_cast<size_t>(inputs * inputs), -1);
    std::vector<float> abs_sum(static_cast<size_t>(inputs), -1);
    REQUIRE(backend->gram()
                .Finish({moments.sum.data(), moments.abs_sum.data(), inputs,
                         h.data(), abs_sum.data()},
                        backend->stream())
                .ok());
    for (int64_t i = 0; i < inputs; ++i) {
      CHECK(abs_sum[static_cast<size_t>(i)] ==
            static_cast<float>(moments.abs_sum[static_cast<size_t>(i)]));
      for (int64_t j = i; j < inputs; ++j) {
        const auto want = static_cast<float>(
            moments.sum[static_cast<size_t>(i * inputs + j)]);
        REQUIRE(h[static_cast<size_t>(i * inputs + j)] == want);
        REQUIRE(h[static_cast<size_t>(j * inputs + i)] == want);
      }
    }
  }
}

TEST_CASE("activations that are not finite are found and not added") {
  for (const auto& backend : AllBackends()) {
    for (DType dtype : kWeightTypes) {
      TestTensor x = TestTensor::Make(dtype, 30 * 50, Kind::kGauss, 1);
      StoreFromFloat(x.data(), dtype, 777, INFINITY);
      StoreFromFloat(x.data(), dtype, 1400, NAN);
      const Moments got = Sum(*backend, {x.data(), dtype, 30, 50});
      CHECK(got.bad == 777);
      for (double value : got.sum) CHECK(value == 0);
    }
  }
}

TEST_CASE("the first value that is not finite is found by every SIMD target") {
  // More than what is looked at in one piece, and not whole vectors.
  const int64_t rows = 3;
  const int64_t cols = 99'991;
  const int64_t n = rows * cols;
  for (const std::string& target : SimdTargets()) {
    REQUIRE(ForceSimdTargetForTest(target).ok());
    for (DType dtype : kWeightTypes) {
      INFO(DTypeName(dtype) << " target " << target);
      TestTensor x = TestTensor::Make(dtype, n, Kind::kOutlier, 1);
      const TensorView view = {x.data(), dtype, rows, cols};
      CHECK(FirstNonFinite(view) == -1);
      CHECK(FirstNonFinite({x.data(), dtype, 0, cols}) == -1);
      StoreFromFloat(x.data(), dtype, n - 1, -INFINITY);
      CHECK(FirstNonFinite(view) == n - 1);
      StoreFromFloat(x.data(), dtype, 200'001, NAN);
      CHECK(FirstNonFinite(view) == 200'001);
      StoreFromFloat(x.data(), dtype, 0, INFINITY);
      CHECK(FirstNonFinite(view) == 0);
    }
    REQUIRE(ForceSimdTargetForTest("").ok());
  }
}

TEST_CASE("wrong arguments are refused") {
  const auto message = [](const absl::Status& status) {
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  int64_t bad = 0;
  std::vector<double> sum(16);
  for (const auto& backend : AllBackends()) {
    GramAccumulateArgs args{
        {sum.data(), DType::kI32, 1, 4}, sum.data(), sum.data(), &bad};
    const auto add = [&] {
      return backend->gram().Accumulate(args, backend->stream());
    };
    CHECK(message(add()) ==
          "activations.dtype: got I32, allowed F32, F16, BF16");
    args.activations.dtype = DType::kF32;
    args.activations.cols = 0;
    CHECK(message(add()) ==
          "activations: got [1, 0], allowed at least 0 rows and 1 column");
    args.activations.cols = 4;
    args.first_non_finite = nullptr;
    CHECK(message(add()) == "first_non_finite: null");
    CHECK(message(backend->gram().Finish({}, backend->stream())) ==
          "inputs: got 0, allowed 1 or more");
  }
}

}  // namespace
}  // namespace qs
