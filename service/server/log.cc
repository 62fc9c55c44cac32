// Tested by tests/service/log_test.cc.
#include "service/server/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace qs {
namespace {

spdlog::logger& Logger() {
  static spdlog::logger* const logger = [] {
    auto* made = new spdlog::logger(
        "quantd", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "info";
}

LogLevel LevelOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDataLoss:
      return LogLevel::kError;
    default:
      return LogLevel::kInfo;
  }
}

}  // namespace

LogField::LogField(std::string_view key, std::string_view value)
    : name(key), json(JsonString(value)) {}

LogField::LogField(std::string_view key, int64_t value)
    : name(key), json(std::to_string(value)) {}

LogField::LogField(std::string_view key, double value)
    : name(key), json(std::isfinite(value) ? absl::StrCat(value) : "null") {}

absl::Status SetLogLevel(std::string_view name) {
  const std::string text(name);
  if (text == "off") {
    Logger().set_level(spdlog::level::off);
    return absl::OkStatus();
  }
  for (const LogLevel level : {LogLevel::kDebug, LogLevel::kInfo,
                               LogLevel::kWarning, LogLevel::kError}) {
    if (LevelName(level) == text) {
      Logger().set_level(ToSpdlog(level));
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("log-level: got \"", text,
                   "\", allowed debug, info, warning, error, off"));
}

void Log(LogLevel level, std::string_view event,
         std::span<const LogField> fields) {
  if (!Logger().should_log(ToSpdlog(level))) return;
  std::string line =
      absl::StrCat("{\"time\":\"",
                   absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(),
                                    absl::UTCTimeZone()),
                   "\",\"level\":\"", std::string(LevelName(level)),
                   "\",\"event\":", JsonString(event));
  for (const LogField& field : fields) {
    absl::StrAppend(&line, ",", JsonString(field.name), ":", field.json);
  }
  line += '}';
  Logger().log(ToSpdlog(level), spdlog::string_view_t(line));
}

void LogRpc(const RpcCaller& caller, const absl::Status& status, int64_t bytes,
            double seconds) {
  const absl::string_view text = status.message();
  std::vector<LogField> fields = {
      {"rpc", caller.rpc},
      {"peer", caller.peer},
      {"code", absl::StatusCodeToString(status.code())},
      {"message", std::string_view(text.data(), text.size())},
      {"bytes", bytes},
      {"seconds", seconds}};
  const auto add = [&fields](const char* key, const std::string& value) {
    if (!value.empty()) fields.emplace_back(key, value);
  };
  add("project", caller.project);
  add("trace_id", caller.trace_id);
  add("span_id", caller.span_id);
  Log(LevelOf(status), "rpc", fields);
}

std::string JsonString(std::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace qs
