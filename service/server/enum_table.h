// EnumTable: how a proto enum and ours correspond. Included by the converters.
#ifndef QS_SERVICE_SERVER_ENUM_TABLE_H_
#define QS_SERVICE_SERVER_ENUM_TABLE_H_

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "service/server/error.h"

namespace qs {

// 0 is UNSPECIFIED in every proto enum and in no table.
template <typename Proto, typename Ours, size_t N>
using EnumTable = std::array<std::pair<Proto, Ours>, N>;

template <typename Proto, typename Ours, size_t N>
std::optional<Ours> Find(const EnumTable<Proto, Ours, N>& table, Proto proto) {
  for (const auto& [theirs, ours] : table) {
    if (theirs == proto) return ours;
  }
  return std::nullopt;
}

template <typename Proto, typename Ours, size_t N>
Proto FindProto(const EnumTable<Proto, Ours, N>& table, Ours ours) {
  for (const auto& [theirs, mine] : table) {
    if (mine == ours) return theirs;
  }
  return Proto{};
}

// Leaves *out as it is for UNSPECIFIED.
template <typename Proto, typename Ours, size_t N>
absl::Status SetEnum(const EnumTable<Proto, Ours, N>& table, Proto proto,
                     const std::string& field, Ours* out) {
  if (proto == Proto{}) return absl::OkStatus();
  const std::optional<Ours> found = Find(table, proto);
  if (!found) {
    return BadFieldError(
        field, absl::StrCat("got enum number ", static_cast<int>(proto),
                            ", allowed 1 to ", table.size()));
  }
  *out = *found;
  return absl::OkStatus();
}

}  // namespace qs

#endif  // QS_SERVICE_SERVER_ENUM_TABLE_H_
