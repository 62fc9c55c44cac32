// Tested by tests/service/io_pool_test.cc.
#include "service/base/io_pool.h"

#include <utility>

namespace qs {

IoPool::IoPool(int threads, size_t max_queued) : max_queued_(max_queued) {
  threads_.reserve(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    threads_.emplace_back([this] { Work(); });
  }
}

IoPool::~IoPool() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  threads_.clear();
}

bool IoPool::TryRun(Task task) {
  absl::MutexLock lock(&mutex_);
  if (tasks_.size() >= max_queued_) return false;
  tasks_.push_back(std::move(task));
  return true;
}

void IoPool::Run(Task task) {
  absl::MutexLock lock(&mutex_);
  tasks_.push_back(std::move(task));
}

void IoPool::Work() {
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &IoPool::HasWork));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void IoStrand::Run(IoPool::Task task) {
  {
    absl::MutexLock lock(&mutex_);
    tasks_.push_back(std::move(task));
    if (running_) return;
    running_ = true;
  }
  pool_.Run([this] { RunNext(); });
}

void IoStrand::RunNext() {
  IoPool::Task task;
  {
    absl::MutexLock lock(&mutex_);
    task = std::move(tasks_.front());
    tasks_.pop_front();
  }
  task();
  // What the task held may hold the strand itself: it is let go last, after the
  // strand was used for the last time.
  {
    absl::MutexLock lock(&mutex_);
    running_ = !tasks_.empty();
    if (!running_) return;
  }
  pool_.Run([this] { RunNext(); });
}

}  // namespace qs
