// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/tensor_server.h"

#include <string>
#include <utility>

#include "kernels/base/status_macros.h"
#include "service/server/log.h"
#include "service/store/sqlite_tensor_records.h"

namespace qs {
namespace {

constexpr absl::Duration kSweepInterval = absl::Milliseconds(500);

MetricValues StoreBytes(const BlobStore& blobs) {
  return {{{{"kind", "used"}}, static_cast<double>(blobs.bytes_used())},
          {{{"kind", "allowed"}}, static_cast<double>(blobs.bytes_allowed())}};
}

}  // namespace

TensorServer::TensorServer(Stores& stores, const ServerOptions& options)
    : records_(NewSqliteTensorRecords(stores.records())),
      calls_(options.max_tensor_streams,
             absl::Seconds(options.stream_idle_timeout)),
      store_bytes_(MetricKind::kGauge, "quantd_blob_store_bytes",
                   "Bytes of what --max-store-bytes counts, and those allowed",
                   [&blobs = stores.blobs()] { return StoreBytes(blobs); }) {}

absl::StatusOr<std::unique_ptr<TensorServer>> TensorServer::Open(
    Stores& stores, const AccessControl& access, const ServerOptions& options,
    std::function<int64_t(const std::string&)> result_bytes) {
  std::unique_ptr<TensorServer> server(new TensorServer(stores, options));
  TensorStoreOptions limits;
  limits.max_tensor_bytes = options.max_tensor_bytes;
  limits.max_project_bytes = options.max_project_bytes;
  limits.result_bytes = std::move(result_bytes);
  limits.upload_expiry = absl::Seconds(options.upload_expiry);
  QS_ASSIGN_OR_RETURN(
      server->store_,
      TensorStore::Open({stores.blobs(), *server->records_, stores.refs(),
                         stores.keeper(), std::move(limits)}));
  server->context_.emplace(
      TensorContext{*server->store_, access, stores.pool(), server->calls_});
  server->service_ = NewTensorService(*server->context_);
  server->sweeper_ =
      std::jthread([&server = *server] { server.SweepUntilStopped(); });
  return server;
}

TensorServer::~TensorServer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (sweeper_.joinable()) sweeper_.join();
  // The last steps of calls that have ended use the store.
  while (calls_.live() > 0) absl::SleepFor(absl::Milliseconds(1));
}

void TensorServer::SweepUntilStopped() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kSweepInterval);
      if (stopping_) return;
    }
    calls_.EndStalled(absl::Now());
    const absl::Status expired = store_->Expire();
    if (expired.ok()) continue;
    Log(LogLevel::kError, "upload_expiry_failed",
        {{"error", std::string(expired.message())}});
  }
}

}  // namespace qs
