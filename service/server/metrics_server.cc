// Tested by tests/service/metrics_test.cc.
#include "service/server/metrics_server.h"

#include <arpa/inet.h>
#include <prometheus/exposer.h>

#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/base/metrics.h"
#include "service/server/listen_address.h"

namespace qs {
namespace {

// As civetweb takes it: an IP address. Errors: INVALID_ARGUMENT.
absl::StatusOr<std::string> ToCivetweb(const std::string& text) {
  const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
  in6_addr ip;
  std::string host = address.ok() ? address->host : "";
  if (host == "localhost") host = "127.0.0.1";
  if (inet_pton(AF_INET, host.c_str(), &ip) == 1) {
    return absl::StrCat(host, ":", address->port);
  }
  if (inet_pton(AF_INET6, host.c_str(), &ip) == 1) {
    return absl::StrCat("[", host, "]:", address->port);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("metrics-listen: got \"", text,
                   "\", allowed IP:PORT, [IP]:PORT or localhost:PORT"));
}

// The library throws when it cannot listen.
absl::StatusOr<std::unique_ptr<prometheus::Exposer>> NewExposer(
    const std::string& where) {
  const std::vector<std::string> options = {"listening_ports",    where,
                                            "num_threads",        "2",
                                            "request_timeout_ms", "5000"};
  try {
    return std::make_unique<prometheus::Exposer>(options);
  } catch (const std::exception&) {
    return absl::UnavailableError(
        absl::StrCat("metrics-listen: cannot listen on ", where));
  }
}

}  // namespace

absl::Status CheckMetricsAddress(const std::string& address) {
  return ToCivetweb(address).status();
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address) {
  QS_ASSIGN_OR_RETURN(const std::string where, ToCivetweb(address));
  QS_ASSIGN_OR_RETURN(auto exposer, NewExposer(where));
  const std::vector<int> ports = exposer->GetListeningPorts();
  if (ports.empty()) {
    return absl::UnavailableError(
        absl::StrCat("metrics-listen: no port on ", where));
  }
  for (const auto& metrics : AllMetrics()) {
    exposer->RegisterCollectable(metrics);
  }
  return std::unique_ptr<MetricsServer>(
      new MetricsServer(std::move(exposer), ports[0]));
}

MetricsServer::MetricsServer(std::unique_ptr<prometheus::Exposer> exposer,
                             int port)
    : exposer_(std::move(exposer)), port_(port) {}
MetricsServer::~MetricsServer() = default;

}  // namespace qs
