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

// Smaller chunks are copied at once: where one came in, memory of several
// times its size may be kept with it.
constexpr size_t kLeastKept = size_t{256} << 10;
constexpr size_t kLeastPiece = size_t{4} << 10;  // on average
constexpr int64_t kMostKeptTile = 2 * kTileBytes;

// As many as a stream's write buffer holds: each time that it is emptied wakes
// threads on both sides.
int64_t PiecesAtOnce(int64_t output_bytes, int64_t num_tiles) {
  if (output_bytes == 0) return 1;
  const int64_t piece = CeilDiv(output_bytes, num_tiles);
  return std::max<int64_t>(1, TensorJob::kFrameBytes / piece);
}

}  // namespace

std::shared_ptr<TensorJob> TensorJob::Create(
    int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
    Reservation reservation, std::shared_ptr<const Reservation> shared_memory,
    bool needs_all) {
  return std::shared_ptr<TensorJob>(
      new TensorJob(handle, std::move(quantizer), std::move(reservation),
                    std::move(shared_memory), needs_all));
}

TensorJob::TensorJob(int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
                     Reservation reservation,
                     std::shared_ptr<const Reservation> shared_memory,
                     bool needs_all)
    : reservation_(std::move(reservation)),
      shared_memory_(std::move(shared_memory)),
      memory_bytes_(reservation_.bytes() +
                    (shared_memory_ == nullptr ? 0 : shared_memory_->bytes())),
      handle_(handle),
      quantizer_(std::move(quantizer)),
      streamed_(quantizer_->streamed_output()),
      num_tiles_(quantizer_->num_tiles()),
      num_steps_(quantizer_->has_second_round() ? 2 * num_tiles_ : num_tiles_),
      pieces_at_once_(PiecesAtOnce(streamed_.bytes, num_tiles_)),
      copies_(needs_all || quantizer_->tile_input_end(0) > kMostKeptTile),
      done_(static_cast<size_t>(num_steps_)),
      failed_step_(num_steps_) {}

absl::Status TensorJob::Settle() {
  QS_ASSIGN_OR_RETURN(fill_, quantizer_->BeginTileInput(fill_tile_ - 1));
  for (const Piece& piece : pieces_.back()) {
    std::memcpy(fill_, piece.bytes.data(), piece.bytes.size());
    fill_ += piece.bytes.size();
  }
  pieces_.back().clear();
  return absl::OkStatus();
}

absl::Status TensorJob::Append(ByteSpan bytes,
                               const std::shared_ptr<const void>& owner) {
  while (!bytes.empty()) {
    if (received_ == fill_end_) {
      fill_ = nullptr;
      fill_end_ = quantizer_->tile_input_end(fill_tile_++);
      pieces_.emplace_back();
    }
    const size_t n =
        std::min(bytes.size(), static_cast<size_t>(fill_end_ - received_));
    if (fill_ == nullptr && owner == nullptr) QS_RETURN_IF_ERROR(Settle());
    if (fill_ == nullptr) {
      pieces_.back().push_back({bytes.first(n), owner});
    } else {
      std::memcpy(fill_, bytes.data(), n);
      fill_ += n;
    }
    received_ += static_cast<int64_t>(n);
    bytes = bytes.subspan(n);
  }
  return absl::OkStatus();
}

absl::Status TensorJob::Fill(std::span<const ByteSpan> pieces,
                             const std::shared_ptr<const void>& owner) {
  size_t size = 0;
  for (const ByteSpan& piece : pieces) size += piece.size();
  const bool keep =
      !copies_ && size >= kLeastKept && size / kLeastPiece >= pieces.size();
  for (const ByteSpan& piece : pieces) {
    QS_RETURN_IF_ERROR(Append(piece, keep ? owner : nullptr));
  }
  return absl::OkStatus();
}

absl::Status TensorJob::FillFloats(std::span<const float> values) {
  const auto size = static_cast<size_t>(DTypeBytes(info().dtype));
  uint8_t element[sizeof(float)];
  for (float value : values) {
    StoreFromFloat(element, info().dtype, 0, value);
    QS_RETURN_IF_ERROR(Append({element, size}, nullptr));
  }
  return absl::OkStatus();
}

std::optional<TensorJob::Due> TensorJob::NextDueTile() {
  if (next_tile_ == num_tiles_) return std::nullopt;
  const bool last = next_tile_ == num_tiles_ - 1;
  if (last ? !complete_ : quantizer_->tile_input_end(next_tile_) > received_) {
    return std::nullopt;
  }
  Due due{next_tile_++, std::move(pieces_.front())};
  pieces_.pop_front();
  return due;
}

TensorJob::Outcome TensorJob::RunStep(Due due, Backend& backend) {
  const int64_t step = due.step;
  {
    absl::MutexLock lock(&mutex_);
    if (step > failed_step_) return {};
  }
  return Record(step, step < num_tiles_
                          ? RunTile(std::move(due), backend)
                          : quantizer_->RerunTile(step - num_tiles_, backend));
}

absl::Status TensorJob::RunTile(Due due, Backend& backend) {
  if (due.input.empty()) return quantizer_->RunTile(due.step, backend);
  std::vector<InputPiece> pieces;
  pieces.reserve(due.input.size());
  for (const Piece& piece : due.input) pieces.push_back(piece.bytes);
  return quantizer_->RunTileFrom(pieces, due.step, backend);
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
    outcome.frame_due = !outcome.all_done && !frame_due_ && PiecesReady();
    frame_due_ = frame_due_ || outcome.frame_due;
  }
  reported_ = outcome.all_done || !outcome.error.ok();
  return outcome;
}

int64_t TensorJob::GoodTiles() const {
  const int64_t good = std::min(first_open_, failed_step_);
  return std::max<int64_t>(0, good - (num_steps_ - num_tiles_));
}

int64_t TensorJob::PiecesWanted() const {
  return std::min(pieces_at_once_, num_tiles_ - next_piece_);
}

bool TensorJob::PiecesReady() const {
  const int64_t pieces = PiecesWanted();
  return streamed_.bytes > 0 && pieces > 0 &&
         GoodTiles() - next_piece_ >= pieces;
}

std::deque<std::shared_ptr<const Buffer>> TensorJob::NextPieces() {
  int64_t begin = 0;
  int64_t end = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!PiecesReady()) {
      frame_due_ = false;
      return {};
    }
    begin = next_piece_;
    end = next_piece_ += PiecesWanted();
  }
  std::deque<std::shared_ptr<const Buffer>> pieces;
  for (int64_t tile = begin; tile < end; ++tile) {
    pieces.push_back(
        std::make_shared<const Buffer>(quantizer_->TakeStreamed(tile)));
  }
  return pieces;
}

absl::Status TensorJob::Finish(Backend& backend,
                               const QuantSpec* dequantized_as) {
  QS_ASSIGN_OR_RETURN(result_, quantizer_->Finish(backend));
  result_.report.memory_bytes = memory_bytes_;
  if (dequantized_as != nullptr) {
    QS_RETURN_IF_ERROR(Dequantize(*dequantized_as));
  }
  int64_t kept = kOverhead + streamed_.bytes;
  for (const OutputTensor& output : result_.tensors) {
    kept += Buffer::BytesTaken(output.data.size());
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
