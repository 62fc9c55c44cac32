// QuantizeContext: what all Quantize streams of a server share — limits, byte
// budget, workers, the list of live streams and the clock that ends stalled
// ones.
//
// Must outlive every stream: destroy it after the gRPC server has shut down.
// Thread: thread-safe.
#ifndef QS_SERVICE_STREAM_QUANTIZE_CONTEXT_H_
#define QS_SERVICE_STREAM_QUANTIZE_CONTEXT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/backend.h"
#include "quant/v1/quantization.pb.h"
#include "service/stream/byte_budget.h"
#include "service/stream/poller_rest.h"
#include "service/stream/worker_pool.h"

namespace qs {

class QuantizeSession;

struct QuantizeContextOptions {
  // As GetCapabilities and Accepted show them; every field that Quantize uses
  // must be set (max_chunk_bytes, max_tensor_bytes, max_open_tensors,
  // max_streams, memory_budget_bytes).
  quant::v1::Limits limits;
  // A stream whose client neither sends while it should, nor takes what it was
  // sent, for so long is ended with STREAM_STALLED.
  absl::Duration stream_idle_timeout = absl::Minutes(2);
  absl::Duration sweep_interval = absl::Seconds(1);
  // WorkerPool's arguments; called once, by QuantizeContext's constructor.
  std::function<std::vector<std::unique_ptr<Backend>>()> make_backends;
  WorkerPool::OnLost on_lost;
  // PollerRest's argument.
  int most_pollers_that_rest = 0;
};

class QuantizeContext {
 public:
  explicit QuantizeContext(QuantizeContextOptions options);
  ~QuantizeContext();
  QuantizeContext(const QuantizeContext&) = delete;
  QuantizeContext& operator=(const QuantizeContext&) = delete;

  const quant::v1::Limits& limits() const { return options_.limits; }
  absl::Duration stream_idle_timeout() const {
    return options_.stream_idle_timeout;
  }
  ByteBudget& budget() { return budget_; }
  WorkerPool& pool() { return *pool_; }
  PollerRest& poller_rest() { return poller_rest_; }

  // New streams are refused with DRAINING from now on.
  void StartDraining() { draining_ = true; }
  bool draining() const { return draining_; }
  // Ends every live stream with DRAINING as soon as its client has taken the
  // message in flight.
  void EndAll();
  // Ends those, too, whose client takes nothing: they see CANCELLED.
  void CancelAll();

  // Sessions that exist, cancelled ones with a running task included.
  int64_t live_streams() const;

  // For QuantizeSession. Errors: UNAVAILABLE DRAINING; RESOURCE_EXHAUSTED
  // TOO_MANY_STREAMS. On success Remove must follow.
  absl::Status Admit(const std::shared_ptr<QuantizeSession>& session);
  void Remove(const QuantizeSession* session);

 private:
  std::vector<std::shared_ptr<QuantizeSession>> Sessions() const;
  void SweepUntilStopped();

  const QuantizeContextOptions options_;
  ByteBudget budget_;
  PollerRest poller_rest_;
  std::atomic<bool> draining_{false};
  mutable absl::Mutex mutex_;
  std::map<const QuantizeSession*, std::weak_ptr<QuantizeSession>> sessions_
      ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<WorkerPool> pool_;
  std::thread sweeper_;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_QUANTIZE_CONTEXT_H_
