// Server: quantd without its command line — sockets, gRPC, streams, workers,
// from start to drain.
// Thread: Start and Drain from one thread; the rest thread-safe.
#ifndef QS_SERVICE_SERVER_SERVER_H_
#define QS_SERVICE_SERVER_SERVER_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "service/server/options.h"
#include "service/stream/quantize_context.h"

namespace qs {

class Server {
 public:
  // What must be set before gRPC starts its first thread: the allocator's
  // thresholds, gRPC's experiments, the descriptor limit, signals. First thing
  // in main.
  static void PrepareProcess(bool tcp_read_chunks);

  // Serves when it returns. `gpus` must outlive it; null: there are none.
  // Errors: INVALID_ARGUMENT — TLS and access files; FAILED_PRECONDITION — a
  // worker's device, or the data directory is another process's; DATA_LOSS — the
  // records in it are damaged; UNAVAILABLE — an address; INTERNAL — gRPC did
  // not start, the port file not written.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options, const GpuProvider* gpus = nullptr);
  // Ends whatever still runs.
  ~Server();

  int port() const;
  // Of the metrics; 0: they are off.
  int metrics_port() const;
  // The device of every worker is lost. Readiness is off; what was accepted
  // goes on on the host.
  bool lost() const;

  // Readiness turns NOT_SERVING; new streams are refused after drain_delay.
  // Returns when the running ones are done, drain_timeout has passed or `hurry`
  // (asked often) says so, which ends the delay, too; those that are left then
  // are ended with DRAINING.
  void Drain(const std::function<bool()>& hurry = [] { return false; });

  // For tests and benchmarks.
  QuantizeContext& context();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_SERVER_H_
