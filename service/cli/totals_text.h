// What several reports say together, in words: for the tables of quantize,
// report and compare, for jobs, and for the pages. Thread: pure functions.
#ifndef QS_SERVICE_CLI_TOTALS_TEXT_H_
#define QS_SERVICE_CLI_TOTALS_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "quant/v1/quantization.pb.h"

namespace qs::cli {

struct PhaseShare {
  std::string name;  // as in PhaseSeconds
  double seconds = 0;
  double share = 0;  // of all phases
};
// Those that took any time, in the order of the work.
std::vector<PhaseShare> SharesOf(const quant::v1::PhaseSeconds& phases);

// "encode 63%, report 36%": what is below half a percent is left out.
std::string PhasesText(const quant::v1::PhaseSeconds& phases);
// "0.99511"; "-" where it is not known, as of a report without its products.
std::string CosineText(const quant::v1::ErrorStats& stats);
// "MSE 4.159e-05, mean |e| 5.012e-03, max |e| 3.100e-02, relative 9.91%, SQNR
// 20.08 dB, cosine 0.99511".
std::string FiguresText(const quant::v1::ErrorStats& stats);
// What the plan leaves as it is and why, one reason a line, the most bytes
// first: "carried:     4.61 kB in 9 tensors: norm".
std::string CarriedText(const quant::v1::PlanSummary& summary);
// "damping 0.01, 2 retries, 12.0% of groups clipped, ...".
std::string SolverFactsText(const quant::v1::SolverFacts& facts,
                            int64_t weights);
// "gptq-best/2 on cpu:0".
std::string MadeByText(const quant::v1::ReportTotals& totals);

// Of a job or a run: figures, solver, time, memory, the worst groups, one a
// line, each with a label in front; what there is nothing of is left out.
struct TotalsLines {
  const quant::v1::ErrorStats* error = nullptr;  // null: there are none
  const quant::v1::ErrorStats* rtn = nullptr;
  const quant::v1::ReportTotals* totals = nullptr;
};
std::string TotalsText(const TotalsLines& lines);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_TOTALS_TEXT_H_
