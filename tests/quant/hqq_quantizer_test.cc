// HQQ from tensor to file: both formats read back, tiles in any order, hqq's
// golden files, the report, and what BEST takes off the error.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/formats/compressed_tensors.h"
#include "quant/formats/hqq_format.h"
#include "quant/tensor_quantizer.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT

const std::string kName = "m.weight";

QuantSpec Hqq(const HqqSpec& hqq, Profile profile, OutputFormat format) {
  return {hqq, profile, format};
}

TensorInfo Info(DType dtype, int64_t rows, int64_t cols) {
  return {kName, dtype, {rows, cols}};
}

std::vector<QuantSpec> AllSpecs() {
  std::vector<QuantSpec> specs;
  for (Profile profile : {Profile::kReference, Profile::kBest}) {
    for (int bits : {8, 4, 3, 2, 1}) {
      for (int axis : {0, 1}) {
        specs.push_back(
            Hqq({.bits = bits, .axis = axis}, profile, OutputFormat::kHqq));
      }
      if (bits == 1) continue;
      specs.push_back(Hqq({.bits = bits, .group_size = 32}, profile,
                          OutputFormat::kCompressedTensors));
    }
  }
  return specs;
}

std::string Describe(const QuantSpec& spec) {
  return SpecAlgorithm(spec) + " " + std::to_string(SpecBits(spec)) +
         " bits axis " + std::to_string(spec.hqq()->axis) +
         (spec.format == OutputFormat::kHqq ? " hqq" : " compressed-tensors");
}

DecodedWeight DecodeFile(const QuantSpec& spec, const QuantizedTensor& result) {
  auto decoded =
      spec.format == OutputFormat::kHqq
          ? DecodeHqq(Items(result), kName)
          : DecodeCompressedTensors(SpecGrid(spec), Items(result), kName);
  INFO(decoded.status().ToString());
  REQUIRE(decoded.ok());
  return *std::move(decoded);
}

TEST_CASE("the report's error is that of the file's decoder") {
  auto backend = NewCpuBackend(1);
  for (const QuantSpec& spec : AllSpecs()) {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      INFO(Describe(spec) << " " << DTypeName(dtype));
      const TensorInfo info = Info(dtype, 96, 448);
      const auto bytes = Gaussian(96 * 448, dtype, 51);
      const QuantizedTensor result = Quantize(spec, info, bytes, *backend);
      const DecodedWeight decoded = DecodeFile(spec, result);
      REQUIRE(decoded.dtype == dtype);
      REQUIRE(decoded.data.size() == static_cast<int64_t>(bytes.size()));
      CHECK(MeanSquaredError(result.report.error) ==
            Approx(MseByHand(bytes, dtype, decoded.data.data()))
                .epsilon(kErrorSumTolerance));
      REQUIRE(result.report.solver.has_value());
      CHECK(result.report.solver->iterations > 0.5);
      CHECK(result.report.solver->iterations <= 20);
      CHECK(result.report.worst_groups.size() == 8);
      const auto bytes_out = OutputBytes(spec, info);
      REQUIRE(bytes_out.ok());
      CHECK(result.report.bytes_out == *bytes_out);
    }
  }
}

TEST_CASE("tiles in any order and streamed words give the same file") {
  auto backend = NewCpuBackend(1);
  const int64_t rows = 1100;
  const int64_t cols = 3072;
  const TensorInfo info = Info(DType::kBF16, rows, cols);
  const auto bytes = Gaussian(rows * cols, info.dtype, 52);
  for (OutputFormat format :
       {OutputFormat::kCompressedTensors, OutputFormat::kHqq}) {
    for (Profile profile : {Profile::kReference, Profile::kBest}) {
      const QuantSpec spec = Hqq({.bits = 2}, profile, format);
      INFO(Describe(spec));
      const auto want = Parts(Quantize(spec, info, bytes, *backend));

      QuantizeOptions options;
      options.tiled_input = true;
      options.streamed_output = true;
      auto made = TensorQuantizer::Create(spec, info, options);
      REQUIRE(made.ok());
      TensorQuantizer& q = **made;
      CHECK(q.num_tiles() == (profile == Profile::kReference ? 1 : 7));
      std::vector<std::vector<uint8_t>> pieces(
          static_cast<size_t>(q.num_tiles()));
      for (int64_t tile = q.num_tiles() - 1; tile >= 0; --tile) {
        auto input = q.BeginTileInput(tile);
        REQUIRE(input.ok());
        const int64_t begin = tile == 0 ? 0 : q.tile_input_end(tile - 1);
        std::copy(bytes.begin() + begin, bytes.begin() + q.tile_input_end(tile),
                  *input);
        REQUIRE(q.RunTile(tile, *backend).ok());
        if (q.streamed_output().bytes == 0) continue;
        const Buffer piece = q.TakeStreamed(tile);
        pieces[static_cast<size_t>(tile)].assign(piece.data(),
                                                 piece.data() + piece.size());
      }
      const std::string streamed = q.streamed_output().name;
      CHECK(streamed.empty() == (format == OutputFormat::kHqq));
      auto result = q.Finish(*backend);
      REQUIRE(result.ok());
      auto got = Parts(*result);
      for (const auto& piece : pieces) {
        if (streamed.empty()) break;
        auto& whole = got[streamed];
        whole.insert(whole.end(), piece.begin(), piece.end());
      }
      CHECK(got == want);
    }
  }
}

