// WorkerPool: the threads that compute. A worker owns one backend, a CPU
// partition or a GPU, and has a thread for each of the backend's lanes; tasks
// come in queues (a Lane, one a stream), and workers take one task from each in
// turn, so that a stream with much to do does not hold up the others.
//
// A worker whose device is lost ends the tasks that it has (the backend's host
// goes on with them) and takes no more; the last one left goes on on its host.
//
// A task may say what it takes of a GPU's own memory at most (device_estimate.h
// in quant/). A worker whose device is too small for it leaves it to one that
// is not, a CPU's say, if there is one; else it takes it, and its host does
// what the device cannot. The tasks that one GPU has at once fit into its
// memory together: before it takes the next one in turn, it waits until that
// fits.
//
// The pool does not bound a lane: its owner does (a stream stops reading while
// its lane is long), so the whole queue is bounded by streams times that.
// Thread: thread-safe.
#ifndef QS_SERVICE_STREAM_WORKER_POOL_H_
#define QS_SERVICE_STREAM_WORKER_POOL_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "quant/device_estimate.h"

namespace qs {

// What those of a pool are, whether lost or not.
struct WorkerKinds {
  bool prefer_large = false;  // all want much at once (Backend::prefers_large)
  bool any_gpu = false;       // some compute in a device's memory
};

class WorkerPool {
 public:
  using Task = std::function<void(Backend&)>;

  // First in, first out, among the tasks of one stream; several may run at
  // once. Made by NewLane; guarded by the pool's lock.
  class Lane {
   private:
    friend class WorkerPool;
    struct Queued {
      Task task;
      DeviceBytes device_bytes;
    };
    std::deque<Queued> tasks;
    bool in_turn = false;  // the lane stands in the pool's ring
  };

  // Called once for each lost device, from its worker: why, and how many
  // workers with a device that computes are left.
  using OnLost = std::function<void(const Backend& backend,
                                    const absl::Status& why, int left)>;

  // A worker for each backend. REQUIRES: at least one.
  explicit WorkerPool(std::vector<std::unique_ptr<Backend>> backends,
                      OnLost on_lost = nullptr);
  // Waits for the running tasks and drops the queued ones.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  std::shared_ptr<Lane> NewLane() const { return std::make_shared<Lane>(); }
  // `device_bytes`: of a GPU's memory, at most (DeviceClaimFor). After the
  // pool's destruction began, the task is dropped.
  void Submit(const std::shared_ptr<Lane>& lane, Task task,
              const DeviceBytes& device_bytes = {});
  // Drops the lane's queued tasks; running ones go on. Returns how many.
  int64_t Drop(const std::shared_ptr<Lane>& lane);

  int64_t queued() const;
  // For each worker, as backends(): the time that it ran a task or several, up
  // to now.
  std::vector<double> busy_seconds() const;
  int64_t running() const;
  // What tasks of a worker, as backends(), said that they take of its device.
  struct DeviceClaims {
    int64_t now = 0;  // those that run, together
    // Of all so far. A backend's lane goes on having what the task that took
    // most took, and other tasks add what they keep: it needs the total, which
    // may be more than that of any one task.
    DeviceBytes most;
  };
  std::vector<DeviceClaims> device_claims() const;
  // Tasks that may run at once.
  int threads() const { return static_cast<int>(threads_.size()); }
  WorkerKinds kinds() const;
  // For their names, health and memory. They live as long as the pool.
  std::vector<const Backend*> backends() const;

 private:
  struct Worker {
    int running = 0;     // tasks
    double seconds = 0;  // with a task, until the last time without any
    std::chrono::steady_clock::time_point since;  // with running > 0: of those
    bool lost = false;
    bool goes_on = true;
    int64_t device_cap = 0;  // bytes; 0: a host
    DeviceClaims claims;
    int64_t told = 0;             // of a need above the estimate
    int64_t told_host_calls = 0;  // of what its host did

    bool has_device() const { return device_cap > 0 && !lost; }
    // Whether its device has the memory when nothing else runs on it.
    bool Fits(int64_t bytes) const {
      return !has_device() || bytes <= device_cap;
    }
    // And now.
    bool HasRoom(int64_t bytes) const {
      return !has_device() || claims.now == 0 ||
             bytes <= device_cap - claims.now;
    }
  };
  using Ring = std::deque<std::shared_ptr<Lane>>;

  void Work(int lane, size_t worker);
  void Begin(Worker& worker, const DeviceBytes& device_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(Worker& worker, const DeviceBytes& device_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: the worker's threads end.
  bool GoesOn(size_t worker);
  // Whether a thread of the worker has something to do, be it to end.
  bool Ready(size_t worker) const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !workers_[worker].goes_on ||
           FindLane(worker) != ring_.end();
  }
  // The first lane in turn that has a task for the worker, or none any more;
  // the end: nothing is to be done now.
  Ring::const_iterator FindLane(size_t worker) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // Whether the worker is to take such a task, now or later.
  bool IsFor(size_t worker, int64_t device_bytes) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // With a null task: its lane has none any more.
  Lane::Queued TakeTask(size_t worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  Ring ring_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Worker> workers_ ABSL_GUARDED_BY(mutex_);
  int healthy_ ABSL_GUARDED_BY(mutex_) = 0;
  const std::vector<std::unique_ptr<Backend>> backends_;
  const OnLost on_lost_;
  std::vector<std::thread> threads_;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_WORKER_POOL_H_
