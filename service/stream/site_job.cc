// Tested by tests/service/solve_group_stream_test.cc.
#include "service/stream/site_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/device_estimate.h"
#include "service/server/proto_convert.h"
#include "service/stream/tensor_job.h"

namespace qs {
namespace {

using quant::v1::SiteBegin;

int64_t RowBytes(const Site& site, DType dtype) {
  return site.inputs() * DTypeBytes(dtype);
}

// Batches that wait for a worker, at most.
constexpr int64_t kMaxBatches = TensorJob::kMaxTilesHeld;

absl::StatusOr<DType> DTypeOf(const SiteBegin& begin, bool has_pool) {
  if (begin.form() == SiteBegin::SECOND_MOMENT) {
    const int least = has_pool ? 0 : 1;
    if (begin.token_count() >= least) return DType::kF32;
    return absl::InvalidArgumentError(
        absl::StrCat("token_count: got ", begin.token_count(),
                     ", allowed at least ", least));
  }
  if (begin.form() != SiteBegin::ACTIVATIONS) {
    return absl::InvalidArgumentError(
        absl::StrCat("form: got ", static_cast<int>(begin.form()),
                     ", allowed SECOND_MOMENT, ACTIVATIONS"));
  }
  const std::optional<DType> dtype = DTypeFromProto(begin.dtype());
  if (dtype && IsFloatWeight(*dtype)) return *dtype;
  return absl::InvalidArgumentError(absl::StrCat(
      "dtype: got ", DTypeText(begin.dtype()), ", allowed F32, F16, BF16"));
}

}  // namespace

int64_t SiteJob::LargeRuns(const SiteBegin& begin, int64_t inputs) {
  const std::optional<DType> dtype = DTypeFromProto(begin.dtype());
  return dtype ? SiteAccumulator::LargeRuns(inputs, *dtype) : 1;
}

int64_t SiteJob::RoomFor(const SiteBegin& begin, int64_t inputs, int64_t runs,
                         bool any_gpu) {
  const std::optional<DType> dtype = DTypeFromProto(begin.dtype());
  if (begin.form() != SiteBegin::ACTIVATIONS || !dtype) return 0;
  return SiteAccumulator::MemoryBytes(inputs, *dtype, runs, any_gpu) +
         kMaxBatches * kBatchBytes;
}

int64_t SiteJob::MostRoom(int64_t inputs) {
  return SiteAccumulator::MemoryBytes(inputs, DType::kF32, 1, true) +
         kMaxBatches * kBatchBytes;
}

absl::StatusOr<std::shared_ptr<SiteJob>> SiteJob::Create(
    const SiteBegin& begin, std::shared_ptr<Site> site,
    std::shared_ptr<Site> pool, int64_t runs, Reservation room) {
  QS_ASSIGN_OR_RETURN(const DType dtype, DTypeOf(begin, pool != nullptr));
  const std::shared_ptr<SiteJob> job(new SiteJob(
      begin, dtype, std::move(site), std::move(pool), runs, std::move(room)));
  if (begin.form() == SiteBegin::ACTIVATIONS) {
    QS_ASSIGN_OR_RETURN(job->accumulator_,
                        SiteAccumulator::Create(
                            job->name(), job->site_->inputs(), dtype, runs));
  }
  return job;
}

SiteJob::SiteJob(const SiteBegin& begin, DType dtype,
                 std::shared_ptr<Site> site, std::shared_ptr<Site> pool,
                 int64_t runs, Reservation room)
    : room_(std::move(room)),
      handle_(begin.handle()),
      token_count_(begin.token_count()),
      dtype_(dtype),
      site_(std::move(site)),
      pool_(std::move(pool)),
      runs_(runs) {}

// Of one buffer: a batch of whole rows, or everything.
int64_t SiteJob::target_bytes() const {
  const int64_t inputs = site_->inputs();
  if (!activations()) {
    return 4 * (SiteMoments::PackedElements(inputs) + inputs);
  }
  const int64_t row = RowBytes(*site_, dtype_);
  return row * std::max<int64_t>(1, kBatchBytes / row);
}

std::optional<int64_t> SiteJob::missing() const {
  if (activations()) return std::nullopt;
  return target_bytes() - received_;
}

absl::Status SiteJob::BeginBuffer() {
  QS_ASSIGN_OR_RETURN(filling_, Buffer::Allocate(target_bytes()));
  filled_ = 0;
  return absl::OkStatus();
}

void SiteJob::EndBuffer() {
  ++work_due_;
  absl::MutexLock lock(&mutex_);
  ready_.push_back(std::exchange(filling_, Buffer()));
  all_ready_ = complete_;
}

absl::Status SiteJob::Fill(std::span<const ByteSpan> pieces) {
  for (ByteSpan rest : pieces) {
    while (!rest.empty()) {
      // The last batch stays here until Complete says that it is the last.
      if (filling_.size() > 0 && filled_ == filling_.size()) EndBuffer();
      if (filling_.size() == 0) QS_RETURN_IF_ERROR(BeginBuffer());
      const size_t n =
          std::min(rest.size(), static_cast<size_t>(filling_.size() - filled_));
      std::memcpy(filling_.data() + filled_, rest.data(), n);
      filled_ += static_cast<int64_t>(n);
      received_ += static_cast<int64_t>(n);
      rest = rest.subspan(n);
    }
  }
  return absl::OkStatus();
}

bool SiteJob::Complete() {
  if (activations() ? received_ == 0 || received_ % RowBytes(*site_, dtype_) > 0
                    : *missing() > 0) {
    return false;
  }
  complete_ = true;
  EndBuffer();
  return true;
}

DeviceBytes SiteJob::device_bytes() const {
  if (!activations()) return {};
  return DeviceClaimFor(SiteDeviceBytes(site_->inputs(), dtype_, runs_));
}

bool SiteJob::TakeWork() {
  if (work_due_ == 0) return false;
  --work_due_;
  return true;
}

absl::StatusOr<SiteMoments> SiteJob::MakeMoments(Buffer last,
                                                 Backend& backend) {
  const int64_t inputs = site_->inputs();
  if (activations()) return accumulator_->Finish(backend);
  QS_ASSIGN_OR_RETURN(SiteMoments moments,
                      SiteMoments::Create(site_->name(), inputs));
  const float* const packed = last.As<float>();
  moments.FillFromPacked(packed);
  std::copy_n(packed + SiteMoments::PackedElements(inputs), inputs,
              moments.abs_sum());
  moments.set_tokens(token_count_);
  return moments;
}

absl::Status SiteJob::FillSite(Buffer last, Backend& backend) {
  QS_ASSIGN_OR_RETURN(SiteMoments moments,
                      MakeMoments(std::move(last), backend));
  return site_->FillBlended(std::move(moments), pool_.get());
}

absl::Status SiteJob::Work(Backend& backend) {
  absl::MutexLock in_order(&work_mutex_);
  Buffer batch;
  bool last = false;
  {
    absl::MutexLock lock(&mutex_);
    batch = std::move(ready_.front());
    ready_.pop_front();
    last = all_ready_ && ready_.empty();
  }
  absl::Status status;
  if (activations()) {
    const int64_t row = RowBytes(*site_, dtype_);
    const int64_t bytes =
        last ? (received_ - 1) % target_bytes() + 1 : target_bytes();
    status = accumulator_->Add(batch.data(), bytes / row, backend);
  }
  if (status.ok() && last) status = FillSite(std::move(batch), backend);
  if (!status.ok()) site_->Fail(status);
  return status;
}

}  // namespace qs
