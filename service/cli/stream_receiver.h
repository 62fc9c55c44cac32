// StreamReceiver: the answers of one Quantize call — which batches are out, and
// what came back for their tensors. A batch goes to the board when the report
// of its last tensor is there.
#ifndef QS_SERVICE_CLI_STREAM_RECEIVER_H_
#define QS_SERVICE_CLI_STREAM_RECEIVER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/v1/quantization.pb.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/cli/progress.h"
#include "service/cli/tensor_sink.h"
#include "service/cli/work_board.h"
#include "service/stream/digest.h"

namespace qs::cli {

// Thread: Begin from the writer, Take from the reader; the rest after both are
// done.
class StreamReceiver {
 public:
  // All outlive it.
  StreamReceiver(const PlannedCheckpoint& checkpoint, WorkBoard& board,
                 Progress& progress, bool with_digest)
      : checkpoint_(checkpoint),
        board_(board),
        progress_(progress),
        with_digest_(with_digest) {}
  ~StreamReceiver() { progress_.ForgetSolving(this); }
  StreamReceiver(const StreamReceiver&) = delete;
  StreamReceiver& operator=(const StreamReceiver&) = delete;

  // Before the batch is sent. Errors: kOutput.
  absl::Status Begin(size_t batch);
  // A frame, a report, a group's progress or the summary. Errors: kUnexpected —
  // a broken promise; kOutput.
  absl::Status Take(const quant::v1::QuantizeResponse& response);
  // At the end of a call that went well. Errors: kUnexpected.
  absl::Status CheckComplete();

  // Batches that were begun and are not complete, in order.
  std::vector<size_t> Incomplete() const;
  bool any_completed() const { return any_completed_; }
  int64_t completed_bytes() const { return completed_bytes_; }  // of input

 private:
  // What of a batch is out.
  struct OpenBatch {
    size_t missing = 0;  // reports
    std::vector<CompletedTensor> done;
  };
  struct OpenTensor {
    size_t batch = 0;
    TensorSink sink;
  };

  absl::StatusOr<OpenTensor*> Find(int64_t handle);
  absl::Status TakeReport(const quant::v1::TensorReport& report);
  void Complete(const std::vector<CompletedTensor>& tensors);

  const PlannedCheckpoint& checkpoint_;
  WorkBoard& board_;
  Progress& progress_;
  const bool with_digest_;

  // The reader's.
  Sha256 digest_;
  std::string expected_digest_;
  bool summary_seen_ = false;
  bool any_completed_ = false;
  int64_t completed_bytes_ = 0;

  mutable absl::Mutex mutex_;
  std::map<size_t, OpenBatch> batches_ ABSL_GUARDED_BY(mutex_);
  // By tensor. Nodes stay where they are.
  std::map<size_t, OpenTensor> tensors_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_STREAM_RECEIVER_H_
