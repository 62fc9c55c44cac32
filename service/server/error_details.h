// A google.rpc detail message inside an absl::Status: the payload under
// "type.googleapis.com/<full name>" is the serialized message, which is also
// the form of an Any. For error.cc and grpc_status.cc only; everybody else uses
// error.h.
#ifndef QS_SERVICE_SERVER_ERROR_DETAILS_H_
#define QS_SERVICE_SERVER_ERROR_DETAILS_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"

namespace qs {

template <typename Detail>
std::string DetailTypeUrl() {
  return "type.googleapis.com/" + Detail::descriptor()->full_name();
}

// No effect on an OK status.
template <typename Detail>
void SetDetail(const Detail& detail, absl::Status* status) {
  status->SetPayload(DetailTypeUrl<Detail>(),
                     absl::Cord(detail.SerializeAsString()));
}

template <typename Detail>
std::optional<Detail> GetDetail(const absl::Status& status) {
  const auto payload = status.GetPayload(DetailTypeUrl<Detail>());
  Detail detail;
  if (!payload || !detail.ParseFromString(std::string(*payload))) {
    return std::nullopt;
  }
  return detail;
}

}  // namespace qs

#endif  // QS_SERVICE_SERVER_ERROR_DETAILS_H_
