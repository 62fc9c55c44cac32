// CompareReport: what `quantctl compare` found out about several methods on the
// same tensors, and its three forms: JSON, a table, a page.
//
// The JSON ("schema": "quantd.compare/1"): created, quantctl, server, input,
// calibration (a path, or empty), bits, group_size; `methods`: name, refused
// (why it did not run, or empty), resolved (QuantizationConfig), seconds,
// weights_per_second (of one worker), summary and tensors as in
// quantd.report/1. Memory is the most that the server reserved for a tensor, or
// for a group of them, at once. Thread: pure functions.
#ifndef QS_SERVICE_CLI_COMPARE_REPORT_H_
#define QS_SERVICE_CLI_COMPARE_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "quant/v1/quantization.pb.h"

namespace qs::cli {

struct MethodRun {
  std::string name;     // "gptq"
  std::string refused;  // why it did not run; empty: it did
  quant::v1::QuantizationConfig resolved;
  double seconds = 0;                            // in all, transfers included
  std::vector<quant::v1::TensorReport> tensors;  // checkpoint order
};

struct CompareReport {
  std::string created;  // RFC 3339
  std::string server;
  std::string input_path;
  std::string calibration_path;  // empty: none
  int bits = 0;
  int64_t group_size = 0;
  std::vector<MethodRun> methods;
};

// Weights over the time that workers spent on them; 0 without any.
double WeightsPerSecond(const MethodRun& run);

std::string CompareTable(const CompareReport& report);
std::string CompareToJson(const CompareReport& report);
// One page that needs nothing else, like ReportHtml.
std::string CompareHtml(const CompareReport& report);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_COMPARE_REPORT_H_
