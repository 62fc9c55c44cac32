// Tensors for the tests of quant/, and the steps from one to its packed parts.
#ifndef QS_TESTS_QUANT_TENSOR_DATA_H_
#define QS_TESTS_QUANT_TENSOR_DATA_H_

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "quant/formats/safetensors.h"
#include "quant/tensor_quantizer.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

constexpr double kTwoPi = 6.283185307179586;

// `count` values of a normal distribution with deviation `sigma`, the same on
// every standard library, stored as `dtype`.
inline std::vector<uint8_t> Gaussian(int64_t count, DType dtype, uint32_t seed,
                                     double sigma = 0.02) {
  std::mt19937 random(seed);
  const auto unit = [&random] { return (random() + 0.5) / 4294967296.0; };
  std::vector<uint8_t> bytes(static_cast<size_t>(count * DTypeBytes(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    const double radius = std::sqrt(-2 * std::log(unit()));
    const double value = sigma * radius * std::cos(kTwoPi * unit());
    StoreFromFloat(bytes.data(), dtype, i, static_cast<float>(value));
  }
  return bytes;
}

inline std::unique_ptr<TensorQuantizer> MakeQuantizer(
    const QuantSpec& spec, const TensorInfo& info,
    const std::vector<uint8_t>& bytes, const QuantizeOptions& options = {}) {
  auto quantizer = TensorQuantizer::Create(spec, info, options);
  INFO(quantizer.status().ToString());
  REQUIRE(quantizer.ok());
  REQUIRE((*quantizer)->input_bytes() == static_cast<int64_t>(bytes.size()));
  std::memcpy((*quantizer)->input(), bytes.data(), bytes.size());
  return *std::move(quantizer);
}

inline std::vector<int64_t> TilesInOrder(const TensorQuantizer& quantizer) {
  std::vector<int64_t> order(static_cast<size_t>(quantizer.num_tiles()));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// The second round, when there is one, and Finish.
inline absl::StatusOr<QuantizedTensor> FinishRounds(TensorQuantizer& quantizer,
                                                    Backend& backend) {
  if (quantizer.has_second_round()) {
    absl::Status status = quantizer.BetweenRounds(backend);
    for (int64_t tile : TilesInOrder(quantizer)) {
      if (status.ok()) status = quantizer.RerunTile(tile, backend);
    }
    if (!status.ok()) return status;
  }
  return quantizer.Finish(backend);
}

inline QuantizedTensor FinishAll(TensorQuantizer& quantizer, Backend& backend) {
  for (int64_t tile : TilesInOrder(quantizer)) {
    const absl::Status status = quantizer.RunTile(tile, backend);
    INFO(status.ToString());
    REQUIRE(status.ok());
  }
  auto result = FinishRounds(quantizer, backend);
  INFO(result.status().ToString());
  REQUIRE(result.ok());
  return *std::move(result);
}

inline QuantizedTensor Quantize(const QuantSpec& spec, const TensorInfo& info,
                                const std::vector<uint8_t>& bytes,
                                Backend& backend,
                                const QuantizeOptions& options = {}) {
  return FinishAll(*MakeQuantizer(spec, info, bytes, options), backend);
}

inline std::vector<uint8_t> Bytes(const OutputTensor& tensor) {
  return {tensor.data.data(), tensor.data.data() + tensor.data.size()};
}

// All output tensors' bytes by name.
inline std::map<std::string, std::vector<uint8_t>> Parts(
    const QuantizedTensor& result) {
  std::map<std::string, std::vector<uint8_t>> parts;
  for (const OutputTensor& tensor : result.tensors) {
    parts[tensor.name] = Bytes(tensor);
  }
  return parts;
}

// What a reader of the file would see.
inline std::map<std::string, SafetensorsItem> Items(
    const QuantizedTensor& result) {
  std::map<std::string, SafetensorsItem> items;
  for (const OutputTensor& tensor : result.tensors) {
    items[tensor.name] = {tensor.name, tensor.dtype, tensor.shape,
                          tensor.data.bytes()};
  }
  return items;
}

inline double MseByHand(const std::vector<uint8_t>& weight, DType dtype,
                        const uint8_t* decoded) {
  const int64_t n = static_cast<int64_t>(weight.size()) / DTypeBytes(dtype);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double d = static_cast<double>(LoadAsFloat(weight.data(), dtype, i)) -
                     LoadAsFloat(decoded, dtype, i);
    sum += d * d;
  }
  return sum / static_cast<double>(n);
}

inline QuantSpec PresetSpec(const std::string& name, Profile profile) {
  const Preset* preset = FindPreset(name);
  REQUIRE(preset != nullptr);
  QuantSpec spec = preset->spec;
  spec.profile = profile;
  return spec;
}

inline QuantSpec Nf4(const Nf4Spec& nf4, Profile profile) {
  return {nf4, profile, OutputFormat::kBitsandbytes};
}

inline QuantSpec Rtn(const RtnSpec& rtn, Profile profile) {
  return {rtn, profile, OutputFormat::kCompressedTensors};
}

}  // namespace qs::testing

#endif  // QS_TESTS_QUANT_TENSOR_DATA_H_
