// Tested by tests/service/tensors/tensor_store_test.cc.
#include "service/tensors/store_error.h"

#include <string>

#include "service/base/metrics.h"

namespace qs {
namespace {

// A disk is not emptied within a second.
constexpr absl::Duration kDiskFullDelay = absl::Seconds(30);

}  // namespace

void CountDamagedRead() {
  static Counter& counter =
      CounterOf("quantd_blob_corrupt_total",
                "Reads that met bytes which are damaged on the disk");
  counter.Increment();
}

absl::Status StoreError(const absl::Status& status,
                        const ErrorMetadata& metadata) {
  if (status.ok() || !ErrorReason(status).empty()) return status;
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return RetryableError(status.code(), "DISK_FULL", text, metadata,
                            kDiskFullDelay);
    case absl::StatusCode::kDataLoss:
      return RpcError(status.code(), "RECORDS_CORRUPT", text, metadata);
    default:
      return RpcError(absl::StatusCode::kInternal, "STORE_FAILED", text,
                      metadata);
  }
}

}  // namespace qs