// hqq 0.2.8.post1's own state dicts, from the weights they were made of.
TEST_CASE("REFERENCE writes hqq's files") {
  auto backend = NewCpuBackend(1);
  const GoldenFile input = ReadGolden(
      std::string(QS_TEST_DATA) + "/golden/hqq/serialized_input.safetensors");
  const std::string module = "model.layers.0.self_attn.q_proj";
  const GoldenTensor& weight = input.tensors.at(module + ".weight");
  int files = 0;
  for (const std::string& path : GoldenPaths("golden/hqq_pack")) {
    if (path.find("serialized_q") == std::string::npos) continue;
    // The scales are of the compute dtype, the weight is F32: only where they
    // are the same does a tensor of ours say what hqq's says.
    if (path.find("_f32") == std::string::npos) continue;
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    const auto number = [&](const std::string& key) {
      return static_cast<int>(
          *file.tensors.at(module + "." + key).As<int32_t>());
    };
    const QuantSpec spec =
        Hqq({.bits = number("nbits"), .axis = number("axis")},
            Profile::kReference, OutputFormat::kHqq);
    const TensorInfo info = {module + ".weight", DType::kF32, weight.shape};
    const auto parts = Parts(Quantize(spec, info, weight.bytes, *backend));
    for (const auto& [name, tensor] : file.tensors) {
      if (name == module + ".bias") continue;
      INFO(name);
      REQUIRE(parts.count(name) == 1);
      CHECK(parts.at(name) == tensor.bytes);
    }
    CHECK(parts.size() + 1 == file.tensors.size());
    ++files;
  }
  CHECK(files >= 2);
}

TEST_CASE("a bad number is named by its index in the tensor") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kF32, 64, 64);
  for (const QuantSpec& spec : AllSpecs()) {
    INFO(Describe(spec));
    auto bytes = Gaussian(64 * 64, info.dtype, 53);
    StoreFromFloat(bytes.data(), info.dtype, 3001, NAN);
    StoreFromFloat(bytes.data(), info.dtype, 3000, INFINITY);
    auto q = MakeQuantizer(spec, info, bytes);
    CHECK(std::string(q->RunTile(0, *backend).message()) ==
          "tensor \"" + kName + "\": Inf at index 3000");
  }
}

double Mse(const QuantSpec& spec, const TensorInfo& info,
           const std::vector<uint8_t>& bytes) {
  auto backend = NewCpuBackend(1);
  return MeanSquaredError(Quantize(spec, info, bytes, *backend).report.error);
}

// Measured on these weights: see the INFO lines with --success. The bounds are
// what was promised, not what was reached.
void CheckBest(const TensorInfo& info, const std::vector<uint8_t>& bytes) {
  struct Row {
    int bits;
    double bound;
  };
  for (const Row& row : {Row{4, 0.88}, Row{3, 0.80}, Row{2, 0.60}}) {
    const HqqSpec hqq{.bits = row.bits};
    const double best =
        Mse(Hqq(hqq, Profile::kBest, OutputFormat::kHqq), info, bytes);
    const double reference =
        Mse(Hqq(hqq, Profile::kReference, OutputFormat::kHqq), info, bytes);
    const auto ct = OutputFormat::kCompressedTensors;
    const double integer = Mse(Hqq(hqq, Profile::kBest, ct), info, bytes);
    const double rounded = Mse(Hqq(hqq, Profile::kReference, ct), info, bytes);
    const RtnSpec rtn{row.bits, 64, false};
    const double rtn_min_max = Mse(Rtn(rtn, Profile::kReference), info, bytes);
    const double rtn_best = Mse(Rtn(rtn, Profile::kBest), info, bytes);
    INFO(row.bits << " bits: float zero " << best / reference
                  << ", integer zero point " << integer / rounded
                  << ", of RTN's " << integer / rtn_min_max << ", of its BEST "
                  << integer / rtn_best);
    CHECK(best <= row.bound * reference);
    CHECK(integer <= 0.92 * rounded);
    CHECK(integer <= 0.92 * rtn_min_max);
    CHECK(integer <= rtn_best);
    CHECK(best <= integer);
  }
}

TEST_CASE("what BEST takes off REFERENCE on normal weights") {
  for (DType dtype : {DType::kBF16, DType::kF16}) {
    INFO(DTypeName(dtype));
    CheckBest(Info(dtype, 512, 1024), Gaussian(512 * 1024, dtype, 54));
  }
}

// Eight bits around a zero of over a hundred, of which BF16 keeps no fraction.
TEST_CASE("8 bits: BEST chooses for the zero that is stored") {
  const TensorInfo info = Info(DType::kBF16, 512, 1024);
  const auto bytes = Gaussian(512 * 1024, info.dtype, 55);
  const HqqSpec hqq{.bits = 8};
  const auto format = OutputFormat::kHqq;
  const double best = Mse(Hqq(hqq, Profile::kBest, format), info, bytes);
  const double reference =
      Mse(Hqq(hqq, Profile::kReference, format), info, bytes);
  INFO("ratio " << best / reference);
  CHECK(best <= 0.7 * reference);
}

// Linears of a small trained language model.
TEST_CASE("what BEST takes off REFERENCE on trained weights") {
  const GoldenFile file =
      ReadGolden(std::string(QS_TEST_DATA) +
                 "/tiny-llama/model-00001-of-00002.safetensors");
  for (const std::string name : {"self_attn.q_proj", "mlp.up_proj"}) {
    INFO(name);
    const GoldenTensor& weight =
        file.tensors.at("model.layers.0." + name + ".weight");
    CheckBest({kName, *ParseDType(weight.dtype), weight.shape}, weight.bytes);
  }
}

}  // namespace
}  // namespace qs
