// The quantd binary: connections beyond every limit, memory, signals, logs.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "service/server/acceptor.h"
#include "service/server/error.h"
#include "tests/service/quantd_process.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/shell_word.h"

namespace qs::testing {
namespace {

// A TCP connection that says the HTTP/2 preface and then nothing.
class IdleConnection {
 public:
  explicit IdleConnection(int port)
      : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = fd_ >= 0 && connect(fd_, reinterpret_cast<sockaddr*>(&address),
                                     sizeof address) == 0;
    constexpr char kPreface[] =
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
    if (connected_) send(fd_, kPreface, sizeof kPreface - 1, MSG_NOSIGNAL);
  }
  ~IdleConnection() {
    if (fd_ >= 0) close(fd_);
  }
  IdleConnection(IdleConnection&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_) {}
  IdleConnection& operator=(IdleConnection&&) = delete;

  // The server's SETTINGS came: it serves this connection.
  bool Served(int milliseconds = 5000) const {
    char frame[9];
    return connected_ && Readable(milliseconds) &&
           recv(fd_, frame, sizeof frame, MSG_PEEK) == sizeof frame &&
           frame[3] == 4;
  }
  bool Closed(int milliseconds = 5000) const {
    char byte;
    return Readable(milliseconds) && recv(fd_, &byte, 1, MSG_PEEK) <= 0;
  }

 private:
  bool Readable(int milliseconds) const {
    pollfd polled{fd_, POLLIN, 0};
    return poll(&polled, 1, milliseconds) == 1;
  }

  int fd_;
  bool connected_ = false;
};

bool Healthy(const QuantdProcess& quantd,
             absl::Duration limit = absl::Seconds(10)) {
  HealthStatus health;
  return CheckHealth(quantd.NewChannel(), "liveness", &health, limit).ok();
}

TEST_CASE("1,000 idle connections cost little and hinder nobody", "[quantd]") {
  RaiseDescriptorLimit();
  QuantdProcess quantd;
  REQUIRE(Healthy(quantd));
  const int64_t before = quantd.Memory("VmRSS");
  std::vector<IdleConnection> idle;
  for (int i = 0; i < 1000; ++i) idle.emplace_back(quantd.port());
  for (const IdleConnection& connection : idle) REQUIRE(connection.Served());
  REQUIRE(Healthy(quantd, absl::Seconds(2)));
  const int64_t more = quantd.Memory("VmRSS") - before;
  if (kMemoryIsTheServers) REQUIRE(more < int64_t{64} << 20);
}

TEST_CASE("above the cap connections are closed, and room returns",
          "[quantd]") {
  QuantdProcess quantd({"--max-connections", "5"});
  {
    std::vector<IdleConnection> idle;
    for (int i = 0; i < 5; ++i) idle.emplace_back(quantd.port());
    for (const IdleConnection& connection : idle) REQUIRE(connection.Served());
    REQUIRE(IdleConnection(quantd.port()).Closed());
    REQUIRE_FALSE(idle.back().Closed(50));
  }
  REQUIRE(Eventually([&] { return Healthy(quantd, absl::Seconds(1)); }));
  REQUIRE(quantd.Log().find("max-connections") != std::string::npos);
}

TEST_CASE("out of descriptors, and recovered", "[quantd]") {
  constexpr int kDescriptors = 100;
  QuantdProcess quantd({}, kDescriptors);
  REQUIRE(Healthy(quantd));
  {
    std::vector<IdleConnection> flood;
    for (int i = 0; i < 2 * kDescriptors; ++i)
      flood.emplace_back(quantd.port());
    REQUIRE(flood.front().Served());
    // Whichever they are: a descriptor may become free in between.
    REQUIRE(std::count_if(flood.begin(), flood.end(), [](const auto& one) {
              return one.Closed();
            }) >= kDescriptors);
  }
  REQUIRE(Eventually([&] { return Healthy(quantd, absl::Seconds(1)); }));
  REQUIRE(Exchange(quantd.NewChannel(), {Config("NF4")}).status.ok());
}

TEST_CASE("memory stays below the budget and its fixed part", "[quantd]") {
  constexpr int64_t kBudget = int64_t{96} << 20;
  QuantdProcess quantd({"--memory-budget", std::to_string(kBudget)});
  std::vector<std::thread> clients;
  std::atomic<int> succeeded{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      const TestWeight weight(1, "w.weight", 24 << 10, 1024, 1);  // 48 MiB
      Requests requests = {Config("NF4")};
      weight.AppendTo(&requests, 1 << 20);
      const Answers answers = Exchange(quantd.NewChannel(), requests);
      if (answers.status.ok()) ++succeeded;
    });
  }
  for (std::thread& client : clients) client.join();
  REQUIRE(succeeded == 8);  // 8 x 60 MiB in all
  const int64_t peak = quantd.Memory("VmHWM");
  if (kMemoryIsTheServers) REQUIRE(peak < kBudget + (int64_t{256} << 20));
}

