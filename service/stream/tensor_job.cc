// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/tensor_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;  // large Buffers are whole ones

}  // namespace

absl::StatusOr<std::shared_ptr<TensorJob>> TensorJob::Create(
    int64_t handle, const QuantSpec& spec, TensorInfo info,
    const QuantizeOptions& options, Reservation reservation) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<TensorQuantizer> quantizer,
                      TensorQuantizer::Create(spec, std::move(info), options));
  return std::shared_ptr<TensorJob>(
      new TensorJob(handle, std::move(quantizer), std::move(reservation)));
}

TensorJob::TensorJob(int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
                     Reservation reservation)
    : reservation_(std::move(reservation)),
      handle_(handle),
      quantizer_(std::move(quantizer)),
      streamed_(quantizer_->streamed_output()),
      num_tiles_(quantizer_->num_tiles()),
      done_(static_cast<size_t>(num_tiles_)),
      failed_tile_(num_tiles_) {}

absl::Status TensorJob::Append(ByteSpan bytes) {
  while (!bytes.empty()) {
    if (received_ == fill_end_) {
      QS_ASSIGN_OR_RETURN(fill_, quantizer_->BeginTileInput(fill_tile_));
      fill_end_ = quantizer_->tile_input_end(fill_tile_++);
    }
    const size_t n =
        std::min(bytes.size(), static_cast<size_t>(fill_end_ - received_));
    std::memcpy(fill_, bytes.data(), n);
    fill_ += n;
    received_ += static_cast<int64_t>(n);
    bytes = bytes.subspan(n);
  }
  return absl::OkStatus();
}

absl::Status TensorJob::Fill(std::span<const ByteSpan> pieces) {
  for (const ByteSpan& piece : pieces) QS_RETURN_IF_ERROR(Append(piece));
  return absl::OkStatus();
}

absl::Status TensorJob::FillFloats(std::span<const float> values) {
  const auto size = static_cast<size_t>(DTypeBytes(info().dtype));
  uint8_t element[sizeof(float)];
  for (float value : values) {
    StoreFromFloat(element, info().dtype, 0, value);
    QS_RETURN_IF_ERROR(Append({element, size}));
  }
  return absl::OkStatus();
}

std::optional<int64_t> TensorJob::NextDueTile() {
  if (next_tile_ == num_tiles_) return std::nullopt;
  const bool last = next_tile_ == num_tiles_ - 1;
  if (last ? !complete_ : quantizer_->tile_input_end(next_tile_) > received_) {
    return std::nullopt;
  }
  return next_tile_++;
}

TensorJob::Outcome TensorJob::RunTile(int64_t tile, Backend& backend) {
  {
    absl::MutexLock lock(&mutex_);
    if (tile > failed_tile_) return {};
  }
  return Record(tile, quantizer_->RunTile(tile, backend));
}

TensorJob::Outcome TensorJob::Record(int64_t tile, absl::Status status) {
  absl::MutexLock lock(&mutex_);
  done_[static_cast<size_t>(tile)] = true;
  if (!status.ok() && tile < failed_tile_) {
    failed_tile_ = tile;
    failure_ = std::move(status);
  }
  while (first_open_ < num_tiles_ && done_[static_cast<size_t>(first_open_)]) {
    ++first_open_;
  }
  Outcome outcome;
  if (reported_) return outcome;
  if (failed_tile_ < num_tiles_) {
    if (first_open_ > failed_tile_) outcome.error = failure_;
  } else {
    outcome.all_done = first_open_ == num_tiles_;
    outcome.frame_due = !outcome.all_done && !frame_due_ &&
                        streamed_.bytes > 0 && GoodTiles() > next_piece_;
    frame_due_ = frame_due_ || outcome.frame_due;
  }
  reported_ = outcome.all_done || !outcome.error.ok();
  return outcome;
}

int64_t TensorJob::GoodTiles() const {
  return std::min(first_open_, failed_tile_);
}

std::shared_ptr<const Buffer> TensorJob::NextPiece() {
  int64_t tile;
  {
    absl::MutexLock lock(&mutex_);
    if (streamed_.bytes == 0 || next_piece_ == GoodTiles()) {
      frame_due_ = false;
      return nullptr;
    }
    tile = next_piece_++;
  }
  return std::make_shared<const Buffer>(quantizer_->TakeStreamed(tile));
}

absl::Status TensorJob::Finish(Backend& backend) {
  QS_ASSIGN_OR_RETURN(result_, quantizer_->Finish(backend));
  int64_t kept = kOverhead + streamed_.bytes;
  for (const OutputTensor& output : result_.tensors) {
    const int64_t size = output.data.size();
    kept += size >= kHugePage / 2 ? CeilDiv(size, kHugePage) * kHugePage : size;
  }
  reservation_.ShrinkTo(kept);
  return absl::OkStatus();
}

}  // namespace qs
