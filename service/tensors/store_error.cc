// Tested by tests/service/tensors/tensor_store_test.cc.
#include "service/tensors/store_error.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "service/base/metrics.h"

namespace qs {
namespace {

// A disk is not emptied within a second.
constexpr absl::Duration kDiskFullDelay = absl::Seconds(30);
constexpr absl::Duration kQuotaDelay = absl::Seconds(30);

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

absl::Status CheckProjectBytes(int64_t used, int64_t more, int64_t allowed) {
  if (allowed == 0 || more <= 0 || more <= allowed - used) {
    return absl::OkStatus();
  }
  const absl::Status status = RpcError(
      absl::StatusCode::kResourceExhausted, "PROJECT_QUOTA",
      absl::StrCat("bytes of the project: got ", used + more, ", allowed ",
                   allowed),
      {{"got", absl::StrCat(used + more)}, {"allowed", absl::StrCat(allowed)}});
  return more <= allowed ? WithRetryDelay(status, kQuotaDelay) : status;
}

}  // namespace qs
