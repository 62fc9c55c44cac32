// Tested by tests/cli/report_test.cc.
#include <string>

#include "absl/strings/str_cat.h"
#include "service/cli/method_options.h"
#include "service/cli/run_report.h"
#include "service/cli/totals_text.h"

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
  return SolverFactsText(tensor.solver(), WeightsOf(tensor));
}

}  // namespace qs::cli
