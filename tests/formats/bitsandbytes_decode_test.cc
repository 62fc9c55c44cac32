// The decoder against the library's decoded values, and what it refuses.
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "quant/formats/bitsandbytes.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

constexpr char kWeight[] = "model.layers.0.mlp.up_proj.weight";

DecodedWeight DecodeOrFail(const StoredCopy& stored, const std::string& name) {
  absl::StatusOr<DecodedWeight> weight =
      DecodeBitsandbytes(stored.items(), name);
  INFO(Text(weight.status()));
  REQUIRE(weight.ok());
  return *std::move(weight);
}

// Copies `prefix`.`part` of a golden file as tensor `name`.
void CopyPart(const GoldenFile& file, const std::string& part,
              const std::string& name, StoredCopy* stored) {
  const GoldenTensor& tensor = file.tensors.at(part);
  stored->Set(name, *ParseDType(tensor.dtype), tensor.shape, tensor.bytes);
}

// A case of a golden file of kernels as a file would store it.
void StoreCase(const GoldenFile& file, const nlohmann::json& golden_case,
               const GoldenFile& tables, StoredCopy* stored) {
  const std::string prefix = golden_case.at("prefix");
  const std::string type = golden_case.at("quant_type");
  const bool nested = golden_case.at("double_quant");
  const GoldenTensor& input = file.tensors.at("input");
  CopyPart(file, prefix + ".packed", "w", stored);
  CopyPart(file, prefix + ".absmax", "w.absmax", stored);
  CopyPart(tables, type + "_code", "w.quant_map", stored);
  float offset = 0;
  if (nested) {
    CopyPart(file, prefix + ".nested_absmax", "w.nested_absmax", stored);
    CopyPart(tables, "dynamic_map", "w.nested_quant_map", stored);
    offset = *file.tensors.at(prefix + ".nested_offset").As<float>();
  }
  const Nf4Spec spec{
      .codebook = type == "nf4" ? Codebook::kNf4 : Codebook::kFp4,
      .block_size = golden_case.at("blocksize"),
      .double_quant = nested};
  stored->SetText(
      "w.quant_state.bitsandbytes__" + type,
      QuantStateJson(spec, *ParseDType(input.dtype), input.shape, offset));
}

// An FP4 code 8 decodes to -0.0 in CUDA and to +0.0 on a CPU.
std::vector<uint8_t> WithoutNegativeZeros(std::vector<uint8_t> bytes,
                                          DType dtype) {
  const auto count = static_cast<int64_t>(bytes.size()) / DTypeBytes(dtype);
  for (int64_t i = 0; i < count; ++i) {
    if (LoadAsFloat(bytes.data(), dtype, i) == 0) {
      StoreFromFloat(bytes.data(), dtype, i, 0.0f);
    }
  }
  return bytes;
}

std::vector<uint8_t> BytesOf(const DecodedWeight& weight) {
  return {weight.data.data(), weight.data.data() + weight.data.size()};
}

// A weight of 129 elements in three blocks, plain or nested.
void StoreSmall(bool nested, StoredCopy* stored) {
  stored->Set("w", DType::kU8, {65, 1}, std::vector<uint8_t>(65, 0x77));
  stored->Set("w.absmax", nested ? DType::kU8 : DType::kF32, {3},
              std::vector<uint8_t>(nested ? 3 : 12));
  stored->Set("w.quant_map", DType::kF32, {16}, std::vector<uint8_t>(64));
  if (nested) {
    stored->Set("w.nested_absmax", DType::kF32, {1}, std::vector<uint8_t>(4));
    stored->Set("w.nested_quant_map", DType::kF32, {256},
                std::vector<uint8_t>(1024));
  }
  Nf4Spec spec;
  spec.double_quant = nested;
  stored->SetText("w.quant_state.bitsandbytes__nf4",
                  QuantStateJson(spec, DType::kBF16, {3, 43}, 0.5f));
}

// The status for a small weight after `change`.
template <typename Change>
absl::Status After(bool nested, Change change) {
  StoredCopy stored;
  StoreSmall(nested, &stored);
  change(stored);
  return DecodeBitsandbytes(stored.items(), "w").status();
}

absl::Status WithState(const std::string& json, bool nested = false) {
  return After(nested, [&](StoredCopy& stored) {
    stored.SetText("w.quant_state.bitsandbytes__nf4", json);
  });
}

// A quant_state with one text replaced by another.
absl::Status WithChange(const std::string& from, const std::string& to,
                        bool nested = false) {
  Nf4Spec spec;
  spec.double_quant = nested;
  std::string json = QuantStateJson(spec, DType::kBF16, {3, 43}, 0.5f);
  const size_t at = json.find(from);
  REQUIRE(at != json.npos);
  return WithState(json.replace(at, from.size(), to), nested);
}

