// Messages as JSON for people and scripts: field names as in the .proto,
// integers as numbers, enums by name, infinite figures as null. (Protobuf's own
// mapping writes 64-bit integers as strings.)
#ifndef QS_SERVICE_CLI_PROTO_JSON_H_
#define QS_SERVICE_CLI_PROTO_JSON_H_

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"

namespace qs::cli {

// Every field, in the .proto's order; unset ones that know it are left out.
nlohmann::ordered_json MessageToJson(const google::protobuf::Message& message);

// The way back; null is infinity for a figure and unset for anything else,
// unknown keys are left aside. Errors: INVALID_ARGUMENT "WHERE.field: got,
// allowed".
absl::Status MessageFromJson(const nlohmann::ordered_json& json,
                             const std::string& where,
                             google::protobuf::Message* message);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_PROTO_JSON_H_
