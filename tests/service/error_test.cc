// Errors with details, and their way through gRPC's status.
#include "service/server/error.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "service/server/error_details.h"
#include "service/server/grpc_status.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

namespace rpc = google::rpc;

TEST_CASE("an error carries its reason and values", "[error]") {
  const absl::Status status =
      RpcError(absl::StatusCode::kAborted, "CHUNK_CRC_MISMATCH", "chunk: bad",
               {{"offset", "17"}, {"offset", "18"}});
  REQUIRE(status.code() == absl::StatusCode::kAborted);
  REQUIRE(status.message() == "chunk: bad");
  const auto info = GetDetail<rpc::ErrorInfo>(status);
  REQUIRE(info);
  REQUIRE(info->domain() == "quantd");
  REQUIRE(info->reason() == "CHUNK_CRC_MISMATCH");
  REQUIRE(info->metadata().at("offset") == "18");
  REQUIRE(ErrorReason(status) == "CHUNK_CRC_MISMATCH");
  REQUIRE(ErrorMetadataValue(status, "offset") == "18");
  REQUIRE(ErrorMetadataValue(status, "handle").empty());
  REQUIRE(ErrorReason(absl::InternalError("x")).empty());
}

TEST_CASE("a wrong field is named twice", "[error]") {
  const absl::Status status = BadFieldError("tensor.shape", "got 0");
  REQUIRE(status.message() == "tensor.shape: got 0");
  REQUIRE(ErrorReason(status) == "BAD_FIELD");
  const auto bad = GetDetail<rpc::BadRequest>(status);
  REQUIRE(bad);
  REQUIRE(bad->field_violations_size() == 1);
  REQUIRE(bad->field_violations(0).field() == "tensor.shape");
  REQUIRE(bad->field_violations(0).description() == "got 0");
  const absl::Status two = WithField(status, "tensor.name", "got none");
  REQUIRE(GetDetail<rpc::BadRequest>(two)->field_violations_size() == 2);
}

TEST_CASE("a retryable error says when", "[error]") {
  const absl::Status status =
      RetryableError(absl::StatusCode::kResourceExhausted, "TOO_MANY_STREAMS",
                     "streams: got 9", {}, absl::Milliseconds(1500));
  const auto retry = GetDetail<rpc::RetryInfo>(status);
  REQUIRE(retry);
  REQUIRE(retry->retry_delay().seconds() == 1);
  REQUIRE(retry->retry_delay().nanos() == 500000000);
  const absl::Status draining = DrainingError();
  REQUIRE(draining.code() == absl::StatusCode::kUnavailable);
  REQUIRE(ErrorReason(draining) == "DRAINING");
  REQUIRE(GetDetail<rpc::RetryInfo>(draining));
}

TEST_CASE("details leave OK alone", "[error]") {
  REQUIRE(WithReason(absl::OkStatus(), "X") == absl::OkStatus());
  REQUIRE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST_CASE("gRPC's status holds all and comes back", "[error]") {
  const absl::Status status =
      WithField(RetryableError(absl::StatusCode::kUnavailable, "DRAINING",
                               "going away", {{"a", "1"}}),
                "f", "d");
  const grpc::Status sent = ToGrpcStatus(status);
  REQUIRE(sent.error_code() == grpc::StatusCode::UNAVAILABLE);
  REQUIRE(sent.error_message() == "going away");
  rpc::Status details;
  REQUIRE(details.ParseFromString(sent.error_details()));
  REQUIRE(details.code() == 14);
  REQUIRE(details.message() == "going away");
  REQUIRE(details.details_size() == 3);
  rpc::ErrorInfo info;
  REQUIRE(details.details(0).UnpackTo(&info));
  REQUIRE(info.reason() == "DRAINING");
  REQUIRE(FromGrpcStatus(sent) == status);
}

TEST_CASE("every code keeps its number", "[error]") {
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status sent =
        ToGrpcStatus(absl::Status(static_cast<absl::StatusCode>(code), "x"));
    REQUIRE(static_cast<int>(sent.error_code()) == code);
    REQUIRE(sent.error_details().empty());
  }
}

TEST_CASE("long texts are cut where a character ends", "[error]") {
  std::string text(kMaxErrorMessageBytes - 1, 'a');
  text += "\u20ac\u20ac\u20ac";
  const grpc::Status sent = ToGrpcStatus(
      RpcError(absl::StatusCode::kInvalidArgument, "BAD_FIELD", text));
  REQUIRE(sent.error_message() == std::string(kMaxErrorMessageBytes - 1, 'a'));
}

TEST_CASE("details stay below their limit, the reason first", "[error]") {
  absl::Status status = absl::InvalidArgumentError("many");
  for (int i = 0; i < 200; ++i) {
    status =
        WithField(status, "field" + std::to_string(i), std::string(300, 'x'));
  }
  ErrorMetadata metadata;
  metadata.emplace_back("name", std::string(5000, 'n'));
  status = WithReason(status, "BAD_FIELD", metadata);
  const grpc::Status sent = ToGrpcStatus(status);
  REQUIRE(sent.error_details().size() <= kMaxErrorDetailsBytes);
  const absl::Status back = FromGrpcStatus(sent);
  REQUIRE(ErrorReason(back) == "BAD_FIELD");
  REQUIRE(ErrorMetadataValue(back, "name").size() == 256);
  REQUIRE_FALSE(GetDetail<rpc::BadRequest>(back));  // did not fit
}

TEST_CASE("foreign details are no error", "[error]") {
  const grpc::Status sent(grpc::StatusCode::INTERNAL, "x", "\xff\xff no proto");
  REQUIRE(FromGrpcStatus(sent) == absl::InternalError("x"));
}

}  // namespace
}  // namespace qs
