// Tested by tests/service/proto_convert_test.cc.
#include "service/server/spec_convert.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/enum_table.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr EnumTable<v1::Profile, Profile, 2> kProfiles = {{
    {v1::REFERENCE, Profile::kReference},
    {v1::BEST, Profile::kBest},
}};
constexpr EnumTable<v1::OutputFormat, OutputFormat, 6> kFormats = {{
    {v1::BITSANDBYTES, OutputFormat::kBitsandbytes},
    {v1::COMPRESSED_TENSORS, OutputFormat::kCompressedTensors},
    {v1::GPTQ_V1, OutputFormat::kGptq},
    {v1::GPTQ_V2, OutputFormat::kGptqV2},
    {v1::AWQ_GEMM, OutputFormat::kAwqGemm},
    {v1::HQQ_STATE_DICT, OutputFormat::kHqq},
}};
constexpr EnumTable<v1::Nf4Config::Codebook, Codebook, 2> kCodebooks = {{
    {v1::Nf4Config::NF4, Codebook::kNf4},
    {v1::Nf4Config::FP4, Codebook::kFp4},
}};
constexpr EnumTable<v1::Nf4Config::Rule, Nf4Rule, 2> kRules = {{
    {v1::Nf4Config::CUDA, Nf4Rule::kCuda},
    {v1::Nf4Config::CPU, Nf4Rule::kCpu},
}};
constexpr EnumTable<v1::GptqConfig::Order, ColumnOrder, 4> kOrders = {{
    {v1::GptqConfig::AS_STORED, ColumnOrder::kNone},
    {v1::GptqConfig::ACT_ORDER, ColumnOrder::kActOrder},
    {v1::GptqConfig::ACT_ORDER_STATIC, ColumnOrder::kActOrderStatic},
    {v1::GptqConfig::GROUP_AWARE, ColumnOrder::kGroupAware},
}};
constexpr EnumTable<v1::GptqConfig::RangeSearch, RangeSearch, 3> kSearches = {{
    {v1::GptqConfig::MIN_MAX, RangeSearch::kMinMax},
    {v1::GptqConfig::MSE, RangeSearch::kMse},
    {v1::GptqConfig::CURVATURE, RangeSearch::kCurvature},
}};

std::string Path(std::string_view parent, std::string_view field) {
  std::string path(parent);
  if (!path.empty()) path += '.';
  path += field;
  return path;
}

// A preset says bits, groups and symmetry; how hard to solve, the profile.
void ApplyProfile(Profile profile, v1::OutputFormat format, QuantSpec* spec) {
  const GridSpec grid = SpecGrid(*spec);
  if (spec->gptq() != nullptr) {
    GptqSpec gptq = DefaultGptqSpec(profile);
    gptq.bits = grid.bits;
    gptq.group_size = grid.group_size;
    gptq.symmetric = grid.symmetric;
    if (grid.group_size == -1 && gptq.order == ColumnOrder::kGroupAware) {
      gptq.order = ColumnOrder::kNone;
    }
    spec->method = gptq;
  } else {
    AwqSpec awq = DefaultAwqSpec(profile);
    awq.bits = grid.bits;
    awq.group_size = grid.group_size;
    awq.symmetric = grid.symmetric && format != v1::AWQ_GEMM;
    spec->method = awq;
  }
}

absl::StatusOr<QuantSpec> FromPreset(const std::string& name, Profile profile,
                                     v1::OutputFormat format,
                                     std::string_view field) {
  if (const Preset* preset = FindPreset(name)) {
    QuantSpec spec = preset->spec;
    if (spec.gptq() != nullptr || spec.awq() != nullptr) {
      ApplyProfile(profile, format, &spec);
    }
    return spec;
  }
  std::string allowed;
  for (const Preset& p : Presets()) {
    absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", p.name);
  }
  return BadFieldError(Path(field, "preset"),
                       absl::StrCat("got \"", name, "\", allowed ", allowed));
}

