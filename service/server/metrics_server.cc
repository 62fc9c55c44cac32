// Tested by tests/service/metrics_test.cc.
#include "service/server/metrics_server.h"

#include <arpa/inet.h>
#include <httplib.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>

#include <chrono>
#include <functional>
#include <iterator>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/base/io_pool.h"
#include "service/base/metrics.h"
#include "service/server/listen_address.h"

namespace qs {
namespace {

using std::chrono::milliseconds;

constexpr int kThreads = 2;
constexpr size_t kMaxWaiting = 16;  // connections that wait for a thread
constexpr time_t kTimeoutSeconds = 5;
constexpr milliseconds kPause{10};

// The IP address and port. Errors: INVALID_ARGUMENT.
absl::StatusOr<ListenAddress> ParseMetricsAddress(const std::string& text) {
  absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
  if (address.ok()) {
    in6_addr ip;
    if (address->host == "localhost") address->host = "127.0.0.1";
    if (inet_pton(AF_INET, address->host.c_str(), &ip) == 1 ||
        inet_pton(AF_INET6, address->host.c_str(), &ip) == 1) {
      return address;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("metrics-listen: got \"", text,
                   "\", allowed IP:PORT, [IP]:PORT or localhost:PORT"));
}

// A few threads. While they and the queue are full no connection is accepted.
class Threads final : public httplib::TaskQueue {
 public:
  Threads() { pool_.emplace(kThreads, kMaxWaiting); }
  void enqueue(std::function<void()> task) override {
    while (!pool_->TryRun(task)) std::this_thread::sleep_for(kPause);
  }
  void shutdown() override { pool_.reset(); }

 private:
  std::optional<IoPool> pool_;
};

std::string MetricsText() {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& metrics : AllMetrics()) {
    std::vector<prometheus::MetricFamily> some = metrics->Collect();
    std::move(some.begin(), some.end(), std::back_inserter(families));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace

class MetricsServer::Impl {
 public:
  Impl() {
    http_.new_task_queue = [] { return new Threads; };
    // Not the library's, with which two servers may share a port.
    http_.set_socket_options([](int fd) {
      const int yes = 1;
      ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    http_.set_keep_alive_max_count(1);  // nobody keeps a thread
    http_.set_read_timeout(kTimeoutSeconds, 0);
    http_.set_write_timeout(kTimeoutSeconds, 0);
    http_.set_payload_max_length(0);
    http_.Get("/metrics", [](const httplib::Request&, httplib::Response& out) {
      out.set_content(MetricsText(), "text/plain; version=0.0.4");
    });
  }

  ~Impl() {
    http_.stop();
    if (thread_.joinable()) thread_.join();
  }

  // False: cannot listen there.
  bool Start(const ListenAddress& address) {
    port_ = address.port;
    if (port_ == 0) {
      port_ = http_.bind_to_any_port(address.host);
      if (port_ <= 0) return false;
    } else if (!http_.bind_to_port(address.host, port_)) {
      return false;
    }
    thread_ = std::thread([this] { http_.listen_after_bind(); });
    // It can be stopped from then on.
    while (!http_.is_running()) std::this_thread::sleep_for(milliseconds(1));
    return true;
  }

  int port() const { return port_; }

 private:
  httplib::Server http_;
  std::thread thread_;
  int port_ = 0;
};

absl::Status CheckMetricsAddress(const std::string& address) {
  return ParseMetricsAddress(address).status();
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address) {
  QS_ASSIGN_OR_RETURN(const ListenAddress where, ParseMetricsAddress(address));
  auto impl = std::make_unique<Impl>();
  if (!impl->Start(where)) {
    return absl::UnavailableError(
        absl::StrCat("metrics-listen: cannot listen on ", address));
  }
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
MetricsServer::~MetricsServer() = default;

int MetricsServer::port() const { return impl_->port(); }

}  // namespace qs
