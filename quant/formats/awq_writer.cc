// Tested by tests/formats/grid_writer_test.cc.
//
// A word of qweight holds eight rows of one column. Codes of eight rows are
// joined to bytes and then to words, a run of columns at a time, and the words
// of several such rows are transposed together.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/awq_format.h"
#include "quant/formats/grid_pieces.h"

namespace qs::grid {
namespace {

constexpr int64_t kEight = 8;      // rows of a word
constexpr int64_t kRun = 256;      // columns at a time
constexpr int64_t kWordRows = 16;  // a cache line of words
// The row of each nibble, lowest first.
constexpr std::array<int64_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};

// The words of eight rows, `count` (at most kRun) columns.
void JoinEight(const uint8_t* codes, int64_t stride, int64_t count,
               uint32_t* __restrict words) {
  const uint8_t* row[kEight];
  for (size_t i = 0; i < kOrder.size(); ++i)
    row[i] = codes + kOrder[i] * stride;
  alignas(64) uint8_t bytes[4][kRun];
  for (int b = 0; b < 4; ++b) {
    const uint8_t* low = row[2 * b];
    const uint8_t* high = row[2 * b + 1];
    for (int64_t k = 0; k < count; ++k) {
      bytes[b][k] = static_cast<uint8_t>(low[k] | high[k] << 4);
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    words[k] = uint32_t{bytes[0][k]} | uint32_t{bytes[1][k]} << 8 |
               uint32_t{bytes[2][k]} << 16 | uint32_t{bytes[3][k]} << 24;
  }
}

void SplitEight(const uint32_t* __restrict words, int64_t count,
                uint8_t* __restrict codes, int64_t stride) {
  for (int i = 0; i < kEight; ++i) {
    uint8_t* __restrict row = codes + kOrder[static_cast<size_t>(i)] * stride;
    for (int64_t k = 0; k < count; ++k) {
      row[k] = static_cast<uint8_t>(words[k] >> (4 * i) & 15);
    }
  }
}

// Codes [rows, cols] into `to`, whose rows (one a column of the weight) stand
// `to_stride` words apart; rows is a multiple of 8. Unpacks again and returns
// whether the codes come back.
bool PackColumnsOfEight(const uint8_t* codes, int64_t rows, int64_t cols,
                        uint32_t* to, int64_t to_stride) {
  alignas(64) uint32_t words[kWordRows * kRun];
  alignas(64) uint8_t again[kEight * kRun];
  bool same = true;
  for (int64_t w = 0; w < rows / kEight; w += kWordRows) {
    const int64_t num = std::min(kWordRows, rows / kEight - w);
    for (int64_t k = 0; k < cols; k += kRun) {
      const int64_t count = std::min(kRun, cols - k);
      const uint8_t* from = codes + w * kEight * cols + k;
      uint32_t* at = to + k * to_stride + w;
      for (int64_t i = 0; i < num; ++i) {
        JoinEight(from + i * kEight * cols, cols, count, words + i * kRun);
      }
      Transpose(words, num, count, kRun, at, to_stride);
      Transpose(at, count, num, to_stride, words, kRun);
      for (int64_t i = 0; i < num; ++i) {
        SplitEight(words + i * kRun, count, again, kRun);
        for (int64_t r = 0; r < kEight; ++r) {
          same = same &&
                 std::memcmp(from + (i * kEight + r) * cols, again + r * kRun,
                             static_cast<size_t>(count)) == 0;
        }
      }
    }
  }
  return same;
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

  const AwqLayout layout_;
  const std::string module_;
  const int64_t words_;  // of a column
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

absl::Status AwqWriter::AddRows(const GridRows& rows, Backend&) {
  Enter(rows.clock, Phase::kPack);
  QS_RETURN_IF_ERROR(CheckRows(rows, layout_.grid, shape()));
  QS_RETURN_IF_ERROR(PutScales(
      rows, StoredScaleOf(OutputFormat::kAwqGemm, shape().dtype).dtype,
      groups(), shape(), scales_.As<uint16_t>()));
  const int64_t first_word = rows.first_row / kEight;
  if (!PackColumnsOfEight(rows.codes, rows.rows, shape().cols,
                          qweight_.As<uint32_t>() + first_word, words_)) {
    return MismatchError(shape().name, rows.first_row);
  }
  const uint8_t* zeros = rows.zero_points;
  Buffer eights;  // the zero points of a symmetric grid
  if (zeros == nullptr) {
    QS_ASSIGN_OR_RETURN(eights, Buffer::Allocate(rows.rows * groups()));
    std::memset(eights.data(), 8, static_cast<size_t>(eights.size()));
    zeros = eights.data();
  }
  if (!PackColumnsOfEight(zeros, rows.rows, groups(),
                          qzeros_.As<uint32_t>() + first_word, words_)) {
    return MismatchError(module_ + ".qzeros", rows.first_row);
  }
  return absl::OkStatus();
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
