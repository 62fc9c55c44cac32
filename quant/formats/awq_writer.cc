// Tested by tests/formats/grid_writer_test.cc.
//
// A word of qweight holds eight rows of one column, so rows that come together
// are a run of words in each line of it, and so are their zero points in
// qzeros.
#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/backend.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/grid_pieces.h"

namespace qs::grid {
namespace {

constexpr int64_t kEight = 8;  // rows of a word
// Rows at a time: a cache line of words in each line, whose codes still fit a
// core's cache.
constexpr int64_t kSlabRows = 128;

// Packs, and unpacks again. Returns whether the codes come back.
absl::StatusOr<bool> PackAndCompare(const PackAwqArgs& pack, Backend& backend,
                                    PhaseClock* clock) {
  Enter(clock, Phase::kPack);
  QS_RETURN_IF_ERROR(backend.affine().PackAwq(pack, backend.stream()));
  Enter(clock, Phase::kVerify);
  QS_ASSIGN_OR_RETURN(Buffer again, Buffer::Allocate(pack.rows * pack.cols));
  UnpackAwqArgs unpack;
  unpack.words = pack.words;
  unpack.rows = pack.rows;
  unpack.cols = pack.cols;
  unpack.stride = pack.stride;
  unpack.codes = again.data();
  QS_RETURN_IF_ERROR(backend.affine().UnpackAwq(unpack, backend.stream()));
  return std::memcmp(pack.codes, again.data(),
                     static_cast<size_t>(again.size())) == 0;
}

class AwqWriter final : public GridWriter {
 public:
  AwqWriter(AwqLayout layout, std::string module)
      : layout_(std::move(layout)),
        module_(std::move(module)),
        words_(shape().rows / kEight) {}

  absl::Status Allocate();

  int64_t groups() const override { return layout_.groups(); }
  bool streams() const override { return false; }
  int64_t StreamedBytes(int64_t) const override { return 0; }
  absl::Status AddRows(const GridRows& rows, Backend& backend) override;
  absl::Status SetGroupIndex(std::span<const int32_t>) override {
    return absl::InvalidArgumentError("AWQ files have no group index");
  }
  absl::StatusOr<std::vector<OutputTensor>> Finish() override;

 private:
  const GridShape& shape() const { return layout_.shape; }
  absl::Status AddCodes(const GridRows& rows, Backend& backend);
  absl::Status AddZeros(const GridRows& rows, Backend& backend);

  const AwqLayout layout_;
  const std::string module_;
  const int64_t words_;  // of a line
  Buffer qweight_;
  Buffer qzeros_;
  Buffer scales_;
};

absl::Status AwqWriter::Allocate() {
  QS_ASSIGN_OR_RETURN(qweight_, Buffer::Allocate(shape().cols * words_ *
                                                 DTypeBytes(DType::kI32)));
  QS_ASSIGN_OR_RETURN(
      qzeros_, Buffer::Allocate(groups() * words_ * DTypeBytes(DType::kI32)));
  QS_ASSIGN_OR_RETURN(scales_, Buffer::Allocate(groups() * shape().rows *
                                                DTypeBytes(DType::kF16)));
  return absl::OkStatus();
}

absl::Status AwqWriter::AddCodes(const GridRows& rows, Backend& backend) {
  const int64_t cols = shape().cols;
  const int64_t slab = SlabRows(rows.rows, cols, kSlabRows, backend);
  for (int64_t done = 0; done < rows.rows; done += slab) {
    const int64_t first_row = rows.first_row + done;
    PackAwqArgs pack;
    pack.codes = rows.codes + done * cols;
    pack.rows = std::min(slab, rows.rows - done);
    pack.cols = cols;
    pack.words = qweight_.As<uint32_t>() + first_row / kEight;
    pack.stride = words_;
    QS_ASSIGN_OR_RETURN(const bool same,
                        PackAndCompare(pack, backend, rows.clock));
    if (!same) return MismatchError(shape().name, first_row);
  }
  return absl::OkStatus();
}

absl::Status AwqWriter::AddZeros(const GridRows& rows, Backend& backend) {
  const uint8_t* zeros = rows.zero_points;
  Buffer eights;  // the zero points of a symmetric grid
  if (zeros == nullptr) {
    QS_ASSIGN_OR_RETURN(eights, Buffer::Allocate(rows.rows * groups()));
    std::memset(eights.data(), 8, static_cast<size_t>(eights.size()));
    zeros = eights.data();
  }
  PackAwqArgs pack;
  pack.codes = zeros;
  pack.rows = rows.rows;
  pack.cols = groups();
  pack.words = qzeros_.As<uint32_t>() + rows.first_row / kEight;
  pack.stride = words_;
  QS_ASSIGN_OR_RETURN(const bool same,
                      PackAndCompare(pack, backend, rows.clock));
  if (same) return absl::OkStatus();
  return MismatchError(module_ + ".qzeros", rows.first_row);
}

absl::Status AwqWriter::AddRows(const GridRows& rows, Backend& backend) {
  Enter(rows.clock, Phase::kPack);
  QS_RETURN_IF_ERROR(CheckRows(rows, layout_.grid, shape()));
  QS_RETURN_IF_ERROR(PutScales(
      rows, StoredScaleOf(OutputFormat::kAwqGemm, shape().dtype).dtype,
      groups(), shape(), scales_.As<uint16_t>()));
  QS_RETURN_IF_ERROR(AddZeros(rows, backend));
  return AddCodes(rows, backend);
}

absl::StatusOr<std::vector<OutputTensor>> AwqWriter::Finish() {
  std::vector<OutputTensor> tensors;
  tensors.push_back({module_ + ".qweight",
                     DType::kI32,
                     {shape().cols, words_},
                     std::move(qweight_)});
  tensors.push_back({module_ + ".qzeros",
                     DType::kI32,
                     {groups(), words_},
                     std::move(qzeros_)});
  tensors.push_back({module_ + ".scales",
                     DType::kF16,
                     {groups(), shape().rows},
                     std::move(scales_)});
  return tensors;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GridWriter>> NewAwqWriter(const GridSpec& grid,
                                                         GridShape shape) {
  AwqLayout layout{std::move(shape), grid};
  QS_RETURN_IF_ERROR(CheckAwqLayout(layout));
  QS_ASSIGN_OR_RETURN(std::string module, ModuleOf(layout.shape.name));
  auto writer =
      std::make_unique<AwqWriter>(std::move(layout), std::move(module));
  QS_RETURN_IF_ERROR(writer->Allocate());
  return writer;
}

}  // namespace qs::grid
