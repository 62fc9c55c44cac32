// CalibrationShard: the activations that one client sends for one shard of a
// calibration — numbered batches, each added to the sums of its site exactly
// once, whenever the process ends.
//
// Sums live in memory while batches come, where all workers are GPUs' with runs
// of tokens that wait to be summed together; Checkpoint writes those that
// changed and moves the shard's durable number on, in one step. After a crash
// the next writer begins at the durable number with the sums that belong to it.
//
// Thread: one caller at a time; each call says where.
#ifndef QS_SERVICE_STORE_CALIBRATION_SHARD_H_
#define QS_SERVICE_STORE_CALIBRATION_SHARD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/dtype.h"
#include "quant/site_accumulator.h"
#include "service/store/calibration_records.h"
#include "service/store/calibration_store.h"

namespace qs {

class CalibrationShard {
 public:
  // On an IO thread. `store` must outlive it. Errors: as GetShard.
  static absl::StatusOr<std::unique_ptr<CalibrationShard>> Open(
      CalibrationStore& store,
      std::shared_ptr<const CalibrationRecord> calibration, std::string shard,
      int64_t max_shards);

  // Numbers of batches: those that survive a crash, those that were added.
  int64_t durable_seq() const { return durable_seq_; }
  int64_t last_seq() const { return last_seq_; }
  // Bytes of batches since the last Checkpoint.
  int64_t pending_bytes() const { return pending_bytes_; }

  // Null: the calibration has no such site. Anywhere.
  const CalibrationSiteRecord* FindSite(const std::string& name) const;
  bool IsOpen(const std::string& site) const { return sums_.contains(site); }
  static int64_t MemoryBytes(int64_t inputs, DType dtype, int64_t runs,
                             bool on_gpu) {
    return SiteAccumulator::MemoryBytes(inputs, dtype, runs, on_gpu);
  }

  // Brings the sums of a site into memory; `runs`: that wait for one call. On
  // an IO thread. REQUIRES: not IsOpen. Errors: INVALID_ARGUMENT — it has sums
  // of another dtype; those of CalibrationStore.
  absl::Status OpenSite(const CalibrationSiteRecord& site, DType dtype,
                        int64_t runs = 1);
  // Lets go of them all. REQUIRES: nothing was added since the last Checkpoint.
  void CloseSites() { sums_.clear(); }

  // Adds batch last_seq() + 1: whole rows in `dtype`. On a worker. REQUIRES:
  // IsOpen. Errors: INVALID_ARGUMENT — another dtype; NaN or Inf, with its
  // place. With these nothing was added, as long as usable().
  absl::Status Add(const std::string& site, DType dtype, const uint8_t* rows,
                   int64_t tokens, Backend& backend);

  // False: an error came when a part of a batch was in the sums. They are not
  // to be made durable any more.
  bool usable() const { return usable_; }

  // Whether runs wait that a Checkpoint has to have in its sums, and their
  // sums. On a worker. Errors: as Add; the shard is not usable() then.
  bool has_whole_runs() const;
  absl::Status SumWholeRuns(Backend& backend);

  // Then durable_seq() == last_seq(). On an IO thread. Errors: as PutShard and
  // CalibrationStore, INTERNAL — has_whole_runs(), not usable(); nothing has
  // changed then, and it may be tried again.
  absl::Status Checkpoint();

 private:
  struct Sums {
    DType dtype = DType::kF32;
    std::unique_ptr<SiteAccumulator> sums;
    bool changed = false;
  };

  CalibrationShard(CalibrationStore& store,
                   std::shared_ptr<const CalibrationRecord> calibration,
                   std::string shard, int64_t max_shards)
      : store_(store),
        calibration_(std::move(calibration)),
        shard_(std::move(shard)),
        max_shards_(max_shards) {}
  // Whether a part's blob that is gone went with another writer, its site's
  // seal, or the calibration.
  absl::Status CheckMine(const CalibrationPart& part);
  absl::Status PutChanged(std::vector<CalibrationPart>* parts);
  absl::StatusOr<std::vector<std::string>> PutAll(
      std::vector<CalibrationPart>* parts);

  CalibrationStore& store_;
  const std::shared_ptr<const CalibrationRecord> calibration_;
  const std::string shard_;
  const int64_t max_shards_;
  int64_t durable_seq_ = 0;
  int64_t last_seq_ = 0;
  int64_t pending_bytes_ = 0;
  bool usable_ = true;
  std::map<std::string, CalibrationPart> parts_;  // durable, by site
  std::map<std::string, Sums> sums_;              // in memory, by site
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_CALIBRATION_SHARD_H_
