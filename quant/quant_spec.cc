// Tested by tests/quant/quant_spec_test.cc.
#include "quant/quant_spec.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace qs {
namespace {

// Part of every report; goes up when a method's bytes change.
constexpr int kAlgorithmVersion = 1;

const char* FormatName(OutputFormat format) {
  return format == OutputFormat::kBitsandbytes ? "BITSANDBYTES"
                                               : "COMPRESSED_TENSORS";
}

absl::Status ValidateFormat(const QuantSpec& spec, OutputFormat allowed) {
  if (spec.format == allowed) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("format: got ", FormatName(spec.format), ", allowed ",
                   FormatName(allowed), " for ", SpecMethodName(spec)));
}

absl::Status ValidateNf4(const Nf4Spec& spec) {
  if (std::find(kNf4BlockSizes.begin(), kNf4BlockSizes.end(),
                spec.block_size) != kNf4BlockSizes.end()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("nf4.block_size: got ", spec.block_size, ", allowed ",
                   absl::StrJoin(kNf4BlockSizes, ", ")));
}

absl::Status ValidateRtn(const RtnSpec& spec) {
  if (spec.bits < kMinRtnBits || spec.bits > kMaxRtnBits) {
    return absl::InvalidArgumentError(absl::StrCat("rtn.bits: got ", spec.bits,
                                                   ", allowed ", kMinRtnBits,
                                                   "..", kMaxRtnBits));
  }
  if (spec.group_size != -1 && spec.group_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("rtn.group_size: got ", spec.group_size,
                     ", allowed -1 (the whole row) or at least 1"));
  }
  return absl::OkStatus();
}

std::vector<Preset> MakePresets() {
  const Nf4Spec nf4;
  Nf4Spec nested = nf4;
  nested.double_quant = true;
  Nf4Spec fp4 = nf4;
  fp4.codebook = Codebook::kFp4;
  const RtnSpec w4{.bits = 4, .group_size = 128, .symmetric = true};
  const RtnSpec w8{.bits = 8, .group_size = -1, .symmetric = true};
  const auto bnb = OutputFormat::kBitsandbytes;
  const auto ct = OutputFormat::kCompressedTensors;
  return {
      {"NF4",
       "4-bit NormalFloat, blocks of 64 (bitsandbytes)",
       {nf4, Profile::kBest, bnb}},
      {"NF4-dq",
       "NF4 with 8-bit absmax (double quantization)",
       {nested, Profile::kBest, bnb}},
      {"FP4",
       "4-bit float codebook, blocks of 64 (bitsandbytes)",
       {fp4, Profile::kBest, bnb}},
      {"W4A16",
       "4-bit integers, groups of 128, symmetric (round to nearest)",
       {w4, Profile::kBest, ct}},
      {"W8A16",
       "8-bit integers, one scale a row, symmetric (round to nearest)",
       {w8, Profile::kBest, ct}},
  };
}

}  // namespace

int SpecBits(const QuantSpec& spec) {
  return spec.rtn() != nullptr ? spec.rtn()->bits : 4;
}

std::string SpecMethodName(const QuantSpec& spec) {
  if (spec.rtn() != nullptr) return "rtn";
  return spec.nf4()->codebook == Codebook::kFp4 ? "fp4" : "nf4";
}

std::string SpecAlgorithm(const QuantSpec& spec) {
  return absl::StrCat(SpecMethodName(spec),
                      spec.profile == Profile::kBest ? "-best/" : "-reference/",
                      kAlgorithmVersion);
}

absl::Status ValidateSpec(const QuantSpec& spec) {
  if (const Nf4Spec* nf4 = spec.nf4()) {
    const absl::Status status = ValidateNf4(*nf4);
    return status.ok() ? ValidateFormat(spec, OutputFormat::kBitsandbytes)
                       : status;
  }
  const absl::Status status = ValidateRtn(*spec.rtn());
  return status.ok() ? ValidateFormat(spec, OutputFormat::kCompressedTensors)
                     : status;
}

absl::Status ValidateSpecForShape(const QuantSpec& spec, std::string_view name,
                                  int64_t rows, int64_t cols) {
  if (rows < 1 || cols < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", std::string(name), "\": got shape [", rows,
                     ", ", cols, "], allowed dimensions are at least 1"));
  }
  const RtnSpec* rtn = spec.rtn();
  if (rtn == nullptr || rtn->group_size == -1) return absl::OkStatus();
  if (rtn->group_size < 1 || cols % rtn->group_size != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", std::string(name), "\": rtn.group_size: got ",
                     rtn->group_size, ", allowed -1 or a divisor of its ", cols,
                     " columns"));
  }
  return absl::OkStatus();
}

const std::vector<Preset>& Presets() {
  static const auto* presets = new std::vector<Preset>(MakePresets());
  return *presets;
}

const Preset* FindPreset(std::string_view name) {
  for (const Preset& preset : Presets()) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

}  // namespace qs
