// What a result says about itself: the report, worst groups, sizes, memory.
#include <string>
#include <vector>

#include "quant/tensor_quantizer.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/memory_peak.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT

const std::string kName = "layers.0.up_proj.weight";

TensorInfo Info(DType dtype, std::vector<int64_t> shape) {
  return {kName, dtype, std::move(shape)};
}

// The specs that between them take every path.
std::vector<QuantSpec> AllPaths(Profile profile) {
  std::vector<QuantSpec> specs;
  for (const Preset& preset : Presets()) {
    // The other methods have tests of their own.
    if (preset.spec.nf4() == nullptr && preset.spec.rtn() == nullptr) continue;
    specs.push_back(PresetSpec(preset.name, profile));
  }
  specs.push_back(
      Rtn({.bits = 3, .group_size = 64, .symmetric = false}, profile));
  return specs;
}

TEST_CASE("the report names the tensor, its sizes and what made it") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kBF16, {96, 256});
  const auto bytes = Gaussian(96 * 256, info.dtype, 16);
  for (const QuantSpec& spec : AllPaths(Profile::kBest)) {
    const QuantizedTensor result = Quantize(spec, info, bytes, *backend);
    const TensorReport& report = result.report;
    CHECK(report.name == kName);
    CHECK(report.shape == info.shape);
    CHECK(report.dtype == DType::kBF16);
    CHECK(report.bytes_in == 96 * 256 * 2);
    CHECK(report.device == backend->description());
    CHECK(report.algorithm == SpecAlgorithm(spec));
    CHECK(report.phases.Total() > 0);
    CHECK(report.has_error);
    CHECK(report.error.count == 96 * 256);
    CHECK(report.rtn.count == 96 * 256);
    int64_t in_histogram = 0;
    for (int64_t n : report.error.histogram) in_histogram += n;
    CHECK(in_histogram == 96 * 256);

    QuantizeOptions quiet;
    quiet.error_report = false;
    const QuantizedTensor bare = Quantize(spec, info, bytes, *backend, quiet);
    CHECK(Parts(bare) == Parts(result));
    CHECK_FALSE(bare.report.has_error);
    CHECK(bare.report.error.count == 0);
    CHECK(bare.report.worst_groups.empty());
  }
}

// Index of a group whose weights are `factor` times those around it.
void Louder(std::vector<uint8_t>* bytes, DType dtype, int64_t group,
            int64_t group_size, float factor) {
  for (int64_t i = group * group_size; i < (group + 1) * group_size; ++i) {
    StoreFromFloat(bytes->data(), dtype, i,
                   factor * LoadAsFloat(bytes->data(), dtype, i));
  }
}

TEST_CASE("the worst groups are found across tiles, worst first") {
  auto backend = NewCpuBackend(1);
  const int64_t n = 1111 * 1024;
  for (const std::string name : {"NF4", "NF4-dq", "W4A16"}) {
    INFO(name);
    const int64_t group_size = name == "W4A16" ? 128 : 64;
    auto bytes = Gaussian(n, DType::kBF16, 17);
    Louder(&bytes, DType::kBF16, 3, group_size, 4);
    Louder(&bytes, DType::kBF16, n / group_size - 1, group_size, 8);
    Louder(&bytes, DType::kBF16, n / group_size / 2, group_size, 16);
    const auto report =
        Quantize(PresetSpec(name, Profile::kReference),
                 Info(DType::kBF16, {1111, 1024}), bytes, *backend)
            .report;
    REQUIRE(report.worst_groups.size() == 8);
    CHECK(report.worst_groups[0].group == n / group_size / 2);
    CHECK(report.worst_groups[1].group == n / group_size - 1);
    CHECK(report.worst_groups[2].group == 3);
    for (size_t i = 1; i < 8; ++i) {
      CHECK(report.worst_groups[i - 1].mean_squared_error >=
            report.worst_groups[i].mean_squared_error);
    }
  }
}

TEST_CASE("output sizes are exact, or an upper bound with a nested offset") {
  auto backend = NewCpuBackend(1);
  for (const QuantSpec& spec : AllPaths(Profile::kReference)) {
    for (const auto& shape :
         std::vector<std::vector<int64_t>>{{96, 256}, {1, 128}, {1003, 1152}}) {
      const TensorInfo info = Info(DType::kBF16, shape);
      const auto bytes = Gaussian(shape[0] * shape[1], info.dtype, 18);
      const QuantizedTensor result = Quantize(spec, info, bytes, *backend);
      int64_t sum = 0;
      for (const OutputTensor& t : result.tensors) sum += t.data.size();
      CHECK(result.report.bytes_out == sum);
      const auto predicted = OutputBytes(spec, info);
      REQUIRE(predicted.ok());
      if (spec.nf4() != nullptr && spec.nf4()->double_quant) {
        CHECK(*predicted >= sum);
        CHECK(*predicted <= sum + 20);
      } else {
        CHECK(*predicted == sum);
      }
      CHECK(*EstimateMemoryBytes(spec, info) >= sum + result.report.bytes_in);
    }
  }
}

TEST_CASE("memory: below twice the input for 4 bits of 64 MiB and more") {
  const QuantSpec asymmetric = Rtn({4, 128, false}, Profile::kBest);
  for (int64_t rows : {4096, 8192, 65536}) {
    const TensorInfo info = Info(DType::kBF16, {rows, 8192});
    const int64_t input = rows * 8192 * 2;
    for (const QuantSpec& spec :
         {PresetSpec("NF4", Profile::kBest),
          PresetSpec("NF4-dq", Profile::kBest),
          PresetSpec("W4A16", Profile::kBest), asymmetric}) {
      const auto estimate = EstimateMemoryBytes(spec, info);
      REQUIRE(estimate.ok());
      CHECK(*estimate < 2 * input);
      CHECK(*estimate > input + input / 4);
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("memory: the estimate bounds what a run really takes") {
  const TensorInfo info = Info(DType::kBF16, {2048, 8192});
  const auto bytes = Gaussian(2048 * 8192, info.dtype, 19);
  auto backend = NewCpuBackend(1);
  for (const std::string name : {"NF4", "NF4-dq", "W4A16"}) {
    INFO(name);
    const QuantSpec spec = PresetSpec(name, Profile::kReference);
    const MemoryPeak peak;
    if (!peak.measures()) {
      WARN("this system does not reset the peak; not measured");
      return;
    }
    Quantize(spec, info, bytes, *backend);
    const int64_t taken = peak.taken();
    INFO("took " << taken);
    CHECK(taken > static_cast<int64_t>(bytes.size()));
    CHECK(taken <= *EstimateMemoryBytes(spec, info) + MemoryPeak::kSlack);
  }
}
#endif

}  // namespace
}  // namespace qs
