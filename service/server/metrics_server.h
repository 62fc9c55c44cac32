// MetricsServer: GET /metrics, in Prometheus' text form, on a port of its own.
//
// Plain HTTP without credentials: it tells counts, no names of tensors, callers
// or projects. Threads of its own, which take up to 2 s to end (civetweb looks
// that often whether it shall).
// Thread: make and destroy it on one thread.
#ifndef QS_SERVICE_SERVER_METRICS_SERVER_H_
#define QS_SERVICE_SERVER_METRICS_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace prometheus {
class Exposer;
}

namespace qs {

class MetricsServer {
 public:
  // `address`: HOST:PORT, HOST an IP address or "localhost"; port 0 takes a
  // free one. Errors: INVALID_ARGUMENT — not of this form; UNAVAILABLE — cannot
  // listen there.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address);
  ~MetricsServer();

  int port() const { return port_; }

 private:
  MetricsServer(std::unique_ptr<prometheus::Exposer> exposer, int port);

  const std::unique_ptr<prometheus::Exposer> exposer_;
  const int port_;
};

// What the option may say. Errors: INVALID_ARGUMENT.
absl::Status CheckMetricsAddress(const std::string& address);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_METRICS_SERVER_H_
