// What is written for NF4 and FP4: whole files against those of the library.
#include "quant/formats/bitsandbytes.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/factories.h"
#include "quant/formats/safetensors.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

constexpr char kModule[] = "model.layers.0.mlp.up_proj";

Buffer Copy(const std::vector<uint8_t>& bytes) {
  absl::StatusOr<Buffer> buffer =
      Buffer::Allocate(static_cast<int64_t>(bytes.size()));
  REQUIRE(buffer.ok());
  if (!bytes.empty()) std::memcpy(buffer->data(), bytes.data(), bytes.size());
  return *std::move(buffer);
}

Buffer Zeros(int64_t count) {
  return Copy(std::vector<uint8_t>(static_cast<size_t>(count)));
}

// The pieces of a weight as the library's CPU code makes them.
Nf4Pieces Encode(const Nf4Spec& spec, const TensorView& weight) {
  const std::unique_ptr<Nf4Ops> ops = NewNf4Reference();
  Stream stream;
  const int64_t n = weight.num_elements();
  const int64_t blocks = CeilDiv(n, spec.block_size);
  Nf4Pieces pieces;
  pieces.packed = Zeros(CeilDiv(n, 2));
  pieces.absmax = Zeros(blocks * 4);
  int64_t first_non_finite = -1;
  REQUIRE(ops->Encode({weight, spec.block_size, spec.codebook, Nf4Rule::kCpu,
                       Nf4Search::kNone, pieces.packed.data(),
                       pieces.absmax.As<float>(), &first_non_finite},
                      stream)
              .ok());
  REQUIRE(first_non_finite == -1);
  if (!spec.double_quant) return pieces;
  const Buffer plain = std::move(pieces.absmax);
  pieces.absmax = Zeros(blocks);
  pieces.nested_absmax = Zeros(CeilDiv(blocks, kNestedBlockSize) * 4);
  REQUIRE(
      ops->NestedEncode(
             {plain.As<float>(), blocks, Nf4Rule::kCpu, pieces.absmax.data(),
              pieces.nested_absmax.As<float>(), &pieces.nested_offset},
             stream)
          .ok());
  return pieces;
}

std::vector<OutputTensor> Tensors(const Nf4Spec& spec, const std::string& name,
                                  DType dtype,
                                  const std::vector<int64_t>& shape,
                                  Nf4Pieces pieces) {
  auto tensors =
      BitsandbytesTensors(spec, name, dtype, shape, std::move(pieces));
  INFO(Text(tensors.status()));
  REQUIRE(tensors.ok());
  return *std::move(tensors);
}

// The file that we write for the layer of a `serialized_*_input` file.
std::string WrittenFile(const Nf4Spec& spec, const std::string& input_path) {
  const std::string weight_name = std::string(kModule) + ".weight";
  const std::string bias_name = std::string(kModule) + ".bias";
  const SafetensorsFile input = OpenOrFail(input_path);
  const SafetensorsEntry& weight = *input.Find(weight_name);
  const SafetensorsEntry& bias = *input.Find(bias_name);
  const TensorView view{input.Data(weight).data(), weight.dtype,
                        weight.shape[0], weight.shape[1]};
  const std::vector<OutputTensor> tensors = Tensors(
      spec, weight_name, weight.dtype, weight.shape, Encode(spec, view));
  std::vector<SafetensorsItem> items = {
      {bias_name, bias.dtype, bias.shape, input.Data(bias)}};
  for (const OutputTensor& tensor : tensors) {
    items.push_back(
        {tensor.name, tensor.dtype, tensor.shape, tensor.data.bytes()});
  }
  TempDir dir;
  REQUIRE(WriteSafetensors(dir.File("x"), items).ok());
  return ReadText(dir.File("x"));
}

}  // namespace

