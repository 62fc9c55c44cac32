// BatchQueue: which batch of a run comes next — of those that are left and read
// no open site, the first. What reads an open site waits until a newer RunWork
// has it sealed.
#ifndef QS_SERVICE_RUN_BATCH_QUEUE_H_
#define QS_SERVICE_RUN_BATCH_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "service/run/run_work.h"

namespace qs {

// Thread: its owner's lock.
class BatchQueue {
 public:
  struct Batch {
    std::shared_ptr<const RunWork> work;
    size_t place = 0;  // in work->batches
    const WorkBatch& operator*() const { return work->batches[place]; }
  };

  BatchQueue() = default;
  // `left`: of each tensor of the input, whether it is to be done.
  BatchQueue(std::shared_ptr<const RunWork> work, std::vector<bool> left);

  // The same work with more of the sites sealed.
  void Renew(std::shared_ptr<const RunWork> work);
  const std::shared_ptr<const RunWork>& work() const { return work_; }

  bool has_next() const { return !ready_.empty(); }
  std::optional<Batch> Next();
  // Those that read an open site: batches, and the tensors in them.
  int64_t waiting_batches() const { return waiting_batches_; }
  int64_t waiting_tensors() const { return waiting_tensors_; }

 private:
  std::shared_ptr<const RunWork> work_;
  std::vector<bool> left_;
  std::deque<size_t> ready_;  // in work_->batches, ascending
  int64_t waiting_batches_ = 0;
  int64_t waiting_tensors_ = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_RUN_BATCH_QUEUE_H_
