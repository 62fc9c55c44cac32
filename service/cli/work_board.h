// WorkBoard: which batches are to be sent, which have arrived, and which output
// shards are complete and can be written.
#ifndef QS_SERVICE_CLI_WORK_BOARD_H_
#define QS_SERVICE_CLI_WORK_BOARD_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/v1/quantization.pb.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/checkpoint/spill_file.h"
#include "service/checkpoint/work_batch.h"
#include "service/cli/run_control.h"
#include "service/cli/tensor_sink.h"

namespace qs::cli {

// What came back for one tensor.
struct CompletedTensor {
  size_t tensor = 0;
  std::vector<SpilledTensor> outputs;
  quant::v1::TensorReport report;
};

// Tensors are named by their index in PlannedCheckpoint::tensors(), batches by
// theirs in `batches`. A batch is sent, completes and is given back as a whole.
// Thread: thread-safe.
class WorkBoard {
 public:
  // Spill files go to `directory`; empty: what arrives is not kept.
  WorkBoard(const PlannedCheckpoint& checkpoint, std::vector<WorkBatch> batches,
            const std::string& directory);

  const std::vector<WorkBatch>& batches() const { return batches_; }

  // A batch for the caller to send; none: nothing is left to begin.
  std::optional<size_t> NextBatch();
  // Batches that the caller took and that did not complete.
  void GiveBack(const std::vector<size_t>& batches);
  bool HasBatches() const;

  // Streams that the server took in and that go on.
  void AddStream(int change);
  int streams() const;

  // The spill file of a shard with tensors to come; null when nothing is kept.
  // Errors: kOutput.
  absl::StatusOr<SpillFile*> SpillOf(int shard);
  // Once for a batch, with all of its tensors.
  void Complete(const std::vector<CompletedTensor>& tensors);

  // A shard whose tensors have all arrived, each once, waiting for one; none:
  // there is no more, or the run failed.
  std::optional<int> NextShard(const RunControl& control);
  // What arrived for it.
  ArrivedShard TakeShard(int shard);

  // In checkpoint order.
  std::vector<quant::v1::TensorReport> Reports() const;

 private:
  bool ShardReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !ready_.empty();
  }

  const PlannedCheckpoint& checkpoint_;
  const std::vector<WorkBatch> batches_;
  const std::string directory_;
  mutable absl::Mutex mutex_;
  std::deque<size_t> to_send_ ABSL_GUARDED_BY(mutex_);  // batches
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<int64_t> missing_ ABSL_GUARDED_BY(mutex_);  // tensors, by shard
  std::vector<ArrivedShard> shards_ ABSL_GUARDED_BY(mutex_);
  std::deque<int> ready_ ABSL_GUARDED_BY(mutex_);
  size_t handed_out_ ABSL_GUARDED_BY(mutex_) = 0;  // shards
  std::map<size_t, quant::v1::TensorReport> reports_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_WORK_BOARD_H_
