// A quantd in the test's own process, on a free loopback port, and connections
// to it: calls go through a real socket.
#ifndef QS_TESTS_TESTING_IN_PROCESS_SERVER_H_
#define QS_TESTS_TESTING_IN_PROCESS_SERVER_H_

#include <grpcpp/grpcpp.h>
#include <prometheus/metric_family.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/base/metrics.h"
#include "service/server/log.h"
#include "service/server/server.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

// Small, quiet and quick to notice things.
inline ServerOptions TestServerOptions() {
  ServerOptions options;
  options.listen = "127.0.0.1:0";
  options.workers = {2, 1};
  options.memory_budget = int64_t{256} << 20;
  options.drain_timeout = 5;
  return options;
}

// A connection of its own each time.
inline std::shared_ptr<grpc::Channel> Connect(
    int port, const std::shared_ptr<grpc::ChannelCredentials>& credentials =
                  grpc::InsecureChannelCredentials()) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                   credentials, arguments);
}

inline std::chrono::system_clock::time_point In(absl::Duration time) {
  return absl::ToChronoTime(absl::Now() + time);
}

// Polls until `done()` or the limit; true when done.
template <typename Done>
bool Eventually(const Done& done, absl::Duration limit = absl::Seconds(20)) {
  const absl::Time end = absl::Now() + limit;
  while (!done()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

// Calls whose reactors are not gone, of all servers in this process.
inline double RpcsInFlight() {
  double count = 0;
  for (const auto& metrics : AllMetrics()) {
    for (const auto& family : metrics->Collect()) {
      if (family.name != "quantd_rpc_in_flight") continue;
      for (const auto& metric : family.metric) count += metric.gauge.value;
    }
  }
  return count;
}

// Files and directories that this process has open, by path.
inline std::multiset<std::string> OpenFiles() {
  std::multiset<std::string> files;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the directory that is read here, for one
    const std::string path = std::filesystem::read_symlink(entry, gone);
    if (gone || path.empty() || path[0] != '/') continue;
    if (path.rfind("/dev/", 0) == 0 || path.rfind("/proc/", 0) == 0) continue;
    files.insert(path);
  }
  return files;
}

// When it goes, behind the calls of its test, nothing of these may be left, and
// no file is open that was not before.
class InProcessServer {
 public:
  explicit InProcessServer(const ServerOptions& options = TestServerOptions()) {
    REQUIRE(SetLogLevel("off").ok());
    auto started = Server::Start(options);
    INFO(started.status().ToString());
    REQUIRE(started.ok());
    server_ = *std::move(started);
  }

  ~InProcessServer() {
    if (server_ == nullptr || std::uncaught_exceptions() > 0) return;
    CHECK(Eventually([this] { return IsIdle(); }));
    server_.reset();
    CHECK(RpcsInFlight() == 0);
    const std::multiset<std::string> after = OpenFiles();
    std::vector<std::string> left;
    std::set_difference(after.begin(), after.end(), files_before_.begin(),
                        files_before_.end(), std::back_inserter(left));
    CHECK(left == std::vector<std::string>());
  }
  InProcessServer(const InProcessServer&) = delete;
  InProcessServer& operator=(const InProcessServer&) = delete;

  Server& server() { return *server_; }
  QuantizeContext& context() { return server_->context(); }
  int port() const { return server_->port(); }
  std::shared_ptr<grpc::Channel> NewChannel() const { return Connect(port()); }

 private:
  // No stream, no byte of the memory budget, no task of a worker.
  bool IsIdle() const {
    QuantizeContext& context = server_->context();
    return context.live_streams() == 0 && context.budget().reserved() == 0 &&
           context.pool().queued() + context.pool().running() == 0;
  }

  const std::multiset<std::string> files_before_ = OpenFiles();
  std::unique_ptr<Server> server_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_IN_PROCESS_SERVER_H_
