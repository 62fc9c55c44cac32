// The published vectors of packing alone: codes, zero points and scales
// through the writers, and what they wrote through the readers.
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/gptq_format.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/hqq_format.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

using Json = nlohmann::json;

constexpr char kName[] = "layer.weight";

std::vector<uint8_t> FromHex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(
        static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::vector<uint8_t> BytesOf(const Buffer& buffer) {
  return {buffer.data(), buffer.data() + buffer.size()};
}

Buffer Filled(const std::vector<uint8_t>& bytes) {
  absl::StatusOr<Buffer> buffer =
      Buffer::Allocate(static_cast<int64_t>(bytes.size()));
  REQUIRE(buffer.ok());
  std::copy(bytes.begin(), bytes.end(), buffer->data());
  return *std::move(buffer);
}

Json Vectors() {
  const Json file =
      Json::parse(ReadText(std::string(QS_SOURCE_DIR) +
                           "/proto/quant/v1/packed_format_vectors.json"));
  Json vectors = file.at("packing");
  REQUIRE(vectors.size() == 32);
  return vectors;
}

DType DTypeOf(const Json& vector) {
  return *ParseDType(vector.at("dtype").get<std::string>());
}

OutputFormat FormatOf(const Json& vector) {
  const std::string format = vector.at("format");
  if (format == "gptq") return OutputFormat::kGptq;
  if (format == "gptq_v2") return OutputFormat::kGptqV2;
  return format == "awq" ? OutputFormat::kAwqGemm : OutputFormat::kHqq;
}

QuantSpec SpecOf(const Json& vector) {
  QuantSpec spec;
  spec.format = FormatOf(vector);
  const int bits = vector.at("bits");
  const int64_t group_size = vector.at("group_size");
  if (spec.format == OutputFormat::kHqq) {
    spec.method = HqqSpec{
        .bits = bits, .group_size = group_size, .axis = vector.at("axis")};
  } else if (spec.format == OutputFormat::kAwqGemm) {
    spec.method = AwqSpec{.bits = bits,
                          .group_size = group_size,
                          .symmetric = vector.at("symmetric")};
  } else {
    spec.method = GptqSpec{.bits = bits,
                           .group_size = group_size,
                           .symmetric = vector.at("symmetric")};
  }
  return spec;
}

std::vector<OutputTensor> WriteGrid(const QuantSpec& spec, const Json& vector,
                                    Backend& backend) {
  const int64_t rows = vector.at("shape")[0], cols = vector.at("shape")[1];
  auto writer = GridWriter::Create(spec, {kName, DTypeOf(vector), rows, cols});
  INFO(writer.status());
  REQUIRE(writer.ok());
  if (vector.contains("g_idx")) {
    const auto g_idx = vector.at("g_idx").get<std::vector<int32_t>>();
    REQUIRE((*writer)->SetGroupIndex(g_idx).ok());
  }
  const auto codes = FromHex(vector.at("codes"));
  const auto scales = FromHex(vector.at("scales"));
  const auto zeros = FromHex(vector.at("zero_points"));
  GridRows all;
  all.rows = rows;
  all.codes = codes.data();
  all.scales = scales.data();
  if (!SpecGrid(spec).symmetric) all.zero_points = zeros.data();
  const absl::Status added = (*writer)->AddRows(all, backend);
  INFO(added);
  REQUIRE(added.ok());
  auto tensors = (*writer)->Finish();
  REQUIRE(tensors.ok());
  return *std::move(tensors);
}

std::vector<OutputTensor> WriteHqq(const QuantSpec& spec, const Json& vector,
                                   Backend& backend) {
  const HqqLayout layout =
      HqqLayoutOf(*spec.hqq(), kName, DTypeOf(vector), vector.at("shape")[0],
                  vector.at("shape")[1]);
  const auto codes = FromHex(vector.at("codes"));
  HqqPieces pieces{
      Filled(std::vector<uint8_t>(static_cast<size_t>(HqqPackedBytes(layout)))),
      Filled(FromHex(vector.at("scales"))),
      Filled(FromHex(vector.at("zeros")))};
  REQUIRE(
      PackHqqCodes(layout, codes.data(), backend, pieces.packed.data()).ok());
  auto tensors = HqqTensors(layout, std::move(pieces));
  INFO(tensors.status());
  REQUIRE(tensors.ok());
  return *std::move(tensors);
}

absl::StatusOr<DecodedWeight> Decode(const QuantSpec& spec,
                                     const StoredCopy& stored) {
  switch (spec.format) {
    case OutputFormat::kHqq:
      return DecodeHqq(stored.items(), kName);
    case OutputFormat::kAwqGemm:
      return DecodeAwq(SpecGrid(spec), stored.items(), kName);
    default:
      return DecodeGptq(SpecGrid(spec),
                        spec.format == OutputFormat::kGptq ? GptqVersion::kV1
                                                           : GptqVersion::kV2,
                        stored.items(), kName);
  }
}

}  // namespace

TEST_CASE("the writers write the published bytes", "[packing_vectors]") {
  for (const auto& new_backend : {NewReferenceBackend(), NewCpuBackend(1)}) {
    for (const Json& vector : Vectors()) {
      INFO(vector.at("name") << " on " << new_backend->name());
      const QuantSpec spec = SpecOf(vector);
      const std::vector<OutputTensor> tensors =
          spec.hqq() != nullptr ? WriteHqq(spec, vector, *new_backend)
                                : WriteGrid(spec, vector, *new_backend);
      REQUIRE(tensors.size() == vector.at("outputs").size());
      for (size_t i = 0; i < tensors.size(); ++i) {
        const Json& want = vector.at("outputs")[i];
        INFO(tensors[i].name);
        CHECK(tensors[i].name == want.at("name").get<std::string>());
        CHECK(DTypeName(tensors[i].dtype) ==
              want.at("dtype").get<std::string>());
        CHECK(tensors[i].shape == want.at("shape").get<std::vector<int64_t>>());
        CHECK(BytesOf(tensors[i].data) == FromHex(want.at("data")));
      }
    }
  }
}

TEST_CASE("the published bytes decode", "[packing_vectors]") {
  for (const Json& vector : Vectors()) {
    INFO(vector.at("name"));
    StoredCopy stored;
    for (const Json& output : vector.at("outputs")) {
      stored.Set(output.at("name"),
                 *ParseDType(output.at("dtype").get<std::string>()),
                 output.at("shape").get<std::vector<int64_t>>(),
                 FromHex(output.at("data")));
    }
    const auto weight = Decode(SpecOf(vector), stored);
    INFO(Text(weight.status()));
    REQUIRE(weight.ok());
    CHECK(weight->dtype == DTypeOf(vector));
    CHECK(weight->shape == vector.at("shape").get<std::vector<int64_t>>());
    CHECK(BytesOf(weight->data) == FromHex(vector.at("decoded")));
  }
}

}  // namespace qs::testing
