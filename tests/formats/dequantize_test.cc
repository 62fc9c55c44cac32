// The packed form of every method and format, back as floats.
#include "quant/formats/dequantize.h"

#include <cstring>

#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

TEST_CASE("a dequantized tensor has the error that its report says") {
  const DType dtype = GENERATE(DType::kF32, DType::kF16, DType::kBF16);
  const TensorInfo info = {"a.weight", dtype, {64, 256}};
  const std::vector<uint8_t> bytes = Gaussian(64 * 256, dtype, 8);
  const auto backend = NewCpuBackend(1);
  for (const Preset& preset : Presets()) {
    if (NeedsCalibration(preset.spec)) continue;
    INFO(preset.name);
    QuantizedTensor result = Quantize(preset.spec, info, bytes, *backend);
    const auto floats =
        Dequantize(preset.spec, info.name, dtype, info.shape, result.tensors);
    INFO(floats.status());
    REQUIRE(floats.ok());
    CHECK(floats->name == info.name);
    CHECK(floats->dtype == dtype);
    CHECK(floats->shape == info.shape);
    CHECK(MseByHand(bytes, dtype, floats->data.data()) ==
          Approx(MeanSquaredError(result.report.error)).epsilon(1e-5));
  }
}

TEST_CASE("a tensor under its own name comes back as it is") {
  OutputTensor norm{"norm.weight", DType::kBF16, {4}, *Buffer::Allocate(8)};
  std::memset(norm.data.data(), 7, 8);
  std::vector<OutputTensor> tensors;
  tensors.push_back(std::move(norm));
  const auto same = Dequantize(FindPreset("W4A16-awq")->spec, "norm.weight",
                               DType::kBF16, {4}, tensors);
  REQUIRE(same.ok());
  CHECK(same->data.data()[3] == 7);
}

TEST_CASE("tensors of another form are refused") {
  const TensorInfo info = {"a.weight", DType::kBF16, {64, 256}};
  const auto backend = NewCpuBackend(1);
  QuantizedTensor result =
      Quantize(FindPreset("NF4")->spec, info,
               Gaussian(64 * 256, DType::kBF16, 8), *backend);
  CHECK(Dequantize(FindPreset("W4A16")->spec, info.name, info.dtype, info.shape,
                   result.tensors)
            .status()
            .code() == absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace qs::testing
