// Tested by tests/service/error_test.cc.
#include "service/server/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "service/server/error_details.h"

namespace qs {
namespace {

namespace rpc = google::rpc;

constexpr char kDomain[] = "quantd";

absl::string_view ToAbsl(std::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

absl::Status RpcError(absl::StatusCode code, std::string_view reason,
                      std::string_view text, const ErrorMetadata& metadata) {
  return WithReason(absl::Status(code, ToAbsl(text)), reason, metadata);
}

absl::Status RetryableError(absl::StatusCode code, std::string_view reason,
                            std::string_view text,
                            const ErrorMetadata& metadata,
                            absl::Duration delay) {
  return WithRetryDelay(RpcError(code, reason, text, metadata), delay);
}

absl::Status BadFieldError(std::string_view field, std::string_view text,
                           const ErrorMetadata& metadata) {
  return WithField(
      RpcError(absl::StatusCode::kInvalidArgument, "BAD_FIELD",
               absl::StrCat(ToAbsl(field), ": ", ToAbsl(text)), metadata),
      field, text);
}

absl::Status WithReason(absl::Status status, std::string_view reason,
                        const ErrorMetadata& metadata) {
  rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain(kDomain);
  for (const auto& [key, value] : metadata) {
    (*info.mutable_metadata())[key] = value;
  }
  SetDetail(info, &status);
  return status;
}

absl::Status WithField(absl::Status status, std::string_view field,
                       std::string_view text) {
  rpc::BadRequest bad =
      GetDetail<rpc::BadRequest>(status).value_or(rpc::BadRequest());
  rpc::BadRequest::FieldViolation* violation = bad.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(std::string(text));
  SetDetail(bad, &status);
  return status;
}

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  rpc::RetryInfo retry;
  absl::Duration rest;
  retry.mutable_retry_delay()->set_seconds(
      absl::IDivDuration(delay, absl::Seconds(1), &rest));
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  SetDetail(retry, &status);
  return status;
}

bool HasRetryDelay(const absl::Status& status) {
  return GetDetail<rpc::RetryInfo>(status).has_value();
}

absl::Status DrainingError() {
  return RetryableError(absl::StatusCode::kUnavailable, "DRAINING",
                        "the server is shutting down");
}

std::string ErrorReason(const absl::Status& status) {
  return GetDetail<rpc::ErrorInfo>(status).value_or(rpc::ErrorInfo()).reason();
}

std::string ErrorMetadataValue(const absl::Status& status,
                               std::string_view key) {
  const auto info = GetDetail<rpc::ErrorInfo>(status);
  if (!info) return "";
  const auto found = info->metadata().find(std::string(key));
  return found == info->metadata().end() ? "" : found->second;
}

}  // namespace qs
