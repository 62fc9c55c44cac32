// Tested by tests/quant/tensor_quantizer_test.cc.
#include "quant/quantizer_base.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

// `count` bytes of what the pieces are one after the other, from `offset` on.
void CopyFrom(std::span<const InputPiece> pieces, size_t offset, size_t count,
              uint8_t* to) {
  for (const InputPiece& piece : pieces) {
    if (offset >= piece.size()) {
      offset -= piece.size();
      continue;
    }
    const size_t n = std::min(count, piece.size() - offset);
    std::memcpy(to, piece.data() + offset, n);
    to += n;
    count -= n;
    if (count == 0) return;
    offset = 0;
  }
}

// Where those bytes lie in one piece, or null.
const uint8_t* FindWhole(std::span<const InputPiece> pieces, size_t offset,
                         size_t count) {
  for (const InputPiece& piece : pieces) {
    if (offset < piece.size()) {
      return count <= piece.size() - offset ? piece.data() + offset : nullptr;
    }
    offset -= piece.size();
  }
  return nullptr;
}

}  // namespace

int64_t Partition::num_tiles() const {
  return CeilDiv(num_elements, tile_elements);
}

int64_t Partition::num_measured() const {
  return measured_elements == 0 ? num_tiles()
                                : CeilDiv(num_elements, measured_elements);
}

absl::StatusOr<Scratch> Scratch::Allocate(int64_t bytes) {
  Scratch scratch;
  QS_ASSIGN_OR_RETURN(scratch.buffer_, Buffer::Allocate(bytes));
  return scratch;
}

QuantizerBase::QuantizerBase(const QuantSpec& spec, TensorInfo info,
                             const QuantizeOptions& options,
                             const Partition& partition)
    : spec_(spec),
      info_(std::move(info)),
      options_(options),
      partition_(partition),
      errors_(partition.group_size, SpecBits(spec)) {}

int64_t QuantizerBase::input_bytes() const {
  return partition_.num_elements * DTypeBytes(info_.dtype);
}

int64_t QuantizerBase::tile_input_end(int64_t tile) const {
  const int64_t end = (tile + 1) * partition_.tile_elements;
  return std::min(end, partition_.num_elements) * DTypeBytes(info_.dtype);
}

absl::Status QuantizerBase::AllocateInput() {
  if (!options_.tiled_input) {
    QS_ASSIGN_OR_RETURN(input_, Buffer::Allocate(input_bytes()));
  }
  try {
    if (options_.tiled_input) {
      tile_inputs_.resize(static_cast<size_t>(num_tiles()));
      tile_pieces_.resize(static_cast<size_t>(num_tiles()));
    }
    if (options_.streamed_output) {
      tile_outputs_.resize(static_cast<size_t>(num_tiles()));
    }
    tile_clocks_.resize(static_cast<size_t>(num_tiles()));
    if (options_.error_report) errors_.SetNumTiles(partition_.num_measured());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate the books of ", num_tiles(), " tiles"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint8_t*> QuantizerBase::BeginTileInput(int64_t tile) {
  const int64_t begin = tile == 0 ? 0 : tile_input_end(tile - 1);
  QS_ASSIGN_OR_RETURN(Buffer buffer,
                      Buffer::Allocate(tile_input_end(tile) - begin));
  Buffer& slot = tile_inputs_[static_cast<size_t>(tile)];
  slot = std::move(buffer);
  return slot.data();
}

absl::StatusOr<uint8_t*> QuantizerBase::BeginTileOutput(int64_t tile,
                                                        int64_t bytes) {
  QS_ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(bytes));
  Buffer& slot = tile_outputs_[static_cast<size_t>(tile)];
  slot = std::move(buffer);
  return slot.data();
}

void QuantizerBase::ReleaseInput() {
  input_ = Buffer();
  tile_inputs_.clear();
}

QuantizerBase::Range QuantizerBase::TileRange(int64_t tile) const {
  const int64_t begin = tile * partition_.tile_elements;
  return {begin,
          std::min(begin + partition_.tile_elements, partition_.num_elements)};
}

void QuantizerBase::ReleaseTileInput(int64_t tile) {
  if (options_.tiled_input) tile_inputs_[static_cast<size_t>(tile)] = Buffer();
}

absl::Status QuantizerBase::RunTile(int64_t tile, Backend& backend) {
  QS_RETURN_IF_ERROR(CheckCancelled());
  clock(tile).Enter(Phase::kPrepare);
  const Range range = TileRange(tile);
  const absl::Status status = EncodeTile(tile, range.begin, range.end, backend);
  if (!has_second_round()) ReleaseTileInput(tile);
  clock(tile).Stop();
  return status;
}

absl::Status QuantizerBase::RunTileFrom(std::span<const InputPiece> pieces,
                                        int64_t tile, Backend& backend) {
  if (!stages_input() || has_second_round()) {
    clock(tile).Enter(Phase::kPrepare);  // copied first
    return TensorQuantizer::RunTileFrom(pieces, tile, backend);
  }
  tile_pieces_[static_cast<size_t>(tile)] = pieces;
  const absl::Status status = RunTile(tile, backend);
  tile_pieces_[static_cast<size_t>(tile)] = {};
  return status;
}

