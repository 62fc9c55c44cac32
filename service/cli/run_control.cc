// Tested by tests/cli/work_board_test.cc and tests/e2e/quantctl_test.py.
#include "service/cli/run_control.h"

namespace qs::cli {

void RunControl::Fail(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (failed_) return;
  failed_ = true;
  status_ = status;
  for (grpc::ClientContext* call : calls_) call->TryCancel();
}

bool RunControl::failed() const {
  absl::MutexLock lock(&mutex_);
  return failed_;
}

absl::Status RunControl::status() const {
  absl::MutexLock lock(&mutex_);
  return status_;
}

bool RunControl::Sleep(absl::Duration time) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&failed_), time);
}

RunControl::Call::Call(RunControl& control, grpc::ClientContext& context)
    : control_(control), context_(context) {
  absl::MutexLock lock(&control_.mutex_);
  control_.calls_.insert(&context_);
  if (control_.failed_) context_.TryCancel();
}

RunControl::Call::~Call() {
  absl::MutexLock lock(&control_.mutex_);
  control_.calls_.erase(&context_);
}

}  // namespace qs::cli
