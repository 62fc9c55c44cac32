// Tested by tests/service/jobs/job_service_test.cc.
#include "service/jobs/job_server.h"

#include "kernels/base/status_macros.h"
#include "service/server/error.h"

namespace qs {

absl::Status JobServer::Start() {
  QS_RETURN_IF_ERROR(scheduler_.Recover());
  scheduler_.Start();
  return absl::OkStatus();
}

void JobServer::StartDraining() {
  scheduler_.StartDraining();
  hub_.EndAll(DrainingError());
}

}  // namespace qs
