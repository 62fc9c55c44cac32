// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/tensor_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/dequantize.h"

namespace qs {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;  // large Buffers are whole ones

}  // namespace

std::shared_ptr<TensorJob> TensorJob::Create(
    int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
    Reservation reservation, std::shared_ptr<const Reservation> shared_memory) {
  return std::shared_ptr<TensorJob>(new TensorJob(handle, std::move(quantizer),
                                                  std::move(reservation),
                                                  std::move(shared_memory)));
}

TensorJob::TensorJob(int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
                     Reservation reservation,
                     std::shared_ptr<const Reservation> shared_memory)
    : reservation_(std::move(reservation)),
      shared_memory_(std::move(shared_memory)),
      handle_(handle),
      quantizer_(std::move(quantizer)),
      streamed_(quantizer_->streamed_output()),
      num_tiles_(quantizer_->num_tiles()),
      num_steps_(quantizer_->has_second_round() ? 2 * num_tiles_ : num_tiles_),
      done_(static_cast<size_t>(num_steps_)),
      failed_step_(num_steps_) {}

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

TensorJob::Outcome TensorJob::RunStep(int64_t step, Backend& backend) {
  {
    absl::MutexLock lock(&mutex_);
    if (step > failed_step_) return {};
  }
  return Record(step, step < num_tiles_
                          ? quantizer_->RunTile(step, backend)
                          : quantizer_->RerunTile(step - num_tiles_, backend));
}

TensorJob::Outcome TensorJob::Record(int64_t step, absl::Status status) {
  absl::MutexLock lock(&mutex_);
  done_[static_cast<size_t>(step)] = true;
  if (!status.ok() && step < failed_step_) {
    failed_step_ = step;
    failure_ = std::move(status);
  }
  const bool in_first_round = first_open_ < num_tiles_;
  while (first_open_ < num_steps_ && done_[static_cast<size_t>(first_open_)]) {
    ++first_open_;
  }
  Outcome outcome;
  if (reported_) return outcome;
  if (failed_step_ < num_steps_) {
    if (first_open_ > failed_step_) outcome.error = failure_;
  } else {
    outcome.all_done = first_open_ == num_steps_;
    outcome.round_done =
        !outcome.all_done && in_first_round && first_open_ == num_tiles_;
    outcome.frame_due = !outcome.all_done && !frame_due_ &&
                        streamed_.bytes > 0 && GoodTiles() > next_piece_;
    frame_due_ = frame_due_ || outcome.frame_due;
  }
  reported_ = outcome.all_done || !outcome.error.ok();
  return outcome;
}

int64_t TensorJob::GoodTiles() const {
  const int64_t good = std::min(first_open_, failed_step_);
  return std::max<int64_t>(0, good - (num_steps_ - num_tiles_));
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

absl::Status TensorJob::Finish(Backend& backend,
                               const QuantSpec* dequantized_as) {
  QS_ASSIGN_OR_RETURN(result_, quantizer_->Finish(backend));
  if (dequantized_as != nullptr) {
    QS_RETURN_IF_ERROR(Dequantize(*dequantized_as));
  }
  int64_t kept = kOverhead + streamed_.bytes;
  for (const OutputTensor& output : result_.tensors) {
    const int64_t size = output.data.size();
    kept += size >= kHugePage / 2 ? CeilDiv(size, kHugePage) * kHugePage : size;
  }
  reservation_.ShrinkTo(kept);
  return absl::OkStatus();
}

absl::Status TensorJob::Dequantize(const QuantSpec& spec) {
  QS_ASSIGN_OR_RETURN(OutputTensor weight,
                      qs::Dequantize(spec, info().name, info().dtype,
                                     info().shape, result_.tensors));
  result_.tensors.clear();
  result_.tensors.push_back(std::move(weight));
  return absl::OkStatus();
}

}  // namespace qs
