// Jobs as people read them. Thread: pure functions.
#ifndef QS_SERVICE_CLI_JOB_TEXT_H_
#define QS_SERVICE_CLI_JOB_TEXT_H_

#include <string>
#include <vector>

#include "quant/v1/jobs.pb.h"

namespace qs::cli {

// "ID" of "projects/PROJECT/jobs/ID".
std::string JobIdOf(const std::string& name);
// "QUEUED", "RUNNING, attempt 2", "RUNNING, cancelling".
std::string StateText(quant::v1::Job::State state, int attempt,
                      bool cancelling);
// A block of lines.
std::string JobText(const quant::v1::Job& job);
std::string PlanText(const quant::v1::JobPlan& plan);
std::string JobTable(const std::vector<quant::v1::Job>& jobs);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_JOB_TEXT_H_
