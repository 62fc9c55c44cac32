// Logs as JSON lines on standard error, one object a line, written whole:
//   {"time":"2024-05-01T12:00:00.123Z","level":"info","event":"rpc",...}
// Thread: thread-safe.
#ifndef QS_SERVICE_SERVER_LOG_H_
#define QS_SERVICE_SERVER_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace qs {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// A key and its value, already as JSON.
struct LogField {
  LogField(std::string_view key, std::string_view value);
  LogField(std::string_view key, const char* value)
      : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, const std::string& value)
      : LogField(key, std::string_view(value)) {}
  LogField(std::string_view key, int64_t value);
  LogField(std::string_view key, int value)
      : LogField(key, static_cast<int64_t>(value)) {}
  LogField(std::string_view key, double value);

  std::string name;
  std::string json;
};

// "debug", "info", "warning", "error" or "off". Errors: INVALID_ARGUMENT.
absl::Status SetLogLevel(std::string_view name);

void Log(LogLevel level, std::string_view event,
         std::span<const LogField> fields);
inline void Log(LogLevel level, std::string_view event,
                std::initializer_list<LogField> fields) {
  Log(level, event, std::span(fields.begin(), fields.size()));
}

// Who made a call, and of which trace it is part. What is empty is not written,
// but for `rpc` and `peer`.
struct RpcCaller {
  std::string rpc;
  std::string peer;
  std::string project;
  std::string trace_id;
  std::string span_id;
};

// One finished call: event "rpc". `bytes` counts message bytes both ways.
// INTERNAL, UNKNOWN and DATA_LOSS are errors, everything else is info.
void LogRpc(const RpcCaller& caller, const absl::Status& status, int64_t bytes,
            double seconds);

// `text` as a JSON string with its quotes. Bytes that are no valid UTF-8 become
// U+FFFD, so that a line is always valid JSON.
std::string JsonString(std::string_view text);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_LOG_H_
