// Output errors in the reports of methods that see no calibration.
#include "quant/measured_quantizer.h"

#include <string>
#include <vector>

#include "quant/formats/dequantize.h"
#include "quant/site.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

constexpr int64_t kInputs = 128;

// Of a diagonal H: input i has i + 1 times the energy of input 0.
std::shared_ptr<Site> RampSite(int64_t inputs) {
  SiteMoments moments = *SiteMoments::Create("in", inputs);
  for (int64_t i = 0; i < inputs; ++i) {
    moments.second_moment()[i * inputs + i] = static_cast<float>(i + 1);
    moments.abs_sum()[i] = 1;
  }
  moments.set_tokens(77);
  auto site = std::make_shared<Site>("in", inputs);
  site->Fill(std::move(moments));
  return site;
}

double ByHand(const std::vector<uint8_t>& weight, const uint8_t* decoded,
              DType dtype) {
  double error = 0;
  double signal = 0;
  const int64_t n = static_cast<int64_t>(weight.size()) / DTypeBytes(dtype);
  for (int64_t i = 0; i < n; ++i) {
    const double w = LoadAsFloat(weight.data(), dtype, i);
    const double d = w - LoadAsFloat(decoded, dtype, i);
    const auto h = static_cast<double>(i % kInputs + 1);
    error += h * d * d;
    signal += h * w * w;
  }
  return error / signal;
}

TEST_CASE("a site adds the output error and changes nothing else") {
  const std::string name =
      GENERATE("NF4", "NF4-dq", "FP4", "W4A16", "W8A16", "W4A16-hqq", "HQQ-2");
  const Preset& preset = *FindPreset(name);
  const bool tiled = GENERATE(false, true);
  const TensorInfo info = {"a.weight", DType::kBF16, {700, kInputs}};
  const auto bytes = Gaussian(700 * kInputs, info.dtype, 5);
  const auto backend = NewCpuBackend(1);
  INFO(name);
  const QuantizedTensor plain = Quantize(preset.spec, info, bytes, *backend);
  QuantizeOptions options;
  options.site = RampSite(kInputs);
  options.tiled_input = tiled;
  auto made = TensorQuantizer::Create(preset.spec, info, options);
  REQUIRE(made.ok());
  TensorQuantizer& quantizer = **made;
  int64_t begin = 0;
  for (int64_t tile = 0; tile < quantizer.num_tiles(); ++tile) {
    const int64_t end = quantizer.tile_input_end(tile);
    uint8_t* const to =
        tiled ? *quantizer.BeginTileInput(tile) : quantizer.input() + begin;
    std::memcpy(to, bytes.data() + begin, static_cast<size_t>(end - begin));
    begin = end;
  }
  const QuantizedTensor result = FinishAll(quantizer, *backend);
  CHECK(Parts(result) == Parts(plain));
  CHECK_FALSE(plain.report.has_output_error);
  REQUIRE(result.report.has_output_error);
  CHECK(result.report.tokens == 77);
  const auto decoded = Dequantize(preset.spec, info.name, info.dtype,
                                  info.shape, result.tensors);
  REQUIRE(decoded.ok());
  CHECK(RelativeOutputError(result.report.output_error) ==
        Approx(ByHand(bytes, decoded->data.data(), info.dtype)).epsilon(1e-4));
  CHECK(result.report.rtn_output_error.error > 0);
  CHECK(result.report.rtn_output_error.signal ==
        result.report.output_error.signal);
}

TEST_CASE("one bit has no rounding to nearest beside it") {
  const QuantSpec spec = {HqqSpec{.bits = 1, .group_size = 16}, Profile::kBest,
                          OutputFormat::kHqq};
  const TensorInfo info = {"a.weight", DType::kBF16, {64, kInputs}};
  const auto bytes = Gaussian(64 * kInputs, info.dtype, 5);
  const auto backend = NewCpuBackend(1);
  QuantizeOptions options;
  options.site = RampSite(kInputs);
  const auto quantizer = MakeQuantizer(spec, info, bytes, options);
  const TensorReport report = FinishAll(*quantizer, *backend).report;
  CHECK(report.error.count == 64 * kInputs);
  CHECK(report.rtn.count == 0);
  CHECK(report.output_error.signal > 0);
  CHECK(report.rtn_output_error.signal == 0);
}

TEST_CASE("a site of another size is refused") {
  QuantizeOptions options;
  options.site = RampSite(64);
  const auto refused = TensorQuantizer::Create(
      FindPreset("NF4")->spec, {"a.weight", DType::kBF16, {4, kInputs}},
      options);
  CHECK(std::string(refused.status().message()) ==
        "tensor \"a.weight\": site \"in\": got 64 inputs, allowed 128 (the "
        "columns)");
}

}  // namespace
}  // namespace qs::testing
