// IoPool: the threads on which calls do what may block — files, SQL, hashing.
// gRPC's own threads never do: two that wait stop the whole server.
//
// Thread: thread-safe.
#ifndef QS_SERVICE_BASE_IO_POOL_H_
#define QS_SERVICE_BASE_IO_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace qs {

class IoPool {
 public:
  using Task = std::function<void()>;

  // REQUIRES: threads >= 1, max_queued >= 1.
  IoPool(int threads, size_t max_queued);
  // Runs what is queued, then joins. Nothing may be added by then.
  ~IoPool();
  IoPool(const IoPool&) = delete;
  IoPool& operator=(const IoPool&) = delete;

  // False, and the task is not taken: `max_queued` tasks wait already.
  [[nodiscard]] bool TryRun(Task task);
  // For who bounds what it adds itself (one task at a time a stream).
  void Run(Task task);

 private:
  void Work();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !tasks_.empty();
  }

  const size_t max_queued_;
  absl::Mutex mutex_;
  std::deque<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::jthread> threads_;
};

// Tasks of one owner, one at a time, in the order in which they were added, on
// whatever thread of the pool is free. Thread: thread-safe. Must outlive its
// tasks: hold it by a shared_ptr that they share.
class IoStrand {
 public:
  explicit IoStrand(IoPool& pool) : pool_(pool) {}
  void Run(IoPool::Task task);

 private:
  void RunNext();

  IoPool& pool_;
  absl::Mutex mutex_;
  std::deque<IoPool::Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qs

#endif  // QS_SERVICE_BASE_IO_POOL_H_
