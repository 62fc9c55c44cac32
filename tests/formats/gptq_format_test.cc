// GPTQ files against those of GPTQModel 7.7.0: what the reader takes out, what
// the writer puts in, and what is refused.
#include "quant/formats/gptq_format.h"

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/formats/format_limit.h"
#include "tests/formats/format_files.h"
#include "tests/formats/grid_case.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

const std::string kName = "a.weight";

GridSpec GridOf(const nlohmann::json& params, const GoldenFile& file) {
  // A pack case has no scheme: its zero points are random.
  GridSpec grid{.bits = params.at("bits"),
                .group_size = params.at("group_size"),
                .symmetric = params.value("sym", false)};
  // GPTQModel says -1 or the number of columns for the whole row.
  if (grid.group_size >= file.tensors.at("codes").shape[1]) {
    grid.group_size = -1;
  }
  return grid;
}

bool HasZeroOfZero(const GoldenTensor& zeros) {
  for (int64_t i = 0; i < zeros.count(); ++i) {
    if (zeros.As<int32_t>()[i] == 0) return true;
  }
  return false;
}

void Set(const std::string& name, const GoldenTensor& tensor,
         StoredCopy* stored) {
  stored->Set(name, *ParseDType(tensor.dtype), tensor.shape, tensor.bytes);
}

void Store(const GoldenFile& file, GptqVersion version, StoredCopy* stored) {
  const bool v1 = version == GptqVersion::kV1;
  Set("a.qweight", file.tensors.at("qweight"), stored);
  Set("a.qzeros", file.tensors.at(v1 ? "qzeros_v1" : "qzeros_v2"), stored);
  Set("a.scales", file.tensors.at("scales"), stored);
  Set("a.g_idx", file.tensors.at("g_idx"), stored);
}

// The versions that a file holds without a borrow.
std::vector<GptqVersion> VersionsOf(const GoldenFile& file) {
  if (HasZeroOfZero(file.tensors.at("zeros"))) return {GptqVersion::kV2};
  return {GptqVersion::kV1, GptqVersion::kV2};
}

// Calls `check(file, grid, version)` for every golden file in every version.
template <typename Check>
int ForGolden(const Check& check) {
  int runs = 0;
  for (const char* folder : {"golden/gptq_pack", "golden/gptq"}) {
    for (const std::string& path : GoldenPathsIfAny(folder)) {
      const GoldenFile file = ReadGolden(path);
      if (!file.tensors.contains("qweight")) continue;  // an input
      INFO(path);
      const GridSpec grid = GridOf(Params(file), file);
      for (const GptqVersion version : VersionsOf(file)) {
        check(file, grid, version);
        ++runs;
      }
    }
  }
  return runs;
}

// 32 x 64 weight of 3-bit codes, groups of 32.
constexpr GridSpec kSmall = {.bits = 3, .group_size = 32, .symmetric = false};
void StoreSmall(StoredCopy* stored) {
  stored->Set("a.qweight", DType::kI32, {6, 32}, std::vector<uint8_t>(768));
  stored->Set("a.qzeros", DType::kI32, {2, 3}, std::vector<uint8_t>(24));
  stored->Set("a.scales", DType::kF16, {2, 32}, std::vector<uint8_t>(128));
  stored->Set("a.g_idx", DType::kI32, {64}, std::vector<uint8_t>(256));
}

template <typename Change>
absl::Status After(Change change, const GridSpec& grid = kSmall,
                   GptqVersion version = GptqVersion::kV1) {
  StoredCopy stored;
  StoreSmall(&stored);
  change(stored);
  return DecodeGptq(grid, version, stored.items(), kName).status();
}

void CheckInvalid(const absl::Status& status, const std::string& text) {
  INFO("wanted: " << text << "\ngot: " << Text(status));
  CHECK(IsInvalid(status, text));
}

}  // namespace

TEST_CASE("codes, zero points and scales read as the library packed them",
          "[gptq_format]") {
  const int runs = ForGolden(
      [](const GoldenFile& file, const GridSpec& grid, GptqVersion version) {
        StoredCopy stored;
        Store(file, version, &stored);
        const auto weight = ReadGptq(grid, version, stored.items(), kName);
        INFO(Text(weight.status()));
        REQUIRE(weight.ok());
        CHECK(BytesOf(weight->codes) == file.tensors.at("codes").bytes);
        const GoldenTensor& zeros = file.tensors.at("zeros");
        CHECK(BytesOf(weight->zero_points) == AsUnsignedBytes(zeros));
        CHECK(BytesOf(weight->scales) ==
              TransposedHalves(file.tensors.at("scales")));
      });
  CHECK(runs >= 24);
}

TEST_CASE("weights decode to the library's values", "[gptq_format]") {
  int compared = 0;
  ForGolden([&compared](const GoldenFile& file, const GridSpec& grid,
                        GptqVersion version) {
    StoredCopy stored;
    Store(file, version, &stored);
    const auto weight = DecodeGptq(grid, version, stored.items(), kName);
    REQUIRE(weight.ok());
    const auto want = file.tensors.find("dequantized");
    if (want == file.tensors.end()) return;
    ++compared;
    CHECK(weight->shape == want->second.shape);
    CHECK(SameHalves(BytesOf(weight->data), want->second.bytes));
  });
  CHECK(compared >= 24);
}

