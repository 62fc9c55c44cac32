// Watching a job to its end, over lost connections and restarts of the server.
#ifndef QS_SERVICE_CLI_JOB_WATCH_H_
#define QS_SERVICE_CLI_JOB_WATCH_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "service/cli/commands.h"
#include "service/cli/run_control.h"

namespace qs::cli {

// Shows states and progress on the console's `error`: a bar on a terminal, else
// lines. The job when it is done. Errors: FromServer's, after retries for about
// two minutes without an event; control's.
absl::StatusOr<quant::v1::Job> WatchToEnd(quant::v1::JobService::Stub& stub,
                                          const std::string& name,
                                          const std::string& server,
                                          const Console& console,
                                          RunControl& control);

// kJobEnded unless it succeeded.
absl::Status CheckSucceeded(const quant::v1::Job& job);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_JOB_WATCH_H_
