// TensorServer: TensorService with what it needs — records, store, the list of
// its streams, and the thread that ends stalled streams and expired uploads.
//
// Destroy it after the gRPC server has shut down, before the stores.
// Thread: thread-safe.
#ifndef QS_SERVICE_TENSORS_TENSOR_SERVER_H_
#define QS_SERVICE_TENSORS_TENSOR_SERVER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/base/metrics.h"
#include "service/server/stores.h"
#include "service/tensors/tensor_service.h"

namespace qs {

class TensorServer {
 public:
  // Puts the records in order. Both outlive it. `result_bytes`: see
  // TensorStoreOptions. Errors: of the stores.
  static absl::StatusOr<std::unique_ptr<TensorServer>> Open(
      Stores& stores, const AccessControl& access, const ServerOptions& options,
      std::function<int64_t(const std::string&)> result_bytes);
  ~TensorServer();

  grpc::Service& service() { return *service_; }
  TensorRecords& records() { return *records_; }
  TensorStore& store() { return *store_; }

  // New uploads and streams are refused with DRAINING.
  void StartDraining() { calls_.StartDraining(); }
  // Streams persist what they have and end with DRAINING.
  void EndAll() { calls_.EndAll(); }
  int64_t live_streams() const { return calls_.live(); }

 private:
  TensorServer(Stores& stores, const ServerOptions& options);
  void SweepUntilStopped();

  std::unique_ptr<TensorRecords> records_;
  std::unique_ptr<TensorStore> store_;
  LiveCalls calls_;
  MetricSource store_bytes_;  // of the stores
  std::optional<TensorContext> context_;
  std::unique_ptr<grpc::Service> service_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread sweeper_;
};

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_TENSOR_SERVER_H_
