// What is wrong with a request of a Quantize stream: the checks and errors that
// tensors, sites and groups share.
// Thread: pure functions.
#ifndef QS_SERVICE_STREAM_INPUT_ERRORS_H_
#define QS_SERVICE_STREAM_INPUT_ERRORS_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/tensor_quantizer.h"
#include "quant/v1/quantization.pb.h"
#include "service/server/error.h"
#include "service/stream/byte_budget.h"
#include "service/stream/wire.h"

namespace qs {

absl::Status InvalidError(const std::string& reason, const std::string& text,
                          const ErrorMetadata& metadata = {});
// The machine has less memory than the budget promises.
absl::Status NoMemoryError(const absl::Status& status);
// MEMORY_BUDGET for what cannot wait, because the stream holds memory; `held`:
// at least that much of it for as long as `bytes` are needed. Retryable if both
// can ever fit.
absl::Status NoRoomError(const std::string& what, int64_t bytes,
                         const ByteBudget& budget, int64_t held = 0);
// TENSOR_TOO_LARGE "WHAT: got KIND N bytes, allowed M"; `kind` is "" or ends
// in a space.
absl::Status TooLargeError(const std::string& what, const char* kind,
                           int64_t got, int64_t allowed);
// Of what a quantizer or group says when it is made.
absl::Status OpenError(const absl::Status& status);

// Which of our errors the status of a worker's task is.
absl::Status ComputeError(const absl::Status& status);

// Name, dtype and shape; `field` is where they lie ("tensor"). Errors:
// BAD_FIELD.
absl::StatusOr<TensorInfo> TensorInfoFromProto(
    const quant::v1::TensorBegin& begin, const std::string& field);

// OFFSET_GAP.
absl::Status CheckOffset(const std::string& what, int64_t handle,
                         int64_t offset, int64_t expected);
// BAD_FIELD: a finite number that `dtype` has not; NaN and infinities pass, as
// they do in chunk.data. `what` is whose numbers they are.
absl::Status CheckFloatValues(const std::string& what, DType dtype,
                              std::span<const float> values);
// CHUNK_CRC_MISMATCH.
absl::Status CheckCrc(const ChunkView& chunk);

}  // namespace qs

#endif  // QS_SERVICE_STREAM_INPUT_ERRORS_H_
