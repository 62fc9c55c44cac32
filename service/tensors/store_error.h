// What the stores' errors are to a client. Thread: pure functions.
#ifndef QS_SERVICE_TENSORS_STORE_ERROR_H_
#define QS_SERVICE_TENSORS_STORE_ERROR_H_

#include <cstdint>

#include "absl/status/status.h"
#include "service/server/error.h"

namespace qs {

// RESOURCE_EXHAUSTED: DISK_FULL with RetryInfo; DATA_LOSS: RECORDS_CORRUPT;
// everything else: INTERNAL STORE_FAILED. OK and what has a reason already stay
// as they are.
absl::Status StoreError(const absl::Status& status,
                        const ErrorMetadata& metadata = {});

// Whether `more` bytes fit beside the `used` ones of a project. `allowed` 0:
// always. Errors: RESOURCE_EXHAUSTED PROJECT_QUOTA, with RetryInfo when they
// can ever fit.
absl::Status CheckProjectBytes(int64_t used, int64_t more, int64_t allowed);

// For metrics: bytes on the disk were not those that were written.
void CountDamagedRead();

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_STORE_ERROR_H_
