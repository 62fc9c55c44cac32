// What the errors of the calibrations' store are to a client.
// Thread: pure functions.
#ifndef QS_SERVICE_CALIBRATIONS_CALIBRATION_ERRORS_H_
#define QS_SERVICE_CALIBRATIONS_CALIBRATION_ERRORS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "service/server/error.h"

namespace qs {

// NOT_FOUND: CALIBRATION_NOT_FOUND; FAILED_PRECONDITION: SITE_SEALED; ABORTED:
// CONCURRENT_WRITER; else as StoreError. OK and what has a reason already stay
// as they are.
absl::Status CalibrationError(const absl::Status& status,
                              const ErrorMetadata& metadata = {});

// INVALID_ARGUMENT CHUNK_TOO_LARGE, ABORTED CHUNK_CRC_MISMATCH. `crc`: null
// where the client sent none.
absl::Status CheckChunk(const std::string& data, const uint32_t* crc);

// RESOURCE_EXHAUSTED MEMORY_BUDGET, retryable if `bytes` can ever fit.
absl::Status MemoryBudgetError(int64_t bytes, int64_t capacity);

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_CALIBRATION_ERRORS_H_
