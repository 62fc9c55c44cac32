// Tested by tests/service/error_test.cc.
#include "service/server/grpc_status.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "service/server/error_details.h"

namespace qs {
namespace {

namespace rpc = google::rpc;

constexpr size_t kMaxDetailTextBytes = 256;

// At most `limit` bytes, and no cut inside a UTF-8 sequence.
std::string CutText(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit;
  while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end));
}

rpc::ErrorInfo Cut(rpc::ErrorInfo info) {
  for (auto& [key, value] : *info.mutable_metadata()) {
    value = CutText(value, kMaxDetailTextBytes);
  }
  return info;
}

rpc::BadRequest Cut(rpc::BadRequest bad) {
  for (auto& violation : *bad.mutable_field_violations()) {
    violation.set_field(CutText(violation.field(), kMaxDetailTextBytes));
    violation.set_description(
        CutText(violation.description(), kMaxDetailTextBytes));
  }
  return bad;
}

template <typename Detail>
void AddIfFits(const Detail& detail, rpc::Status* out) {
  google::protobuf::Any* any = out->add_details();
  any->set_type_url(DetailTypeUrl<Detail>());
  any->set_value(detail.SerializeAsString());
  if (out->ByteSizeLong() > kMaxErrorDetailsBytes) {
    out->mutable_details()->RemoveLast();
  }
}

// The most useful detail first, since what does not fit is left out.
std::string SerializedDetails(const absl::Status& status,
                              const std::string& message) {
  rpc::Status out;
  out.set_code(static_cast<int>(status.code()));
  out.set_message(message);
  if (const auto info = GetDetail<rpc::ErrorInfo>(status)) {
    AddIfFits(Cut(*info), &out);
  }
  if (const auto retry = GetDetail<rpc::RetryInfo>(status)) {
    AddIfFits(*retry, &out);
  }
  if (const auto bad = GetDetail<rpc::BadRequest>(status)) {
    AddIfFits(Cut(*bad), &out);
  }
  return out.details().empty() ? "" : out.SerializeAsString();
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const absl::string_view text = status.message();
  const std::string message =
      CutText({text.data(), text.size()}, kMaxErrorMessageBytes);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      SerializedDetails(status, message));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status out(static_cast<absl::StatusCode>(status.error_code()),
                   status.error_message());
  rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return out;
  for (const google::protobuf::Any& any : details.details()) {
    out.SetPayload(any.type_url(), absl::Cord(any.value()));
  }
  return out;
}

}  // namespace qs
