// Tested by tests/cli/exit_code_test.cc.
#include "service/checkpoint/fault.h"

#include "absl/strings/cord.h"

namespace qs {
namespace {

constexpr char kPayload[] = "quantd/fault";

}  // namespace

absl::Status WithFault(absl::Status status, Fault fault) {
  if (!status.ok() && !status.GetPayload(kPayload)) {
    const char digit = static_cast<char>('0' + static_cast<int>(fault));
    status.SetPayload(kPayload, absl::Cord(std::string(1, digit)));
  }
  return status;
}

absl::Status UsageError(const std::string& text) {
  return WithFault(absl::InvalidArgumentError(text), Fault::kUsage);
}

absl::Status UnexpectedError(const std::string& text) {
  return WithFault(absl::InternalError(text), Fault::kUnexpected);
}

std::optional<Fault> FaultOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload || payload->empty()) return std::nullopt;
  return static_cast<Fault>((*payload)[0] - '0');
}

}  // namespace qs
