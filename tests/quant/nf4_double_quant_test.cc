// BEST with double quantization against REFERENCE, block by block, as a reader
// of the two files has them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/nested_absmax.h"
#include "quant/quant_spec.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT: the test's own vocabulary

constexpr int64_t kRows = 300;
constexpr int64_t kCols = 1000;  // the last block is short

// Student-t with three degrees of freedom, and rows of very different sizes.
std::vector<uint8_t> HeavyTails(DType dtype, uint32_t seed) {
  const int64_t n = kRows * kCols;
  const auto part = [&](uint32_t k) {
    return Gaussian(n, DType::kF32, 4 * seed + k, 1.0);
  };
  const auto top = part(0), a = part(1), b = part(2), c = part(3);
  const auto at = [](const std::vector<uint8_t>& bytes, int64_t i) {
    return LoadAsFloat(bytes.data(), DType::kF32, i);
  };
  std::vector<uint8_t> bytes(static_cast<size_t>(n * DTypeBytes(dtype)));
  for (int64_t i = 0; i < n; ++i) {
    const float below = std::sqrt(
        (at(a, i) * at(a, i) + at(b, i) * at(b, i) + at(c, i) * at(c, i)) / 3);
    const float row = std::exp(at(a, i / kCols));
    StoreFromFloat(bytes.data(), dtype, i,
                   0.02f * row * at(top, i) / std::max(below, 0.05f));
  }
  return bytes;
}

// Squared error of each block.
std::vector<double> BlockErrors(const QuantSpec& spec, const TensorInfo& info,
                                const std::vector<uint8_t>& bytes,
                                Backend& backend) {
  const QuantizedTensor result = Quantize(spec, info, bytes, backend);
  std::map<std::string, std::vector<uint8_t>> parts;
  for (const OutputTensor& tensor : result.tensors) {
    const std::string name = tensor.name.substr(info.name.size());
    parts[name.starts_with(".quant_state") ? ".state" : name] = Bytes(tensor);
  }
  const auto& state = parts.at(".state");
  const float offset = nlohmann::json::parse(state.begin(), state.end())
                           .at("nested_offset")
                           .get<float>();
  const auto* nested =
      reinterpret_cast<const float*>(parts.at(".nested_absmax").data());
  const std::vector<uint8_t>& codes = parts.at(".absmax");
  const std::vector<uint8_t>& packed = parts.at("");
  const float* levels = CodebookLevels(spec.nf4()->codebook);
  std::vector<double> errors(codes.size());
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    const int64_t b = i / spec.nf4()->block_size;
    const auto block = static_cast<size_t>(b);
    const float absmax = nf4::NestedDecodeOne(
        codes[block], nested[b / kNestedBlockSize], offset);
    const uint8_t byte = packed[static_cast<size_t>(i / 2)];
    const int code = i % 2 == 0 ? byte >> 4 : byte & 15;
    float decoded = 0;
    StoreFromFloat(&decoded, info.dtype, 0, levels[code] * absmax);
    const double d =
        static_cast<double>(LoadAsFloat(bytes.data(), info.dtype, i)) -
        LoadAsFloat(&decoded, info.dtype, 0);
    errors[block] += d * d;
  }
  return errors;
}

TEST_CASE("no block of BEST is worse than REFERENCE's") {
  const auto backend = NewCpuBackend(2);
  uint32_t seed = 60;
  for (const int64_t block_size : {32, 64, 256, 4096}) {
    for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      ++seed;
      QuantSpec spec = PresetSpec("NF4-dq", Profile::kReference);
      auto& nf4 = std::get<Nf4Spec>(spec.method);
      nf4.block_size = block_size;
      nf4.codebook = seed % 2 == 0 ? Codebook::kNf4 : Codebook::kFp4;
      nf4.rule = seed / 2 % 2 == 0 ? Nf4Rule::kCuda : Nf4Rule::kCpu;
      const TensorInfo info{"w.weight", dtype, {kRows, kCols}};
      const auto bytes = HeavyTails(dtype, seed);
      const auto reference = BlockErrors(spec, info, bytes, *backend);
      spec.profile = Profile::kBest;
      const auto best = BlockErrors(spec, info, bytes, *backend);
      REQUIRE(best.size() == reference.size());
      int64_t worse = 0;
      double total = 0, total_reference = 0;
      for (size_t b = 0; b < best.size(); ++b) {
        worse += best[b] <= reference[b] ? 0 : 1;
        total += best[b];
        total_reference += reference[b];
      }
      INFO("block size " << block_size << " " << DTypeName(dtype) << ": of "
                         << best.size() << " blocks");
      CHECK(worse == 0);
      CHECK(total < total_reference);
    }
  }
}

}  // namespace
}  // namespace qs
