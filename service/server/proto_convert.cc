// Tested by tests/service/proto_convert_test.cc.
#include "service/server/proto_convert.h"

#include <array>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// How a proto enum and ours correspond; 0 is UNSPECIFIED in every proto enum.
template <typename Proto, typename Ours, size_t N>
using EnumTable = std::array<std::pair<Proto, Ours>, N>;

constexpr EnumTable<v1::DataType, DType, 15> kDTypes = {{
    {v1::F32, DType::kF32},
    {v1::F16, DType::kF16},
    {v1::BF16, DType::kBF16},
    {v1::U8, DType::kU8},
    {v1::I32, DType::kI32},
    {v1::I64, DType::kI64},
    {v1::F64, DType::kF64},
    {v1::I8, DType::kI8},
    {v1::I16, DType::kI16},
    {v1::U16, DType::kU16},
    {v1::U32, DType::kU32},
    {v1::U64, DType::kU64},
    {v1::BOOL, DType::kBool},
    {v1::F8_E4M3, DType::kF8E4M3},
    {v1::F8_E5M2, DType::kF8E5M2},
}};
constexpr EnumTable<v1::Profile, Profile, 2> kProfiles = {{
    {v1::REFERENCE, Profile::kReference},
    {v1::BEST, Profile::kBest},
}};
constexpr EnumTable<v1::OutputFormat, OutputFormat, 2> kFormats = {{
    {v1::BITSANDBYTES, OutputFormat::kBitsandbytes},
    {v1::COMPRESSED_TENSORS, OutputFormat::kCompressedTensors},
}};
constexpr EnumTable<v1::Nf4Config::Codebook, Codebook, 2> kCodebooks = {{
    {v1::Nf4Config::NF4, Codebook::kNf4},
    {v1::Nf4Config::FP4, Codebook::kFp4},
}};
constexpr EnumTable<v1::Nf4Config::Rule, Nf4Rule, 2> kRules = {{
    {v1::Nf4Config::CUDA, Nf4Rule::kCuda},
    {v1::Nf4Config::CPU, Nf4Rule::kCpu},
}};

template <typename Proto, typename Ours, size_t N>
std::optional<Ours> Find(const EnumTable<Proto, Ours, N>& table, Proto proto) {
  for (const auto& [theirs, ours] : table) {
    if (theirs == proto) return ours;
  }
  return std::nullopt;
}

template <typename Proto, typename Ours, size_t N>
Proto FindProto(const EnumTable<Proto, Ours, N>& table, Ours ours) {
  for (const auto& [theirs, mine] : table) {
    if (mine == ours) return theirs;
  }
  return Proto{};
}

std::string Path(std::string_view parent, std::string_view field) {
  std::string path(parent);
  if (!path.empty()) path += '.';
  path += field;
  return path;
}

// Leaves *out as it is for UNSPECIFIED.
template <typename Proto, typename Ours, size_t N>
absl::Status SetEnum(const EnumTable<Proto, Ours, N>& table, Proto proto,
                     const std::string& field, Ours* out) {
  if (proto == Proto{}) return absl::OkStatus();
  const std::optional<Ours> found = Find(table, proto);
  if (!found) {
    return BadFieldError(
        field, absl::StrCat("got enum number ", static_cast<int>(proto),
                            ", allowed 1 to ", table.size()));
  }
  *out = *found;
  return absl::OkStatus();
}

