// The published vectors of proto/quant/v1 through the quantizers, on every
// backend, and through the decoders.
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/tensor_quantizer.h"
#include "tests/formats/format_files.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

using Json = nlohmann::json;

std::vector<uint8_t> FromHex(const std::string& hex) {
  std::vector<uint8_t> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(
        static_cast<uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

struct Vector {
  std::string name;
  QuantSpec spec;
  TensorInfo info;
  std::vector<uint8_t> input;
  Json outputs;
  std::vector<uint8_t> decoded;
};

QuantSpec SpecOf(const Json& json) {
  QuantSpec spec;
  spec.profile = Profile::kReference;
  if (json.at("method") == "rtn") {
    spec.method = RtnSpec{.bits = json.at("bits"),
                          .group_size = json.at("group_size"),
                          .symmetric = json.at("symmetric")};
    spec.format = OutputFormat::kCompressedTensors;
    return spec;
  }
  spec.method = Nf4Spec{
      .codebook = json.at("method") == "nf4" ? Codebook::kNf4 : Codebook::kFp4,
      .block_size = json.at("block_size"),
      .double_quant = json.at("double_quant"),
      .rule = json.at("rule") == "cuda" ? Nf4Rule::kCuda : Nf4Rule::kCpu};
  return spec;
}

std::vector<Vector> Vectors() {
  const Json file =
      Json::parse(ReadText(std::string(QS_SOURCE_DIR) +
                           "/proto/quant/v1/packed_format_vectors.json"));
  REQUIRE(file.at("version") == 1);
  std::vector<Vector> vectors;
  for (const Json& json : file.at("vectors")) {
    const Json& input = json.at("input");
    vectors.push_back(
        {.name = json.at("name"),
         .spec = SpecOf(json.at("spec")),
         .info = {.name = input.at("name"),
                  .dtype = *ParseDType(input.at("dtype").get<std::string>()),
                  .shape = input.at("shape").get<std::vector<int64_t>>()},
         .input = FromHex(input.at("data")),
         .outputs = json.at("outputs"),
         .decoded = FromHex(json.at("decoded"))});
  }
  REQUIRE(vectors.size() == 44);
  return vectors;
}

std::vector<std::unique_ptr<Backend>> Backends() {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(NewReferenceBackend());
  backends.push_back(NewCpuBackend(1));
  return backends;
}

std::vector<uint8_t> Decoded(
    const Vector& vector, const std::map<std::string, SafetensorsItem>& items) {
  const absl::StatusOr<DecodedWeight> weight =
      vector.spec.nf4() != nullptr
          ? DecodeBitsandbytes(items, vector.info.name)
          : DecodeCompressedTensors(SpecGrid(vector.spec), items,
                                    vector.info.name);
  INFO(Text(weight.status()));
  REQUIRE(weight.ok());
  const MatrixShape matrix = AsMatrix(vector.info.shape);
  CHECK(weight->shape ==
        (vector.spec.nf4() != nullptr
             ? vector.info.shape
             : std::vector<int64_t>{matrix.rows, matrix.cols}));
  CHECK(weight->dtype == vector.info.dtype);
  return {weight->data.data(), weight->data.data() + weight->data.size()};
}

}  // namespace

TEST_CASE("REFERENCE writes the published bytes", "[vectors]") {
  for (const Vector& vector : Vectors()) {
    for (const std::unique_ptr<Backend>& backend : Backends()) {
      INFO(vector.name << " on " << backend->name());
      const QuantizedTensor result =
          Quantize(vector.spec, vector.info, vector.input, *backend);
      REQUIRE(result.tensors.size() == vector.outputs.size());
      for (size_t i = 0; i < result.tensors.size(); ++i) {
        const OutputTensor& got = result.tensors[i];
        const Json& want = vector.outputs[i];
        INFO(got.name);
        CHECK(got.name == want.at("name").get<std::string>());
        CHECK(DTypeName(got.dtype) == want.at("dtype").get<std::string>());
        CHECK(got.shape == want.at("shape").get<std::vector<int64_t>>());
        CHECK(Bytes(got) == FromHex(want.at("data")));
      }
    }
  }
}

TEST_CASE("the published bytes decode to the published values", "[vectors]") {
  for (const Vector& vector : Vectors()) {
    INFO(vector.name);
    StoredCopy stored;
    for (const Json& output : vector.outputs) {
      stored.Set(output.at("name"),
                 *ParseDType(output.at("dtype").get<std::string>()),
                 output.at("shape").get<std::vector<int64_t>>(),
                 FromHex(output.at("data")));
    }
    CHECK(Decoded(vector, stored.items()) == vector.decoded);
  }
}

TEST_CASE("BEST keeps the layout and is not worse", "[vectors]") {
  for (Vector vector : Vectors()) {
    vector.spec.profile = Profile::kBest;
    for (const std::unique_ptr<Backend>& backend : Backends()) {
      INFO(vector.name << " on " << backend->name());
      const QuantizedTensor result =
          Quantize(vector.spec, vector.info, vector.input, *backend);
      REQUIRE(result.tensors.size() == vector.outputs.size());
      for (size_t i = 0; i < result.tensors.size(); ++i) {
        const OutputTensor& got = result.tensors[i];
        const Json& want = vector.outputs[i];
        INFO(got.name);
        CHECK(got.name == want.at("name").get<std::string>());
        CHECK(DTypeName(got.dtype) == want.at("dtype").get<std::string>());
        if (got.name.find("quant_state") == std::string::npos) {
          CHECK(got.shape == want.at("shape").get<std::vector<int64_t>>());
        }
      }
      const std::vector<uint8_t> best = Decoded(vector, Items(result));
      const DType dtype = vector.info.dtype;
      CHECK(MseByHand(vector.input, dtype, best.data()) <=
            MseByHand(vector.input, dtype, vector.decoded.data()));
    }
  }
}

}  // namespace qs::testing
