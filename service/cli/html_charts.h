// The charts of the report's page, as SVG elements that take their colours from
// the page's style sheet. Thread: pure functions.
#ifndef QS_SERVICE_CLI_HTML_CHARTS_H_
#define QS_SERVICE_CLI_HTML_CHARTS_H_

#include <string>

#include "service/cli/run_report.h"

namespace qs::cli {

// Relative error of every tensor in checkpoint order, its RTN beside it.
std::string ErrorChart(const RunReport& report);
// Share of the weights by error over step, as far as errors reach; empty
// without a histogram.
std::string HistogramChart(const RunReport& report, const RunTotals& totals);
// Bytes of quantized and carried tensors, before and after.
std::string SizeChart(const RunReport& report, const RunTotals& totals);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_HTML_CHARTS_H_
