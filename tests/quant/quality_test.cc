// The profiles' promises on errors, and that the report tells the truth about
// what a reader of the file decodes.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/nested_absmax.h"
#include "kernels/nf4_ops.h"
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

// The decoded absmax of each block.
std::vector<float> NestedAbsmax(const QuantizedTensor& result) {
  std::map<std::string, std::vector<uint8_t>> parts;
  for (const OutputTensor& tensor : result.tensors) {
    parts[tensor.name.substr(kName.size())] = Bytes(tensor);
  }
  const auto& state = parts.at(".quant_state.bitsandbytes__nf4");
  const float offset = nlohmann::json::parse(state.begin(), state.end())
                           .at("nested_offset")
                           .get<float>();
  std::vector<float> nested(parts.at(".nested_absmax").size() / sizeof(float));
  std::memcpy(nested.data(), parts.at(".nested_absmax").data(),
              nested.size() * sizeof(float));
  const std::vector<uint8_t>& codes = parts.at(".absmax");
  std::vector<float> absmax;
  for (size_t b = 0; b < codes.size(); ++b) {
    absmax.push_back(
        nf4::NestedDecodeOne(codes[b], nested[b / kNestedBlockSize], offset));
  }
  return absmax;
}

TEST_CASE("BEST's nested absmax stays positive") {
  // Blocks of very different sizes, and a few very large ones.
  std::vector<uint8_t> bytes = Gaussian(kRows * kCols, DType::kF32, 48);
  auto* const weights = reinterpret_cast<float*>(bytes.data());
  std::mt19937 random(49);
  std::normal_distribution<float> spread(0.0f, 1.5f);
  for (int64_t b = 0; b < kRows * kCols / 64; ++b) {
    const float scale = std::exp(spread(random)) * (b % 999 == 0 ? 300.0f : 1);
    for (int64_t i = 0; i < 64; ++i) weights[b * 64 + i] *= scale;
  }
  auto backend = NewCpuBackend(1);
  const auto least = [&](Profile profile) {
    const std::vector<float> absmax = NestedAbsmax(Quantize(
        PresetSpec("NF4-dq", profile), Info(DType::kF32), bytes, *backend));
    REQUIRE(absmax.size() == kRows * kCols / 64);
    return *std::min_element(absmax.begin(), absmax.end());
  };
  CHECK(least(Profile::kReference) <= 0);  // as the library has it
  CHECK(least(Profile::kBest) > 0);
}

TEST_CASE("values that decode to infinity are a warning") {
  // 8 steps of 65504 / 7.5 are beyond F16.
  std::vector<uint8_t> bytes = Gaussian(kRows * kCols, DType::kF16, 50);
  const TensorReport before =
      Report(PresetSpec("W4A16", Profile::kReference), DType::kF16, bytes);
  CHECK(before.warnings.empty());
  const uint16_t least = 0xfbff;  // -65504
  std::memcpy(bytes.data() + 2 * 77, &least, sizeof(least));
  const TensorReport report =
      Report(PresetSpec("W4A16", Profile::kReference), DType::kF16, bytes);
  REQUIRE(report.warnings.size() == 1);
  CHECK(report.warnings[0] ==
        "DECODES_TO_INFINITY: some values, decoded, are beyond the range of "
        "F16");
  // There is a grid that keeps them.
  const TensorReport best =
      Report(PresetSpec("W4A16", Profile::kBest), DType::kF16, bytes);
  CHECK(best.warnings.empty());
  CHECK(best.error.max_absolute_error < 1);
}

TEST_CASE("... and so are values that decode to NaN") {
  // The mean of ten blocks' absmax is such that the nested coding of the first
  // one is rounded to infinity, by which its zeros are multiplied.
  std::vector<uint8_t> bytes = Gaussian(10 * 64, DType::kF32, 51);
  StoreFromFloat(bytes.data(), DType::kF32, 7,
                 std::numeric_limits<float>::max());
  auto backend = NewCpuBackend(1);
  for (const Profile profile : {Profile::kReference, Profile::kBest}) {
    QuantSpec spec = PresetSpec("NF4-dq", profile);
    std::get<Nf4Spec>(spec.method).rule = Nf4Rule::kCpu;
    const TensorReport report =
        Quantize(spec, {kName, DType::kF32, {10, 64}}, bytes, *backend).report;
    CHECK(std::isnan(report.error.squared_error));
    REQUIRE(report.warnings.size() == 1);
    CHECK(report.warnings[0] ==
          "DECODES_TO_INFINITY: some values, decoded, are NaN or beyond the "
          "range of F32");
  }
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
