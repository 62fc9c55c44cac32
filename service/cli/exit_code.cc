// Tested by tests/cli/exit_code_test.cc.
#include "service/cli/exit_code.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "quant/formats/utf8.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"

namespace qs::cli {
namespace {

constexpr char kPayload[] = "quantctl/exit-code";

// The server's reasons (see the .proto) that say more than its status code.
constexpr std::pair<std::string_view, ExitCode> kReasons[] = {
    {"BAD_CALIBRATION", ExitCode::kBadInput},
    {"BAD_CHECKPOINT", ExitCode::kBadInput},
    {"BAD_CONFIG_JSON", ExitCode::kBadInput},
    {"BAD_STATE", ExitCode::kUsage},
    {"CALIBRATION_MISSING", ExitCode::kUsage},
    {"CALIBRATION_NOT_FOUND", ExitCode::kUsage},
    {"CHUNK_CRC_MISMATCH", ExitCode::kServerLost},
    {"DESTINATION_EXISTS", ExitCode::kOutput},
    {"DESTINATION_IN_USE", ExitCode::kOutput},
    {"DESTINATION_NOT_FOUND", ExitCode::kOutput},
    {"DESTINATION_NOT_WRITABLE", ExitCode::kOutput},
    {"DIGEST_MISMATCH", ExitCode::kBadInput},  // the file changed
    {"DUPLICATE_TENSOR", ExitCode::kBadInput},
    {"FORMAT_LIMIT", ExitCode::kBadInput},
    {"JOB_NOT_FOUND", ExitCode::kUsage},
    {"NON_FINITE_INPUT", ExitCode::kBadInput},
    {"NO_RESULT", ExitCode::kUsage},
    {"PLAN_TOO_LARGE", ExitCode::kRefused},
    {"REQUEST_ID_REUSED", ExitCode::kUsage},
    {"SHAPE_OVERFLOW", ExitCode::kBadInput},
    {"SOURCE_CHANGED", ExitCode::kBadInput},
    {"SOURCE_NOT_FOUND", ExitCode::kBadInput},
    {"SOURCE_QUANTIZED", ExitCode::kRefused},
    {"TARGET_REFUSED", ExitCode::kRefused},
    {"TENSOR_NOT_FOUND", ExitCode::kUsage},
    {"TENSOR_TOO_LARGE", ExitCode::kBadInput},
    {"URI_NOT_ALLOWED", ExitCode::kUsage},
};

constexpr std::array<std::string_view, 3> kRetryableReasons = {
    "CHUNK_CRC_MISMATCH", "DRAINING", "STREAM_STALLED"};
constexpr std::array<std::string_view, 4> kBusyReasons = {
    "MEMORY_BUDGET", "SERVER_BUSY", "TOO_MANY_PLANS", "TOO_MANY_STREAMS"};

template <size_t N>
bool HasReason(const absl::Status& status,
               const std::array<std::string_view, N>& reasons) {
  return std::find(reasons.begin(), reasons.end(), ErrorReason(status)) !=
         reasons.end();
}

ExitCode CodeFor(const absl::Status& status) {
  const std::string reason = ErrorReason(status);
  for (const auto& [name, code] : kReasons) {
    if (name == reason) return code;
  }
  if (reason == "BAD_FIELD") {
    // What the flags became, unless it is about a tensor of the checkpoint.
    return absl::StartsWith(status.message(), "tensor") ? ExitCode::kBadInput
                                                        : ExitCode::kUsage;
  }
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return ExitCode::kServerLost;
    default:
      return ExitCode::kUnexpected;
  }
}

ExitCode CodeFor(Fault fault) {
  switch (fault) {
    case Fault::kUsage:
      return ExitCode::kUsage;
    case Fault::kInput:
      return ExitCode::kBadInput;
    case Fault::kOutput:
      return ExitCode::kOutput;
    case Fault::kUnexpected:
      return ExitCode::kUnexpected;
  }
  return ExitCode::kUnexpected;
}

// gRPC's text for a refused connection says the address three times.
std::string Brief(const absl::Status& status) {
  const std::string text(status.message());
  constexpr std::string_view kBefore = "Failed to connect to remote host: ";
  const size_t at = text.rfind(kBefore);
  if (at == std::string::npos) return text;
  return "cannot connect: " + text.substr(at + kBefore.size());
}

void CopyPayloads(const absl::Status& from, absl::Status* to) {
  from.ForEachPayload([to](absl::string_view url, const absl::Cord& payload) {
    to->SetPayload(url, payload);
  });
}

}  // namespace

absl::Status WithExitCode(absl::Status status, ExitCode code) {
  if (!status.GetPayload(kPayload) && !FaultOf(status)) {
    status.SetPayload(kPayload,
                      absl::Cord(absl::StrCat(static_cast<int>(code))));
  }
  return status;
}

absl::Status WithText(const absl::Status& status, const std::string& more) {
  absl::Status longer(status.code(), absl::StrCat(status.message(), more));
  CopyPayloads(status, &longer);
  return longer;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  if (status.ok()) return ExitCode::kOk;
  if (const auto fault = FaultOf(status)) return CodeFor(*fault);
  const auto payload = status.GetPayload(kPayload);
  int code = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &code)) {
    return ExitCode::kUnexpected;
  }
  return static_cast<ExitCode>(code);
}

absl::Status FromServer(const grpc::Status& status, const std::string& server) {
  if (status.ok()) return absl::OkStatus();
  const absl::Status plain = FromGrpcStatus(status);
  const std::string reason = ErrorReason(plain);
  const bool silent =
      reason.empty() && plain.code() == absl::StatusCode::kUnavailable;
  const std::string kind =
      reason.empty() ? absl::StatusCodeToString(plain.code()) : reason;
  absl::Status named(
      plain.code(),
      absl::StrCat("server ", server, ": ", EscapeControls(Brief(plain)), " (",
                   EscapeControls(kind),
                   silent ? "; is quantd running there?)" : ")"));
  CopyPayloads(plain, &named);
  return WithExitCode(std::move(named), CodeFor(plain));
}

bool IsRetryable(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         HasReason(status, kRetryableReasons) || IsBusy(status);
}

bool IsBusy(const absl::Status& status) {
  // What needs more than the server's whole budget never goes well.
  return HasReason(status, kBusyReasons) && HasRetryDelay(status);
}

absl::Duration RetryDelay(int retry) {
  return absl::Milliseconds(200) * (1 << retry);
}

}  // namespace qs::cli
