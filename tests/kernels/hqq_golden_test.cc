// The reference and every SIMD target against files made by hqq 0.2.8.post1
// with torch 2.15.0 on a CPU: packed codes, scales, zeros, errors, iterations.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs {
namespace {

// hqq's W_q: code rows that share a word lie a fraction of all rows apart.
std::vector<uint8_t> Packed(const std::vector<uint8_t>& codes, int64_t rows,
                            int bits) {
  const int64_t per_word = bits == 3 ? 10 : 8 / bits;
  const int64_t word_bytes = bits == 3 ? 4 : 1;
  const int64_t cols = static_cast<int64_t>(codes.size()) / rows;
  const int64_t out_rows = CeilDiv(rows, per_word);
  std::vector<uint8_t> out;
  for (int64_t i = 0; i < out_rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      uint32_t word = 0;
      for (int64_t k = 0; k < per_word; ++k) {
        const int64_t row = i + k * out_rows;
        const uint32_t code =
            row < rows ? codes[static_cast<size_t>(row * cols + j)] : 0u;
        word = word << bits | code;
      }
      for (int64_t b = 0; b < word_bytes; ++b) {
        out.push_back(static_cast<uint8_t>(word >> (8 * b)));
      }
    }
  }
  return out;
}

struct Result {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<float> zeros;
  HqqFacts facts;
};

Result Encode(Backend& backend, const GoldenTensor& weight,
              const nlohmann::json& c) {
  const DType dtype = *ParseDType(weight.dtype);
  const int64_t n = weight.count();
  const int64_t group_size = c.at("group_size");
  Result r;
  r.codes.resize(static_cast<size_t>(n));
  r.scales.resize(static_cast<size_t>(n / group_size));
  r.zeros.resize(r.scales.size());
  int64_t first_non_finite = 0;
  HqqEncodeArgs args;
  args.weight = {weight.bytes.data(), dtype, weight.shape[0], weight.shape[1]};
  args.bits = c.at("nbits");
  args.group_size = group_size;
  args.axis = c.at("axis");
  args.iterations = c.at("optimize") ? 20 : 0;
  args.round_zero = c.at("round_zero");
  args.codes = r.codes.data();
  args.scales = r.scales.data();
  args.zeros = r.zeros.data();
  args.first_non_finite = &first_non_finite;
  args.facts = &r.facts;
  const absl::Status status = backend.hqq().Encode(args, backend.stream());
  INFO(status.ToString());
  REQUIRE(status.ok());
  CHECK(first_non_finite == -1);
  return r;
}

bool Same(const std::vector<float>& got, const GoldenTensor& want) {
  return got.size() * sizeof(float) == want.bytes.size() &&
         std::memcmp(got.data(), want.bytes.data(), want.bytes.size()) == 0;
}

// Both zeros are alike: the sign of a zero's zero depends on torch's amin.
bool SameValues(const std::vector<float>& got, const GoldenTensor& want) {
  if (static_cast<int64_t>(got.size()) != want.count()) return false;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] != want.As<float>()[i]) return false;
  }
  return true;
}

// Where the shrink term was active: torch's power is off in the last bit.
bool NearlySame(const std::vector<float>& got, const GoldenTensor& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    const float w = want.As<float>()[i];
    if (!(std::fabs(got[i] - w) <= 5e-7f * std::max(1.0f, std::fabs(w)))) {
      return false;
    }
  }
  return static_cast<int64_t>(got.size()) == want.count();
}

void CheckCase(Backend& backend, const GoldenFile& file,
               const nlohmann::json& c) {
  const std::string prefix = c.at("prefix");
  INFO(prefix);
  const GoldenTensor& weight = file.tensors.at("input");
  const Result r = Encode(backend, weight, c);
  const int64_t group_size = c.at("group_size");
  const int64_t rows =
      c.at("axis") == 1 ? weight.count() / group_size : group_size;
  CHECK(Packed(r.codes, rows, c.at("nbits")) ==
        file.tensors.at(prefix + ".W_q").bytes);
  CHECK(Same(r.scales, file.tensors.at(prefix + ".scale")));
  CHECK(r.facts.iterations == c.at("iterations"));
  const GoldenTensor& zeros = file.tensors.at(prefix + ".zero");
  if (c.at("shrink_active")) {
    CHECK(NearlySame(r.zeros, zeros));
    return;
  }
  CHECK(SameValues(r.zeros, zeros));
  if (!c.at("optimize")) return;
  const GoldenTensor& errors = file.tensors.at(prefix + ".errors");
  CHECK(static_cast<float>(r.facts.error) ==
        errors.As<float>()[errors.count() - 1]);
}

template <class Check>
int ForGolden(const Check& check) {
  int cases = 0;
  std::vector<std::string> paths = GoldenPaths("golden/hqq");
  for (const std::string& path : GoldenPaths("golden/hqq_pack")) {
    paths.push_back(path);
  }
  for (const std::string& path : paths) {
    if (path.find("serialized") != std::string::npos) continue;
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    const std::string text = file.metadata.at("cases");
    for (const nlohmann::json& c : nlohmann::json::parse(text)) {
      const double bits = c.at("nbits");
      if (bits != 1 && bits != 2 && bits != 3 && bits != 4 && bits != 8) {
        continue;
      }
      check(file, c);
      ++cases;
    }
  }
  return cases;
}

TEST_CASE("the reference meets every golden case") {
  const auto backend = NewReferenceBackend();
  CHECK(ForGolden([&](const GoldenFile& file, const nlohmann::json& c) {
          CheckCase(*backend, file, c);
        }) >= 300);
}

TEST_CASE("every SIMD target meets every golden case") {
  const auto backend = NewCpuBackend(1);
  for (const std::string& target : SimdTargets()) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    ForGolden([&](const GoldenFile& file, const nlohmann::json& c) {
      CheckCase(*backend, file, c);
    });
    REQUIRE(ForceSimdTargetForTest("").ok());
  }
}

}  // namespace
}  // namespace qs
