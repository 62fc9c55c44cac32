// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/calibration_errors.h"

#include <span>

#include "absl/strings/str_cat.h"
#include "service/server/options.h"
#include "service/stream/crc32c.h"
#include "service/tensors/store_error.h"

namespace qs {

absl::Status CalibrationError(const absl::Status& status,
                              const ErrorMetadata& metadata) {
  if (status.ok() || !ErrorReason(status).empty()) return status;
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return RpcError(status.code(), "CALIBRATION_NOT_FOUND", text, metadata);
    case absl::StatusCode::kFailedPrecondition:
      return RpcError(status.code(), "SITE_SEALED", text, metadata);
    case absl::StatusCode::kAborted:
      return RetryableError(status.code(), "CONCURRENT_WRITER", text, metadata);
    default:
      return StoreError(status, metadata);
  }
}

absl::Status CheckChunk(const std::string& data, const uint32_t* crc) {
  const auto bytes = static_cast<int64_t>(data.size());
  if (bytes > kMaxChunkBytes) {
    return RpcError(
        absl::StatusCode::kInvalidArgument, "CHUNK_TOO_LARGE",
        absl::StrCat("data: got ", bytes, " bytes, allowed ", kMaxChunkBytes),
        {{"allowed", absl::StrCat(kMaxChunkBytes)}});
  }
  if (crc == nullptr) return absl::OkStatus();
  const uint32_t actual =
      Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()});
  if (actual == *crc) return absl::OkStatus();
  return RpcError(
      absl::StatusCode::kAborted, "CHUNK_CRC_MISMATCH",
      absl::StrCat("crc32c: got ", *crc, ", the data gives ", actual));
}

absl::Status MemoryBudgetError(int64_t bytes, int64_t capacity) {
  const std::string text =
      absl::StrCat("memory: got a need of ", bytes, " bytes",
                   bytes > capacity ? absl::StrCat(", allowed ", capacity)
                                    : std::string(", which are not free now"));
  const ErrorMetadata metadata = {{"needed", absl::StrCat(bytes)},
                                  {"allowed", absl::StrCat(capacity)}};
  const auto code = absl::StatusCode::kResourceExhausted;
  return bytes > capacity
             ? RpcError(code, "MEMORY_BUDGET", text, metadata)
             : RetryableError(code, "MEMORY_BUDGET", text, metadata);
}

}  // namespace qs
