// ResultWeight: one tensor of a result as floats, while it is sent. Its memory
// comes from the server's budget: it waits in line like a stream.
//
// Thread: one caller at a time. Decode blocks: not in a reaction.
#ifndef QS_SERVICE_JOBS_RESULT_WEIGHT_H_
#define QS_SERVICE_JOBS_RESULT_WEIGHT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"
#include "quant/v1/quantization.pb.h"
#include "service/stream/byte_budget.h"

namespace qs {

class ResultWeight {
 public:
  // `specs`: by the rule that a report names, not empty. `budget` outlives it.
  // `wake` is called from any thread when memory that was not there is; also
  // after this is gone.
  ResultWeight(std::vector<QuantSpec> specs, ByteBudget& budget,
               std::function<void()> wake)
      : specs_(std::move(specs)), budget_(budget), wake_(std::move(wake)) {}
  ~ResultWeight() { Reset(); }
  ResultWeight(const ResultWeight&) = delete;
  ResultWeight& operator=(const ResultWeight&) = delete;

  // Memory for the tensor of that report, whose outputs have `packed_bytes`.
  // False: not yet. Errors: FAILED_PRECONDITION NO_WORKER_FITS — more than the
  // budget; DATA_LOSS RESULT_CORRUPT — a report that is none.
  absl::StatusOr<bool> Reserve(const quant::v1::TensorReport& report,
                               int64_t packed_bytes);
  // REQUIRES: Reserve gave true. `outputs`: what it is stored as. Errors:
  // RESULT_CORRUPT; those of decoding.
  absl::Status Decode(const quant::v1::TensorReport& report,
                      std::vector<OutputTensor> outputs);
  // Null: not decoded.
  const OutputTensor* get() const { return weight_ ? &*weight_ : nullptr; }
  // Gives tensor and memory back.
  void Reset();

 private:
  // Shared with the place in the line.
  struct Room {
    absl::Mutex mutex;
    std::optional<Reservation> granted ABSL_GUARDED_BY(mutex);
    ByteBudget::Ticket ticket = 0;  // 0: not in the line
  };

  const std::vector<QuantSpec> specs_;
  ByteBudget& budget_;
  const std::function<void()> wake_;
  std::shared_ptr<Room> room_;  // null: not asked for
  std::optional<OutputTensor> weight_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_RESULT_WEIGHT_H_
