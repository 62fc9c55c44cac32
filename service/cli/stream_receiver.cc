// Tested by tests/cli/stream_receiver_test.cc and tests/e2e/quantctl_test.py.
#include "service/cli/stream_receiver.h"

#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/cli/exit_code.h"
#include "service/cli/stream_sender.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

}  // namespace

absl::Status StreamReceiver::Begin(size_t batch) {
  const std::vector<BatchTensor>& tensors = board_.batches()[batch].tensors;
  std::vector<SpillFile*> spills;
  for (const BatchTensor& tensor : tensors) {
    const int shard = checkpoint_.tensors()[tensor.tensor].shard;
    QS_ASSIGN_OR_RETURN(SpillFile* const spill, board_.SpillOf(shard));
    spills.push_back(spill);
  }
  absl::MutexLock lock(&mutex_);
  batches_[batch].missing = tensors.size();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const size_t tensor = tensors[i].tensor;
    tensors_.emplace(
        tensor, OpenTensor{batch, TensorSink(checkpoint_.tensors()[tensor],
                                             spills[i], tensors[i].fold_only)});
  }
  return absl::OkStatus();
}

absl::StatusOr<StreamReceiver::OpenTensor*> StreamReceiver::Find(
    int64_t handle) {
  absl::MutexLock lock(&mutex_);
  const auto found = tensors_.find(static_cast<size_t>(handle - 1));
  if (found != tensors_.end()) return &found->second;
  return UnexpectedError(absl::StrCat("stream: got an answer for handle ",
                                      handle, ", allowed one of those sent"));
}

absl::Status StreamReceiver::Take(const v1::QuantizeResponse& response) {
  switch (response.message_case()) {
    case v1::QuantizeResponse::kFrame: {
      const v1::Frame& frame = response.frame();
      QS_ASSIGN_OR_RETURN(OpenTensor* const open, Find(frame.handle()));
      if (with_digest_) {
        digest_.Update({reinterpret_cast<const uint8_t*>(frame.data().data()),
                        frame.data().size()});
      }
      return open->sink.TakeFrame(frame);
    }
    case v1::QuantizeResponse::kReport:
      return TakeReport(response.report());
    case v1::QuantizeResponse::kProgress:
      progress_.SetSolving(this, response.progress().handle(),
                           response.progress().done());
      return absl::OkStatus();
    case v1::QuantizeResponse::kSummary:
      summary_seen_ = true;
      expected_digest_ = response.summary().digest();
      return absl::OkStatus();
    default:
      return UnexpectedError(
          "stream: got an answer of an unknown kind, allowed frame, report, "
          "progress and summary");
  }
}

absl::Status StreamReceiver::TakeReport(const v1::TensorReport& report) {
  QS_ASSIGN_OR_RETURN(OpenTensor* const open, Find(report.handle()));
  QS_RETURN_IF_ERROR(open->sink.TakeReport(report));
  const auto tensor = static_cast<size_t>(report.handle() - 1);
  std::vector<CompletedTensor> complete;
  {
    absl::MutexLock lock(&mutex_);
    OpenBatch& batch = batches_[open->batch];
    batch.done.push_back({tensor, open->sink.outputs(), report});
    if (--batch.missing == 0) {
      complete = std::move(batch.done);
      batches_.erase(open->batch);
    }
    tensors_.erase(tensor);
  }
  if (!complete.empty()) Complete(complete);
  return absl::OkStatus();
}

void StreamReceiver::Complete(const std::vector<CompletedTensor>& tensors) {
  board_.Complete(tensors);
  any_completed_ = true;
  for (const CompletedTensor& done : tensors) {
    const SafetensorsEntry& entry = checkpoint_.tensors()[done.tensor].entry;
    completed_bytes_ += entry.end - entry.begin;
    progress_.AddTensor();
  }
}

absl::Status StreamReceiver::CheckComplete() {
  {
    absl::MutexLock lock(&mutex_);
    if (!tensors_.empty()) {
      const size_t missing = tensors_.begin()->first;
      return UnexpectedError(
          absl::StrCat("stream: got its end without a report for ",
                       checkpoint_.tensors()[missing].entry.name,
                       ", allowed after every report"));
    }
  }
  if (!summary_seen_) {
    return UnexpectedError("stream: got no summary, allowed: one, last");
  }
  if (!with_digest_) return absl::OkStatus();
  const std::string digest = digest_.Finish();
  if (digest == expected_digest_ || digest.empty()) return absl::OkStatus();
  return UnexpectedError(absl::StrCat("summary.digest: got ", digest,
                                      " of what arrived, allowed ",
                                      expected_digest_, " as sent"));
}

std::vector<size_t> StreamReceiver::Incomplete() const {
  absl::MutexLock lock(&mutex_);
  std::vector<size_t> batches;
  for (const auto& [batch, open] : batches_) batches.push_back(batch);
  return batches;
}

}  // namespace qs::cli
