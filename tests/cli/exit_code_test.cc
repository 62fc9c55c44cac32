#include "service/cli/exit_code.h"

#include <string>

#include "service/cli/connection_hint.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

using absl::StatusCode;

absl::Status Sent(StatusCode code, const std::string& reason,
                  const std::string& text) {
  return FromServer(ToGrpcStatus(RpcError(code, reason, text)), "host:1");
}

TEST_CASE("a status keeps its first exit code") {
  CHECK(ExitCodeOf(absl::OkStatus()) == ExitCode::kOk);
  CHECK(ExitCodeOf(InputFault(absl::OkStatus())) == ExitCode::kOk);
  CHECK(ExitCodeOf(absl::DataLossError("x")) == ExitCode::kUnexpected);
  const absl::Status full =
      OutputFault(absl::ResourceExhaustedError("disk full"));
  CHECK(ExitCodeOf(full) == ExitCode::kOutput);
  CHECK(ExitCodeOf(InputFault(full)) == ExitCode::kOutput);
}

TEST_CASE("the server's reasons become exit codes") {
  struct Case {
    StatusCode code;
    std::string reason;
    std::string text;
    ExitCode exit;
  };
  const Case cases[] = {
      {StatusCode::kInvalidArgument, "BAD_FIELD",
       "config.quantization.nf4.block_size: got 63, allowed 64",
       ExitCode::kUsage},
      {StatusCode::kInvalidArgument, "BAD_FIELD", "tensor.shape: got 9",
       ExitCode::kBadInput},
      {StatusCode::kInvalidArgument, "NON_FINITE_INPUT", "nan",
       ExitCode::kBadInput},
      {StatusCode::kInvalidArgument, "FORMAT_LIMIT", "a zero point of 0",
       ExitCode::kBadInput},
      {StatusCode::kFailedPrecondition, "SOURCE_QUANTIZED", "fp8",
       ExitCode::kRefused},
      {StatusCode::kResourceExhausted, "PLAN_TOO_LARGE",
       "plan: got 200001 tensors, allowed 200000", ExitCode::kRefused},
      {StatusCode::kUnavailable, "DRAINING", "stops", ExitCode::kServerLost},
      {StatusCode::kResourceExhausted, "TOO_MANY_STREAMS", "9",
       ExitCode::kServerLost},
      {StatusCode::kFailedPrecondition, "OFFSET_GAP", "gap",
       ExitCode::kUnexpected},
  };
  for (const Case& c : cases) {
    const absl::Status status = Sent(c.code, c.reason, c.text);
    INFO(c.reason);
    CHECK(ExitCodeOf(status) == c.exit);
    CHECK(ErrorReason(status) == c.reason);
    const std::string text(status.message());
    CHECK(text.find("host:1") != std::string::npos);
    CHECK(text.find(c.text) != std::string::npos);
  }
}

TEST_CASE("an unreachable server is named with a hint") {
  const absl::Status status = FromServer(
      grpc::Status(grpc::StatusCode::UNAVAILABLE, "refused"), "host:1");
  CHECK(ExitCodeOf(status) == ExitCode::kServerLost);
  CHECK(std::string(status.message()).find("is quantd running") !=
        std::string::npos);
  CHECK(IsRetryable(status));
  const absl::Status refused = FromServer(
      grpc::Status(grpc::StatusCode::UNAVAILABLE,
                   "failed to connect to all addresses; last error: UNKNOWN: "
                   "ipv4:host:1: Failed to connect to remote host: refused"),
      "host:1");
  CHECK(std::string(refused.message()) ==
        "server host:1: cannot connect: refused (UNAVAILABLE; is quantd "
        "running there?)");
}

TEST_CASE("only what may go well again is tried again") {
  CHECK(IsRetryable(Sent(StatusCode::kAborted, "CHUNK_CRC_MISMATCH", "x")));
  const auto busy = [](const std::string& reason) {
    return FromServer(ToGrpcStatus(RetryableError(
                          StatusCode::kResourceExhausted, reason, "x")),
                      "host:1");
  };
  CHECK(IsRetryable(busy("MEMORY_BUDGET")));
  // More than the server's whole budget.
  CHECK_FALSE(
      IsRetryable(Sent(StatusCode::kResourceExhausted, "MEMORY_BUDGET", "x")));
  CHECK_FALSE(
      IsRetryable(Sent(StatusCode::kInvalidArgument, "BAD_FIELD", "x")));
  CHECK_FALSE(IsRetryable(OutputFault(absl::ResourceExhaustedError("full"))));
  CHECK(IsBusy(busy("TOO_MANY_PLANS")));
  CHECK_FALSE(IsBusy(Sent(StatusCode::kUnavailable, "DRAINING", "x")));
  CHECK_FALSE(IsRetryable(absl::OkStatus()));
  CHECK(RetryDelay(2) == 4 * RetryDelay(0));
}

TEST_CASE("a failed connection says what may be wrong") {
  const auto hint = [](const std::string& address, const std::string& text,
                       const std::string& ca = "") {
    ServerArguments server;
    server.address = address;
    server.tls_ca = ca;
    return ConnectionHint(absl::UnavailableError(text), server);
  };
  const std::string closed = "last error: UNAVAILABLE: ipv4:1: Socket closed";
  const std::string refused = "cannot connect: Connection refused";
  CHECK(hint("h:1", closed).find("--tls-ca") != std::string::npos);
  CHECK(hint("h:1", closed, "ca.pem").empty());
  CHECK(hint("h:1", refused).empty());
  CHECK(hint("h:1", "SSL routines::wrong version number", "ca.pem")
            .find("uses no TLS") != std::string::npos);
  for (const char* address : {"host", "127.0.0.1", "[::1]", "host:"}) {
    INFO(address);
    CHECK(hint(address, refused).find("no port") != std::string::npos);
  }
  for (const char* address :
       {"host:1", "[::1]:50051", "unix:/run/q", "dns:///host"}) {
    INFO(address);
    CHECK(hint(address, refused).empty());
  }
  CHECK(ConnectionHint(absl::InternalError(closed), {}).empty());
}

TEST_CASE("a longer text keeps the rest of a status") {
  const absl::Status status =
      WithText(Sent(StatusCode::kInvalidArgument, "NON_FINITE_INPUT", "nan"),
               "; no output");
  CHECK(ExitCodeOf(status) == ExitCode::kBadInput);
  CHECK(ErrorReason(status) == "NON_FINITE_INPUT");
  CHECK(std::string(status.message()).ends_with("; no output"));
}

}  // namespace
}  // namespace qs::cli
