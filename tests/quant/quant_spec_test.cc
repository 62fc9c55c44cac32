// Specs, presets and the figures derived from error sums.
#include "quant/quant_spec.h"

#include <cmath>
#include <limits>
#include <string>

#include "quant/quantized_tensor.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

QuantSpec Nf4Block(int64_t block_size) {
  Nf4Spec nf4;
  nf4.block_size = block_size;
  return {nf4, Profile::kBest, OutputFormat::kBitsandbytes};
}

QuantSpec RtnOf(int bits, int64_t group_size) {
  RtnSpec rtn;
  rtn.bits = bits;
  rtn.group_size = group_size;
  return {rtn, Profile::kBest, OutputFormat::kCompressedTensors};
}

void RequireRefused(const absl::Status& status, const std::string& text) {
  CHECK(absl::IsInvalidArgument(status));
  CHECK(std::string(status.message()) == text);
}

TEST_CASE("block sizes: the eight allowed ones and nothing else") {
  for (int64_t size = 32; size <= 4096; size *= 2) {
    CHECK(ValidateSpec(Nf4Block(size)).ok());
  }
  for (int64_t size : {int64_t{0}, int64_t{-64}, int64_t{16}, int64_t{63},
                       int64_t{8192}, std::numeric_limits<int64_t>::max()}) {
    CHECK(absl::IsInvalidArgument(ValidateSpec(Nf4Block(size))));
  }
  RequireRefused(ValidateSpec(Nf4Block(48)),
                 "nf4.block_size: got 48, allowed 32, 64, 128, 256, 512, 1024, "
                 "2048, 4096");
}

TEST_CASE("rtn: bits 2..8, group -1 or at least 1") {
  for (int bits = 2; bits <= 8; ++bits)
    CHECK(ValidateSpec(RtnOf(bits, 1)).ok());
  CHECK(ValidateSpec(RtnOf(4, -1)).ok());
  RequireRefused(ValidateSpec(RtnOf(1, 64)), "rtn.bits: got 1, allowed 2..8");
  RequireRefused(ValidateSpec(RtnOf(9, 64)), "rtn.bits: got 9, allowed 2..8");
  RequireRefused(
      ValidateSpec(RtnOf(4, 0)),
      "rtn.group_size: got 0, allowed -1 (the whole row) or at least 1");
  CHECK(absl::IsInvalidArgument(ValidateSpec(RtnOf(4, -2))));
}

TEST_CASE("a format belongs to its method") {
  QuantSpec nf4 = Nf4Block(64);
  nf4.format = OutputFormat::kCompressedTensors;
  RequireRefused(
      ValidateSpec(nf4),
      "format: got COMPRESSED_TENSORS, allowed BITSANDBYTES for nf4");
  QuantSpec rtn = RtnOf(4, 128);
  rtn.format = OutputFormat::kBitsandbytes;
  RequireRefused(
      ValidateSpec(rtn),
      "format: got BITSANDBYTES, allowed COMPRESSED_TENSORS for rtn");
}

template <class Spec>
void RequireSpecRefused(const Spec& spec, OutputFormat format,
                        const std::string& text) {
  INFO(text);
  RequireRefused(ValidateSpec({spec, Profile::kBest, format}), text);
}

