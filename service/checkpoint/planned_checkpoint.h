// PlannedCheckpoint: a checkpoint's tensors as its plan has them. Where the
// plan splits a stack of experts, its slices stand behind it.
#ifndef QS_SERVICE_CHECKPOINT_PLANNED_CHECKPOINT_H_
#define QS_SERVICE_CHECKPOINT_PLANNED_CHECKPOINT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/formats/checkpoint.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Which values of a stack [experts, A, B] a slice has; see TensorSlice in the
// .proto. The stack begins at byte `begin` of its file's data section.
struct StackSlice {
  int64_t begin = 0;
  int64_t expert = 0;
  int64_t matrix_rows = 0;  // A
  int64_t matrix_cols = 0;  // B
  int64_t first = 0;
  int64_t step = 1;
  bool transposed = false;
};

// A slice's entry has its own name and shape; begin is 0, end its bytes.
struct PlannedTensor : CheckpointTensor {
  std::optional<StackSlice> slice;
};

// Thread: immutable after construction.
class PlannedCheckpoint {
 public:
  // Nothing is split. `checkpoint` must outlive this.
  explicit PlannedCheckpoint(const Checkpoint& checkpoint);
  // Errors: kUnexpected — `entries` do not fit the checkpoint: another tensor,
  // a slice outside its stack, or slices of more or fewer values.
  static absl::StatusOr<PlannedCheckpoint> Make(
      const Checkpoint& checkpoint,
      const std::vector<quant::v1::PlanEntry>& entries);

  const Checkpoint& files() const { return *checkpoint_; }
  const std::vector<SafetensorsFile>& shards() const {
    return checkpoint_->shards();
  }
  // As the plan's entries.
  const std::vector<PlannedTensor>& tensors() const { return tensors_; }

 private:
  struct Empty {};
  PlannedCheckpoint(const Checkpoint& checkpoint, Empty)
      : checkpoint_(&checkpoint) {}

  const Checkpoint* checkpoint_;
  std::vector<PlannedTensor> tensors_;
};

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_PLANNED_CHECKPOINT_H_