// As many streams as there may be, whose tensors come faster than the workers
// take them.
std::vector<absl::Status> FullHouse(const QuantdProcess& quantd) {
  constexpr size_t kStreams = 64;  // --max-streams
  const TestWeight weight(1, "w.weight", kSanitized ? 6 << 10 : 12 << 10, 1024,
                          1);  // 12 or 24 MiB
  Requests requests = {Config("NF4")};
  if (!kSanitized) {
    requests[0].mutable_config()->mutable_quantization()->set_profile(
        quant::v1::BEST);
  }
  weight.AppendTo(&requests, 1 << 20);
  std::vector<std::thread> clients;
  std::vector<absl::Status> statuses(kStreams);
  for (absl::Status& status : statuses) {
    clients.emplace_back(
        [&] { status = Exchange(quantd.NewChannel(), requests).status; });
  }
  for (std::thread& client : clients) client.join();
  return statuses;
}

TEST_CASE("connections have the memory that all streams need", "[quantd]") {
  QuantdProcess quantd;
  for (const absl::Status& status : FullHouse(quantd)) {
    INFO(status.ToString());
    CHECK(status.ok());
  }
}

TEST_CASE("connections that need more memory lose streams, not the server",
          "[quantd]") {
  QuantdProcess quantd({"--connection-memory", "64MiB"});
  int ended = 0;
  for (const absl::Status& status : FullHouse(quantd)) {
    INFO(status.ToString());
    if (status.ok()) continue;
    ++ended;
    // A connection may be ended before it has a stream.
    const bool told = absl::IsResourceExhausted(status);
    CHECK((told || absl::IsUnavailable(status)));
  }
  CHECK(ended > 0);
  REQUIRE(Healthy(quantd));
  REQUIRE(Exchange(quantd.NewChannel(), {Config("NF4")}).status.ok());
}

TEST_CASE("SIGTERM: the running stream finishes, exit code 0", "[quantd]") {
  QuantdProcess quantd;
  const TestWeight weight(1, "a.weight", 2048, 1024, 2);
  QuantizeCall running(quantd.NewChannel());
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  quantd.Signal(SIGTERM);
  const auto channel = quantd.NewChannel();
  REQUIRE(Eventually([&] {
    HealthStatus health;
    return CheckHealth(channel, "readiness", &health).ok() &&
           health.status() == HealthStatus::NOT_SERVING;
  }));
  const Answers late = Exchange(quantd.NewChannel(), {Config("NF4")});
  REQUIRE(ErrorReason(late.status) == "DRAINING");
  Requests requests;
  weight.AppendTo(&requests, 1 << 20);
  REQUIRE(running.WriteAll(requests));
  running.stream->WritesDone();
  REQUIRE(running.Finish().status.ok());
  REQUIRE(quantd.WaitForExit(absl::Seconds(10)) == 0);
}

TEST_CASE("SIGTERM: the grace period ends what does not finish", "[quantd]") {
  QuantdProcess quantd({"--drain-timeout", "0.5"});
  QuantizeCall running(quantd.NewChannel());
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  quantd.Signal(SIGTERM);
  REQUIRE(quantd.WaitForExit(absl::Seconds(8)) == 0);
  REQUIRE_FALSE(running.Finish().status.ok());
}

TEST_CASE("SIGTERM: a second signal ends the drain", "[quantd]") {
  QuantdProcess quantd({"--drain-timeout", "1000"});
  QuantizeCall running(quantd.NewChannel());
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  quantd.Signal(SIGTERM);
  REQUIRE(Eventually(
      [&] { return quantd.Log().find("\"draining\"") != std::string::npos; }));
  quantd.Signal(SIGINT);
  REQUIRE(quantd.WaitForExit(absl::Seconds(8)) == 0);
}

TEST_CASE("every log line is JSON, each call has one", "[quantd]") {
  QuantdProcess quantd;
  REQUIRE(Exchange(quantd.NewChannel(), {Config("NF4")}).status.ok());
  REQUIRE_FALSE(Exchange(quantd.NewChannel(), {}).status.ok());
  quantd.Signal(SIGTERM);
  REQUIRE(quantd.WaitForExit(absl::Seconds(10)) == 0);
  std::vector<std::string> events;
  std::vector<std::string> codes;
  std::istringstream in(quantd.Log());
  for (std::string line; std::getline(in, line);) {
    INFO(line);
    const auto json = nlohmann::json::parse(line);
    events.push_back(json.at("event"));
    if (events.back() == "rpc") codes.push_back(json.at("code"));
  }
  REQUIRE(events.front() == "serving");
  REQUIRE(events.back() == "drained");
  REQUIRE(codes == std::vector<std::string>{"OK", "INVALID_ARGUMENT"});
}

int ExitCode(const std::string& flags) {
  const std::string command =
      ShellWord(QUANTD_PATH) + " " + flags + " >/dev/null 2>&1";
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_CASE("exit codes without serving", "[quantd]") {
  REQUIRE(ExitCode("--help") == 0);
  REQUIRE(ExitCode("--version") == 0);
  REQUIRE(ExitCode("--check-config") == 0);
  REQUIRE(ExitCode("--no-such-flag") == 2);
  REQUIRE(ExitCode("--listen 0.0.0.0:0") == 2);
  REQUIRE(ExitCode("--tls-cert /nonexistent --tls-key /nonexistent") == 2);
  QuantdProcess quantd;
  REQUIRE(ExitCode("--listen 127.0.0.1:" + std::to_string(quantd.port())) == 1);
}

}  // namespace
}  // namespace qs::testing
