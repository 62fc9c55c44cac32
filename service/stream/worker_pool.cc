// Tested by tests/service/worker_pool_test.cc.
#include "service/stream/worker_pool.h"

#include <algorithm>
#include <utility>

#include "service/server/log.h"

namespace qs {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

// Whether to tell of it: once, and again when it is much more. `told`: what was
// told of before.
bool IsNews(int64_t now, int64_t expected, int64_t* told) {
  if (now <= expected || now <= *told + *told / 4) return false;
  *told = now;
  return true;
}

// Tells of a GPU whose tasks have needed more of its memory than they said
// together: an estimate is wrong, and tasks that are admitted by it may not
// find room.
void WarnOfNeed(const Backend& gpu, int64_t needed, int64_t estimate) {
  Log(LogLevel::kWarning, "gpu_memory_above_estimate",
      {{"worker", gpu.name()},
       {"needed_bytes", needed},
       {"estimate_bytes", estimate}});
}

// Tells of a GPU that leaves operations to its host: now and then because
// somebody else has its memory, but always where a library cannot run on it,
// and then it is little of a GPU.
void WarnOfHost(const Backend& gpu, const DeviceMemoryUse& use) {
  Log(LogLevel::kWarning, "gpu_work_on_host",
      {{"worker", gpu.name()},
       {"operations", use.host_calls},
       {"last_reason", use.host_reason}});
}

}  // namespace

WorkerPool::WorkerPool(std::vector<std::unique_ptr<Backend>> backends,
                       OnLost on_lost)
    : workers_(backends.size()),
      healthy_(static_cast<int>(backends.size())),
      backends_(std::move(backends)),
      on_lost_(std::move(on_lost)) {
  for (size_t i = 0; i < backends_.size(); ++i) {
    workers_[i].device_cap = backends_[i]->memory().cap;
  }
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

void WorkerPool::Submit(const std::shared_ptr<Lane>& lane, Task task,
                        const DeviceBytes& device_bytes) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  lane->tasks.push_back({std::move(task), device_bytes});
  ++queued_;
  if (!lane->in_turn) {
    lane->in_turn = true;
    ring_.push_back(lane);
  }
}

int64_t WorkerPool::Drop(const std::shared_ptr<Lane>& lane) {
  std::deque<Lane::Queued> dropped;  // destroyed without the lock
  absl::MutexLock lock(&mutex_);
  if (stopping_) return 0;
  dropped.swap(lane->tasks);
  queued_ -= static_cast<int64_t>(dropped.size());
  return static_cast<int64_t>(dropped.size());
}

bool WorkerPool::IsFor(size_t worker, int64_t device_bytes) const {
  if (workers_[worker].Fits(device_bytes)) return true;
  return std::none_of(workers_.begin(), workers_.end(),
                      [device_bytes](const Worker& other) {
                        return other.goes_on && other.Fits(device_bytes);
                      });
}

WorkerPool::Ring::const_iterator WorkerPool::FindLane(size_t worker) const {
  for (auto lane = ring_.begin(); lane != ring_.end(); ++lane) {
    if ((*lane)->tasks.empty()) return lane;  // they were dropped
    const int64_t bytes = (*lane)->tasks.front().device_bytes.total();
    if (!IsFor(worker, bytes)) continue;
    // A smaller one behind it must not go first, or it might wait for ever.
    return workers_[worker].HasRoom(bytes) ? lane : ring_.end();
  }
  return ring_.end();
}

WorkerPool::Lane::Queued WorkerPool::TakeTask(size_t worker) {
  const auto place = FindLane(worker);
  const std::shared_ptr<Lane> lane = *place;
  ring_.erase(place);
  if (lane->tasks.empty()) {
    lane->in_turn = false;
    return {};
  }
  Lane::Queued taken = std::move(lane->tasks.front());
  lane->tasks.pop_front();
  --queued_;
  lane->in_turn = !lane->tasks.empty();
  if (lane->in_turn) ring_.push_back(lane);
  return taken;
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

WorkerKinds WorkerPool::kinds() const {
  WorkerKinds kinds{.prefer_large = true, .any_gpu = false};
  for (const std::unique_ptr<Backend>& backend : backends_) {
    kinds.prefer_large &= backend->prefers_large();
    kinds.any_gpu |= backend->memory().cap > 0;
  }
  return kinds;
}

std::vector<const Backend*> WorkerPool::backends() const {
  std::vector<const Backend*> all;
  for (const std::unique_ptr<Backend>& backend : backends_) {
    all.push_back(backend.get());
  }
  return all;
}

void WorkerPool::Begin(Worker& worker, const DeviceBytes& device_bytes) {
  ++running_;
  if (worker.running++ == 0) worker.since = std::chrono::steady_clock::now();
  worker.claims.now += device_bytes.total();
  worker.claims.most = MostOf(worker.claims.most, device_bytes);
}

void WorkerPool::End(Worker& worker, const DeviceBytes& device_bytes) {
  --running_;
  if (--worker.running == 0) worker.seconds += SecondsSince(worker.since);
  worker.claims.now -= device_bytes.total();
}

void WorkerPool::Work(int lane, size_t worker) {
  const Backend& whole = *backends_[worker];
  Backend& backend = backends_[worker]->lane(lane);
  const auto ready = [this, worker]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return Ready(worker);
  };
  mutex_.Lock();
  while (true) {
    mutex_.Await(absl::Condition(&ready));
    if (stopping_ || !workers_[worker].goes_on) break;
    Lane::Queued next = TakeTask(worker);
    if (next.task == nullptr) continue;
    Begin(workers_[worker], next.device_bytes);
    mutex_.Unlock();
    next.task(backend);
    next.task = nullptr;  // what it holds is freed before it counts as done
    const bool goes_on = GoesOn(worker);
    // Read before the claims: a task whose memory is in it has made its claim.
    const DeviceMemoryUse use = whole.memory();
    mutex_.Lock();
    End(workers_[worker], next.device_bytes);
    if (!goes_on) break;
    Worker& own = workers_[worker];
    const int64_t estimate = whole.lanes() * own.claims.most.total();
    const bool above = IsNews(use.high_water, estimate, &own.told);
    const bool host = IsNews(use.host_calls, 0, &own.told_host_calls);
    mutex_.Unlock();
    if (above) WarnOfNeed(whole, use.high_water, estimate);
    if (host) WarnOfHost(whole, use);
    mutex_.Lock();
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

std::vector<WorkerPool::DeviceClaims> WorkerPool::device_claims() const {
  std::vector<DeviceClaims> all;
  absl::MutexLock lock(&mutex_);
  for (const Worker& worker : workers_) all.push_back(worker.claims);
  return all;
}

int64_t WorkerPool::running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

}  // namespace qs
