// Tested by tests/quant/quant_spec_test.cc.
#include "quant/quant_spec.h"

#include <algorithm>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

// GPTQ's damping where the descent after the loop mends what little damping
// does to it. On the 28 linears of a small Llama the held-out output error at 4
// bits is 4.19e-4 with 0.01, 3.80e-4 with 0.003, 3.68e-4 with 0.001; at 3 bits
// 1.26e-3, 1.19e-3, 1.19e-3.
constexpr double kBestDamping = 0.001;

// More change the error on the calibration itself by less than 0.2 %: over the
// 28 linears, scaled first, 4 and 10 sweeps leave 2.117e-4 and 2.117e-4 at 4
// bits, 9.182e-4 and 9.172e-4 at 3.
constexpr int kBestSweeps = 4;

// Part of every report; goes up when a method's bytes change.
int AlgorithmVersion(const QuantSpec& spec) {
  // 2: descent in blocks of columns; GPTQ scales first.
  const bool solves = spec.gptq() != nullptr || spec.awq() != nullptr;
  return solves && spec.profile == Profile::kBest ? 2 : 1;
}

const char* FormatName(OutputFormat format) {
  switch (format) {
    case OutputFormat::kBitsandbytes:
      return "BITSANDBYTES";
    case OutputFormat::kCompressedTensors:
      return "COMPRESSED_TENSORS";
    case OutputFormat::kGptq:
      return "GPTQ_V1";
    case OutputFormat::kGptqV2:
      return "GPTQ_V2";
    case OutputFormat::kAwqGemm:
      return "AWQ_GEMM";
    case OutputFormat::kHqq:
      return "HQQ_STATE_DICT";
  }
  return "?";
}

using Formats = std::vector<OutputFormat>;

const Formats& FormatsOf(const QuantSpec& spec) {
  return Methods()[spec.method.index()].formats;
}

absl::Status Refuse(const std::string& field, const std::string& got,
                    const std::string& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": got ", got, ", allowed ", allowed));
}

absl::Status ValidateFormat(const QuantSpec& spec) {
  const Formats& formats = FormatsOf(spec);
  if (std::find(formats.begin(), formats.end(), spec.format) != formats.end()) {
    return absl::OkStatus();
  }
  return Refuse(
      "format", FormatName(spec.format),
      absl::StrCat(absl::StrJoin(formats, ", ",
                                 [](std::string* out, OutputFormat format) {
                                   out->append(FormatName(format));
                                 }),
                   " for ", SpecMethodName(spec)));
}

absl::Status CheckBits(const std::string& field, int bits,
                       std::initializer_list<int> allowed) {
  if (std::find(allowed.begin(), allowed.end(), bits) != allowed.end()) {
    return absl::OkStatus();
  }
  return Refuse(field, absl::StrCat(bits), absl::StrJoin(allowed, ", "));
}

absl::Status CheckRange(const std::string& field, double value, double low,
                        double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Refuse(field, absl::StrCat(value), absl::StrCat(low, "..", high));
}

absl::Status Validate(const Nf4Spec& spec, OutputFormat) {
  if (std::find(kNf4BlockSizes.begin(), kNf4BlockSizes.end(),
                spec.block_size) != kNf4BlockSizes.end()) {
    return absl::OkStatus();
  }
  return Refuse("nf4.block_size", absl::StrCat(spec.block_size),
                absl::StrJoin(kNf4BlockSizes, ", "));
}

absl::Status Validate(const RtnSpec& spec, OutputFormat) {
  if (spec.bits < kMinRtnBits || spec.bits > kMaxRtnBits) {
    return Refuse("rtn.bits", absl::StrCat(spec.bits),
                  absl::StrCat(kMinRtnBits, "..", kMaxRtnBits));
  }
  if (spec.group_size != -1 && spec.group_size < 1) {
    return Refuse("rtn.group_size", absl::StrCat(spec.group_size),
                  "-1 (the whole row) or at least 1");
  }
  return absl::OkStatus();
}

