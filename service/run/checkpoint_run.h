// CheckpointRun: one checkpoint from its files to packed tensors, on the
// server's own workers — the work of a job, without the job: no state, no
// records, no RPC.
//
//   prepare: headers, config.json, calibration -> plan, batches, fingerprint
//   start:   batches -> memory from the budget -> tiles on the workers ->
//            outputs -> shard files, one renamed into place after the other
//   wait:    a batch that reads an open site waits until it is sealed, the
//            others go on. When none is left of these the run is parked: it
//            has no task on a worker and none of the budget's memory
//
// Files are read where they are, tile by tile, by the workers themselves.
#ifndef QS_SERVICE_RUN_CHECKPOINT_RUN_H_
#define QS_SERVICE_RUN_CHECKPOINT_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "quant/calibration/calibration_source.h"
#include "quant/formats/file_opener.h"
#include "quant/quantized_tensor.h"
#include "quant/v1/quantization.pb.h"
#include "service/base/io_pool.h"
#include "service/store/blob_store.h"
#include "service/stream/byte_budget.h"
#include "service/stream/worker_pool.h"

namespace qs {

// A tensor that lies in a blob.
struct RunTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string digest;  // of the blob, which has the bytes of dtype and shape
};

struct CheckpointRunSpec {
  std::string input;  // absolute: a directory, or one .safetensors file
  // Opens what is read of it; null: any path.
  std::shared_ptr<const FileOpener> input_opener;
  // In place of `input`, which is empty then; in any order, no name twice. They
  // stay in `blobs`, which outlives the run. A shard of the output has at most
  // `shard_bytes` of their input, or one tensor.
  std::vector<RunTensor> tensors;
  BlobStore* blobs = nullptr;
  int64_t shard_bytes = int64_t{4} << 30;
  std::string config_json;  // with `tensors`: the model's, or empty
  // Absolute: the directory that is filled. Empty: none.
  std::string output;
  std::string calibration;  // absolute, or empty
  std::shared_ptr<const FileOpener> calibration_opener;
  // In place of `calibration`; may be null. Its blobs stay while the run does.
  std::shared_ptr<const CalibrationSource> moments;
  quant::v1::QuantizationConfig quantization;
  quant::v1::Target target;
  std::vector<std::string> include;  // globs on tensor names; empty: all
  std::vector<std::string> exclude;  // wins over include
  std::vector<quant::v1::Override> overrides;
  bool error_report = true;
  int64_t max_plan_tensors = 200'000;
  int workers = 8;  // of the pool that will run it: for the memory estimate
  bool large_tiles = false;  // the pool's prefer_large
};

struct RunSize {
  int64_t tensors = 0;  // that are quantized or folded
  int64_t bytes = 0;    // of their input
  int64_t bytes_out = 0;
  int64_t file_bytes = 0;       // of all that is written, at most
  int64_t tensors_waiting = 0;  // of them, that read open sites
  int64_t batches = 0;
  int64_t shards = 0;
  int64_t largest_batch_bytes = 0;   // memory that one batch reserves, at most
  std::string largest_batch = {};    // which: the name of its group or tensor
  int64_t largest_device_bytes = 0;  // of a GPU that one task takes, at most
  // EstimateCoreSeconds of them all, and SpecAlgorithm: "gptq-best/1".
  double core_seconds = 0;
  std::string algorithm = {};
};

// FAILED_PRECONDITION NO_WORKER_FITS when a batch of the run can never have the
// memory it needs of a budget of `capacity` bytes; metadata group, needed,
// allowed. Thread: pure function.
absl::Status CheckFits(const RunSize& size, int64_t capacity);

// Where a run works; all of it outlives the run.
struct RunPlace {
  WorkerPool& pool;
  ByteBudget& budget;
  IoPool& io;  // writes shards, one at a time
};

