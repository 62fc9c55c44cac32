// The result of a job, from the server's store to a directory, over lost
// connections and restarts of the server.
#ifndef QS_SERVICE_CLI_RESULT_FETCH_H_
#define QS_SERVICE_CLI_RESULT_FETCH_H_

#include <string>

#include "absl/status/status.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "service/cli/commands.h"
#include "service/cli/run_control.h"

namespace qs::cli {

// Waits while the job runs and makes `output` when everything is there. What
// was received before an error stays beside it, and a second call goes on.
// Errors: FromServer's, after retries for about two minutes without progress;
// kOutput; control's. Of a job without a result NO_RESULT: the caller knows the
// job.
absl::Status FetchResult(quant::v1::JobService::Stub& stub,
                         const std::string& job, const std::string& output,
                         const std::string& server, const Console& console,
                         RunControl& control);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_RESULT_FETCH_H_