absl::Status ValidateGptqOrder(const GptqSpec& spec, OutputFormat format) {
  if (spec.group_size == -1 && spec.order == ColumnOrder::kGroupAware) {
    return Refuse("gptq.order", "GROUP_AWARE",
                  "another order with group_size -1");
  }
  if (spec.order == ColumnOrder::kActOrder &&
      format == OutputFormat::kCompressedTensors) {
    return Refuse("gptq.order", "ACT_ORDER",
                  "an order with groups as stored: no engine loads "
                  "compressed-tensors with a group index");
  }
  return absl::OkStatus();
}

absl::Status Validate(const GptqSpec& spec, OutputFormat format) {
  QS_RETURN_IF_ERROR(CheckBits("gptq.bits", spec.bits, {2, 3, 4, 8}));
  if (spec.group_size != -1 &&
      (spec.group_size < 16 || spec.group_size > 1024)) {
    return Refuse("gptq.group_size", absl::StrCat(spec.group_size),
                  "-1 (the whole row) or 16..1024");
  }
  QS_RETURN_IF_ERROR(CheckRange("gptq.damping", spec.damping, 1e-8, 0.99));
  QS_RETURN_IF_ERROR(CheckRange("gptq.range_norm", spec.range_norm, 0.1, 8));
  QS_RETURN_IF_ERROR(CheckRange("gptq.sweeps", spec.sweeps, 0, 100));
  return ValidateGptqOrder(spec, format);
}

absl::Status Validate(const AwqSpec& spec, OutputFormat format) {
  if (format == OutputFormat::kAwqGemm) {
    QS_RETURN_IF_ERROR(CheckBits("awq.bits", spec.bits, {4}));
  }
  QS_RETURN_IF_ERROR(CheckRange("awq.bits", spec.bits, 2, 8));
  if (spec.group_size != -1 && spec.group_size < 16) {
    return Refuse("awq.group_size", absl::StrCat(spec.group_size),
                  "-1 (the whole row) or at least 16");
  }
  QS_RETURN_IF_ERROR(CheckRange("awq.grid", spec.grid, 1, 100));
  QS_RETURN_IF_ERROR(
      CheckRange("awq.max_scale_ratio", spec.max_scale_ratio, 0, 1e9));
  return CheckRange("awq.damping", spec.damping, 1e-8, 0.99);
}

absl::Status Validate(const HqqSpec& spec, OutputFormat format) {
  QS_RETURN_IF_ERROR(CheckBits("hqq.bits", spec.bits, {8, 4, 3, 2, 1}));
  if (spec.group_size < 8 || spec.group_size % 8 != 0) {
    return Refuse("hqq.group_size", absl::StrCat(spec.group_size),
                  "a multiple of 8");
  }
  QS_RETURN_IF_ERROR(CheckRange("hqq.axis", spec.axis, 0, 1));
  QS_RETURN_IF_ERROR(CheckRange("hqq.iterations", spec.iterations, 1, 1000));
  if (format == OutputFormat::kHqq) return absl::OkStatus();
  if (spec.axis != 1)
    return Refuse("hqq.axis", "0", "1, or the format HQQ_STATE_DICT");
  if (spec.bits == 1)
    return Refuse("hqq.bits", "1", "8, 4, 3, 2, or the format HQQ_STATE_DICT");
  return absl::OkStatus();
}