absl::Status QuantizerBase::BetweenRounds(Backend& backend) {
  QS_RETURN_IF_ERROR(CheckCancelled());
  whole_clock_.Enter(Phase::kPrepare);
  const absl::Status status = PrepareRefine(backend);
  whole_clock_.Stop();
  return status;
}

absl::Status QuantizerBase::RerunTile(int64_t tile, Backend& backend) {
  QS_RETURN_IF_ERROR(CheckCancelled());
  clock(tile).Enter(Phase::kPrepare);
  const Range range = TileRange(tile);
  const absl::Status status = RefineTile(tile, range.begin, range.end, backend);
  ReleaseTileInput(tile);
  clock(tile).Stop();
  return status;
}

absl::StatusOr<QuantizedTensor> QuantizerBase::Finish(Backend& backend) {
  QS_RETURN_IF_ERROR(CheckCancelled());
  whole_clock_.Enter(Phase::kPack);
  QuantizedTensor result;
  QS_ASSIGN_OR_RETURN(result.tensors, Assemble(backend));
  ReleaseInput();

  whole_clock_.Enter(Phase::kReport);
  TensorReport& report = result.report;
  report.name = info_.name;
  report.shape = info_.shape;
  report.dtype = info_.dtype;
  report.bytes_in = input_bytes();
  report.bytes_out = streamed_output().bytes;
  for (const OutputTensor& tensor : result.tensors) {
    report.bytes_out += tensor.data.size();
  }
  report.device = backend.description();
  report.algorithm = SpecAlgorithm(spec_);
  if (options_.error_report) errors_.Fill(&report);
  // A maximum passes over a NaN.
  const double squared_error = report.error.squared_error;
  if (!std::isfinite(squared_error)) {
    report.warnings.push_back(
        absl::StrCat("DECODES_TO_INFINITY: some values, decoded, are ",
                     std::isnan(squared_error) ? "NaN or " : "",
                     "beyond the range of ", DTypeName(info_.dtype)));
  }
  AddToReport(&report);
  whole_clock_.Stop();
  report.phases = Times();
  return result;
}

PhaseTimes QuantizerBase::Times() const {
  PhaseTimes sum = others_times_;
  sum.Add(whole_clock_.times());
  for (const PhaseClock& tile : tile_clocks_) sum.Add(tile.times());
  return sum;
}

absl::Status QuantizerBase::CheckCancelled() const {
  if (options_.cancelled != nullptr &&
      options_.cancelled->load(std::memory_order_relaxed)) {
    return absl::CancelledError(
        absl::StrCat("tensor \"", info_.name, "\": cancelled"));
  }
  return absl::OkStatus();
}

absl::Status QuantizerBase::NonFiniteError(int64_t index) const {
  uint8_t element[sizeof(float)];
  const float value =
      LoadAsFloat(StagedInput(index, 1, 1, element).data, info_.dtype, 0);
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor \"", info_.name, "\": ", std::isnan(value) ? "NaN" : "Inf",
      " at index ", index));
}

absl::Status QuantizerBase::VerificationError(int64_t index) const {
  return absl::InternalError(
      absl::StrCat("tensor \"", info_.name,
                   "\": packed codes do not read back near index ", index));
}

TensorView QuantizerBase::InputView(int64_t begin, int64_t rows,
                                    int64_t cols) const {
  const uint8_t* base = input_.data();
  int64_t first = 0;  // element at base
  if (options_.tiled_input) {
    const int64_t tile = begin / partition_.tile_elements;
    base = tile_inputs_[static_cast<size_t>(tile)].data();
    first = tile * partition_.tile_elements;
  }
  return {base + (begin - first) * DTypeBytes(info_.dtype), info_.dtype, rows,
          cols};
}

TensorView QuantizerBase::StagedInput(int64_t begin, int64_t rows, int64_t cols,
                                      uint8_t* staging,
                                      bool any_address) const {
  const int64_t tile = begin / partition_.tile_elements;
  if (!options_.tiled_input ||
      tile_pieces_[static_cast<size_t>(tile)].empty()) {
    return InputView(begin, rows, cols);
  }
  const std::span<const InputPiece> pieces =
      tile_pieces_[static_cast<size_t>(tile)];
  const auto size = static_cast<size_t>(DTypeBytes(info_.dtype));
  const size_t offset =
      static_cast<size_t>(begin - tile * partition_.tile_elements) * size;
  const size_t count = static_cast<size_t>(rows * cols) * size;
  const uint8_t* const whole = FindWhole(pieces, offset, count);
  if (whole != nullptr &&
      (any_address || reinterpret_cast<uintptr_t>(whole) % size == 0)) {
    return {whole, info_.dtype, rows, cols};
  }
  CopyFrom(pieces, offset, count, staging);
  return {staging, info_.dtype, rows, cols};
}

}  // namespace qs
