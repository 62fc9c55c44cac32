// Tested by tests/service/worker_pool_test.cc.
#include "service/stream/worker_pool.h"

#include <utility>

namespace qs {

WorkerPool::WorkerPool(int workers,
                       std::function<std::unique_ptr<Backend>()> make_backend) {
  threads_.reserve(static_cast<size_t>(workers));
  for (int i = 0; i < workers; ++i) {
    threads_.emplace_back([this, make_backend] { Work(make_backend); });
  }
}

WorkerPool::~WorkerPool() {
  std::deque<std::shared_ptr<Lane>> dropped;  // destroyed without the lock
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    dropped.swap(ring_);
    queued_ = 0;
  }
  for (std::thread& thread : threads_) thread.join();
  for (const std::shared_ptr<Lane>& lane : dropped) lane->tasks.clear();
}

void WorkerPool::Submit(const std::shared_ptr<Lane>& lane, Task task) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  lane->tasks.push_back(std::move(task));
  ++queued_;
  if (!lane->in_turn) {
    lane->in_turn = true;
    ring_.push_back(lane);
  }
}

int64_t WorkerPool::Drop(const std::shared_ptr<Lane>& lane) {
  std::deque<Task> dropped;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  if (stopping_) return 0;
  dropped.swap(lane->tasks);
  queued_ -= static_cast<int64_t>(dropped.size());
  return static_cast<int64_t>(dropped.size());
}

WorkerPool::Task WorkerPool::TakeTask() {
  const std::shared_ptr<Lane> lane = std::move(ring_.front());
  ring_.pop_front();
  if (lane->tasks.empty()) {  // its tasks were dropped
    lane->in_turn = false;
    return nullptr;
  }
  Task task = std::move(lane->tasks.front());
  lane->tasks.pop_front();
  --queued_;
  lane->in_turn = !lane->tasks.empty();
  if (lane->in_turn) ring_.push_back(lane);
  return task;
}

void WorkerPool::Work(
    const std::function<std::unique_ptr<Backend>()>& make_backend) {
  const std::unique_ptr<Backend> backend = make_backend();
  mutex_.Lock();
  while (true) {
    mutex_.Await(absl::Condition(this, &WorkerPool::Ready));
    if (stopping_) break;
    Task task = TakeTask();
    if (task == nullptr) continue;
    ++running_;
    mutex_.Unlock();
    task(*backend);
    task = nullptr;  // what it holds is freed before it counts as done
    mutex_.Lock();
    --running_;
  }
  mutex_.Unlock();
}

int64_t WorkerPool::queued() const {
  absl::MutexLock lock(&mutex_);
  return queued_;
}

int64_t WorkerPool::running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

}  // namespace qs