absl::StatusOr<QuantSpec> FromNf4(const v1::Nf4Config& config,
                                  const std::string& field) {
  Nf4Spec nf4;
  QS_RETURN_IF_ERROR(SetEnum(kCodebooks, config.codebook(), field + ".codebook",
                             &nf4.codebook));
  QS_RETURN_IF_ERROR(
      SetEnum(kRules, config.rule(), field + ".rule", &nf4.rule));
  if (config.has_block_size()) nf4.block_size = config.block_size();
  nf4.double_quant = config.double_quant();
  return QuantSpec{nf4, Profile::kBest, OutputFormat::kBitsandbytes};
}

QuantSpec FromRtn(const v1::RtnConfig& config) {
  RtnSpec rtn;
  if (config.has_bits()) rtn.bits = config.bits();
  if (config.has_group_size()) rtn.group_size = config.group_size();
  if (config.has_symmetric()) rtn.symmetric = config.symmetric();
  return QuantSpec{rtn, Profile::kBest, OutputFormat::kCompressedTensors};
}

absl::StatusOr<QuantSpec> FromGptq(const v1::GptqConfig& config,
                                   Profile profile, const std::string& field) {
  GptqSpec gptq = DefaultGptqSpec(profile);
  if (config.has_bits()) gptq.bits = config.bits();
  if (config.has_group_size()) gptq.group_size = config.group_size();
  if (config.has_symmetric()) gptq.symmetric = config.symmetric();
  // Without groups there is nothing to be aware of.
  if (gptq.group_size == -1 && gptq.order == ColumnOrder::kGroupAware) {
    gptq.order = ColumnOrder::kNone;
  }
  QS_RETURN_IF_ERROR(
      SetEnum(kOrders, config.order(), field + ".order", &gptq.order));
  QS_RETURN_IF_ERROR(SetEnum(kSearches, config.range_search(),
                             field + ".range_search", &gptq.range_search));
  if (config.has_damping()) gptq.damping = config.damping();
  if (config.has_range_norm()) gptq.range_norm = config.range_norm();
  if (config.has_sweeps()) gptq.sweeps = config.sweeps();
  if (config.has_scale_refit()) gptq.scale_refit = config.scale_refit();
  if (config.has_awq_scaling()) gptq.awq_scaling = config.awq_scaling();
  return QuantSpec{gptq, profile, OutputFormat::kCompressedTensors};
}

QuantSpec FromAwq(const v1::AwqConfig& config, Profile profile,
                  v1::OutputFormat format) {
  AwqSpec awq = DefaultAwqSpec(profile);
  // What its engines read has zero points.
  awq.symmetric = format != v1::AWQ_GEMM;
  if (config.has_bits()) awq.bits = config.bits();
  if (config.has_group_size()) awq.group_size = config.group_size();
  if (config.has_symmetric()) awq.symmetric = config.symmetric();
  if (config.has_grid()) awq.grid = config.grid();
  if (config.has_duo_scaling()) awq.duo_scaling = config.duo_scaling();
  if (config.has_clip()) awq.clip = config.clip();
  if (config.has_max_scale_ratio()) {
    awq.max_scale_ratio = config.max_scale_ratio();
  }
  if (config.has_solve_codes()) awq.solve_codes = config.solve_codes();
  if (config.has_damping()) awq.damping = config.damping();
  return QuantSpec{awq, profile, OutputFormat::kCompressedTensors};
}

QuantSpec FromHqq(const v1::HqqConfig& config) {
  HqqSpec hqq;
  if (config.has_bits()) hqq.bits = config.bits();
  if (config.has_group_size()) hqq.group_size = config.group_size();
  if (config.has_axis()) hqq.axis = config.axis();
  if (config.has_iterations()) hqq.iterations = config.iterations();
  return QuantSpec{hqq, Profile::kBest, OutputFormat::kCompressedTensors};
}

