// Log lines are valid JSON whatever is in them.
#include "service/server/log.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "tests/testing/captured.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using testing::Captured;

TEST_CASE("a line is one JSON object", "[log]") {
  REQUIRE(SetLogLevel("info").ok());
  const auto lines = Captured([] {
    Log(LogLevel::kWarning, "an \"event\"\n",
        {{"text", "tab\t quote\" \xff end"},
         {"count", int64_t{1} << 60},
         {"ratio", 0.5},
         {"none", std::numeric_limits<double>::quiet_NaN()}});
  });
  REQUIRE(lines.size() == 1);
  const auto json = nlohmann::json::parse(lines[0]);
  REQUIRE(json["level"] == "warning");
  REQUIRE(json["event"] == "an \"event\"\n");
  REQUIRE(json["text"] == "tab\t quote\" \xef\xbf\xbd end");
  REQUIRE(json["count"] == int64_t{1} << 60);
  REQUIRE(json["ratio"] == 0.5);
  REQUIRE(json["none"].is_null());
  const std::string time = json["time"];
  REQUIRE(time.size() == std::string("2024-05-01T12:00:00.123Z").size());
  REQUIRE(time[10] == 'T');
  REQUIRE(time.back() == 'Z');
}

TEST_CASE("lines below the level are not written", "[log]") {
  const auto log_all = [] {
    Log(LogLevel::kDebug, "debug", {});
    Log(LogLevel::kInfo, "info", {});
    Log(LogLevel::kWarning, "warning", {});
    Log(LogLevel::kError, "error", {});
  };
  const std::vector<std::pair<std::string, size_t>> counts = {
      {"debug", 4}, {"info", 3}, {"warning", 2}, {"error", 1}, {"off", 0}};
  for (const auto& [level, count] : counts) {
    INFO(level);
    REQUIRE(SetLogLevel(level).ok());
    REQUIRE(Captured(log_all).size() == count);
  }
  const absl::Status status = SetLogLevel("loud");
  REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(status.message() ==
          "log-level: got \"loud\", allowed debug, info, warning, error, off");
  REQUIRE(SetLogLevel("info").ok());
}

TEST_CASE("a call's line has its code, and the level follows", "[log]") {
  const auto lines = Captured([] {
    LogRpc({"Quantize", "ipv4:127.0.0.1:1", "", "", ""}, absl::OkStatus(), 12,
           0.25);
    LogRpc({"Quantize", "p", "", "", ""}, absl::InvalidArgumentError("bad"), 0,
           0);
    LogRpc({"Quantize", "p", "", "", ""}, absl::InternalError("bug"), 0, 0);
  });
  REQUIRE(lines.size() == 3);
  const auto ok = nlohmann::json::parse(lines[0]);
  REQUIRE(ok["event"] == "rpc");
  REQUIRE(ok["rpc"] == "Quantize");
  REQUIRE(ok["peer"] == "ipv4:127.0.0.1:1");
  REQUIRE(ok["code"] == "OK");
  REQUIRE(ok["bytes"] == 12);
  REQUIRE(ok["seconds"] == 0.25);
  REQUIRE(ok["level"] == "info");
  REQUIRE(nlohmann::json::parse(lines[1])["level"] == "info");
  REQUIRE(nlohmann::json::parse(lines[1])["message"] == "bad");
  REQUIRE(nlohmann::json::parse(lines[2])["level"] == "error");
  REQUIRE_FALSE(ok.contains("project"));
  REQUIRE_FALSE(ok.contains("trace_id"));
}

TEST_CASE("a call's line names project and trace", "[log]") {
  const auto lines = Captured([] {
    LogRpc({"Quantize", "p", "team-a", "t", "s"}, absl::OkStatus(), 0, 0);
  });
  REQUIRE(lines.size() == 1);
  const auto json = nlohmann::json::parse(lines[0]);
  REQUIRE(json["project"] == "team-a");
  REQUIRE(json["trace_id"] == "t");
  REQUIRE(json["span_id"] == "s");
}

TEST_CASE("lines of several threads do not mix", "[log]") {
  const auto lines = Captured([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([] {
        for (int i = 0; i < 100; ++i) {
          Log(LogLevel::kInfo, "e", {{"text", std::string(200, 'x')}});
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  REQUIRE(lines.size() == 400);
  for (const std::string& line : lines) {
    REQUIRE(nlohmann::json::parse(line)["text"] == std::string(200, 'x'));
  }
}

}  // namespace
}  // namespace qs