TEST_CASE("the writer writes what the library writes", "[gptq_format]") {
  ForGolden(
      [](const GoldenFile& file, const GridSpec& grid, GptqVersion version) {
        const bool v1 = version == GptqVersion::kV1;
        QuantSpec spec;
        spec.method = GptqSpec{.bits = grid.bits,
                               .group_size = grid.group_size,
                               .symmetric = grid.symmetric};
        spec.format = v1 ? OutputFormat::kGptq : OutputFormat::kGptqV2;
        const std::vector<OutputTensor> tensors =
            WriteGolden(spec, file, &file.tensors.at("g_idx"));
        REQUIRE(tensors.size() == 4);
        const char* const parts[] = {"qweight", v1 ? "qzeros_v1" : "qzeros_v2",
                                     "scales", "g_idx"};
        for (size_t i = 0; i < tensors.size(); ++i) {
          const GoldenTensor& want = file.tensors.at(parts[i]);
          INFO(tensors[i].name);
          CHECK(tensors[i].name ==
                "a." + std::string(i == 1 ? "qzeros" : parts[i]));
          CHECK(DTypeName(tensors[i].dtype) == want.dtype);
          CHECK(tensors[i].shape == want.shape);
          CHECK(BytesOf(tensors[i].data) == want.bytes);
        }
      });
}

TEST_CASE("a zero point of 0 in v1", "[gptq_format]") {
  int refused = 0;
  for (const std::string& path : GoldenPathsIfAny("golden/gptq_pack")) {
    const GoldenFile file = ReadGolden(path);
    if (!HasZeroOfZero(file.tensors.at("zeros"))) continue;
    INFO(path);
    QuantSpec spec;
    spec.method = GptqSpec{.bits = Params(file).at("bits"),
                           .group_size = Params(file).at("group_size"),
                           .symmetric = false};
    spec.format = OutputFormat::kGptq;
    const absl::Status status = AddGolden(spec, file);
    CheckInvalid(status, "GPTQ v1; the format GPTQ_V2 holds it");
    CHECK(IsFormatLimit(status));
    ++refused;
  }
  CHECK(refused >= 2);
}

TEST_CASE("stored tensors that do not fit", "[gptq_format]") {
  CHECK(After([](StoredCopy&) {}).ok());
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    const std::string name = std::string("a.") + part;
    CheckInvalid(After([&](StoredCopy& s) { s.Erase(name); }),
                 name + "\": got nothing");
    CheckInvalid(After([&](StoredCopy& s) {
                   s.Set(name, DType::kU8, {3}, std::vector<uint8_t>(3));
                 }),
                 "got");
  }
  CheckInvalid(After([](StoredCopy& s) { s.Bytes("a.g_idx")[0] = 2; }),
               "a.g_idx\": got 2 for column 0, allowed: 0 to 1");
  CheckInvalid(After([](StoredCopy& s) { s.Bytes("a.g_idx")[7] = 0x80; }),
               "for column 1, allowed: 0 to 1");
  CheckInvalid(After([](StoredCopy& s) { s.Bytes("a.scales")[1] = 0x7c; }),
               "a.scales\": got inf at index 0");
  CheckInvalid(After([](StoredCopy& s) { s.Bytes("a.scales")[3] = 0xbc; }),
               "a.scales\": got -1 at index 1");
  // Field 10 straddles two words.
  const auto last_field = [](StoredCopy& s) {
    s.Bytes("a.qzeros")[3] = 0xc0;
    s.Bytes("a.qzeros")[4] = 0x01;
  };
  CheckInvalid(After(last_field), "a.qzeros\": got 7 in group 0, row 10");
  CHECK(After(last_field, kSmall, GptqVersion::kV2).ok());
  CheckInvalid(DecodeGptq(kSmall, GptqVersion::kV2, {}, "a.bias").status(),
               "one that ends in .weight");
}

TEST_CASE("sizes that hide an overflow", "[gptq_format]") {
  CheckInvalid(After([](StoredCopy& s) {
                 s.Set("a.qweight", DType::kI32, {0, int64_t{1} << 60}, {});
                 s.Set("a.g_idx", DType::kI32, {0}, {});
               }),
               "a.qweight");
}

TEST_CASE("a grid that the format does not know", "[gptq_format]") {
  for (const int bits : {-1, 0, 1, 5, 6, 7, 9}) {
    CheckInvalid(After([](StoredCopy&) {}, {.bits = bits, .group_size = 32}),
                 "bits: got " + std::to_string(bits));
  }
  CheckInvalid(After([](StoredCopy&) {}, {.bits = 3, .group_size = 0}),
               "group_size: got 0");
}

TEST_CASE("the configuration", "[gptq_format]") {
  CHECK(GptqConfigJson({4, 128, true}, GptqVersion::kV1,
                       GptqConfigOf(GptqSpec{})) ==
        R"({"bits":4,"checkpoint_format":"gptq","damp_percent":0.01,)"
        R"("desc_act":false,"group_size":128,"lm_head":false,)"
        R"("pack_dtype":"int32","quant_method":"gptq","static_groups":true,)"
        R"("sym":true,"true_sequential":false})");
  GptqConfig config = GptqConfigOf({.order = ColumnOrder::kActOrder});
  config.skip_modules = {"a.b-1"};
  config.skip_expressions = {"(.*\\.)?v$"};
  config.quantized_modules = {"a.c"};
  CHECK(
      GptqConfigJson({2, -1, false}, GptqVersion::kV2, config) ==
      R"({"bits":2,"checkpoint_format":"gptq_v2","damp_percent":0.01,)"
      R"("desc_act":true,"dynamic":{"-:^a\\.b-1$":{},"-:(.*\\.)?v$":{}},)"
      R"("group_size":-1,"lm_head":false,"modules_in_block_to_quantize":[["a.c"]],)"
      R"("pack_dtype":"int32","quant_method":"gptq","static_groups":false,)"
      R"("sym":false,"true_sequential":false})");
}

}  // namespace qs::testing
