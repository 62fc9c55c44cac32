// Every implementation against files made by AutoAWQ 0.2.9: the quantizer
// alone, the mean weights, the clip search, and the codes of clipped weights.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs {
namespace {

struct Case {
  explicit Case(const std::string& path) : file(ReadGolden(path)) {
    const std::string text = file.metadata.at("params");
    params = nlohmann::json::parse(text);
    role = file.metadata.at("role");
    rows = at("weight").shape[0];
    cols = at("weight").shape[1];
    dtype = *ParseDType(at("weight").dtype);
  }
  const GoldenTensor& at(const std::string& name) const {
    return file.tensors.at(name);
  }
  AwqGridSpec Grid(DType scale_dtype) const {
    return {params.at("bits"), params.at("group_size"),
            !params.at("zero_point").get<bool>(), AwqRule::kAutoAwq,
            scale_dtype};
  }
  TensorView View(const std::string& name) const {
    return {at(name).bytes.data(), dtype, rows, cols};
  }
  int64_t groups() const {
    return rows * cols / params.at("group_size").get<int64_t>();
  }

  GoldenFile file;
  nlohmann::json params;
  std::string role;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
};

float ValueAt(const GoldenTensor& tensor, int64_t i) {
  return LoadAsFloat(tensor.bytes.data(), *ParseDType(tensor.dtype), i);
}

struct Quantized {
  std::vector<uint8_t> codes, scales, zero_points;
  std::vector<float> decoded;
};

Quantized Quantize(Backend& backend, const Case& c, const TensorView& weight,
                   const AwqGridSpec& grid, const float* low = nullptr,
                   const float* high = nullptr) {
  Quantized out;
  const auto n = static_cast<size_t>(c.rows * c.cols);
  const auto groups = static_cast<size_t>(c.groups());
  out.codes.resize(n);
  out.decoded.resize(n);
  out.zero_points.resize(groups);
  out.scales.resize(groups * static_cast<size_t>(DTypeBytes(grid.scale_dtype)));
  AwqQuantizeArgs args;
  args.weight = weight;
  args.grid = grid;
  args.low = low;
  args.high = high;
  args.codes = out.codes.data();
  args.group_scales = out.scales.data();
  args.zero_points = out.zero_points.data();
  args.decoded = out.decoded.data();
  REQUIRE(backend.awq().Quantize(args, backend.stream()).ok());
  return out;
}

void CheckPseudoQuantize(Backend& backend, const Case& c) {
  const Quantized got = Quantize(backend, c, c.View("weight"), c.Grid(c.dtype));
  CHECK(got.scales == c.at("scales").bytes);
  int64_t different = 0;
  for (int64_t i = 0; i < c.rows * c.cols; ++i) {
    different += got.decoded[static_cast<size_t>(i)] !=
                 ValueAt(c.at("quantized_weight"), i);
  }
  CHECK(different == 0);
  if (!c.params.at("zero_point").get<bool>()) return;
  for (int64_t g = 0; g < c.groups(); ++g) {
    REQUIRE(got.zero_points[static_cast<size_t>(g)] ==
            ValueAt(c.at("zeros"), g));
  }
}

void CheckStatistics(Backend& backend, const Case& c) {
  std::vector<float> got(static_cast<size_t>(c.cols));
  const TensorView weight = c.View("weight");
  REQUIRE(backend.awq()
              .Statistics({{&weight, 1}, c.params.at("group_size"), got.data()},
                          backend.stream())
              .ok());
  // The library's sum is F32; then one rounding to the dtype.
  const double tolerance = c.dtype == DType::kF32   ? 1e-6
                           : c.dtype == DType::kF16 ? 0x1p-10
                                                    : 0x1p-7;
  for (int64_t k = 0; k < c.cols; ++k) {
    const double want = ValueAt(c.at("w_mean"), k);
    INFO("column " << k);
    REQUIRE(std::fabs(got[static_cast<size_t>(k)] - want) <= tolerance * want);
  }
}

// H of the tokens that the library took, and of the scaled input, which it
// rounded to the dtype.
std::vector<float> ScaledMoment(const Case& c) {
  const GoldenTensor& x = c.at("x");
  const int64_t tokens = x.shape[0];
  const int64_t step = std::max<int64_t>(1, tokens / 512);
  std::vector<double> sum(static_cast<size_t>(c.cols * c.cols));
  std::vector<double> row(static_cast<size_t>(c.cols));
  uint8_t stored[4];
  for (int64_t t = 0; t < tokens; t += step) {
    for (int64_t k = 0; k < c.cols; ++k) {
      StoreFromFloat(
          stored, c.dtype, 0,
          ValueAt(x, t * c.cols + k) / ValueAt(c.at("scales_awq"), k));
      row[static_cast<size_t>(k)] = LoadAsFloat(stored, c.dtype, 0);
    }
    for (int64_t i = 0; i < c.cols; ++i) {
      for (int64_t j = 0; j < c.cols; ++j) {
        sum[static_cast<size_t>(i * c.cols + j)] +=
            row[static_cast<size_t>(i)] * row[static_cast<size_t>(j)];
      }
    }
  }
  return {sum.begin(), sum.end()};
}

void CheckClipSearch(Backend& backend, const Case& c) {
  const std::vector<float> moment = ScaledMoment(c);
  const auto groups = static_cast<size_t>(c.groups());
  std::vector<float> low(groups), high(groups);
  AwqClipArgs args;
  args.weight = c.View("weight_scaled");
  args.grid = c.Grid(c.dtype);
  args.second_moment = moment.data();
  args.low = low.data();
  args.high = high.data();
  REQUIRE(backend.awq().ClipSearch(args, backend.stream()).ok());
  const double margin = c.dtype == DType::kF32   ? 1e-5
                        : c.dtype == DType::kF16 ? 5e-3
                                                 : 3e-2;
  int64_t compared = 0;
  for (size_t g = 0; g < groups; ++g) {
    REQUIRE(low[g] == -high[g]);
    if (ValueAt(c.at("clip_margin"), static_cast<int64_t>(g)) <= margin) {
      continue;
    }
    ++compared;
    INFO("group " << g);
    CHECK(high[g] == ValueAt(c.at("clip_max"), static_cast<int64_t>(g)));
  }
  CHECK(compared * 2 >= c.groups());
}

// Output 8 c + kOrder[i] is nibble i of word c.
constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

void CheckCodes(Backend& backend, const Case& c) {
  std::vector<float> low, high;
  for (int64_t g = 0; g < c.groups(); ++g) {
    high.push_back(ValueAt(c.at("clip_max"), g));
    low.push_back(-high.back());
  }
  const Quantized got = Quantize(backend, c, c.View("weight_scaled"),
                                 c.Grid(DType::kF16), low.data(), high.data());
  CHECK(got.scales == c.at("quant_scales").bytes);
  if (!c.params.at("zero_point").get<bool>()) return;
  const auto* zeros = c.at("quant_zeros").As<int32_t>();
  for (int64_t g = 0; g < c.groups(); ++g) {
    REQUIRE(got.zero_points[static_cast<size_t>(g)] == zeros[g]);
  }
  const auto* words = c.at("qweight").As<uint32_t>();
  const int64_t words_per_row = c.rows / 8;
  int64_t different = 0;
  for (int64_t k = 0; k < c.cols; ++k) {
    for (int64_t w = 0; w < words_per_row; ++w) {
      for (int i = 0; i < 8; ++i) {
        const uint32_t code = (words[k * words_per_row + w] >> (4 * i)) & 0xfu;
        const int64_t row = 8 * w + kOrder[i];
        different += got.codes[static_cast<size_t>(row * c.cols + k)] != code;
      }
    }
  }
  CHECK(different == 0);
}

TEST_CASE("AutoAWQ's figures") {
  int64_t cases = 0, pseudo = 0;
  for (const std::string& path : GoldenPaths("golden/awq")) {
    const Case c(path);
    for (const auto& backend : AllBackends()) {
      INFO(path << " " << backend->name());
      if (c.role == "pseudo_quantize") {
        CheckPseudoQuantize(*backend, c);
        ++pseudo;
      } else {
        CheckStatistics(*backend, c);
        CheckClipSearch(*backend, c);
        CheckCodes(*backend, c);
        ++cases;
      }
    }
  }
  CHECK((pseudo == 12 || HasOtherGoldenData()));
  CHECK((cases == 20 || HasOtherGoldenData()));
}

}  // namespace
}  // namespace qs