void CheckInvalid(const absl::Status& status, const std::string& text) {
  INFO("wanted: " << text << "\ngot: " << Text(status));
  CHECK(IsInvalid(status, text));
}

}  // namespace

TEST_CASE("the library's files decode to the library's values",
          "[bitsandbytes]") {
  std::istringstream list(
      ReadText(DataPath("golden/formats/serialized_sha256.txt")));
  std::string line;
  int files = 0;
  while (std::getline(list, line)) {
    if (line.empty() || line[0] == '#') continue;
    const std::string name = line.substr(0, line.find(' '));
    INFO(name);
    const StoredCopy stored(OpenOrFail(DataPath("golden/formats/" + name)));
    const DecodedWeight weight = DecodeOrFail(stored, kWeight);
    CHECK(weight.shape == std::vector<int64_t>{96, 128});
    CHECK(Sha256Hex(weight.data.bytes()) == line.substr(name.size() + 1));
    ++files;
  }
  CHECK(files == 13);
}

TEST_CASE("every block size, partial blocks, blocks across rows",
          "[bitsandbytes]") {
  const GoldenFile tables =
      ReadGolden(DataPath("golden/nf4/tables.safetensors"));
  int cases = 0;
  for (const std::string& path : GoldenPaths("golden/nf4")) {
    const GoldenFile file = ReadGolden(path);
    // Infinite scales have no decoded value worth a promise.
    if (!file.tensors.contains("input") ||
        path.find("not_finite") != path.npos) {
      continue;
    }
    const DType dtype = *ParseDType(file.tensors.at("input").dtype);
    for (const nlohmann::json& golden_case :
         nlohmann::json::parse(file.metadata.at("cases").get<std::string>())) {
      const std::string prefix = golden_case.at("prefix");
      INFO(path << " " << prefix);
      StoredCopy stored;
      StoreCase(file, golden_case, tables, &stored);
      std::vector<uint8_t> got = BytesOf(DecodeOrFail(stored, "w"));
      const auto dequant = file.tensors.find(prefix + ".dequant");
      if (dequant != file.tensors.end()) {
        CHECK(WithoutNegativeZeros(got, dtype) ==
              WithoutNegativeZeros(dequant->second.bytes, dtype));
        ++cases;
      } else if (golden_case.at("quant_type") == "nf4") {
        CHECK(Sha256Hex(got) ==
              golden_case.at("dequant_sha256").get<std::string>());
        ++cases;
      }
    }
  }
  CHECK(cases > 500);
}

TEST_CASE("a missing or surplus tensor is named", "[bitsandbytes]") {
  CHECK(After(false, [](StoredCopy&) {}).ok());
  CHECK(After(true, [](StoredCopy&) {}).ok());
  for (const char* name :
       {"w", "w.absmax", "w.quant_map", "w.nested_quant_map"}) {
    CheckInvalid(After(true, [&](StoredCopy& s) { s.Erase(name); }),
                 "tensor \"" + std::string(name) +
                     "\": got nothing, allowed: a tensor of that name");
  }
  const std::string names =
      "\": got this name, allowed: absmax, quant_map, nested_absmax, "
      "nested_quant_map and one quant_state";
  CheckInvalid(After(false,
                     [](StoredCopy& s) {
                       s.SetText("w.quant_state.bitsandbytes__fp4", "{}");
                     }),
               "tensor \"w.quant_state.bitsandbytes__nf4" + names);
  CheckInvalid(After(false, [](StoredCopy& s) { s.SetText("w.zeros", "x"); }),
               "tensor \"w.zeros" + names);
  CheckInvalid(
      After(false,
            [](StoredCopy& s) { s.Erase("w.quant_state.bitsandbytes__nf4"); }),
      "tensor \"w.quant_state.bitsandbytes__nf4\": got nothing, "
      "allowed: one quant_state");
  CheckInvalid(After(false,
                     [](StoredCopy& s) {
                       s.Erase("w.quant_state.bitsandbytes__nf4");
                       s.SetText("w.quant_state.bitsandbytes__int8", "{}");
                     }),
               "bitsandbytes__int8\": got \"int8\", allowed: nf4 or fp4");
  // Without nested_absmax the U8 absmax is not what it must be.
  CheckInvalid(After(true, [](StoredCopy& s) { s.Erase("w.nested_absmax"); }),
               "tensor \"w.absmax\": got U8 [3], allowed: F32 [3]");
}