TEST_CASE("files are byte-equal to those bitsandbytes saved",
          "[bitsandbytes]") {
  for (const std::string dtype : {"f32", "f16", "bf16"}) {
    for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      for (const bool nested : {false, true}) {
        const std::string name =
            "serialized_" + dtype +
            (codebook == Codebook::kNf4 ? "_nf4" : "_fp4") +
            (nested ? "_dq" : "");
        INFO(name);
        const Nf4Spec spec{.codebook = codebook, .double_quant = nested};
        const bool same =
            WrittenFile(spec, DataPath("golden/formats/serialized_" + dtype +
                                       "_input.safetensors")) ==
            ReadText(DataPath("golden/formats/" + name + ".safetensors"));
        CHECK(same);
      }
    }
  }
}

TEST_CASE("what is written of a weight is read back before it is sent",
          "[bitsandbytes]") {
  const std::unique_ptr<Nf4Ops> ops = NewNf4Reference();
  Stream stream;
  const std::vector<int64_t> shape = {3, 12000};
  std::vector<float> weight(36000);
  for (size_t i = 0; i < weight.size(); ++i) {
    weight[i] = 0.01f * static_cast<float>(i % 501) - 2;
  }
  for (const bool nested : {false, true}) {
    const Nf4Spec spec{.double_quant = nested};
    const auto make = [&] {
      return Tensors(
          spec, "a.weight", DType::kF32, shape,
          Encode(spec, {weight.data(), DType::kF32, shape[0], shape[1]}));
    };
    std::vector<float> absmax;
    if (nested) {
      Nf4Pieces pieces =
          Encode(spec, {weight.data(), DType::kF32, shape[0], shape[1]});
      absmax.resize(static_cast<size_t>(pieces.absmax.size()));
      REQUIRE(
          ops->NestedDecode(
                 {pieces.absmax.data(), pieces.nested_absmax.As<float>(),
                  &pieces.nested_offset, pieces.absmax.size(), absmax.data()},
                 stream)
              .ok());
    }
    const auto verify = [&](const std::vector<OutputTensor>& tensors) {
      return VerifyBitsandbytes(tensors, spec, DType::kF32, shape, absmax);
    };
    REQUIRE(verify(make()).ok());
    CHECK(absl::IsInternal(
        VerifyBitsandbytes(make(), spec, DType::kBF16, shape, absmax)));
    CHECK(absl::IsInternal(
        VerifyBitsandbytes(make(), spec, DType::kF32, {36000}, absmax)));
    Nf4Spec other = spec;
    other.block_size = 128;
    CHECK(absl::IsInternal(
        VerifyBitsandbytes(make(), other, DType::kF32, shape, absmax)));
    for (size_t i = 1; i < make().size(); ++i) {
      auto tensors = make();
      INFO(tensors[i].name << (nested ? ", nested" : ""));
      // A byte that each piece needs; plain absmax are compared by the codes.
      if (nested || tensors[i].name != "a.weight.absmax") {
        tensors[i].data.data()[3] ^= 0x10;
        CHECK(absl::IsInternal(verify(tensors)));
      }
      tensors.erase(tensors.begin() + static_cast<std::ptrdiff_t>(i));
      CHECK(absl::IsInternal(verify(tensors)));
    }
  }
}

TEST_CASE("tensors of a weight in the format's order", "[bitsandbytes]") {
  struct Want {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };
  const auto check = [](const std::vector<OutputTensor>& got,
                        const std::vector<Want>& want) {
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      INFO(want[i].name);
      CHECK(got[i].name == want[i].name);
      CHECK(got[i].dtype == want[i].dtype);
      CHECK(got[i].shape == want[i].shape);
    }
  };
  // 3 x 43 = 129 elements: three blocks, the last of one element.
  Nf4Pieces plain;
  plain.packed = Zeros(65);
  plain.absmax = Zeros(12);
  check(Tensors({}, "a.weight", DType::kF16, {3, 43}, std::move(plain)),
        {{"a.weight", DType::kU8, {65, 1}},
         {"a.weight.absmax", DType::kF32, {3}},
         {"a.weight.quant_map", DType::kF32, {16}},
         {"a.weight.quant_state.bitsandbytes__nf4", DType::kU8, {76}}});
  Nf4Pieces nested;
  nested.packed = Zeros(65);
  nested.absmax = Zeros(3);
  nested.nested_absmax = Zeros(4);
  nested.nested_offset = 0.5f;
  check(Tensors({.codebook = Codebook::kFp4, .double_quant = true}, "b",
                DType::kF16, {129}, std::move(nested)),
        {{"b", DType::kU8, {65, 1}},
         {"b.absmax", DType::kU8, {3}},
         {"b.quant_map", DType::kF32, {16}},
         {"b.nested_absmax", DType::kF32, {1}},
         {"b.nested_quant_map", DType::kF32, {256}},
         {"b.quant_state.bitsandbytes__fp4", DType::kU8, {148}}});
}

