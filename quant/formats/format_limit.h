// The error of values that are right, and that a file format has no room for:
// another format holds them.
#ifndef QS_QUANT_FORMATS_FORMAT_LIMIT_H_
#define QS_QUANT_FORMATS_FORMAT_LIMIT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"

namespace qs {

inline constexpr char kFormatLimitPayload[] = "quantd/format-limit";

// INVALID_ARGUMENT. `text`: where, got and allowed.
inline absl::Status FormatLimitError(const std::string& text) {
  absl::Status status = absl::InvalidArgumentError(text);
  status.SetPayload(kFormatLimitPayload, absl::Cord());
  return status;
}

inline bool IsFormatLimit(const absl::Status& status) {
  return status.GetPayload(kFormatLimitPayload).has_value();
}

}  // namespace qs

#endif  // QS_QUANT_FORMATS_FORMAT_LIMIT_H_