TEST_CASE("a tensor that does not fit is named", "[bitsandbytes]") {
  const auto set = [](const char* name, DType dtype, std::vector<int64_t> shape,
                      size_t bytes) {
    return After(true, [&](StoredCopy& s) {
      s.Set(name, dtype, shape, std::vector<uint8_t>(bytes));
    });
  };
  CheckInvalid(set("w", DType::kU8, {64, 1}, 64),
               "tensor \"w\": got 64 bytes, allowed: 65, by its quant_state");
  CheckInvalid(set("w", DType::kU8, {66, 1}, 66), "\"w\": got 66 bytes");
  CheckInvalid(set("w", DType::kU8, {65, 1}, 64), "allowed: U8 [65, 1]");
  CheckInvalid(set("w.absmax", DType::kF32, {3}, 12),
               "\"w.absmax\": got F32 [3], allowed: U8 [3]");
  CheckInvalid(set("w.absmax", DType::kU8, {4}, 4),
               "\"w.absmax\": got U8 [4], allowed: U8 [3]");
  CheckInvalid(set("w.quant_map", DType::kF32, {15}, 60),
               "got F32 [15], allowed: F32 [16]");
  CheckInvalid(set("w.nested_absmax", DType::kF32, {2}, 8),
               "got F32 [2], allowed: F32 [1]");
  CheckInvalid(set("w.nested_quant_map", DType::kF16, {256}, 512),
               "got F16 [256], allowed: F32 [256]");
  CheckInvalid(set("w.quant_state.bitsandbytes__nf4", DType::kI8, {2}, 2),
               "got I8, allowed: U8");
}

TEST_CASE("the nibble behind the last element is a zero", "[bitsandbytes]") {
  const auto with_last = [](uint8_t last) {
    return After(false, [last](StoredCopy& s) {
      // Levels 0..15, so that only code 0 decodes to 0.
      std::vector<uint8_t>& map = s.Bytes("w.quant_map");
      for (int i = 0; i < 16; ++i) {
        const auto level = static_cast<float>(i);
        std::memcpy(map.data() + 4 * i, &level, 4);
      }
      s.Bytes("w")[64] = last;
    });
  };
  CHECK(with_last(0x70).ok());
  CheckInvalid(with_last(0x75),
               "\"w\": got code 5 behind the last element, allowed: a code of "
               "zero");
}

TEST_CASE("a quant_state that is none is refused", "[bitsandbytes]") {
  CheckInvalid(WithState(""), "quant_state.bitsandbytes__nf4: byte");
  CheckInvalid(WithState("[]"), "allowed: an object");
  CheckInvalid(WithState("{}"), "got quant_type missing, allowed: nf4");
  CheckInvalid(WithState(std::string(65537, ' ')), "allowed: at most 65536");
  CheckInvalid(WithState("{\"shape\": [[[1]]]}"), "more depth than allowed");
  CheckInvalid(WithChange("nf4", "fp4"),
               "got quant_type \"fp4\", allowed: nf4");
  CheckInvalid(WithChange("\"nf4\"", "4"), "got quant_type 4, allowed: nf4");
  for (const std::string bad : {"0", "-64", "64.0", "\"64\"", "null", "[64]",
                                "2147483648", "18446744073709551616"}) {
    CheckInvalid(WithChange("\"blocksize\": 64", "\"blocksize\": " + bad),
                 "got blocksize ");
  }
  CheckInvalid(WithChange("\"blocksize\"", "\"block_size\""),
               "got blocksize missing, allowed: 1 to 2147483647");
  CheckInvalid(WithChange("bfloat16", "float64"),
               "got dtype \"float64\", allowed: float32, float16 or bfloat16");
  const std::string shape = "got a shape that is none";
  for (const std::string bad :
       {"7", "null", "{}", "[-3, 43]", "[3, 43.0]", "[\"3\", 43]",
        "[2147483648]", "[2147483647, 2147483647, 2147483647]",
        // The product fits 63 bits, its bytes do not.
        "[2147483647, 2147483647]"}) {
    CheckInvalid(WithChange("[3, 43]", bad), shape);
  }
  CheckInvalid(WithChange("\"shape\"", "\"size\""), shape);
  // A shape of more elements than there are bytes.
  CheckInvalid(WithChange("[3, 43]", "[2147483647, 1]"),
               "tensor \"w\": got 65 bytes, allowed: 1073741824");
}

TEST_CASE("a nested state says how absmax is coded", "[bitsandbytes]") {
  CheckInvalid(
      WithChange("\"nested_blocksize\": 256", "\"nested_blocksize\": 0", true),
      "got nested_blocksize 0, allowed: 1 to 2147483647");
  CheckInvalid(WithChange("float32", "float16", true),
               "got nested_dtype \"float16\", allowed: float32");
  for (const std::string bad : {"null", "\"0.5\"", "1e39", "-1e39", "1e300"}) {
    CheckInvalid(WithChange("0.5", bad, true), "no finite nested_offset");
  }
  CHECK(WithChange("0.5", "-3", true).ok());
}

}  // namespace qs::testing