TEST_CASE("quant_state is what Python prints", "[bitsandbytes]") {
  Nf4Spec spec;
  CHECK(QuantStateJson(spec, DType::kBF16, {10, 64}, 0) ==
        R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", )"
        R"("shape": [10, 64]})");
  spec.double_quant = true;
  CHECK(QuantStateJson(spec, DType::kBF16, {10, 64},
                       std::bit_cast<float>(0x3d116872u)) ==
        R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", )"
        R"("shape": [10, 64], "nested_blocksize": 256, )"
        R"("nested_dtype": "float32", "nested_offset": 0.035499997437000275})");
  spec = {.codebook = Codebook::kFp4, .block_size = 4096, .double_quant = true};
  CHECK(
      QuantStateJson(spec, DType::kF32, {8, 3, 3, 1}, 5.5e-7f) ==
      R"({"quant_type": "fp4", "blocksize": 4096, "dtype": "float32", )"
      R"("shape": [8, 3, 3, 1], "nested_blocksize": 256, )"
      R"("nested_dtype": "float32", "nested_offset": 5.499999815583578e-07})");
  spec.double_quant = false;
  CHECK(QuantStateJson(spec, DType::kF16, {7}, 0) ==
        R"({"quant_type": "fp4", "blocksize": 4096, "dtype": "float16", )"
        R"("shape": [7]})");
}

TEST_CASE("numbers print as Python's repr", "[bitsandbytes]") {
  std::istringstream file(
      ReadText(DataPath("golden/formats/python_float_repr.txt")));
  std::string line;
  int cases = 0;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#') continue;
    INFO(line);
    const uint64_t bits = std::stoull(line.substr(0, 16), nullptr, 16);
    CHECK(PythonFloatRepr(std::bit_cast<double>(bits)) == line.substr(17));
    ++cases;
  }
  CHECK(cases == 267);
}

TEST_CASE("quantization_config is what transformers writes", "[bitsandbytes]") {
  const auto config = [](const std::string& compute, const std::string& type,
                         const std::string& nested, const std::string& skip) {
    return R"({"_load_in_4bit":true,"_load_in_8bit":false,)"
           R"("bnb_4bit_compute_dtype":")" +
           compute +
           R"(","bnb_4bit_quant_storage":"uint8","bnb_4bit_quant_type":")" +
           type + R"(","bnb_4bit_use_double_quant":)" + nested +
           R"(,"llm_int8_enable_fp32_cpu_offload":false,)"
           R"("llm_int8_has_fp16_weight":false,"llm_int8_skip_modules":)" +
           skip +
           R"(,"llm_int8_threshold":6.0,"load_in_4bit":true,)"
           R"("load_in_8bit":false,"quant_method":"bitsandbytes"})";
  };
  CHECK(BitsandbytesConfigJson({}, DType::kBF16, {"lm_head"}) ==
        config("bfloat16", "nf4", "false", R"(["lm_head"])"));
  CHECK(BitsandbytesConfigJson(
            {.codebook = Codebook::kFp4, .double_quant = true}, DType::kF32,
            {}) == config("float32", "fp4", "true", "[]"));
  // Whatever a checkpoint calls its modules, the result is JSON.
  CHECK(BitsandbytesConfigJson({}, DType::kF16,
                               {"a\"b", "caf\xc3\xa9", "\xff"}) ==
        config("float16", "nf4", "false", R"(["a\"b","caf\u00e9","\ufffd"])"));
}

}  // namespace qs::testing
