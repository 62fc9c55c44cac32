// The profiles' promises on errors, and that the report tells the truth about
// what a reader of the file decodes.
#include <cmath>
#include <string>
#include <vector>

#include "quant/formats/bitsandbytes.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/tensor_quantizer.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT

constexpr int64_t kRows = 512;
constexpr int64_t kCols = 1024;
const std::string kName = "m.weight";

TensorInfo Info(DType dtype) { return {kName, dtype, {kRows, kCols}}; }

TensorReport Report(const QuantSpec& spec, DType dtype,
                    const std::vector<uint8_t>& bytes) {
  auto backend = NewCpuBackend(1);
  return Quantize(spec, Info(dtype), bytes, *backend).report;
}

double Mse(const QuantSpec& spec, const std::vector<uint8_t>& bytes,
           DType dtype = DType::kBF16) {
  return MeanSquaredError(Report(spec, dtype, bytes).error);
}

DecodedWeight DecodeFile(const QuantSpec& spec, const QuantizedTensor& result) {
  auto decoded =
      spec.nf4() != nullptr
          ? DecodeBitsandbytes(Items(result), kName)
          : DecodeCompressedTensors(SpecGrid(spec), Items(result), kName);
  INFO(decoded.status().ToString());
  REQUIRE(decoded.ok());
  return *std::move(decoded);
}

std::vector<QuantSpec> Settings(Profile profile) {
  std::vector<QuantSpec> specs;
  for (const Preset& preset : Presets()) {
    // The other methods have tests of their own.
    if (preset.spec.nf4() == nullptr && preset.spec.rtn() == nullptr) continue;
    specs.push_back(PresetSpec(preset.name, profile));
  }
  for (int bits = 2; bits <= 8; ++bits) {
    specs.push_back(Rtn({bits, 64, bits % 2 == 0}, profile));
  }
  Nf4Spec wide;
  wide.block_size = 4096;
  specs.push_back(Nf4(wide, profile));
  return specs;
}

TEST_CASE("the report's error is that of the file's decoder") {
  auto backend = NewCpuBackend(1);
  for (Profile profile : {Profile::kReference, Profile::kBest}) {
    for (const QuantSpec& spec : Settings(profile)) {
      for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
        INFO(SpecAlgorithm(spec)
             << " " << SpecBits(spec) << " bits " << DTypeName(dtype));
        const auto bytes = Gaussian(kRows * kCols, dtype, 31);
        const QuantizedTensor result =
            Quantize(spec, Info(dtype), bytes, *backend);
        const DecodedWeight decoded = DecodeFile(spec, result);
        REQUIRE(decoded.dtype == dtype);
        REQUIRE(decoded.data.size() == static_cast<int64_t>(bytes.size()));
        const double by_hand = MseByHand(bytes, dtype, decoded.data.data());
        CHECK(MeanSquaredError(result.report.error) ==
              Approx(by_hand).epsilon(kErrorSumTolerance));
      }
    }
  }
}

TEST_CASE("BEST is never worse than REFERENCE") {
  for (uint32_t seed : {41u, 42u}) {
    INFO("seed " << seed);
    const auto bytes = Gaussian(kRows * kCols, DType::kBF16, seed);
    const auto references = Settings(Profile::kReference);
    const auto bests = Settings(Profile::kBest);
    for (size_t i = 0; i < bests.size(); ++i) {
      INFO(SpecAlgorithm(bests[i]) << " " << SpecBits(bests[i]) << " bits");
      CHECK(Mse(bests[i], bytes) <= Mse(references[i], bytes));
    }
  }
}

TEST_CASE("NF4 at block 64: BEST has at least 10 % less squared error") {
  const auto bytes = Gaussian(kRows * kCols, DType::kBF16, 43);
  const double reference = Mse(PresetSpec("NF4", Profile::kReference), bytes);
  const double best = Mse(PresetSpec("NF4", Profile::kBest), bytes);
  INFO("ratio " << best / reference);
  CHECK(best <= 0.9 * reference);
}

TEST_CASE("RTN in groups of 128: what BEST takes off the squared error") {
  const auto bytes = Gaussian(kRows * kCols, DType::kBF16, 47);
  const double bounds[9] = {0, 0, 0.55, 0.75, 0.88, 0.95, 0.95, 0.95, 0.90};
  for (int bits = 2; bits <= 8; ++bits) {
    const double reference =
        Mse(Rtn({bits, 128, true}, Profile::kReference), bytes);
    const double best = Mse(Rtn({bits, 128, true}, Profile::kBest), bytes);
    INFO(bits << " bits, ratio " << best / reference);
    CHECK(best <= bounds[bits] * reference);
  }
}

TEST_CASE("nested absmax costs BEST less than 0.2 % of squared error") {
  const auto bytes = Gaussian(kRows * kCols, DType::kBF16, 44);
  const double plain = Mse(PresetSpec("NF4", Profile::kBest), bytes);
  const double nested = Mse(PresetSpec("NF4-dq", Profile::kBest), bytes);
  INFO("ratio " << nested / plain);
  CHECK(std::fabs(nested / plain - 1) < 0.002);
}

TEST_CASE("RTN's REFERENCE is its own yardstick") {
  // Only the rounding of the scale to the weight's dtype lies between them.
  const auto bytes = Gaussian(kRows * kCols, DType::kF32, 45);
  for (const std::string name : {"W4A16", "W8A16"}) {
    const TensorReport report =
        Report(PresetSpec(name, Profile::kReference), DType::kF32, bytes);
    CHECK(MeanSquaredError(report.error) ==
          Approx(MeanSquaredError(report.rtn)).epsilon(1e-3));
  }
}

TEST_CASE("NF4 beats round to nearest at the same bits and block") {
  const auto bytes = Gaussian(kRows * kCols, DType::kBF16, 46);
  for (Profile profile : {Profile::kReference, Profile::kBest}) {
    const TensorReport report =
        Report(PresetSpec("NF4", profile), DType::kBF16, bytes);
    CHECK(report.error.squared_error < report.rtn.squared_error);
  }
}

}  // namespace
}  // namespace qs