// What a run tells. Called from workers and from the run's own threads, several
// at a time, but for OnShard; none may block for long. An error ends the run.
// Nothing is called after `done`.
class CheckpointRunObserver {
 public:
  virtual ~CheckpointRunObserver() = default;
  // Bytes of input that were quantized since the last call.
  virtual void OnBytes(int64_t bytes) = 0;
  // A tensor is done; its outputs are in `shard`, which is yet to be committed
  // (or, without an output directory, only here).
  virtual absl::Status OnTensor(int shard,
                                const quant::v1::TensorReport& report,
                                const QuantizedTensor& result) = 0;
  // The shard is in place and synced: a later run may be told to leave it out.
  virtual absl::Status OnShard(int shard, const std::string& file,
                               int64_t bytes) = 0;
  // Tensors that wait for open sites, and whether nothing else is left to do
  // before one is sealed. From a run whose plan has open sites: when it begins,
  // when sites were sealed, and when it is parked; one call at a time.
  virtual void OnWaiting(int64_t tensors, bool parked) {
    static_cast<void>(tensors);
    static_cast<void>(parked);
  }
};

class CheckpointRun {
 public:
  virtual ~CheckpointRun() = default;

  // Reads headers, config.json and the calibration's index; makes nothing.
  // Blocks (files, and up to a second for the largest plan): not in a reaction.
  // Errors, with reasons: INVALID_ARGUMENT BAD_FIELD, BAD_CHECKPOINT,
  // BAD_CALIBRATION, CALIBRATION_MISSING; NOT_FOUND SOURCE_NOT_FOUND;
  // FAILED_PRECONDITION SOURCE_QUANTIZED, TARGET_REFUSED (the findings).
  static absl::StatusOr<std::shared_ptr<CheckpointRun>> Prepare(
      CheckpointRunSpec spec);

  virtual const CheckpointRunSpec& spec() const = 0;
  virtual const quant::v1::PlanSummary& plan() const = 0;
  virtual const RunSize& size() const = 0;
  virtual std::vector<quant::v1::Finding> findings() const = 0;
  // Sites of `moments` that the work needs and that are open. Ascending.
  virtual std::vector<size_t> open_sites() const { return {}; }
  // Sets of these: something can be done when all of one set are sealed. Empty:
  // now.
  virtual std::vector<std::vector<size_t>> first_sites() const { return {}; }
  // "sha256:<hex>" of the plan, the configuration, and the identity (name,
  // size, time of change; of a store, digest or name) of all that is read;
  // whether a site is open does not count. Shards of a run with another
  // fingerprint must not be mixed in.
  virtual const std::string& fingerprint() const = 0;

  // Starts the work and returns. `committed`: shards that an earlier run of the
  // same fingerprint put in place. `done` is called once, from a thread of
  // `place.io`: OK — everything is in place, config.json last; CANCELLED —
  // Stop; else what went wrong, with reasons: DISK_FULL, OUTPUT_FAILED,
  // SOURCE_CHANGED, BAD_CHECKPOINT, BLOB_CORRUPT, NON_FINITE_INPUT,
  // FORMAT_LIMIT, BAD_CALIBRATION, NO_WORKER_FITS, an observer's. Call once.
  // The observer outlives `done`.
  virtual void Start(const RunPlace& place, const std::set<int>& committed,
                     CheckpointRunObserver& observer,
                     std::function<void(absl::Status)> done) = 0;
  // `moments`: those of spec() with more of the sites sealed; older ones than
  // what came before are left aside. Thread: any, at any time. Reads nothing by
  // itself; what it finds wrong in the numbers ends the run.
  virtual void SitesSealed(std::shared_ptr<const CalibrationSource> moments) {
    static_cast<void>(moments);
  }
  // What runs ends at its next tile; `done` follows. Shards that are in place
  // stay. Thread: any; may be called at any time after Start, also twice.
  virtual void Stop() = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_RUN_CHECKPOINT_RUN_H_