// The profile and the format enter, because some defaults depend on them.
absl::StatusOr<QuantSpec> FromMethod(const v1::QuantizationConfig& config,
                                     Profile profile, std::string_view field) {
  switch (config.method_case()) {
    case v1::QuantizationConfig::kNf4:
      return FromNf4(config.nf4(), Path(field, "nf4"));
    case v1::QuantizationConfig::kRtn:
      return FromRtn(config.rtn());
    case v1::QuantizationConfig::kGptq:
      return FromGptq(config.gptq(), profile, Path(field, "gptq"));
    case v1::QuantizationConfig::kAwq:
      return FromAwq(config.awq(), profile, config.format());
    case v1::QuantizationConfig::kHqq:
      return FromHqq(config.hqq());
    case v1::QuantizationConfig::METHOD_NOT_SET:
      break;
  }
  return BadFieldError(field,
                       "got neither preset nor method, allowed one of preset, "
                       "nf4, rtn, gptq, awq, hqq");
}

// ValidateSpec's text begins with the field below QuantizationConfig.
absl::Status SpecError(const absl::Status& status, std::string_view field) {
  const std::string text(status.message());
  const size_t colon = text.find(": ");
  if (colon == std::string::npos) return BadFieldError(field, text);
  return BadFieldError(Path(field, text.substr(0, colon)),
                       text.substr(colon + 2));
}

}  // namespace

absl::StatusOr<QuantSpec> SpecFromProto(const v1::QuantizationConfig& config,
                                        std::string_view field) {
  const bool has_method =
      config.method_case() != v1::QuantizationConfig::METHOD_NOT_SET;
  if (config.has_preset() && has_method) {
    return BadFieldError(Path(field, "preset"),
                         "got a preset and a method, allowed one of them");
  }
  Profile profile = Profile::kBest;
  QS_RETURN_IF_ERROR(
      SetEnum(kProfiles, config.profile(), Path(field, "profile"), &profile));
  QS_ASSIGN_OR_RETURN(QuantSpec spec, config.has_preset()
                                          ? FromPreset(config.preset(), profile,
                                                       config.format(), field)
                                          : FromMethod(config, profile, field));
  spec.profile = profile;
  QS_RETURN_IF_ERROR(
      SetEnum(kFormats, config.format(), Path(field, "format"), &spec.format));
  const absl::Status valid = ValidateSpec(spec);
  if (!valid.ok()) return SpecError(valid, field);
  return spec;
}

namespace {

void ToProto(const Nf4Spec& nf4, v1::QuantizationConfig* config) {
  v1::Nf4Config* out = config->mutable_nf4();
  out->set_codebook(FindProto(kCodebooks, nf4.codebook));
  out->set_block_size(nf4.block_size);
  out->set_double_quant(nf4.double_quant);
  out->set_rule(FindProto(kRules, nf4.rule));
}

void ToProto(const RtnSpec& rtn, v1::QuantizationConfig* config) {
  v1::RtnConfig* out = config->mutable_rtn();
  out->set_bits(rtn.bits);
  out->set_group_size(rtn.group_size);
  out->set_symmetric(rtn.symmetric);
}

void ToProto(const GptqSpec& gptq, v1::QuantizationConfig* config) {
  v1::GptqConfig* out = config->mutable_gptq();
  out->set_bits(gptq.bits);
  out->set_group_size(gptq.group_size);
  out->set_symmetric(gptq.symmetric);
  out->set_order(FindProto(kOrders, gptq.order));
  out->set_damping(gptq.damping);
  out->set_range_search(FindProto(kSearches, gptq.range_search));
  out->set_range_norm(gptq.range_norm);
  out->set_sweeps(gptq.sweeps);
  out->set_scale_refit(gptq.scale_refit);
  out->set_awq_scaling(gptq.awq_scaling);
}

void ToProto(const AwqSpec& awq, v1::QuantizationConfig* config) {
  v1::AwqConfig* out = config->mutable_awq();
  out->set_bits(awq.bits);
  out->set_group_size(awq.group_size);
  out->set_symmetric(awq.symmetric);
  out->set_grid(awq.grid);
  out->set_duo_scaling(awq.duo_scaling);
  out->set_clip(awq.clip);
  out->set_max_scale_ratio(awq.max_scale_ratio);
  out->set_solve_codes(awq.solve_codes);
  out->set_damping(awq.damping);
}

void ToProto(const HqqSpec& hqq, v1::QuantizationConfig* config) {
  v1::HqqConfig* out = config->mutable_hqq();
  out->set_bits(hqq.bits);
  out->set_group_size(hqq.group_size);
  out->set_axis(hqq.axis);
  out->set_iterations(hqq.iterations);
}

}  // namespace

