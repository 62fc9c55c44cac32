// MetricsServer: GET /metrics, in Prometheus' text form, on a port of its own.
//
// Plain HTTP without credentials: it tells counts, no names of tensors, callers
// or projects. Threads of its own; who sends nothing for 5 s is cut off.
//
// Not by prometheus-cpp's own server: civetweb gives its threads 100 KiB of
// stack, of which OpenBLAS takes 60 for its thread-local data, and a page that
// is not there overflows the rest.
// Thread: make and destroy it on one thread.
#ifndef QS_SERVICE_SERVER_METRICS_SERVER_H_
#define QS_SERVICE_SERVER_METRICS_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace qs {

class MetricsServer {
 public:
  // `address`: HOST:PORT, HOST an IP address or "localhost"; port 0 takes a
  // free one. Errors: INVALID_ARGUMENT — not of this form; UNAVAILABLE — cannot
  // listen there.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address);
  ~MetricsServer();

  int port() const;

 private:
  class Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

// What the option may say. Errors: INVALID_ARGUMENT.
absl::Status CheckMetricsAddress(const std::string& address);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_METRICS_SERVER_H_
