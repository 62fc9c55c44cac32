// Strict JSON from files that nobody vouches for.
//
// Stricter than the parser below it: no duplicate keys, no NUL bytes, bounded
// size, depth and number of values. Time and memory are linear in the text.
#ifndef QS_QUANT_FORMATS_JSON_H_
#define QS_QUANT_FORMATS_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace qs {

struct JsonLimits {
  int64_t max_bytes = int64_t{16} << 20;
  int max_depth = 64;  // open brackets
  int64_t max_values = int64_t{2} << 20;
};

// Parses a JSON object; keys keep their order. Errors: INVALID_ARGUMENT — the
// text begins with `what`.
absl::StatusOr<nlohmann::ordered_json> ParseJsonObject(
    std::string_view text, std::string_view what,
    const JsonLimits& limits = {});

// The same for a model's config.json, which Python writes: the bare words NaN,
// Infinity and -Infinity are no JSON, and are kept: as strings that begin with
// the character 1, which DumpConfigJson writes as they were.
absl::StatusOr<nlohmann::ordered_json> ParseConfigJson(
    std::string_view text, std::string_view what,
    const JsonLimits& limits = {});
// Two spaces, ASCII, no line break at the end.
std::string DumpConfigJson(const nlohmann::ordered_json& config);

// `text` in double quotes for an error: escaped, cut after 120 bytes.
std::string QuoteForError(std::string_view text);

// A value for an error: a number or literal as JSON, a string quoted, else what
// kind of container it is.
std::string JsonForError(const nlohmann::ordered_json& value);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_JSON_H_