v1::OutputFormat FormatToProto(OutputFormat format) {
  return FindProto(kFormats, format);
}

v1::QuantizationConfig SpecToProto(const QuantSpec& spec) {
  v1::QuantizationConfig config;
  config.set_profile(FindProto(kProfiles, spec.profile));
  config.set_format(FindProto(kFormats, spec.format));
  std::visit([&](const auto& method) { ToProto(method, &config); },
             spec.method);
  return config;
}

namespace {

absl::StatusOr<PlanOverride> OverrideFromProto(const v1::Override& from,
                                               const QuantSpec& base,
                                               std::string_view field) {
  PlanOverride out;
  out.tensors = from.tensors();
  if (out.tensors.empty()) {
    return BadFieldError(Path(field, "tensors"), "got none, allowed a glob");
  }
  QS_RETURN_IF_ERROR(CheckGlob(Path(field, "tensors"), out.tensors));
  if (from.has_config()) {
    v1::QuantizationConfig config = from.config();
    if (!config.has_profile()) {
      config.set_profile(FindProto(kProfiles, base.profile));
    }
    if (!config.has_format()) {
      config.set_format(FindProto(kFormats, base.format));
    }
    QS_ASSIGN_OR_RETURN(out.spec, SpecFromProto(config, Path(field, "config")));
    return out;
  }
  if (from.skip()) return out;
  return BadFieldError(std::string(field),
                       "got neither config nor skip, allowed one of config and "
                       "skip: true");
}

}  // namespace

absl::Status CheckGlob(std::string_view field, std::string_view glob) {
  if (glob.size() <= kMaxGlobBytes) return absl::OkStatus();
  return BadFieldError(field,
                       absl::StrCat("got a glob of ", glob.size(),
                                    " bytes, allowed at most ", kMaxGlobBytes));
}

absl::Status CheckGlobs(std::string_view field, const GlobsProto& include,
                        const GlobsProto& exclude) {
  const int globs = include.size() + exclude.size();
  if (globs > kMaxGlobs) {
    return BadFieldError(field, absl::StrCat("got ", globs,
                                             " globs with exclude, allowed at "
                                             "most ",
                                             kMaxGlobs));
  }
  for (const GlobsProto* some : {&include, &exclude}) {
    for (const std::string& glob : *some) {
      QS_RETURN_IF_ERROR(CheckGlob(field, glob));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PlanOverride>> OverridesFromProto(
    const OverridesProto& overrides, const QuantSpec& base,
    std::string_view field) {
  if (overrides.size() > kMaxOverrides) {
    return BadFieldError(std::string(field),
                         absl::StrCat("got ", overrides.size(),
                                      ", allowed at most ", kMaxOverrides));
  }
  std::vector<PlanOverride> out;
  for (int i = 0; i < overrides.size(); ++i) {
    QS_ASSIGN_OR_RETURN(
        PlanOverride one,
        OverrideFromProto(overrides[i], base,
                          absl::StrCat(std::string(field), "[", i, "]")));
    out.push_back(std::move(one));
  }
  return out;
}

std::vector<QuantSpec> SpecsByRule(const QuantSpec& base,
                                   const std::vector<PlanOverride>& overrides) {
  std::vector<QuantSpec> specs = {base};
  for (const PlanOverride& one : overrides) {
    specs.push_back(one.spec.value_or(base));
  }
  return specs;
}

OverridesProto OverridesToProto(const std::vector<PlanOverride>& overrides) {
  OverridesProto out;
  for (const PlanOverride& one : overrides) {
    v1::Override* const added = out.Add();
    added->set_tensors(one.tensors);
    if (one.spec) {
      *added->mutable_config() = SpecToProto(*one.spec);
    } else {
      added->set_skip(true);
    }
  }
  return out;
}

}  // namespace qs
