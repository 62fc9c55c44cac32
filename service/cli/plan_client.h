// The plan of a checkpoint, asked from the server by headers and config.json.
#ifndef QS_SERVICE_CLI_PLAN_CLIENT_H_
#define QS_SERVICE_CLI_PLAN_CLIENT_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/checkpoint.h"
#include "service/checkpoint/plan_answer.h"
#include "service/cli/arguments.h"
#include "service/cli/run_control.h"

namespace qs::cli {

// Errors: FromServer's; kUnexpected — the answer does not fit the checkpoint.
// A refused plan is no error here.
absl::StatusOr<PlanAnswer> FetchPlan(const ServerArguments& server,
                                     const ConfigArguments& config,
                                     const Checkpoint& checkpoint,
                                     RunControl& control);

// What the server is told to do: a preset that flags change needs the server's
// meaning of it. Errors: FromServer's; kUsage.
absl::StatusOr<quant::v1::QuantizationConfig> FetchConfig(
    const ServerArguments& server, const ConfigArguments& config,
    RunControl& control);

// kRefused with every ERROR finding, when there is one.
absl::Status CheckNotRefused(const PlanAnswer& plan);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_PLAN_CLIENT_H_
