// Tested by tests/service/open_sites_run_test.cc.
#include "service/run/batch_queue.h"

#include <algorithm>
#include <utility>

namespace qs {

BatchQueue::BatchQueue(std::shared_ptr<const RunWork> work,
                       std::vector<bool> left)
    : left_(std::move(left)) {
  Renew(std::move(work));
}

void BatchQueue::Renew(std::shared_ptr<const RunWork> work) {
  work_ = std::move(work);
  ready_.clear();
  waiting_batches_ = 0;
  waiting_tensors_ = 0;
  for (size_t b = 0; b < work_->batches.size(); ++b) {
    const std::vector<BatchTensor>& tensors = work_->batches[b].tensors;
    if (std::none_of(tensors.begin(), tensors.end(),
                     [&](const BatchTensor& t) { return left_[t.tensor]; })) {
      continue;
    }
    if (work_->open[b].empty()) {
      ready_.push_back(b);
    } else {
      ++waiting_batches_;
      waiting_tensors_ += static_cast<int64_t>(tensors.size());
    }
  }
}

std::optional<BatchQueue::Batch> BatchQueue::Next() {
  if (ready_.empty()) return std::nullopt;
  Batch next = {work_, ready_.front()};
  ready_.pop_front();
  for (const BatchTensor& tensor : (*next).tensors) {
    left_[tensor.tensor] = false;
  }
  return next;
}

}  // namespace qs
