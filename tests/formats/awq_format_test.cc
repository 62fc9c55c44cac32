// AWQ GEMM files against those of AutoAWQ 0.2.9: what the reader takes out,
// what the writer puts in, and what is refused.
#include "quant/formats/awq_format.h"

#include <cstdint>
#include <string>
#include <vector>

#include "tests/formats/format_files.h"
#include "tests/formats/grid_case.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

const std::string kName = "a.weight";

GridSpec GridOf(const GoldenFile& file) {
  return {.bits = Params(file).at("bits"),
          .group_size = Params(file).at("group_size"),
          .symmetric = false};
}

void Store(const GoldenFile& file, StoredCopy* stored) {
  for (const char* part : {"qweight", "qzeros", "scales"}) {
    const GoldenTensor& tensor = file.tensors.at(part);
    stored->Set("a." + std::string(part), *ParseDType(tensor.dtype),
                tensor.shape, tensor.bytes);
  }
}

// 16 x 6 weight, groups of 3.
constexpr GridSpec kSmall = {.bits = 4, .group_size = 3, .symmetric = false};
void StoreSmall(StoredCopy* stored) {
  stored->Set("a.qweight", DType::kI32, {6, 2}, std::vector<uint8_t>(48));
  stored->Set("a.qzeros", DType::kI32, {2, 2}, std::vector<uint8_t>(16));
  stored->Set("a.scales", DType::kF16, {2, 16}, std::vector<uint8_t>(64));
}

template <typename Change>
absl::Status After(Change change, const GridSpec& grid = kSmall) {
  StoredCopy stored;
  StoreSmall(&stored);
  change(stored);
  return DecodeAwq(grid, stored.items(), kName).status();
}

void CheckInvalid(const absl::Status& status, const std::string& text) {
  INFO("wanted: " << text << "\ngot: " << Text(status));
  CHECK(IsInvalid(status, text));
}

}  // namespace

TEST_CASE("weights read and decode as the library packed them",
          "[awq_format]") {
  int files = 0;
  for (const std::string& path : GoldenPaths("golden/awq_pack")) {
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    StoredCopy stored;
    Store(file, &stored);
    const auto weight = ReadAwq(GridOf(file), stored.items(), kName);
    INFO(Text(weight.status()));
    REQUIRE(weight.ok());
    CHECK(BytesOf(weight->codes) == file.tensors.at("codes").bytes);
    CHECK(BytesOf(weight->zero_points) ==
          AsUnsignedBytes(file.tensors.at("zeros")));
    CHECK(BytesOf(weight->scales) ==
          TransposedHalves(file.tensors.at("scales")));
    const auto decoded = DecodeAwq(GridOf(file), stored.items(), kName);
    REQUIRE(decoded.ok());
    CHECK(SameHalves(BytesOf(decoded->data),
                     file.tensors.at("dequantized").bytes));
    ++files;
  }
  CHECK(files == 3);
}

TEST_CASE("layers that the library quantized decode to its values",
          "[awq_format]") {
  for (const std::string& path : GoldenPathsIfAny("golden/awq")) {
    const GoldenFile file = ReadGolden(path);
    if (!file.tensors.contains("qweight") ||
        !file.tensors.contains("dequantized")) {
      continue;
    }
    if (!Params(file).value("zero_point", true)) continue;  // not packed
    INFO(path);
    StoredCopy stored;
    Store(file, &stored);
    const auto decoded = DecodeAwq(GridOf(file), stored.items(), kName);
    INFO(Text(decoded.status()));
    REQUIRE(decoded.ok());
    CHECK(SameHalves(BytesOf(decoded->data),
                     file.tensors.at("dequantized").bytes));
  }
}

TEST_CASE("the writer writes what the library writes", "[awq_format]") {
  for (const std::string& path : GoldenPaths("golden/awq_pack")) {
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    QuantSpec spec;
    spec.method = AwqSpec{.group_size = Params(file).at("group_size"),
                          .symmetric = false};
    spec.format = OutputFormat::kAwqGemm;
    const std::vector<OutputTensor> tensors = WriteGolden(spec, file, nullptr);
    REQUIRE(tensors.size() == 3);
    const char* const parts[] = {"qweight", "qzeros", "scales"};
    for (size_t i = 0; i < tensors.size(); ++i) {
      const GoldenTensor& want = file.tensors.at(parts[i]);
      INFO(tensors[i].name);
      CHECK(tensors[i].name == "a." + std::string(parts[i]));
      CHECK(DTypeName(tensors[i].dtype) == want.dtype);
      CHECK(tensors[i].shape == want.shape);
      CHECK(BytesOf(tensors[i].data) == want.bytes);
    }
  }
}

TEST_CASE("stored tensors that do not fit", "[awq_format]") {
  CHECK(After([](StoredCopy&) {}).ok());
  for (const char* part : {"qweight", "qzeros", "scales"}) {
    const std::string name = std::string("a.") + part;
    CheckInvalid(After([&](StoredCopy& s) { s.Erase(name); }),
                 name + "\": got nothing");
    CheckInvalid(After([&](StoredCopy& s) {
                   s.Set(name, DType::kU8, {3}, std::vector<uint8_t>(3));
                 }),
                 "got");
  }
  CheckInvalid(After([](StoredCopy& s) { s.Bytes("a.scales")[1] = 0x7e; }),
               "a.scales\": got nan at index 0");
  CheckInvalid(After([](StoredCopy&) {}, {.bits = 4, .group_size = 4}),
               "a.qweight\": got 6 columns, allowed: a multiple of "
               "group_size 4");
  CheckInvalid(After([](StoredCopy&) {}, {.bits = 3, .group_size = 3}),
               "bits: got 3, allowed: 4");
  CheckInvalid(After([](StoredCopy& s) {
                 s.Set("a.qweight", DType::kI32, {0, int64_t{1} << 62}, {});
               }),
               "a.qweight");
}

TEST_CASE("the configuration", "[awq_format]") {
  CHECK(AwqConfigJson({4, 128, true}, {"lm_head"}) ==
        R"({"bits":4,"group_size":128,"modules_to_not_convert":["lm_head"],)"
        R"("quant_method":"awq","version":"gemm","zero_point":true})");
}

}  // namespace qs::testing
