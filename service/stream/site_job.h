// SiteJob: one site of a solve group while its data arrive — second moments as
// one packed triangle, or activations that are summed as they come.
//
// The reader fills it from the front and asks after each message whether a
// piece of work became due; each piece is one call of Work on some worker.
// Thread: Fill, Complete and TakeWork from the reader; Work from any worker.
#ifndef QS_SERVICE_STREAM_SITE_JOB_H_
#define QS_SERVICE_STREAM_SITE_JOB_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "quant/device_estimate.h"
#include "quant/site.h"
#include "quant/site_accumulator.h"
#include "quant/v1/quantization.pb.h"
#include "service/stream/byte_budget.h"
#include "service/stream/wire.h"

namespace qs {

class SiteJob {
 public:
  // Bytes of activations that are summed at a time, and so may wait.
  static constexpr int64_t kBatchBytes = int64_t{2} << 20;

  // `site` is what Work fills; `pool`, or null, is blended into it; `runs`: as
  // SiteAccumulator::Create. Errors: INVALID_ARGUMENT "field: got, allowed",
  // the field below SiteBegin; RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::shared_ptr<SiteJob>> Create(
      const quant::v1::SiteBegin& begin, std::shared_ptr<Site> site,
      std::shared_ptr<Site> pool, int64_t runs, Reservation room);
  // What `runs` should be where all workers are GPUs'.
  static int64_t LargeRuns(const quant::v1::SiteBegin& begin, int64_t inputs);
  // Bytes beside those that the group counts: of summing activations.
  // `any_gpu`: of the workers (WorkerKinds).
  static int64_t RoomFor(const quant::v1::SiteBegin& begin, int64_t inputs,
                         int64_t runs, bool any_gpu);

  // RoomFor of any with so many inputs and a run at a time, at most.
  static int64_t MostRoom(int64_t inputs);

  int64_t handle() const { return handle_; }
  const std::string& name() const { return site_->name(); }

  // --- the reader's part
  int64_t received() const { return received_; }
  // Nullopt: as many as the client has.
  std::optional<int64_t> missing() const;
  DType dtype() const { return dtype_; }
  // REQUIRES: no more bytes than missing(). Errors: RESOURCE_EXHAUSTED.
  absl::Status Fill(std::span<const ByteSpan> pieces);
  // The client has marked its last chunk. False: bytes are missing.
  bool Complete();
  // Whether a call of Work became due; ask until it did not.
  bool TakeWork();

  // What Work takes of a GPU's memory, at most.
  DeviceBytes device_bytes() const;

  // --- a worker's part
  // Errors: INVALID_ARGUMENT — what is wrong with the data; the site then
  // fails, too.
  absl::Status Work(Backend& backend);

 private:
  SiteJob(const quant::v1::SiteBegin& begin, DType dtype,
          std::shared_ptr<Site> site, std::shared_ptr<Site> pool, int64_t runs,
          Reservation room);

  bool activations() const { return accumulator_ != nullptr; }
  int64_t target_bytes() const;
  absl::Status BeginBuffer();
  void EndBuffer();
  absl::StatusOr<SiteMoments> MakeMoments(Buffer last, Backend& backend);
  absl::Status FillSite(Buffer last, Backend& backend);

  // First member: given back after the memory is free.
  const Reservation room_;
  const int64_t handle_;
  const int64_t token_count_;
  const DType dtype_;
  const std::shared_ptr<Site> site_;
  const std::shared_ptr<Site> pool_;
  const int64_t runs_;

  int64_t received_ = 0;
  Buffer filling_;
  int64_t filled_ = 0;  // of filling_
  bool complete_ = false;
  int64_t work_due_ = 0;

  absl::Mutex mutex_;
  std::deque<Buffer> ready_ ABSL_GUARDED_BY(mutex_);
  bool all_ready_ ABSL_GUARDED_BY(mutex_) = false;
  // Held while a batch is summed, so that batches are summed in order.
  absl::Mutex work_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  std::unique_ptr<SiteAccumulator> accumulator_;  // of activations
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_SITE_JOB_H_
