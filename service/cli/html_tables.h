// Tables of the report's page beside that of its tensors: figures, time, the
// worst groups. Html; empty where the report has nothing of it.
// Thread: pure functions.
#ifndef QS_SERVICE_CLI_HTML_TABLES_H_
#define QS_SERVICE_CLI_HTML_TABLES_H_

#include <string>

#include "service/cli/run_report.h"

namespace qs::cli {

// All figures of the run and, folded away, of every tensor; RTN's in a line of
// their own below.
std::string FiguresTable(const RunReport& report, const RunTotals& totals);
// Folded away: worker time by phase, memory, device and algorithm of every
// tensor.
std::string TimeTable(const RunReport& report, const RunTotals& totals);
// The worst of the run and, folded away, of every tensor.
std::string WorstGroupsTable(const RunReport& report, const RunTotals& totals);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_HTML_TABLES_H_
