// UnwrittenShards: what a run has made for shards of its output that are not
// written yet. Outputs stay in memory, reserved, while that is allowed and
// there is room; else they go to a file beside the output.
//
// Thread: thread-safe. Errors of every call: as SpillFile.
#ifndef QS_SERVICE_RUN_UNWRITTEN_SHARDS_H_
#define QS_SERVICE_RUN_UNWRITTEN_SHARDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/tensor_quantizer.h"
#include "service/checkpoint/spill_file.h"
#include "service/stream/byte_budget.h"

namespace qs {

class UnwrittenShards {
 public:
  // In the folder `directory`, which is there; `missing`: of each shard, how
  // many tensors are to come, 0 for one that is written. `budget` outlives it.
  UnwrittenShards(std::string directory, ByteBudget& budget,
                  std::vector<int64_t> missing);

  // What one tensor became; not held in memory unless `may_hold`. True: the
  // shard is complete, which is said once. Dropped if none is missing.
  absl::StatusOr<bool> Keep(size_t shard, std::vector<OutputTensor> tensors,
                            bool may_hold);
  // From now on nothing is in memory but what is complete. Returns the shards
  // that became complete meanwhile.
  absl::StatusOr<std::vector<size_t>> Spill();

  struct Taken {
    std::vector<Reservation> rooms;  // go after the memory
    ArrivedShard shard;
  };
  Taken Take(size_t shard);
  // Files and memory of all.
  void Clear();

 private:
  struct Shard {
    int64_t missing = 0;
    std::vector<Reservation> rooms;  // of what is in memory; go after it
    ArrivedShard arrived;
  };

  std::optional<Reservation> Reserve(int64_t bytes);
  absl::Status SpillOutput(size_t shard, SpilledTensor* output);
  // True: the last one.
  bool Add(size_t shard, std::vector<SpilledTensor> outputs,
           std::vector<Reservation> rooms);

  const std::string directory_;
  ByteBudget& budget_;
  absl::Mutex mutex_;
  std::vector<Shard> shards_ ABSL_GUARDED_BY(mutex_);
  int64_t held_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes
};

}  // namespace qs

#endif  // QS_SERVICE_RUN_UNWRITTEN_SHARDS_H_
