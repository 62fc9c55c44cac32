// Second moments on the host emulation against the reference: shapes around
// blocks, slices and runs, where a stream is cut, what is not finite, and the
// same bytes in every order of threads.
#include "kernels/cuda/gram_cuda.h"

#include <cmath>
#include <vector>

#include "kernels/factories.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_gram.h"
#include "tests/testing/generators.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;
using cuda::EmulatedGram;

struct Moments {
  std::vector<double> sum, abs_sum;
  int64_t bad = -2;

  explicit Moments(int64_t inputs)
      : sum(static_cast<size_t>(inputs * inputs)),
        abs_sum(static_cast<size_t>(inputs)) {}
  bool operator==(const Moments&) const = default;
};

void Add(GramOps& ops, const TensorView& x, Moments* moments) {
  Stream stream;
  const absl::Status status = ops.Accumulate(
      {x, moments->sum.data(), moments->abs_sum.data(), &moments->bad}, stream);
  INFO(status.ToString());
  REQUIRE(status.ok());
}

Moments Sum(GramOps& ops, const TensorView& x) {
  Moments moments(x.cols);
  Add(ops, x, &moments);
  return moments;
}

Moments SumOnDevice(const TensorView& x, uint64_t seed) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedGram gram;
  return Sum(gram, x);
}

TEST_CASE("the device sums what the reference sums", "[race]") {
  uint64_t seed = 0;
  for (DType dtype : kWeightTypes) {
    for (int64_t inputs : {1, 7, 48, 49, 130}) {
      for (int64_t tokens : {1, 127, 129, 300, 2100}) {
        if (inputs > 100 && tokens > 300) continue;
        const TestTensor x =
            TestTensor::Make(dtype, tokens * inputs, Kind::kOutlier, 3);
        const TensorView view = {x.View().data, dtype, tokens, inputs};
        const Moments want = Sum(*NewGramReference(), view);
        const Moments got = SumOnDevice(view, ++seed);
        INFO(DTypeName(dtype) << " [" << tokens << ", " << inputs
                              << "] emulation seed " << seed);
        REQUIRE(got.bad == -1);
        for (int64_t i = 0; i < inputs; ++i) {
          const auto at = static_cast<size_t>(i);
          // All of it in F64.
          REQUIRE(got.abs_sum[at] == Approx(want.abs_sum[at]).epsilon(1e-12));
          for (int64_t j = 0; j < i; ++j) {
            REQUIRE(got.sum[static_cast<size_t>(i * inputs + j)] == 0);
          }
          for (int64_t j = i; j < inputs; ++j) {
            const auto ij = static_cast<size_t>(i * inputs + j);
            const double size =
                std::sqrt(want.sum[static_cast<size_t>(i * inputs + i)] *
                          want.sum[static_cast<size_t>(j * inputs + j)]);
            REQUIRE(std::abs(got.sum[ij] - want.sum[ij]) <=
                    kMomentTolerance * size);
          }
        }
      }
    }
  }
}

TEST_CASE("no order of threads changes a byte, nor a cut at whole runs") {
  const int64_t inputs = 60;
  const int64_t tokens = kGramRunTokens + 100;
  const TestTensor x =
      TestTensor::Make(DType::kBF16, tokens * inputs, Kind::kGauss, 5);
  const auto* data = static_cast<const uint16_t*>(x.View().data);
  const Moments one = SumOnDevice({data, DType::kBF16, tokens, inputs}, 1);
  for (uint64_t seed = 2; seed <= 6; ++seed) {
    CHECK(SumOnDevice({data, DType::kBF16, tokens, inputs}, seed) == one);
  }
  EmulatedGram gram;
  Moments parts(inputs);
  Add(gram, {data, DType::kBF16, kGramRunTokens, inputs}, &parts);
  Add(gram, {data + kGramRunTokens * inputs, DType::kBF16, 100, inputs},
      &parts);
  CHECK(parts == one);
}

TEST_CASE("tokens that are added to a sum that holds some") {
  const int64_t inputs = 50;
  const TestTensor x =
      TestTensor::Make(DType::kF32, 40 * inputs, Kind::kGauss, 5);
  const TensorView view = {x.View().data, DType::kF32, 40, inputs};
  const Moments once = SumOnDevice(view, 1);
  EmulatedGram gram;
  Moments twice = Sum(gram, view);
  Add(gram, view, &twice);
  for (size_t i = 0; i < once.sum.size(); ++i) {
    CHECK(twice.sum[i] == 2 * once.sum[i]);
  }
  // No tokens add nothing.
  const Moments before = twice;
  Add(gram, {view.data, DType::kF32, 0, inputs}, &twice);
  CHECK(twice == before);
}

TEST_CASE("the finished moment is symmetric", "[race]") {
  uint64_t seed = 100;
  for (int64_t inputs : {1, 31, 32, 33, 100}) {
    EmulatedDevice::Get().Seed(++seed);
    EmulatedGram gram;
    const TestTensor x =
        TestTensor::Make(DType::kF32, 40 * inputs, Kind::kGauss, 5);
    const Moments moments = Sum(gram, {x.View().data, DType::kF32, 40, inputs});
    std::vector<float> h(static_cast<size_t>(inputs * inputs), -1);
    std::vector<float> abs_sum(static_cast<size_t>(inputs), -1);
    Stream stream;
    REQUIRE(gram.Finish({moments.sum.data(), moments.abs_sum.data(), inputs,
                         h.data(), abs_sum.data()},
                        stream)
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

TEST_CASE("activations that are not finite are found and not added", "[race]") {
  uint64_t seed = 200;
  for (DType dtype : kWeightTypes) {
    for (int64_t at : {0, 777, 7499, 14999}) {
      for (float bad : {INFINITY, -INFINITY, NAN}) {
        TestTensor x = TestTensor::Make(dtype, 300 * 50, Kind::kGauss, 1);
        StoreFromFloat(x.data(), dtype, at, bad);
        StoreFromFloat(x.data(), dtype, 14999, NAN);
        const Moments got = SumOnDevice({x.data(), dtype, 300, 50}, ++seed);
        INFO("at " << at << " emulation seed " << seed);
        CHECK(got.bad == at);
        for (double value : got.sum) REQUIRE(value == 0);
        for (double value : got.abs_sum) REQUIRE(value == 0);
      }
    }
  }
}

TEST_CASE("wrong arguments are refused on the host and by the launchers") {
  cuda::EmulatedSolver solver;
  const auto ops = cuda::NewGramCuda(solver.workspace(), solver.blas());
  Stream stream;
  int64_t bad = 0;
  const absl::Status status = ops->Accumulate(
      {{nullptr, DType::kI32, 1, 4}, nullptr, nullptr, &bad}, stream);
  CHECK(status.message() ==
        "activations.dtype: got I32, allowed F32, F16, BF16");
  // Null sums reach the launchers.
  CHECK(ops->Finish({nullptr, nullptr, 4, nullptr, nullptr}, stream).code() ==
        absl::StatusCode::kInvalidArgument);
  solver.workspace().GiveBack();
}

}  // namespace
}  // namespace qs
