// The names that a plan counts with are those that the writers give.
#include "quant/plan/output_names.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "quant/formats/grid_writer.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

constexpr char kWeight[] = "layers.0.up_proj.weight";
constexpr int64_t kRows = 32;
constexpr int64_t kCols = 128;

using Names = std::vector<std::string>;

Names Sorted(Names names) {
  std::sort(names.begin(), names.end());
  return names;
}

Names Planned(const QuantSpec& spec) {
  const OutputNames names = OutputNamesOf(spec);
  Names all;
  for (const std::string_view ending : names.endings) {
    all.push_back(std::string(names.StemOf(kWeight)).append(ending));
  }
  return Sorted(std::move(all));
}

Names Written(const std::vector<OutputTensor>& tensors) {
  Names all;
  for (const OutputTensor& tensor : tensors) all.push_back(tensor.name);
  return Sorted(std::move(all));
}

// By a method that needs no calibration.
Names Quantized(const QuantSpec& spec) {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = {kWeight, DType::kBF16, {kRows, kCols}};
  return Written(
      Quantize(spec, info, Gaussian(kRows * kCols, DType::kBF16, 1), *backend)
          .tensors);
}

// By what a solver hands its rows to.
Names Packed(const QuantSpec& spec) {
  auto writer = GridWriter::Create(spec, {kWeight, DType::kF16, kRows, kCols},
                                   /*streamed=*/false);
  REQUIRE(writer.ok());
  const int64_t groups = kRows * (*writer)->groups();
  const std::vector<uint8_t> codes(static_cast<size_t>(kRows * kCols), 1);
  const std::vector<uint8_t> zeros(static_cast<size_t>(groups), 3);
  std::vector<uint8_t> scales(static_cast<size_t>(2 * groups));
  for (int64_t i = 0; i < groups; ++i) {
    StoreFromFloat(scales.data(), DType::kF16, i, 0.5f);
  }
  GridRows rows;
  rows.rows = kRows;
  rows.codes = codes.data();
  rows.scales = scales.data();
  if (!SpecGrid(spec).symmetric) rows.zero_points = zeros.data();
  auto backend = NewCpuBackend(1);
  REQUIRE((*writer)->AddRows(rows, *backend).ok());
  const auto tensors = (*writer)->Finish();
  REQUIRE(tensors.ok());
  return Written(*tensors);
}

std::vector<QuantSpec> Uncalibrated() {
  std::vector<QuantSpec> specs;
  for (const Preset& preset : Presets()) {
    if (!NeedsCalibration(preset.spec)) specs.push_back(preset.spec);
  }
  specs.push_back(Rtn({.bits = 4, .group_size = 64, .symmetric = false},
                      Profile::kReference));
  specs.push_back(Nf4({.codebook = Codebook::kFp4, .double_quant = true},
                      Profile::kReference));
  return specs;
}

std::vector<QuantSpec> Grids() {
  using enum OutputFormat;
  std::vector<QuantSpec> specs;
  for (const bool symmetric : {false, true}) {
    for (const OutputFormat format : {kCompressedTensors, kGptq, kGptqV2}) {
      specs.push_back(
          {GptqSpec{.bits = 4, .group_size = 64, .symmetric = symmetric},
           Profile::kBest, format});
    }
    for (const OutputFormat format : {kCompressedTensors, kAwqGemm}) {
      specs.push_back(
          {AwqSpec{.bits = 4, .group_size = 64, .symmetric = symmetric},
           Profile::kBest, format});
    }
  }
  return specs;
}

TEST_CASE("every format's writer gives the names that the plan knows") {
  for (const QuantSpec& spec : Uncalibrated()) {
    INFO(SpecMethodName(spec) << ", format " << static_cast<int>(spec.format));
    CHECK(Quantized(spec) == Planned(spec));
  }
  for (const QuantSpec& spec : Grids()) {
    INFO(SpecMethodName(spec) << ", format " << static_cast<int>(spec.format));
    CHECK(Packed(spec) == Planned(spec));
  }
}

TEST_CASE("no format has more tensors or longer names than the most") {
  const auto length = [](const OutputNames& names, const std::string& weight) {
    size_t bytes = 0;
    for (const std::string_view ending : names.endings) {
      bytes += names.StemOf(weight).size() + ending.size();
    }
    return bytes;
  };
  std::vector<QuantSpec> specs = Uncalibrated();
  const std::vector<QuantSpec> grids = Grids();
  specs.insert(specs.end(), grids.begin(), grids.end());
  const OutputNames most = MostOutputNames();
  for (const QuantSpec& spec : specs) {
    const OutputNames names = OutputNamesOf(spec);
    CHECK(names.endings.size() <= most.endings.size());
    for (const std::string& weight :
         {std::string(".weight"), std::string(kWeight), std::string("w")}) {
      CHECK(length(names, weight) <= length(most, weight));
    }
  }
}

}  // namespace
}  // namespace qs::testing
