// Used by tests/service/history/history_run.cc.
#include "tests/service/history/workload.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"

namespace qs::testing {

Slots::Slots(size_t count) {
  while (live_.size() < count) live_.push_back(next_++);
}

int Slots::Pick(std::mt19937* random) {
  absl::MutexLock lock(&mutex_);
  return live_[(*random)() % live_.size()];
}

void Slots::Retire(int number) {
  absl::MutexLock lock(&mutex_);
  const auto found = std::find(live_.begin(), live_.end(), number);
  if (found != live_.end()) *found = next_++;
}

std::vector<int> Slots::Live() const {
  absl::MutexLock lock(&mutex_);
  return live_;
}

int Slots::next() const {
  absl::MutexLock lock(&mutex_);
  return next_;
}

int64_t Board::Now() const {
  return absl::ToInt64Microseconds(absl::Now() - began_);
}

void Board::Record(Operation op) {
  absl::MutexLock lock(&mutex_);
  history_.push_back(std::move(op));
}

History Board::Recorded() const {
  absl::MutexLock lock(&mutex_);
  return history_;
}

std::string NameOf(const std::string& kind, const std::string& id) {
  return "projects/-/" + kind + "/" + id;
}

std::string IdOf(const std::string& name) {
  return name.substr(name.rfind('/') + 1);
}

void HistoryClient::Connect(int port) {
  if (port == port_) return;
  port_ = port;
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  const auto channel =
      grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                grpc::InsecureChannelCredentials(), arguments);
  tensors_ = v1::TensorService::NewStub(channel);
  jobs_ = v1::JobService::NewStub(channel);
  calibrations_ = v1::CalibrationService::NewStub(channel);
}

void HistoryClient::Act() {
  switch (random_() % 3) {
    case 0:
      return ActOnUpload();
    case 1:
      return ActOnJob();
    default:
      return ActOnCalibration();
  }
}

Operation HistoryClient::Begin(const std::string& call,
                               const std::string& object) const {
  Operation op;
  op.start = board_.Now();
  op.client = number_;
  op.call = call;
  op.object = object;
  return op;
}

void HistoryClient::End(Operation op, const grpc::Status& status) {
  op.end = board_.Now();
  if (!status.ok()) {
    const absl::Status error = FromGrpcStatus(status);
    const std::string reason = ErrorReason(error);
    op.error = absl::StatusCodeToString(error.code()) + " " + reason;
    if (reason.empty()) op.error += std::string(error.message());
    // A lost connection has no reason, and so has what the client broke off.
    const bool lost = reason.empty() &&
                      (absl::IsUnavailable(error) || absl::IsCancelled(error));
    const bool failed = board_.disk_fails && absl::IsInternal(error);
    op.outcome = lost || failed ? Operation::kUnknown : Operation::kRefused;
  }
  const bool lost = op.outcome == Operation::kUnknown;
  board_.Record(std::move(op));
  // While no server is there a client would only fill the history.
  if (lost) absl::SleepFor(absl::Milliseconds(5));
}

}  // namespace qs::testing
