// Tested by tests/formats/grid_writer_test.cc.
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/grid_pieces.h"

namespace qs::grid {
namespace {

constexpr int64_t kWordBits = 32;
constexpr int64_t kWordBytes = 4;
// Rows at a time: words and codes of a slab fit a core's cache.
constexpr int64_t kSlabRows = 32;

class CompressedTensorsWriter final : public GridWriter {
 public:
  CompressedTensorsWriter(const GridSpec& grid, GridShape shape, bool streamed)
      : grid_(grid),
        shape_(std::move(shape)),
        streamed_(streamed),
        row_words_(CeilDiv(shape_.cols * grid.bits, kWordBits)) {}

  absl::Status Allocate();

  int64_t groups() const override { return NumGroups(grid_, shape_.cols); }
  bool streams() const override { return streamed_; }
  int64_t StreamedBytes(int64_t rows) const override {
    return streamed_ ? rows * row_words_ * kWordBytes : 0;
  }
  absl::Status AddRows(const GridRows& rows, Backend& backend) override;
  absl::Status SetGroupIndex(std::span<const int32_t>) override {
    return absl::InvalidArgumentError(
        "compressed-tensors files have no group index that engines load");
  }
  absl::StatusOr<std::vector<OutputTensor>> Finish() override;

 private:
  absl::Status AddCodes(const GridRows& rows, Backend& backend);
  absl::Status AddZeros(const GridRows& rows, Backend& backend);

  const GridSpec grid_;
  const GridShape shape_;
  const bool streamed_;
  const int64_t row_words_;
  Buffer words_;
  Buffer scales_;
  Buffer zero_words_;
};

absl::Status CompressedTensorsWriter::Allocate() {
  if (!streamed_) {
    QS_ASSIGN_OR_RETURN(
        words_, Buffer::Allocate(shape_.rows * row_words_ * kWordBytes));
  }
  QS_ASSIGN_OR_RETURN(scales_, Buffer::Allocate(shape_.rows * groups() *
                                                DTypeBytes(shape_.dtype)));
  if (grid_.symmetric) return absl::OkStatus();
  QS_ASSIGN_OR_RETURN(
      zero_words_,
      Buffer::Allocate(CeilDiv(shape_.rows * grid_.bits, kWordBits) * groups() *
                       kWordBytes));
  return absl::OkStatus();
}

absl::Status CompressedTensorsWriter::AddCodes(const GridRows& rows,
                                               Backend& backend) {
  const int64_t cols = shape_.cols;
  uint32_t* words = rows.words;
  if (words == nullptr) {
    words = words_.As<uint32_t>() + rows.first_row * row_words_;
  }
  const int64_t slab = SlabRows(rows.rows, cols, kSlabRows, backend);
  QS_ASSIGN_OR_RETURN(Buffer again, Buffer::Allocate(slab * cols));
  for (int64_t done = 0; done < rows.rows; done += slab) {
    const int64_t some = std::min(slab, rows.rows - done);
    const uint8_t* codes = rows.codes + done * cols;
    uint32_t* at = words + done * row_words_;
    Enter(rows.clock, Phase::kPack);
    QS_RETURN_IF_ERROR(PackRows(backend, codes, some, cols, grid_.bits, at));
    Enter(rows.clock, Phase::kVerify);
    QS_RETURN_IF_ERROR(
        UnpackRows(backend, at, some, cols, grid_.bits, again.data()));
    if (std::memcmp(codes, again.data(), static_cast<size_t>(some * cols)) !=
        0) {
      return MismatchError(shape_.name, rows.first_row + done);
    }
  }
  return absl::OkStatus();
}

absl::Status CompressedTensorsWriter::AddZeros(const GridRows& rows,
                                               Backend& backend) {
  const int64_t count = rows.rows * groups();
  QS_ASSIGN_OR_RETURN(Buffer again, Buffer::Allocate(count));
  PackColumnsArgs pack;
  pack.codes = rows.zero_points;
  pack.rows = rows.rows;
  pack.cols = groups();
  pack.bits = grid_.bits;
  pack.words = zero_words_.As<uint32_t>() +
               rows.first_row * grid_.bits / kWordBits * groups();
  QS_RETURN_IF_ERROR(backend.affine().PackColumns(pack, backend.stream()));
  Enter(rows.clock, Phase::kVerify);
  UnpackColumnsArgs unpack;
  unpack.words = pack.words;
  unpack.rows = pack.rows;
  unpack.cols = pack.cols;
  unpack.bits = pack.bits;
  unpack.codes = again.data();
  QS_RETURN_IF_ERROR(backend.affine().UnpackColumns(unpack, backend.stream()));
  if (std::memcmp(rows.zero_points, again.data(), static_cast<size_t>(count)) !=
      0) {
    return MismatchError(shape_.name + "_zero_point", rows.first_row);
  }
  return absl::OkStatus();
}

absl::Status CompressedTensorsWriter::AddRows(const GridRows& rows,
                                              Backend& backend) {
  Enter(rows.clock, Phase::kPack);
  QS_RETURN_IF_ERROR(CheckRows(rows, grid_, shape_));
  if (streamed_ != (rows.words != nullptr)) {
    return absl::InternalError("got packed words of an unexpected owner");
  }
  const int64_t row_bytes = groups() * DTypeBytes(shape_.dtype);
  std::memcpy(scales_.data() + rows.first_row * row_bytes, rows.scales,
              static_cast<size_t>(rows.rows * row_bytes));
  if (!grid_.symmetric) QS_RETURN_IF_ERROR(AddZeros(rows, backend));
  return AddCodes(rows, backend);
}

absl::StatusOr<std::vector<OutputTensor>> CompressedTensorsWriter::Finish() {
  AffinePieces pieces;
  pieces.words = std::move(words_);
  pieces.scales = std::move(scales_);
  pieces.zero_point_words = std::move(zero_words_);
  return CompressedTensors(grid_, shape_.name, shape_.dtype, shape_.rows,
                           shape_.cols, std::move(pieces));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GridWriter>> NewCompressedTensorsWriter(
    const GridSpec& grid, GridShape shape, bool streamed) {
  QS_RETURN_IF_ERROR(CheckCompressedTensorsGrid(grid));
  QS_RETURN_IF_ERROR(ModuleOf(shape.name).status());
  auto writer = std::make_unique<CompressedTensorsWriter>(
      grid, std::move(shape), streamed);
  QS_RETURN_IF_ERROR(writer->Allocate());
  return writer;
}

}  // namespace qs::grid
