// How far 2-bit HQQ with groups of 16 is from the best that its format can say.
//
// A group's four levels are s (q - z) with any real s and z. Codes of the best
// fit ascend with the weights, so trying all ways to cut the sorted group into
// four parts, with least squares on (s, z) for each, finds the least squared
// error there is; rounding s and z to the stored dtype only adds to it.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "quant/tensor_quantizer.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT

constexpr int kGroup = 16;
using Codes = std::array<double, kGroup>;

std::vector<Codes> AscendingCodes() {
  std::vector<Codes> all;
  for (int a = 0; a <= kGroup; ++a) {
    for (int b = a; b <= kGroup; ++b) {
      for (int c = b; c <= kGroup; ++c) {
        Codes codes;
        for (int i = 0; i < kGroup; ++i) {
          codes[static_cast<size_t>(i)] = (i >= a) + (i >= b) + (i >= c);
        }
        all.push_back(codes);
      }
    }
  }
  return all;
}

double Mean(const Codes& x) {
  double sum = 0;
  for (double v : x) sum += v;
  return sum / kGroup;
}

// Of centred x and y.
double Dot(const Codes& x, const Codes& y) {
  const double mx = Mean(x);
  const double my = Mean(y);
  double sum = 0;
  for (size_t i = 0; i < kGroup; ++i) sum += (x[i] - mx) * (y[i] - my);
  return sum;
}

double LeastError(Codes weights, const std::vector<Codes>& all) {
  std::sort(weights.begin(), weights.end());
  double explained = 0;
  for (const Codes& codes : all) {
    const double variance = Dot(codes, codes);
    if (variance == 0) continue;
    const double covariance = Dot(codes, weights);
    explained = std::max(explained, covariance * covariance / variance);
  }
  return std::max(0.0, Dot(weights, weights) - explained);
}

double LeastErrorOf(const std::vector<uint8_t>& bytes, int64_t count) {
  const std::vector<Codes> all = AscendingCodes();
  const auto* const values = reinterpret_cast<const float*>(bytes.data());
  double sum = 0;
  for (int64_t begin = 0; begin < count; begin += kGroup) {
    Codes weights;
    std::copy_n(values + begin, kGroup, weights.begin());
    sum += LeastError(weights, all);
  }
  return sum / static_cast<double>(count);
}

TEST_CASE("2 bits, groups of 16: within 1 % of the format's optimum") {
  constexpr int64_t kRows = 48;
  constexpr int64_t kCols = 256;
  const TensorInfo info = {"m.weight", DType::kF32, {kRows, kCols}};
  auto backend = NewCpuBackend(1);
  const auto bytes = Gaussian(kRows * kCols, DType::kF32, 77);
  const double least = LeastErrorOf(bytes, kRows * kCols);
  const auto mse = [&](Profile profile) {
    const QuantSpec spec = {HqqSpec{.bits = 2, .group_size = kGroup}, profile,
                            OutputFormat::kHqq};
    return MeanSquaredError(Quantize(spec, info, bytes, *backend).report.error);
  };
  const double best = mse(Profile::kBest);
  CHECK(best >= least * (1 - 1e-6));
  CHECK(best <= least * 1.01);
  // So no method that writes this format gets much below this ratio.
  CHECK(least / mse(Profile::kReference) > 0.65);
}

}  // namespace
}  // namespace qs