GptqSpec BestGptq(int bits, int64_t group_size, bool symmetric) {
  return {.bits = bits,
          .group_size = group_size,
          .symmetric = symmetric,
          .damping = kBestDamping,
          .sweeps = kBestSweeps,
          .awq_scaling = true};
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
      {"W4A16-gptq",
       "4-bit integers, groups of 128, symmetric, solved by GPTQ",
       {BestGptq(4, 128, true), Profile::kBest, ct}},
      {"W3A16-gptq",
       "3-bit integers, groups of 128, symmetric, solved by GPTQ",
       {BestGptq(3, 128, true), Profile::kBest, ct}},
      {"W2A16-gptq",
       "2-bit integers, groups of 64, zero points, solved by GPTQ",
       {BestGptq(2, 64, false), Profile::kBest, ct}},
      {"W8A16-gptq",
       "8-bit integers, one scale a row, symmetric, solved by GPTQ",
       {BestGptq(8, -1, true), Profile::kBest, ct}},
      {"W4A16-awq",
       "4-bit integers, groups of 128, symmetric, scaled by AWQ",
       {AwqSpec{}, Profile::kBest, ct}},
      {"W4A16-hqq",
       "4-bit integers, groups of 64, zero points, fitted by HQQ",
       {HqqSpec{}, Profile::kBest, ct}},
      {"HQQ-4",
       "4-bit codes, groups of 64, in hqq's own format",
       {HqqSpec{}, Profile::kBest, OutputFormat::kHqq}},
      {"HQQ-3",
       "3-bit codes, groups of 64, in hqq's own format",
       {HqqSpec{.bits = 3}, Profile::kBest, OutputFormat::kHqq}},
      {"HQQ-2",
       "2-bit codes, groups of 16, in hqq's own format",
       {HqqSpec{.bits = 2, .group_size = 16}, Profile::kBest,
        OutputFormat::kHqq}},
  };
}

// The field that holds group_size, in the config.
std::string GroupSizeField(const QuantSpec& spec) {
  return absl::StrCat(SpecMethodName(spec), ".group_size");
}

// Groups, or codes of a group, that share hqq's packed bytes.
absl::Status ValidateHqqRows(const HqqSpec& spec, std::string_view name,
                             int64_t rows, int64_t cols) {
  const int64_t per_byte = spec.bits == 3 ? 1 : 8 / spec.bits;
  const int64_t count =
      spec.axis == 1 ? rows * cols / spec.group_size : spec.group_size;
  if (count % per_byte == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor \"", std::string(name), "\": format: got HQQ_STATE_DICT with ",
      count, spec.axis == 1 ? " groups" : " codes a group",
      ", allowed a multiple of ", per_byte, " for ", spec.bits, " bits"));
}

// What a packed word needs whole: codes of a column of GPTQ, of a row of AWQ.
absl::Status ValidateWords(const QuantSpec& spec, std::string_view name,
                           int64_t rows, int64_t cols) {
  const int bits = SpecBits(spec);
  const int64_t per_word = bits == 3 ? 32 : 32 / bits;
  const bool gptq = spec.format == OutputFormat::kGptq ||
                    spec.format == OutputFormat::kGptqV2;
  const bool awq = spec.format == OutputFormat::kAwqGemm;
  if ((!gptq && !awq) ||
      (rows % per_word == 0 && (awq || cols % per_word == 0))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor \"", std::string(name), "\": format: got ",
      FormatName(spec.format), " for shape [", rows, ", ", cols,
      "], allowed multiples of ", per_word, awq ? " rows" : " in both",
      ", or the format COMPRESSED_TENSORS"));
}

// Elements along which groups are cut.
int64_t GroupedElements(const QuantSpec& spec, int64_t rows, int64_t cols) {
  if (const HqqSpec* hqq = spec.hqq()) {
    return hqq->axis == 0 || spec.format == OutputFormat::kHqq ? rows * cols
                                                               : cols;
  }
  return cols;
}

// GPTQ's own files may end with a shorter group.
bool MayEndShort(const QuantSpec& spec) {
  return spec.format == OutputFormat::kGptq ||
         spec.format == OutputFormat::kGptqV2;
}

}  // namespace

GptqSpec DefaultGptqSpec(Profile profile) {
  if (profile == Profile::kBest) return BestGptq(4, 128, true);
  return {.order = ColumnOrder::kGroupAware,
          .damping = 0.05,
          .range_search = RangeSearch::kMinMax,
          .sweeps = 0,
          .scale_refit = false};
}

AwqSpec DefaultAwqSpec(Profile profile) {
  if (profile == Profile::kBest) return {};
  return {.max_scale_ratio = 0, .solve_codes = false};
}

