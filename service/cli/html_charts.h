// The charts of the report's page, as SVG elements that take their colours from
// the page's style sheet. Thread: pure functions.
#ifndef QS_SERVICE_CLI_HTML_CHARTS_H_
#define QS_SERVICE_CLI_HTML_CHARTS_H_

#include <string>

#include "service/cli/run_report.h"

namespace qs::cli {

// Relative error of every tensor in checkpoint order, its RTN beside it.
std::string ErrorChart(const RunReport& report);
// The same of the outputs; empty without a calibration.
std::string OutputErrorChart(const RunReport& report);
// Bits a weight of every tensor against its output error, or without a
// calibration its relative error.
std::string BitsChart(const RunReport& report);
// Tokens that every expert of a mixture saw; empty without one.
std::string ExpertChart(const RunReport& report);
// Share of the groups by clip limit; empty when nothing was clipped.
std::string ClipChart(const RunReport& report);
// Share of the weights by error over step, as far as errors reach; empty
// without a histogram.
std::string HistogramChart(const RunReport& report, const RunTotals& totals);
// Worker time by phase; empty where the reports do not say.
std::string PhaseChart(const RunTotals& totals);
// Bytes of quantized and carried tensors, before and after.
std::string SizeChart(const RunReport& report, const RunTotals& totals);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_HTML_CHARTS_H_