TEST_CASE("gptq: what it takes, and what it says of the rest") {
  const auto refused = [](const GptqSpec& spec, const std::string& text,
                          OutputFormat format = OutputFormat::kGptq) {
    RequireSpecRefused(spec, format, text);
  };
  for (int bits : {2, 3, 4, 8}) {
    for (int64_t group_size : {-1, 16, 1024}) {
      const GptqSpec spec = {.bits = bits, .group_size = group_size};
      CHECK(ValidateSpec({spec, Profile::kBest, OutputFormat::kGptq}).ok());
    }
  }
  refused({.bits = 5}, "gptq.bits: got 5, allowed 2, 3, 4, 8");
  for (const int64_t size : {0, 15, 1025}) {
    refused({.group_size = size},
            "gptq.group_size: got " + std::to_string(size) +
                ", allowed -1 (the whole row) or 16..1024");
  }
  refused({.damping = 0}, "gptq.damping: got 0, allowed 1e-08..0.99");
  refused({.damping = 1}, "gptq.damping: got 1, allowed 1e-08..0.99");
  refused({.range_norm = 9}, "gptq.range_norm: got 9, allowed 0.1..8");
  refused({.sweeps = -1}, "gptq.sweeps: got -1, allowed 0..100");
  refused({.sweeps = 101}, "gptq.sweeps: got 101, allowed 0..100");
  refused({.group_size = -1, .order = ColumnOrder::kGroupAware},
          "gptq.order: got GROUP_AWARE, allowed another order with group_size "
          "-1");
  refused({.order = ColumnOrder::kActOrder},
          "gptq.order: got ACT_ORDER, allowed an order with groups as stored: "
          "no engine loads compressed-tensors with a group index",
          OutputFormat::kCompressedTensors);
  refused({},
          "format: got HQQ_STATE_DICT, allowed COMPRESSED_TENSORS, "
          "GPTQ_V1, GPTQ_V2 for gptq",
          OutputFormat::kHqq);
}

TEST_CASE("awq: what it takes, and what it says of the rest") {
  const auto refused = [](const AwqSpec& spec, const std::string& text,
                          OutputFormat format =
                              OutputFormat::kCompressedTensors) {
    RequireSpecRefused(spec, format, text);
  };
  for (int bits = 2; bits <= 8; ++bits) {
    CHECK(ValidateSpec({AwqSpec{.bits = bits}, Profile::kBest,
                        OutputFormat::kCompressedTensors})
              .ok());
  }
  refused({.bits = 1}, "awq.bits: got 1, allowed 2..8");
  refused({.bits = 9}, "awq.bits: got 9, allowed 2..8");
  refused({.bits = 3}, "awq.bits: got 3, allowed 4", OutputFormat::kAwqGemm);
  refused({.group_size = 8},
          "awq.group_size: got 8, allowed -1 (the whole row) or at least 16");
  refused({.grid = 0}, "awq.grid: got 0, allowed 1..100");
  refused({.max_scale_ratio = -1},
          "awq.max_scale_ratio: got -1, allowed 0..1e+09");
  refused({.damping = 1}, "awq.damping: got 1, allowed 1e-08..0.99");
}

TEST_CASE("hqq: what it takes, and what it says of the rest") {
  const auto refused = [](const HqqSpec& spec, const std::string& text,
                          OutputFormat format = OutputFormat::kHqq) {
    RequireSpecRefused(spec, format, text);
  };
  for (int bits : {8, 4, 3, 2, 1}) {
    for (int axis : {0, 1}) {
      const HqqSpec spec = {.bits = bits, .axis = axis};
      CHECK(ValidateSpec({spec, Profile::kBest, OutputFormat::kHqq}).ok());
    }
  }
  refused({.bits = 5}, "hqq.bits: got 5, allowed 8, 4, 3, 2, 1");
  refused({.group_size = 12},
          "hqq.group_size: got 12, allowed a multiple of 8");
  refused({.axis = 2}, "hqq.axis: got 2, allowed 0..1");
  refused({.iterations = 0}, "hqq.iterations: got 0, allowed 1..1000");
  refused({.axis = 0},
          "hqq.axis: got 0, allowed 1, or the format HQQ_STATE_DICT",
          OutputFormat::kCompressedTensors);
  refused({.bits = 1},
          "hqq.bits: got 1, allowed 8, 4, 3, 2, or the format HQQ_STATE_DICT",
          OutputFormat::kCompressedTensors);
}

TEST_CASE("a group size must divide the columns") {
  CHECK(ValidateSpecForShape(RtnOf(4, 128), "a.weight", 3, 256).ok());
  CHECK(ValidateSpecForShape(RtnOf(4, -1), "a.weight", 3, 7).ok());
  CHECK(ValidateSpecForShape(Nf4Block(64), "a.weight", 3, 7).ok());
  RequireRefused(ValidateSpecForShape(RtnOf(4, 128), "a.weight", 3, 192),
                 "tensor \"a.weight\": rtn.group_size: got 128, allowed -1 or "
                 "a divisor of its 192 columns");
  const QuantSpec hqq = {HqqSpec{.group_size = 128}, Profile::kBest,
                         OutputFormat::kCompressedTensors};
  RequireRefused(ValidateSpecForShape(hqq, "a.weight", 3, 192),
                 "tensor \"a.weight\": hqq.group_size: got 128, allowed a "
                 "divisor of its 192 columns");
  CHECK(absl::IsInvalidArgument(
      ValidateSpecForShape(Nf4Block(64), "a.weight", 0, 64)));
}

