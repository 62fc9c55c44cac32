// RunInput: the tensors that a run reads — from the files of a checkpoint, or
// from blobs (blob_input.h).
#ifndef QS_SERVICE_RUN_RUN_INPUT_H_
#define QS_SERVICE_RUN_RUN_INPUT_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/run/checkpoint_run.h"

namespace qs {

// Thread: thread-safe.
class RunInput {
 public:
  virtual ~RunInput() = default;
  // As the plan's entries.
  virtual const std::vector<PlannedTensor>& tensors() const = 0;
  // Bytes [offset, offset + data.size()) of a tensor, row after row. Blocks.
  // Errors: kInput; DATA_LOSS — a damaged blob.
  virtual absl::Status Read(size_t tensor, int64_t offset,
                            std::span<uint8_t> data) = 0;
  // That a tensor is about to be read.
  virtual void WillNeed(size_t /*tensor*/) {}
  // What tells this input from another one of the same tensors.
  virtual absl::StatusOr<std::string> Identity() const = 0;
};

// A file, which links may lead to, as far as it can be told without reading it.
// Errors: kInput.
absl::StatusOr<std::string> FileIdentity(const std::string& path,
                                         const FileOpener* opener);

// `planned` outlives it. Errors: kInput.
absl::StatusOr<std::unique_ptr<RunInput>> NewCheckpointInput(
    const PlannedCheckpoint& planned);

}  // namespace qs

#endif  // QS_SERVICE_RUN_RUN_INPUT_H_
