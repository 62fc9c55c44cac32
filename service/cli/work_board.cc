// Tested by tests/cli/work_board_test.cc.
#include "service/cli/work_board.h"

#include <utility>

#include "absl/time/time.h"
#include "kernels/base/status_macros.h"

namespace qs::cli {

WorkBoard::WorkBoard(const PlannedCheckpoint& checkpoint,
                     std::vector<WorkBatch> batches,
                     const std::string& directory)
    : checkpoint_(checkpoint),
      batches_(std::move(batches)),
      directory_(directory),
      missing_(checkpoint.shards().size()),
      shards_(checkpoint.shards().size()) {
  for (size_t i = 0; i < batches_.size(); ++i) {
    to_send_.push_back(i);
    for (const BatchTensor& tensor : batches_[i].tensors) {
      const int shard = checkpoint.tensors()[tensor.tensor].shard;
      ++missing_[static_cast<size_t>(shard)];
    }
  }
  for (size_t i = 0; i < missing_.size(); ++i) {
    if (missing_[i] == 0) ready_.push_back(static_cast<int>(i));
  }
}

std::optional<size_t> WorkBoard::NextBatch() {
  absl::MutexLock lock(&mutex_);
  if (to_send_.empty()) return std::nullopt;
  const size_t batch = to_send_.front();
  to_send_.pop_front();
  return batch;
}

void WorkBoard::GiveBack(const std::vector<size_t>& batches) {
  absl::MutexLock lock(&mutex_);
  // In front: their shards were begun first.
  to_send_.insert(to_send_.begin(), batches.begin(), batches.end());
}

bool WorkBoard::HasBatches() const {
  absl::MutexLock lock(&mutex_);
  return !to_send_.empty();
}

void WorkBoard::AddStream(int change) {
  absl::MutexLock lock(&mutex_);
  streams_ += change;
}

int WorkBoard::streams() const {
  absl::MutexLock lock(&mutex_);
  return streams_;
}

absl::StatusOr<SpillFile*> WorkBoard::SpillOf(int shard) {
  if (directory_.empty()) return nullptr;
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<SpillFile>& spill = shards_[static_cast<size_t>(shard)].spill;
  if (spill == nullptr) {
    QS_ASSIGN_OR_RETURN(spill, SpillFile::Create(directory_));
  }
  return spill.get();
}

void WorkBoard::Complete(const std::vector<CompletedTensor>& tensors) {
  absl::MutexLock lock(&mutex_);
  for (const CompletedTensor& done : tensors) {
    const int index = checkpoint_.tensors()[done.tensor].shard;
    const auto shard = static_cast<size_t>(index);
    std::vector<SpilledTensor>& all = shards_[shard].outputs;
    all.insert(all.end(), done.outputs.begin(), done.outputs.end());
    reports_[done.tensor] = done.report;
    if (--missing_[shard] == 0) ready_.push_back(index);
  }
}

std::optional<int> WorkBoard::NextShard(const RunControl& control) {
  absl::MutexLock lock(&mutex_);
  if (handed_out_ == shards_.size()) return std::nullopt;
  while (!control.failed()) {
    if (mutex_.AwaitWithTimeout(absl::Condition(this, &WorkBoard::ShardReady),
                                absl::Milliseconds(100))) {
      const int shard = ready_.front();
      ready_.pop_front();
      ++handed_out_;
      return shard;
    }
  }
  return std::nullopt;
}

ArrivedShard WorkBoard::TakeShard(int shard) {
  absl::MutexLock lock(&mutex_);
  return std::exchange(shards_[static_cast<size_t>(shard)], ArrivedShard());
}

std::vector<quant::v1::TensorReport> WorkBoard::Reports() const {
  absl::MutexLock lock(&mutex_);
  std::vector<quant::v1::TensorReport> reports;
  for (const auto& [tensor, report] : reports_) reports.push_back(report);
  return reports;
}

}  // namespace qs::cli