absl::StatusOr<QuantSpec> FromPreset(const std::string& name,
                                     std::string_view field) {
  const Preset* preset = FindPreset(name);
  if (preset != nullptr) return preset->spec;
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

absl::StatusOr<QuantSpec> FromMethod(const v1::QuantizationConfig& config,
                                     std::string_view field) {
  switch (config.method_case()) {
    case v1::QuantizationConfig::kNf4:
      return FromNf4(config.nf4(), Path(field, "nf4"));
    case v1::QuantizationConfig::kRtn:
      return FromRtn(config.rtn());
    case v1::QuantizationConfig::METHOD_NOT_SET:
      break;
  }
  return BadFieldError(field,
                       "got neither preset nor method, allowed one of preset, "
                       "nf4, rtn");
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

std::optional<DType> DTypeFromProto(v1::DataType dtype) {
  return Find(kDTypes, dtype);
}

v1::DataType DTypeToProto(DType dtype) { return FindProto(kDTypes, dtype); }

absl::StatusOr<QuantSpec> SpecFromProto(const v1::QuantizationConfig& config,
                                        std::string_view field) {
  const bool has_method =
      config.method_case() != v1::QuantizationConfig::METHOD_NOT_SET;
  if (config.has_preset() && has_method) {
    return BadFieldError(Path(field, "preset"),
                         "got a preset and a method, allowed one of them");
  }
  QS_ASSIGN_OR_RETURN(QuantSpec spec, config.has_preset()
                                          ? FromPreset(config.preset(), field)
                                          : FromMethod(config, field));
  QS_RETURN_IF_ERROR(SetEnum(kProfiles, config.profile(),
                             Path(field, "profile"), &spec.profile));
  QS_RETURN_IF_ERROR(
      SetEnum(kFormats, config.format(), Path(field, "format"), &spec.format));
  const absl::Status valid = ValidateSpec(spec);
  if (!valid.ok()) return SpecError(valid, field);
  return spec;
}

v1::QuantizationConfig SpecToProto(const QuantSpec& spec) {
  v1::QuantizationConfig config;
  config.set_profile(FindProto(kProfiles, spec.profile));
  config.set_format(FindProto(kFormats, spec.format));
  if (const Nf4Spec* nf4 = spec.nf4()) {
    v1::Nf4Config* out = config.mutable_nf4();
    out->set_codebook(FindProto(kCodebooks, nf4->codebook));
    out->set_block_size(nf4->block_size);
    out->set_double_quant(nf4->double_quant);
    out->set_rule(FindProto(kRules, nf4->rule));
  } else if (const RtnSpec* rtn = spec.rtn()) {
    v1::RtnConfig* out = config.mutable_rtn();
    out->set_bits(rtn->bits);
    out->set_group_size(rtn->group_size);
    out->set_symmetric(rtn->symmetric);
  }
  return config;
}

v1::ErrorStats ErrorStatsToProto(const ErrorSums& sums) {
  v1::ErrorStats stats;
  stats.set_count(sums.count);
  stats.set_mean_squared_error(MeanSquaredError(sums));
  stats.set_mean_absolute_error(MeanAbsoluteError(sums));
  stats.set_max_absolute_error(sums.max_absolute_error);
  stats.set_relative_frobenius_error(RelativeFrobeniusError(sums));
  stats.set_sqnr_db(SqnrDb(sums));
  stats.set_cosine_similarity(CosineSimilarity(sums));
  return stats;
}

namespace {

double MseRatio(const ErrorSums& error, const ErrorSums& rtn) {
  if (rtn.squared_error > 0) return error.squared_error / rtn.squared_error;
  return error.squared_error > 0 ? std::numeric_limits<double>::infinity() : 1;
}

void StatisticsToProto(const TensorReport& report, v1::TensorReport* out) {
  *out->mutable_error() = ErrorStatsToProto(report.error);
  *out->mutable_rtn() = ErrorStatsToProto(report.rtn);
  out->set_mse_ratio_to_rtn(MseRatio(report.error, report.rtn));
  for (const WorstGroup& worst : report.worst_groups) {
    v1::WorstGroup* group = out->add_worst_groups();
    group->set_group(worst.group);
    group->set_mean_squared_error(worst.mean_squared_error);
  }
  out->mutable_histogram()->mutable_counts()->Add(
      report.error.histogram.begin(), report.error.histogram.end());
}

}  // namespace

v1::TensorReport ReportToProto(const TensorReport& report) {
  v1::TensorReport out;
  out.set_name(report.name);
  out.mutable_shape()->Add(report.shape.begin(), report.shape.end());
  out.set_dtype(DTypeToProto(report.dtype));
  if (report.has_error) StatisticsToProto(report, &out);
  out.set_bytes_in(report.bytes_in);
  out.set_bytes_out(report.bytes_out);
  double weights = 1;
  for (const int64_t dimension : report.shape) {
    weights *= static_cast<double>(dimension);
  }
  if (weights > 0) {
    out.set_bits_per_weight(static_cast<double>(report.bytes_out) * 8 /
                            weights);
  }
  out.set_quantize_seconds(report.quantize_seconds);
  out.set_device(report.device);
  out.set_algorithm(report.algorithm);
  return out;
}

}  // namespace qs
