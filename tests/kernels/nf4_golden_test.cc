// The reference and the CPU implementation against files made by bitsandbytes
// 0.50.2 (rule cpu) and by an emulation of its CUDA kernels (rule cuda).
#include <openssl/sha.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/nf4_tables.h"
#include "kernels/nf4_verify_ops.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs {
namespace {

struct Encoded {
  std::vector<uint8_t> packed;
  std::vector<float> absmax;
  int64_t first_non_finite = -1;
};

Encoded Encode(Backend& backend, const GoldenTensor& input, int64_t block_size,
               Codebook codebook, Nf4Rule rule) {
  Nf4EncodeArgs args;
  args.weight = {input.bytes.data(), *ParseDType(input.dtype), 1,
                 input.count()};
  args.block_size = block_size;
  args.codebook = codebook;
  args.rule = rule;
  Encoded out;
  out.packed.resize(static_cast<size_t>((input.count() + 1) / 2));
  out.absmax.resize(static_cast<size_t>(CeilDiv(input.count(), block_size)));
  args.packed = out.packed.data();
  args.absmax = out.absmax.data();
  args.first_non_finite = &out.first_non_finite;
  REQUIRE(backend.nf4().Encode(args, backend.stream()).ok());
  return out;
}

template <class T>
bool SameBytes(const std::vector<T>& got, const GoldenTensor& want) {
  return got.size() * sizeof(T) == want.bytes.size() &&
         std::memcmp(got.data(), want.bytes.data(), want.bytes.size()) == 0;
}

std::string Sha256Hex(const std::vector<uint8_t>& bytes) {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(bytes.data(), bytes.size(), digest);
  std::string hex;
  for (uint8_t b : digest) {
    char text[3];
    std::snprintf(text, sizeof(text), "%02x", b);
    hex += text;
  }
  return hex;
}

// Checks the nested tensors and leaves the decoded absmax in `absmax`.
void CheckNested(Backend& backend, const GoldenFile& file,
                 const std::string& prefix, Nf4Rule rule,
                 std::vector<float>& absmax) {
  const auto blocks = static_cast<int64_t>(absmax.size());
  std::vector<uint8_t> codes(absmax.size());
  std::vector<float> nested(
      static_cast<size_t>(CeilDiv(blocks, kNestedBlockSize)));
  std::vector<float> offset(1);
  NestedEncodeArgs args{absmax.data(), blocks,        rule,
                        codes.data(),  nested.data(), offset.data()};
  REQUIRE(backend.nf4().NestedEncode(args, backend.stream()).ok());
  CHECK(SameBytes(offset, file.tensors.at(prefix + ".nested_offset")));
  CHECK(SameBytes(nested, file.tensors.at(prefix + ".nested_absmax")));
  CHECK(SameBytes(codes, file.tensors.at(prefix + ".absmax")));
  NestedDecodeArgs decode{codes.data(), nested.data(), offset.data(), blocks,
                          absmax.data()};
  REQUIRE(backend.nf4().NestedDecode(decode, backend.stream()).ok());
}

void CheckCase(Backend& backend, const GoldenFile& file,
               const nlohmann::json& golden) {
  const std::string prefix = golden.at("prefix");
  INFO(prefix);
  const GoldenTensor& input = file.tensors.at("input");
  const Codebook codebook =
      golden.at("quant_type") == "nf4" ? Codebook::kNf4 : Codebook::kFp4;
  const Nf4Rule rule =
      golden.at("rule") == "ref-cpu" ? Nf4Rule::kCpu : Nf4Rule::kCuda;
  const int64_t block_size = golden.at("blocksize");
  Encoded got = Encode(backend, input, block_size, codebook, rule);
  CHECK(got.first_non_finite == -1);
  CHECK(SameBytes(got.packed, file.tensors.at(prefix + ".packed")));
  CHECK(FindWrongNf4Code(
            {{input.bytes.data(), *ParseDType(input.dtype), 1, input.count()},
             block_size,
             codebook,
             got.packed.data(),
             got.absmax.data(),
             rule}) == -1);
  if (golden.at("double_quant")) {
    CHECK(SameBytes(got.absmax, file.tensors.at(prefix + ".absmax_plain")));
    CheckNested(backend, file, prefix, rule, got.absmax);
  } else {
    CHECK(SameBytes(got.absmax, file.tensors.at(prefix + ".absmax")));
  }
  // The emulated CUDA decoding flushes subnormals, ours is plain IEEE; FP4's
  // zeros differ in sign between the library's own paths.
  if (rule != Nf4Rule::kCpu || codebook != Codebook::kNf4) return;
  std::vector<uint8_t> decoded(input.bytes.size());
  Nf4DecodeArgs decode;
  decode.packed = got.packed.data();
  decode.absmax = got.absmax.data();
  decode.block_size = block_size;
  decode.weight = {decoded.data(), *ParseDType(input.dtype), 1, input.count()};
  REQUIRE(backend.nf4().Decode(decode, backend.stream()).ok());
  CHECK(Sha256Hex(decoded) == golden.at("dequant_sha256"));
}

TEST_CASE("every golden case of bitsandbytes is met byte for byte") {
  int cases = 0;
  for (const std::string& path : GoldenPaths("golden/nf4")) {
    if (path.find("tables") != std::string::npos ||
        path.find("not_finite") != std::string::npos) {
      continue;
    }
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    const std::string text = file.metadata.at("cases");
    for (const auto& backend : AllBackends()) {
      INFO(backend->name());
      for (const auto& golden : nlohmann::json::parse(text)) {
        CheckCase(*backend, file, golden);
        ++cases;
      }
    }
  }
  CHECK(cases > 500);
}

TEST_CASE("NaN and infinity are found at the lowest index") {
  const GoldenFile file = ReadGolden(std::string(QS_TEST_DATA) +
                                     "/golden/nf4/not_finite_4x64_f32"
                                     ".safetensors");
  const GoldenTensor& input = file.tensors.at("input");
  int64_t want = 0;
  while (std::isfinite(input.As<float>()[want])) ++want;
  for (const auto& backend : AllBackends()) {
    const Encoded got =
        Encode(*backend, input, 64, Codebook::kNf4, Nf4Rule::kCuda);
    CHECK(got.first_non_finite == want);
  }
}

TEST_CASE("the tables are the library's") {
  const GoldenFile file =
      ReadGolden(std::string(QS_TEST_DATA) + "/golden/nf4/tables.safetensors");
  std::vector<uint8_t> map(1024);
  std::memcpy(map.data(), NestedLevels(), map.size());
  CHECK(Sha256Hex(map) ==
        "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
  const RankTable table = MakeRankTable(Codebook::kNf4, Nf4Rule::kCuda);
  CHECK(std::memcmp(table.bounds,
                    file.tensors.at("cuda_nf4_bounds").bytes.data(),
                    sizeof(table.bounds)) == 0);
}

// Hand-worked vectors: what a reader of packed_formats.md can check.
TEST_CASE("published vectors") {
  std::vector<float> w(64);
  for (int i = 0; i < 64; ++i) {
    w[static_cast<size_t>(i)] = static_cast<float>(i - 32) / 32;
  }
  GoldenTensor input{"F32", {64}, std::vector<uint8_t>(256)};
  std::memcpy(input.bytes.data(), w.data(), 256);
  for (const auto& backend : AllBackends()) {
    const Encoded got =
        Encode(*backend, input, 64, Codebook::kNf4, Nf4Rule::kCuda);
    std::string hex;
    for (uint8_t b : got.packed) {
      char text[3];
      std::snprintf(text, sizeof(text), "%02x", b);
      hex += text;
    }
    CHECK(hex ==
          "000001111111122222333344455566677788999aaabbbccccddddeeeeeeeffff");
    CHECK(got.absmax == std::vector<float>{1.0f});
    for (auto& byte : input.bytes) byte = 0;
    CHECK(
        Encode(*backend, input, 64, Codebook::kNf4, Nf4Rule::kCuda).packed[0] ==
        0x00);
    CHECK(
        Encode(*backend, input, 64, Codebook::kNf4, Nf4Rule::kCpu).packed[31] ==
        0x77);
    std::memcpy(input.bytes.data(), w.data(), 256);
  }
}

}  // namespace
}  // namespace qs
