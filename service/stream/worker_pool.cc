// Tested by tests/service/worker_pool_test.cc.
#include "service/stream/worker_pool.h"

#include <utility>

namespace qs {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

}  // namespace

WorkerPool::WorkerPool(std::vector<std::unique_ptr<Backend>> backends,
                       OnLost on_lost)
    : workers_(backends.size()),
      healthy_(static_cast<int>(backends.size())),
      backends_(std::move(backends)),
      on_lost_(std::move(on_lost)) {
  for (size_t i = 0; i < backends_.size(); ++i) {
    for (int lane = 0; lane < backends_[i]->lanes(); ++lane) {
      threads_.emplace_back([this, lane, i] { Work(lane, i); });
    }
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

bool WorkerPool::GoesOn(size_t worker) {
  const Backend& backend = *backends_[worker];
  const absl::Status health = backend.health();
  if (health.ok()) return true;
  int left = 0;
  {
    absl::MutexLock lock(&mutex_);
    Worker& lost = workers_[worker];
    if (lost.lost) return lost.goes_on;  // another lane saw it first
    left = --healthy_;
    lost.lost = true;
    lost.goes_on = left == 0;
  }
  if (on_lost_) on_lost_(backend, health, left);
  return left == 0;
}

std::vector<const Backend*> WorkerPool::backends() const {
  std::vector<const Backend*> all;
  for (const std::unique_ptr<Backend>& backend : backends_) {
    all.push_back(backend.get());
  }
  return all;
}

void WorkerPool::Begin(Worker& worker) {
  ++running_;
  if (worker.running++ == 0) worker.since = std::chrono::steady_clock::now();
}

void WorkerPool::End(Worker& worker) {
  --running_;
  if (--worker.running == 0) worker.seconds += SecondsSince(worker.since);
}

void WorkerPool::Work(int lane, size_t worker) {
  Backend& backend = backends_[worker]->lane(lane);
  const auto ready = [this, worker]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return Ready(worker);
  };
  mutex_.Lock();
  while (true) {
    mutex_.Await(absl::Condition(&ready));
    if (stopping_ || !workers_[worker].goes_on) break;
    Task task = TakeTask();
    if (task == nullptr) continue;
    Begin(workers_[worker]);
    mutex_.Unlock();
    task(backend);
    task = nullptr;  // what it holds is freed before it counts as done
    const bool goes_on = GoesOn(worker);
    mutex_.Lock();
    End(workers_[worker]);
    if (!goes_on) break;
  }
  mutex_.Unlock();
}

int64_t WorkerPool::queued() const {
  absl::MutexLock lock(&mutex_);
  return queued_;
}

std::vector<double> WorkerPool::busy_seconds() const {
  std::vector<double> all;
  absl::MutexLock lock(&mutex_);
  for (const Worker& worker : workers_) {
    all.push_back(worker.seconds +
                  (worker.running > 0 ? SecondsSince(worker.since) : 0));
  }
  return all;
}

int64_t WorkerPool::running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

}  // namespace qs