TEST_CASE("presets: names, legality, defaults") {
  std::string names;
  for (const Preset& preset : Presets()) {
    names += preset.name + " ";
    CHECK(ValidateSpec(preset.spec).ok());
    CHECK(preset.spec.profile == Profile::kBest);
    CHECK_FALSE(preset.description.empty());
    CHECK(FindPreset(preset.name) == &preset);
  }
  CHECK(names ==
        "NF4 NF4-dq FP4 W4A16 W8A16 W4A16-gptq W3A16-gptq W2A16-gptq "
        "W8A16-gptq W4A16-awq W4A16-hqq HQQ-4 HQQ-3 HQQ-2 ");
  CHECK(FindPreset("nf4") == nullptr);
  CHECK(FindPreset("") == nullptr);

  CHECK(FindPreset("NF4-dq")->spec.nf4()->double_quant);
  CHECK(FindPreset("FP4")->spec.nf4()->codebook == Codebook::kFp4);
  const RtnSpec w8{.bits = 8, .group_size = -1, .symmetric = true};
  CHECK(*FindPreset("W8A16")->spec.rtn() == w8);
  const RtnSpec w4{.bits = 4, .group_size = 128, .symmetric = true};
  CHECK(*FindPreset("W4A16")->spec.rtn() == w4);
}

TEST_CASE("names of methods and algorithms") {
  QuantSpec spec = FindPreset("FP4")->spec;
  CHECK(SpecMethodName(spec) == "fp4");
  CHECK(SpecAlgorithm(spec) == "fp4-best/1");
  CHECK(SpecBits(spec) == 4);
  spec = FindPreset("W8A16")->spec;
  spec.profile = Profile::kReference;
  CHECK(SpecAlgorithm(spec) == "rtn-reference/1");
  CHECK(SpecBits(spec) == 8);
  CHECK(SpecAlgorithm(FindPreset("NF4-dq")->spec) == "nf4-best/1");
  CHECK(SpecAlgorithm(FindPreset("W4A16-gptq")->spec) == "gptq-best/2");
}

TEST_CASE("figures from sums: w = (3, 4), v = (3, 3)") {
  ErrorSums s;
  s.count = 2;
  s.squared_error = 1;
  s.absolute_error = 1;
  s.weight_squared = 25;
  s.decoded_squared = 18;
  s.dot = 21;
  CHECK(MeanSquaredError(s) == 0.5);
  CHECK(MeanAbsoluteError(s) == 0.5);
  CHECK(RelativeFrobeniusError(s) == Approx(0.2));
  CHECK(SqnrDb(s) == Approx(13.9794).epsilon(1e-5));
  CHECK(CosineSimilarity(s) == Approx(21 / std::sqrt(450.0)));
}

TEST_CASE("figures of empty, exact and vanished tensors") {
  const ErrorSums empty;
  CHECK(MeanSquaredError(empty) == 0);
  CHECK(MeanAbsoluteError(empty) == 0);
  CHECK(RelativeFrobeniusError(empty) == 0);
  CHECK(SqnrDb(empty) == 0);
  CHECK(CosineSimilarity(empty) == 0);

  ErrorSums exact;
  exact.count = 3;
  CHECK(CosineSimilarity(exact) == 1);
  exact.weight_squared = exact.decoded_squared = exact.dot = 5;
  CHECK(std::isinf(SqnrDb(exact)));
  CHECK(SqnrDb(exact) > 0);
  CHECK(CosineSimilarity(exact) == Approx(1));

  ErrorSums vanished;
  vanished.count = 3;
  vanished.squared_error = vanished.weight_squared = 5;
  CHECK(RelativeFrobeniusError(vanished) == 1);
  CHECK(SqnrDb(vanished) == 0);
  CHECK(CosineSimilarity(vanished) == 0);
}

}  // namespace
}  // namespace qs