bool NeedsCalibration(const QuantSpec& spec) {
  return Methods()[spec.method.index()].needs_calibration;
}

bool SolvesInGroups(const QuantSpec& spec) {
  const GptqSpec* gptq = spec.gptq();
  return spec.awq() != nullptr || (gptq != nullptr && gptq->awq_scaling);
}

GridSpec SpecGrid(const QuantSpec& spec) {
  if (const RtnSpec* rtn = spec.rtn()) {
    return {rtn->bits, rtn->group_size, rtn->symmetric};
  }
  if (const GptqSpec* gptq = spec.gptq()) {
    return {gptq->bits, gptq->group_size, gptq->symmetric};
  }
  if (const AwqSpec* awq = spec.awq()) {
    return {awq->bits, awq->group_size, awq->symmetric};
  }
  if (const HqqSpec* hqq = spec.hqq()) {
    return {hqq->bits, hqq->group_size, false};
  }
  return {4, spec.nf4()->block_size, true};
}

int SpecBits(const QuantSpec& spec) { return SpecGrid(spec).bits; }

std::string SpecMethodName(const QuantSpec& spec) {
  if (const Nf4Spec* nf4 = spec.nf4()) {
    return nf4->codebook == Codebook::kFp4 ? "fp4" : "nf4";
  }
  return Methods()[spec.method.index()].name;
}

std::string SpecAlgorithm(const QuantSpec& spec) {
  return absl::StrCat(SpecMethodName(spec),
                      spec.profile == Profile::kBest ? "-best/" : "-reference/",
                      AlgorithmVersion(spec));
}

absl::Status ValidateSpec(const QuantSpec& spec) {
  QS_RETURN_IF_ERROR(ValidateFormat(spec));
  if (spec.gptq() != nullptr && spec.gptq()->awq_scaling &&
      spec.profile == Profile::kReference) {
    return Refuse("gptq.awq_scaling", "true",
                  "false with the profile REFERENCE");
  }
  return std::visit(
      [&](const auto& method) { return Validate(method, spec.format); },
      spec.method);
}

absl::Status ValidateSpecForShape(const QuantSpec& spec, std::string_view name,
                                  int64_t rows, int64_t cols) {
  if (rows < 1 || cols < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", std::string(name), "\": got shape [", rows,
                     ", ", cols, "], allowed dimensions are at least 1"));
  }
  if (spec.nf4() != nullptr) return absl::OkStatus();
  QS_RETURN_IF_ERROR(ValidateWords(spec, name, rows, cols));
  const int64_t group_size = SpecGrid(spec).group_size;
  if (group_size == -1 || MayEndShort(spec)) return absl::OkStatus();
  const int64_t elements = GroupedElements(spec, rows, cols);
  if (group_size >= 1 && elements % group_size == 0) {
    return spec.format == OutputFormat::kHqq
               ? ValidateHqqRows(*spec.hqq(), name, rows, cols)
               : absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tensor \"", std::string(name), "\": ", GroupSizeField(spec),
                   ": got ", group_size, ", allowed ",
                   spec.hqq() == nullptr ? "-1 or " : "", "a divisor of its ",
                   elements, elements == cols ? " columns" : " elements"));
}

const std::vector<MethodFacts>& Methods() {
  using enum OutputFormat;
  // In the order of QuantSpec::method's alternatives.
  static const auto* methods = new std::vector<MethodFacts>{
      {"nf4",
       {4},
       {kNf4BlockSizes.begin(), kNf4BlockSizes.end()},
       {kBitsandbytes},
       false},
      {"rtn", {2, 3, 4, 5, 6, 7, 8}, {}, {kCompressedTensors}, false},
      {"gptq", {2, 3, 4, 8}, {}, {kCompressedTensors, kGptq, kGptqV2}, true},
      {"awq", {2, 3, 4, 5, 6, 7, 8}, {}, {kCompressedTensors, kAwqGemm}, true},
      {"hqq", {8, 4, 3, 2, 1}, {}, {kCompressedTensors, kHqq}, false},
  };
  return *methods;
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
