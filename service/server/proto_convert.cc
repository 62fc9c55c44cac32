// Tested by tests/service/proto_convert_test.cc.
#include "service/server/proto_convert.h"

#include <limits>

#include "service/server/enum_table.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

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
}  // namespace

std::optional<DType> DTypeFromProto(v1::DataType dtype) {
  return Find(kDTypes, dtype);
}

v1::DataType DTypeToProto(DType dtype) { return FindProto(kDTypes, dtype); }

std::string DTypeText(v1::DataType dtype) {
  const std::string& name = v1::DataType_Name(dtype);
  return name.empty() ? absl::StrCat("enum number ", static_cast<int>(dtype))
                      : name;
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
  stats.set_weight_squared(sums.weight_squared);
  stats.set_decoded_squared(sums.decoded_squared);
  stats.set_dot_product(sums.dot);
  return stats;
}

namespace {

double MseRatio(const ErrorSums& error, const ErrorSums& rtn) {
  if (rtn.squared_error > 0) return error.squared_error / rtn.squared_error;
  return error.squared_error > 0 ? std::numeric_limits<double>::infinity() : 1;
}

void StatisticsToProto(const TensorReport& report, v1::TensorReport* out) {
  *out->mutable_error() = ErrorStatsToProto(report.error);
  // One bit cannot be rounded to nearest, and nothing was added up.
  if (report.rtn.count > 0 || report.error.count == 0) {
    *out->mutable_rtn() = ErrorStatsToProto(report.rtn);
    out->set_mse_ratio_to_rtn(MseRatio(report.error, report.rtn));
  }
  for (const WorstGroup& worst : report.worst_groups) {
    v1::WorstGroup* group = out->add_worst_groups();
    group->set_group(worst.group);
    group->set_mean_squared_error(worst.mean_squared_error);
  }
  out->mutable_histogram()->mutable_counts()->Add(
      report.error.histogram.begin(), report.error.histogram.end());
}

void OutputErrorToProto(const TensorReport& report, v1::TensorReport* out) {
  out->set_output_error(RelativeOutputError(report.output_error));
  // Of the same output: without a signal it was not measured.
  if (report.rtn_output_error.signal > 0 || report.output_error.signal == 0) {
    out->set_rtn_output_error(RelativeOutputError(report.rtn_output_error));
  }
  out->set_tokens(report.tokens);
}

v1::PhaseSeconds PhasesToProto(const PhaseTimes& times) {
  v1::PhaseSeconds out;
  out.set_wait(times[Phase::kWait]);
  out.set_prepare(times[Phase::kPrepare]);
  out.set_factor(times[Phase::kFactor]);
  out.set_search(times[Phase::kSearch]);
  out.set_encode(times[Phase::kEncode]);
  out.set_refine(times[Phase::kRefine]);
  out.set_pack(times[Phase::kPack]);
  out.set_verify(times[Phase::kVerify]);
  out.set_report(times[Phase::kReport]);
  return out;
}

v1::SolverFacts SolverFactsToProto(const SolverFacts& facts) {
  v1::SolverFacts out;
  out.set_damping(facts.damping);
  out.set_damping_retries(facts.damping_retries);
  out.set_factor_in_f64(facts.factor_in_f64);
  out.set_diagonal_only(facts.diagonal_only);
  out.set_dead_columns(facts.dead_columns);
  out.mutable_clip_histogram()->Add(facts.clip_histogram.begin(),
                                    facts.clip_histogram.end());
  out.set_scale_exponent(facts.scale_exponent);
  out.set_scale_duo(facts.scale_duo);
  out.set_scale_min(facts.scale_min);
  out.set_scale_max(facts.scale_max);
  out.set_iterations(facts.iterations);
  out.set_codes_changed(facts.codes_changed);
  return out;
}

}  // namespace

v1::TensorReport ReportToProto(const TensorReport& report) {
  v1::TensorReport out;
  out.set_name(report.name);
  out.mutable_shape()->Add(report.shape.begin(), report.shape.end());
  out.set_dtype(DTypeToProto(report.dtype));
  if (report.has_error) StatisticsToProto(report, &out);
  if (report.has_output_error) OutputErrorToProto(report, &out);
  if (report.solver) {
    *out.mutable_solver() = SolverFactsToProto(*report.solver);
  }
  for (const std::string& warning : report.warnings) {
    out.add_warnings(warning);
  }
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
  out.set_memory_bytes(report.memory_bytes);
  out.set_quantize_seconds(report.phases.Total());
  *out.mutable_phases() = PhasesToProto(report.phases);
  out.set_device(report.device);
  out.set_algorithm(report.algorithm);
  return out;
}

}  // namespace qs
