// Tested by tests/cli/report_test.cc.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "service/cli/method_options.h"
#include "service/cli/run_report.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

std::string GroupText(int64_t group_size) {
  return group_size < 0 ? "one scale a row"
                        : absl::StrCat("groups of ", group_size);
}

template <typename Config>
std::string GridText(const char* name, const Config& config) {
  return absl::StrCat(name, ", ", config.bits(), " bits, ",
                      GroupText(config.group_size()),
                      config.symmetric() ? ", symmetric" : ", asymmetric");
}

std::string MethodText(const v1::QuantizationConfig& config) {
  if (config.has_rtn()) return GridText("round to nearest", config.rtn());
  if (config.has_gptq()) {
    return absl::StrCat(
        GridText("GPTQ", config.gptq()), ", order ",
        WordOf(v1::GptqConfig::Order_Name(config.gptq().order())),
        config.gptq().awq_scaling() ? ", scaled by AWQ first" : "");
  }
  if (config.has_awq()) return GridText("AWQ", config.awq());
  if (config.has_hqq()) {
    return absl::StrCat("HQQ, ", config.hqq().bits(), " bits, ",
                        GroupText(config.hqq().group_size()),
                        config.hqq().axis() == 0 ? ", axis 0" : "");
  }
  if (!config.has_nf4()) return "";
  const v1::Nf4Config& nf4 = config.nf4();
  return absl::StrCat(nf4.codebook() == v1::Nf4Config::FP4 ? "FP4" : "NF4",
                      ", blocks of ", nf4.block_size(),
                      nf4.double_quant() ? ", block scales in 8 bits" : "");
}

}  // namespace

std::string ConfigText(const v1::QuantizationConfig& resolved) {
  const std::string method = MethodText(resolved);
  if (method.empty() || resolved.format() == v1::OUTPUT_FORMAT_UNSPECIFIED) {
    return method;
  }
  return absl::StrCat(method, ", format ",
                      WordOf(v1::OutputFormat_Name(resolved.format())));
}

std::string SolverText(const v1::TensorReport& tensor) {
  const v1::SolverFacts& s = tensor.solver();
  std::vector<std::string> facts;
  if (s.damping() > 0) {
    facts.push_back(absl::StrFormat("damping %.3g", s.damping()));
  }
  if (s.damping_retries() > 0) {
    facts.push_back(absl::StrCat(s.damping_retries(), " retries"));
  }
  if (s.factor_in_f64()) facts.emplace_back("factor in f64");
  if (s.diagonal_only()) facts.emplace_back("diagonal only");
  if (s.dead_columns() > 0) {
    facts.push_back(absl::StrCat(s.dead_columns(), " dead columns"));
  }
  if (s.scale_max() > 0) {
    facts.push_back(absl::StrFormat(
        "exponent %.3g%s, scales %.3g to %.3g", s.scale_exponent(),
        s.scale_duo() ? " duo" : "", s.scale_min(), s.scale_max()));
  }
  if (s.iterations() > 0) {
    facts.push_back(absl::StrFormat("%.1f iterations", s.iterations()));
  }
  if (s.codes_changed() > 0) {
    const auto weights = static_cast<double>(WeightsOf(tensor));
    facts.push_back(absl::StrFormat(
        "%.1f%% of codes changed",
        100 * static_cast<double>(s.codes_changed()) / weights));
  }
  return absl::StrJoin(facts, ", ");
}

}  // namespace qs::cli
