// BatchRun: one batch of a run on the workers — sites are loaded, tiles read
// from their files and run, tensors finished.
//
// Every step is a task of the run's lane. A step that fails ends the batch:
// what is queued does nothing any more. The last task to end tells the host.
#ifndef QS_SERVICE_RUN_BATCH_RUN_H_
#define QS_SERVICE_RUN_BATCH_RUN_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "quant/device_estimate.h"
#include "quant/solve_group.h"
#include "quant/tensor_quantizer.h"
#include "service/run/batch_queue.h"
#include "service/run/run_plan.h"
#include "service/stream/byte_budget.h"
#include "service/stream/worker_pool.h"

namespace qs {

// Thread: thread-safe.
class BatchRun : public std::enable_shared_from_this<BatchRun> {
 public:
  // What a batch is part of; outlives it.
  struct Host {
    WorkerPool& pool;
    const std::shared_ptr<WorkerPool::Lane>& lane;
    const RunPlan& plan;
    const std::atomic<bool>& cancelled;
    std::function<void(int64_t)> on_bytes;
    std::function<absl::Status(size_t tensor, QuantizedTensor)> on_tensor;
  };

  // `done` is called once, from a worker: OK — on_tensor was told of every
  // tensor; CANCELLED; what went wrong first. The reservation is given back
  // before.
  static void Start(const Host& host, const BatchQueue::Batch& batch,
                    Reservation reservation,
                    std::function<void(absl::Status)> done);

 private:
  using Step = std::function<absl::Status(Backend&)>;
  struct Member {
    size_t tensor = 0;  // of the checkpoint
    std::unique_ptr<TensorQuantizer> quantizer;
    DeviceBytes device_bytes;  // of a tile
    int64_t tiles = 0;
    std::atomic<int64_t> tiles_left = 0;  // in this round
    bool second_round = false;
  };

  BatchRun(const Host& host, const BatchQueue::Batch& batch,
           Reservation reservation, std::function<void(absl::Status)> done);

  // Queues a step; the batch ends when no step is queued or runs.
  // `device_bytes`: as WorkerPool has it.
  void Submit(Step step, const DeviceBytes& device_bytes = {});
  void StepEnded();
  void Fail(const absl::Status& status);
  bool Stopped() const { return failed_ || host_.cancelled; }

  absl::Status Open();
  absl::Status OpenGroup();
  // What its steps take of a GPU's memory.
  void EstimateGroup(const GroupInfo& info);
  absl::Status LoadSite(const BatchSite& declared, Site& site,
                        const Site* pool) const;
  void RunTiles(Member& member, bool read);
  absl::Status ReadTile(const Member& member, int64_t tile) const;
  absl::Status RunTile(Member& member, int64_t tile, bool read,
                       Backend& backend);
  absl::Status RerunTile(Member& member, int64_t tile, Backend& backend);
  absl::Status EndRound(Member& member, Backend& backend);
  absl::Status LoadTile(const Member& member, int64_t tile);
  absl::Status Solve(Backend& backend);
  // Of a tile's input: what counts as done with what its group shares, and what
  // with its codes.
  int64_t SharedPart(int64_t bytes) const;
  int64_t TileBytes(const Member& member, int64_t tile) const;
  void CountShared();
  // What the group shares is done to this part.
  void OnShared(double done);

  // First member: given back when the memory is free.
  Reservation reservation_;
  const int64_t memory_bytes_;  // of it
  const Host host_;
  const std::shared_ptr<const RunWork> work_;
  const WorkBatch& batch_;
  const QuantSpec& spec_;  // the plan's
  const std::function<void(absl::Status)> done_;
  std::atomic<int64_t> steps_ = 0;
  std::atomic<bool> failed_ = false;
  std::unique_ptr<SolveGroup> group_;  // that is solved whole
  std::vector<std::unique_ptr<Member>> members_;
  std::atomic<int64_t> loads_left_ = 0;  // before Solve
  // Set before a tile runs: how the group is solved, and all tiles' SharedPart.
  bool solves_whole_ = false;
  int64_t shared_bytes_ = 0;
  DeviceBytes solve_device_bytes_;

  absl::Mutex mutex_;
  int64_t shared_told_ ABSL_GUARDED_BY(mutex_) = 0;  // to the host
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_RUN_BATCH_RUN_H_
