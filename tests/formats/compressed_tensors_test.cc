// Packing, decoding and the configuration of compressed-tensors, against files
// of compressed-tensors 0.20 and llm-compressor 0.14.
#include "quant/formats/compressed_tensors.h"

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {
namespace {

const std::string kFolder = "golden/compressed_tensors";

std::string CaseName(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

nlohmann::json Params(const GoldenFile& file) {
  return nlohmann::json::parse(file.metadata.at("params").get<std::string>());
}

GridSpec SpecOf(const GoldenFile& file) {
  const nlohmann::json params = Params(file);
  return {.bits = params.at("bits"),
          .group_size = params.at("group_size"),
          .symmetric = params.at("sym")};
}

std::vector<uint8_t> Floats(size_t count, float value) {
  std::vector<uint8_t> bytes(count * 4);
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(bytes.data() + 4 * i, &value, 4);
  }
  return bytes;
}

std::vector<uint8_t> ShapeBytes(int64_t rows, int64_t cols) {
  std::vector<uint8_t> bytes(16);
  std::memcpy(bytes.data(), &rows, 8);
  std::memcpy(bytes.data() + 8, &cols, 8);
  return bytes;
}

void Set(const std::string& name, const GoldenTensor& tensor,
         StoredCopy* stored) {
  stored->Set(name, *ParseDType(tensor.dtype), tensor.shape, tensor.bytes);
}

DecodedWeight DecodeOrFail(const GridSpec& spec, const StoredCopy& stored) {
  absl::StatusOr<DecodedWeight> weight =
      DecodeCompressedTensors(spec, stored.items(), "a.weight");
  INFO(Text(weight.status()));
  REQUIRE(weight.ok());
  return *std::move(weight);
}

std::vector<uint8_t> BytesOf(const Buffer& buffer) {
  return {buffer.data(), buffer.data() + buffer.size()};
}

Buffer Copy(const std::vector<uint8_t>& bytes) {
  absl::StatusOr<Buffer> buffer =
      Buffer::Allocate(static_cast<int64_t>(bytes.size()));
  REQUIRE(buffer.ok());
  if (!bytes.empty()) std::memcpy(buffer->data(), bytes.data(), bytes.size());
  return *std::move(buffer);
}

// The weight of a quantizer's golden file as a checkpoint stores it.
void StoreCase(const GoldenFile& file, StoredCopy* stored) {
  for (const char* part :
       {"weight_packed", "weight_scale", "weight_zero_point", "weight_shape"}) {
    const auto tensor = file.tensors.find(part);
    if (tensor == file.tensors.end()) continue;
    Set("a." + std::string(part), tensor->second, stored);
  }
}

void CheckDecodes(const std::string& path) {
  const GoldenFile file = ReadGolden(path);
  StoredCopy stored;
  StoreCase(file, &stored);
  const DecodedWeight weight = DecodeOrFail(SpecOf(file), stored);
  const GoldenTensor& want = file.tensors.at("dequantized");
  CHECK(weight.shape == want.shape);
  CHECK(DTypeName(weight.dtype) == want.dtype);
  const bool same = BytesOf(weight.data) == want.bytes;
  CHECK(same);
}

// 5 x 6 weight of 3-bit codes, two groups a row, asymmetric.
constexpr GridSpec kSmall = {.bits = 3, .group_size = 3, .symmetric = false};
void StoreSmall(StoredCopy* stored) {
  stored->Set("a.weight_packed", DType::kI32, {5, 1}, std::vector<uint8_t>(20));
  stored->Set("a.weight_scale", DType::kBF16, {5, 2}, std::vector<uint8_t>(20));
  stored->Set("a.weight_zero_point", DType::kI32, {1, 2},
              std::vector<uint8_t>(8));
  stored->Set("a.weight_shape", DType::kI64, {2}, ShapeBytes(5, 6));
}

template <typename Change>
absl::Status After(Change change, const GridSpec& spec = kSmall) {
  StoredCopy stored;
  StoreSmall(&stored);
  change(stored);
  return DecodeCompressedTensors(spec, stored.items(), "a.weight").status();
}

void CheckInvalid(const absl::Status& status, const std::string& text) {
  INFO("wanted: " << text << "\ngot: " << Text(status));
  CHECK(IsInvalid(status, text));
}

}  // namespace

TEST_CASE("codes of 1 to 8 bits read as the library packed them",
          "[compressed_tensors]") {
  int files = 0;
  for (const std::string& path : GoldenPaths(kFolder)) {
    if (!CaseName(path).starts_with("pack_")) continue;
    INFO(path);
    ++files;
    const GoldenFile file = ReadGolden(path);
    const GoldenTensor& codes = file.tensors.at("codes");  // signed
    const int64_t rows = codes.shape[0], cols = codes.shape[1];
    const GridSpec spec{.bits = Params(file).at("bits"), .group_size = -1};
    StoredCopy stored;
    Set("a.weight_packed", file.tensors.at("packed_dim1"), &stored);
    stored.Set("a.weight_scale", DType::kF32, {rows, 1},
               Floats(static_cast<size_t>(rows), 1.0f));
    stored.Set("a.weight_shape", DType::kI64, {2}, ShapeBytes(rows, cols));
    const DecodedWeight weight = DecodeOrFail(spec, stored);
    const auto* signed_codes = codes.As<int8_t>();
    bool same = true;
    for (int64_t i = 0; i < rows * cols; ++i) {
      same = same && weight.data.As<float>()[i] == signed_codes[i];
    }
    CHECK(same);
  }
  CHECK(files == 16);
}

TEST_CASE("zero points read as the library packed them",
          "[compressed_tensors]") {
  for (const std::string& path : GoldenPaths(kFolder)) {
    if (!CaseName(path).starts_with("pack_")) continue;
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    const GoldenTensor& codes = file.tensors.at("codes");
    const int64_t rows = codes.shape[0], cols = codes.shape[1];
    // One group a column and every code 0: a value is minus its zero point.
    const GridSpec spec{
        .bits = Params(file).at("bits"), .group_size = 1, .symmetric = false};
    StoredCopy stored;
    const auto& words = file.tensors.at("packed_dim1");
    stored.Set("a.weight_packed", DType::kI32, words.shape,
               std::vector<uint8_t>(words.bytes.size()));
    stored.Set("a.weight_scale", DType::kF32, {rows, cols},
               Floats(static_cast<size_t>(rows * cols), 1.0f));
    Set("a.weight_zero_point", file.tensors.at("packed_dim0"), &stored);
    stored.Set("a.weight_shape", DType::kI64, {2}, ShapeBytes(rows, cols));
    const DecodedWeight weight = DecodeOrFail(spec, stored);
    const int lowest = -(1 << (spec.bits - 1));
    bool same = true;
    for (int64_t i = 0; i < rows * cols; ++i) {
      same =
          same && weight.data.As<float>()[i] == lowest - codes.As<int8_t>()[i];
    }
    CHECK(same);
  }
}

TEST_CASE("weights decode to the library's values", "[compressed_tensors]") {
  int files = 0;
  for (const std::string& path : GoldenPaths(kFolder)) {
    if (!CaseName(path).starts_with("rtn_")) continue;
    INFO(path);
    CheckDecodes(path);
    ++files;
  }
  CHECK(files == 50);
  for (const std::string& path : GoldenPaths("golden/formats")) {
    if (!CaseName(path).starts_with("gptq_")) continue;
    INFO(path);
    CheckDecodes(path);
    ++files;
  }
  CHECK(files == 52);
}

TEST_CASE("tensors of a weight are the library's", "[compressed_tensors]") {
  for (const std::string& path : GoldenPaths(kFolder)) {
    if (!CaseName(path).starts_with("rtn_")) continue;
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    const auto bytes = [&file](const std::string& part) {
      const auto tensor = file.tensors.find(part);
      return tensor == file.tensors.end() ? std::vector<uint8_t>()
                                          : tensor->second.bytes;
    };
    const GoldenTensor& weight = file.tensors.at("weight");
    AffinePieces pieces{Copy(bytes("weight_packed")),
                        Copy(bytes("weight_scale")),
                        Copy(bytes("weight_zero_point"))};
    const auto tensors =
        CompressedTensors(SpecOf(file), "a.weight", *ParseDType(weight.dtype),
                          weight.shape[0], weight.shape[1], std::move(pieces));
    REQUIRE(tensors.ok());
    size_t parts = 0;
    for (const OutputTensor& tensor : *tensors) {
      INFO(tensor.name);
      REQUIRE(tensor.name.starts_with("a."));
      const GoldenTensor& want = file.tensors.at(tensor.name.substr(2));
      CHECK(DTypeName(tensor.dtype) == want.dtype);
      CHECK(tensor.shape == want.shape);
      CHECK(BytesOf(tensor.data) == want.bytes);
      ++parts;
    }
    CHECK(parts == (SpecOf(file).symmetric ? 3 : 4));
  }
}

TEST_CASE("the scheme reads as the library wrote it", "[compressed_tensors]") {
  for (const std::string& path : GoldenPaths(kFolder)) {
    if (!CaseName(path).starts_with("rtn_")) continue;
    INFO(path);
    const GoldenFile file = ReadGolden(path);
    const nlohmann::json want = nlohmann::json::parse(
        file.metadata.at("quantization_args").get<std::string>());
    const nlohmann::json config = nlohmann::json::parse(
        CompressedTensorsConfigJson({{SpecOf(file)}}, {}));
    const nlohmann::json& got =
        config.at("config_groups").at("group_0").at("weights");
    for (const auto& [key, value] : want.items()) {
      INFO(key);
      CHECK(got.at(key) == value);
    }
    // The library leaves out what is null.
    CHECK(got.size() == want.size() + 1);
    CHECK(got.at("actorder").is_null());
  }
}

TEST_CASE("quantization_config names what is ignored", "[compressed_tensors]") {
  CHECK(CompressedTensorsConfigJson({{{.bits = 4, .group_size = 128}}},
                                    {"lm_head", "model.layers.0.mlp.gate"}) ==
        R"({"config_groups":{"group_0":{"input_activations":null,)"
        R"("output_activations":null,"targets":["Linear"],"weights":)"
        R"({"actorder":null,"dynamic":false,"group_size":128,"num_bits":4,)"
        R"("strategy":"group","symmetric":true,"type":"int"}}},)"
        R"("format":"pack-quantized","global_compression_ratio":null,)"
        R"("ignore":["lm_head","model.layers.0.mlp.gate"],)"
        R"("kv_cache_scheme":null,"quant_method":"compressed-tensors",)"
        R"("quantization_status":"compressed"})");
}

TEST_CASE("only a .weight can be stored", "[compressed_tensors]") {
  for (const std::string name : {"a", "weight", "a.bias", "a.weight.x"}) {
    const auto tensors =
        CompressedTensors(kSmall, name, DType::kF32, 5, 6, AffinePieces{});
    CheckInvalid(tensors.status(), "tensor \"" + name +
                                       "\": got this name, allowed: one that "
                                       "ends in .weight");
  }
}

TEST_CASE("a tensor that is missing or does not fit", "[compressed_tensors]") {
  CHECK(After([](StoredCopy&) {}).ok());
  for (const char* part : {"packed", "scale", "zero_point", "shape"}) {
    const std::string name = "a.weight_" + std::string(part);
    CheckInvalid(After([&](StoredCopy& s) { s.Erase(name); }),
                 "tensor \"" + name + "\": got nothing");
  }
  const auto set = [](const std::string& name, DType dtype,
                      std::vector<int64_t> shape, size_t bytes) {
    return After([&](StoredCopy& s) {
      s.Set("a.weight_" + name, dtype, shape, std::vector<uint8_t>(bytes));
    });
  };
  CheckInvalid(set("packed", DType::kI32, {5, 2}, 40),
               "weight_packed\": got I32 [5, 2], allowed: I32 [5, 1]");
  CheckInvalid(set("packed", DType::kU32, {5, 1}, 20), "got U32 [5, 1]");
  CheckInvalid(set("packed", DType::kI32, {5, 1}, 16),
               "got 16 bytes, allowed: I32 [5, 1]");
  CheckInvalid(set("scale", DType::kBF16, {5, 1}, 10),
               "weight_scale\": got BF16 [5, 1], allowed: BF16 [5, 2]");
  CheckInvalid(set("scale", DType::kF64, {5, 2}, 80),
               "weight_scale\": got F64, allowed: F32, F16, BF16");
  CheckInvalid(set("zero_point", DType::kI8, {5, 2}, 10),
               "weight_zero_point\": got I8 [5, 2], allowed: I32 [1, 2]");
  CheckInvalid(set("shape", DType::kI64, {3}, 24),
               "weight_shape\": got I64 [3], allowed: I64 [2]");
  GridSpec symmetric = kSmall;
  symmetric.symmetric = true;
  CheckInvalid(After([](StoredCopy&) {}, symmetric),
               "weight_zero_point\": got a tensor, allowed: none, the scheme "
               "is symmetric");
}

TEST_CASE("a weight_shape that no tensor has", "[compressed_tensors]") {
  struct {
    int64_t rows, cols;
  } const cases[] = {{-5, 6},
                     {5, -6},
                     {-5, -6},
                     {0, 6},
                     {5, 0},
                     {int64_t{1} << 32, int64_t{1} << 32},
                     {int64_t{1} << 62, 1},
                     {1, int64_t{1} << 62}};
  for (const auto& [rows, cols] : cases) {
    CheckInvalid(After([&, r = rows, c = cols](StoredCopy& s) {
                   s.Set("a.weight_shape", DType::kI64, {2}, ShapeBytes(r, c));
                 }),
                 "weight_shape\": got " + std::to_string(rows) + ", " +
                     std::to_string(cols) + ", allowed: [out, in]");
  }
  CheckInvalid(After([](StoredCopy& s) {
                 s.Set("a.weight_shape", DType::kI64, {2},
                       ShapeBytes(int64_t{1} << 58, 1));
               }),
               "weight_packed\": got I32 [5, 1]");
}

TEST_CASE("bits behind the last code are zero", "[compressed_tensors]") {
  CHECK(After([](StoredCopy& s) {
          s.Bytes("a.weight_packed")[14] = 0x03;  // bit 17 is the last
        }).ok());
  CheckInvalid(
      After([](StoredCopy& s) { s.Bytes("a.weight_packed")[14] = 0x04; }),
      "weight_packed\": got bits behind the codes of row 3");
  CHECK(After([](StoredCopy& s) {
          s.Bytes("a.weight_zero_point")[5] = 0x7f;  // bit 14 is the last
        }).ok());
  CheckInvalid(
      After([](StoredCopy& s) { s.Bytes("a.weight_zero_point")[5] = 0x80; }),
      "weight_zero_point\": got bits behind the zero points of group "
      "1");
}

TEST_CASE("a scheme out of range", "[compressed_tensors]") {
  const auto with = [](int bits, int64_t group_size) {
    return After([](StoredCopy&) {},
                 {.bits = bits, .group_size = group_size, .symmetric = false});
  };
  for (const int bits : {-1, 0, 9, 32}) {
    CheckInvalid(with(bits, 3),
                 "bits: got " + std::to_string(bits) + ", allowed: 1 to 8");
  }
  for (const int64_t size : {-2, 0}) {
    CheckInvalid(with(3, size), "group_size: got " + std::to_string(size) +
                                    ", allowed: -1, 1 or more");
  }
}

}  // namespace qs::testing
