// Tested by tests/formats/grid_writer_test.cc.
//
// A column of qweight is the bit stream of a row of codes, so the words are
// packed as rows and transposed.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/format_limit.h"
#include "quant/formats/gptq_format.h"
#include "quant/formats/grid_pieces.h"

namespace qs::grid {
namespace {

// Rows at a time, about: qweight's rows are far apart, and a run of this many
// words in each keeps the memory busy, while the words of all these rows still
// fit a core's cache.
constexpr int64_t kSlabRows = 128;
// Words of a row that are transposed at once, a cache line of them.
constexpr int64_t kLineWords = 16;

// Words [rows, row_words] into the columns of `to`, whose rows stand `stride`
// apart; `block` takes kLineWords * rows of them on the way, in order.
void PutColumns(const uint32_t* words, int64_t rows, int64_t row_words,
                int64_t stride, uint32_t* block, uint32_t* to) {
  for (int64_t w = 0; w < row_words; w += kLineWords) {
    const int64_t count = std::min(kLineWords, row_words - w);
    Transpose(words + w, rows, count, row_words, block, rows);
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(block + i * rows, rows, to + (w + i) * stride);
    }
  }
}

void TakeColumns(const uint32_t* from, int64_t rows, int64_t row_words,
                 int64_t stride, uint32_t* block, uint32_t* words) {
  for (int64_t w = 0; w < row_words; w += kLineWords) {
    const int64_t count = std::min(kLineWords, row_words - w);
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(from + (w + i) * stride, rows, block + i * rows);
    }
    Transpose(block, count, rows, rows, words + w, row_words);
  }
}

class GptqWriter final : public GridWriter {
 public:
  GptqWriter(GptqFileLayout layout, std::string module)
      : layout_(std::move(layout)),
        module_(std::move(module)),
        row_words_(shape().cols * bits() / 32),
        zero_words_(shape().rows * bits() / 32) {}

  absl::Status Allocate();

  int64_t groups() const override { return layout_.groups(); }
  bool streams() const override { return false; }
  int64_t StreamedBytes(int64_t) const override { return 0; }
  absl::Status AddRows(const GridRows& rows, Backend& backend) override;
  absl::Status SetGroupIndex(std::span<const int32_t> g_idx) override;
  absl::StatusOr<std::vector<OutputTensor>> Finish() override;

 private:
  const GridShape& shape() const { return layout_.shape; }
  int bits() const { return layout_.grid.bits; }
  bool v1() const { return layout_.version == GptqVersion::kV1; }

  // Rows [done, done + some) of `rows`.
  absl::Status AddSlab(const GridRows& rows, int64_t done, int64_t some,
                       Backend& backend);
  absl::Status AddZeros(const GridRows& rows);
  absl::Status CheckZeros(const GridRows& rows, Backend& backend) const;
  uint32_t ZeroPoint(const GridRows& rows, int64_t row, int64_t group) const {
    return rows.zero_points == nullptr
               ? uint32_t{1} << (bits() - 1)
               : rows.zero_points[row * groups() + group];
  }

  const GptqFileLayout layout_;
  const std::string module_;
  const int64_t row_words_;   // of a row's codes
  const int64_t zero_words_;  // of a group's zero points
  Buffer qweight_;
  Buffer qzeros_;
  Buffer scales_;
  Buffer g_idx_;
};

absl::Status GptqWriter::Allocate() {
  QS_ASSIGN_OR_RETURN(qweight_, Buffer::Allocate(row_words_ * shape().rows *
                                                 DTypeBytes(DType::kI32)));
  QS_ASSIGN_OR_RETURN(qzeros_, Buffer::Allocate(groups() * zero_words_ *
                                                DTypeBytes(DType::kI32)));
  QS_ASSIGN_OR_RETURN(scales_, Buffer::Allocate(groups() * shape().rows *
                                                DTypeBytes(DType::kF16)));
  QS_ASSIGN_OR_RETURN(g_idx_,
                      Buffer::Allocate(shape().cols * DTypeBytes(DType::kI32)));
  const int64_t size =
      layout_.grid.group_size < 0 ? shape().cols : layout_.grid.group_size;
  for (int64_t col = 0; col < shape().cols; ++col) {
    g_idx_.As<int32_t>()[col] = static_cast<int32_t>(col / size);
  }
  return absl::OkStatus();
}

absl::Status GptqWriter::AddSlab(const GridRows& rows, int64_t done,
                                 int64_t some, Backend& backend) {
  const int64_t cols = shape().cols;
  const int64_t total = shape().rows;
  const int64_t first_row = rows.first_row + done;
  const uint8_t* const codes = rows.codes + done * cols;
  const int64_t num_words = some * row_words_;
  const int64_t word_bytes =
      (num_words + some * kLineWords) * DTypeBytes(DType::kI32);
  Enter(rows.clock, Phase::kPack);
  QS_ASSIGN_OR_RETURN(Buffer scratch,
                      Buffer::Allocate(word_bytes + some * cols));
  auto* words = scratch.As<uint32_t>();
  uint32_t* block = words + num_words;
  uint8_t* unpacked = scratch.data() + word_bytes;
  uint32_t* at = qweight_.As<uint32_t>() + first_row;
  QS_RETURN_IF_ERROR(PackRows(backend, codes, some, cols, bits(), words));
  PutColumns(words, some, row_words_, total, block, at);
  Enter(rows.clock, Phase::kVerify);
  TakeColumns(at, some, row_words_, total, block, words);
  QS_RETURN_IF_ERROR(UnpackRows(backend, words, some, cols, bits(), unpacked));
  if (std::memcmp(codes, unpacked, static_cast<size_t>(some * cols)) != 0) {
    return MismatchError(shape().name, first_row);
  }
  return absl::OkStatus();
}

// Streams of a few hundred values: nothing that a kernel would speed up.
absl::Status GptqWriter::AddZeros(const GridRows& rows) {
  const int64_t first_word = rows.first_row * bits() / 32;
  const int64_t num_words = rows.rows * bits() / 32;
  const auto mask = (uint32_t{1} << bits()) - 1;
  for (int64_t g = 0; g < groups(); ++g) {
    uint32_t* word = qzeros_.As<uint32_t>() + g * zero_words_ + first_word;
    std::fill_n(word, num_words, 0u);
    for (int64_t r = 0; r < rows.rows; ++r) {
      const uint32_t zero = ZeroPoint(rows, r, g);
      if ((v1() && zero == 0) || zero > mask) {
        return FormatLimitError(absl::StrCat(
            "tensor \"", shape().name, "\": zero point of row ",
            rows.first_row + r, ", group ", g, ": got ", zero, ", allowed ",
            v1() ? 1 : 0, "..", mask,
            v1() ? " in GPTQ v1; the format GPTQ_V2 holds it" : ""));
      }
      const uint32_t stored = zero - (v1() ? 1 : 0);
      const int64_t bit = r * bits();
      word[bit / 32] |= stored << (bit % 32);
      if (bit % 32 + bits() > 32) {
        word[bit / 32 + 1] |= stored >> (32 - bit % 32);
      }
    }
  }
  return absl::OkStatus();
}

// A group's zero points are a bit stream, as a row of codes is.
absl::Status GptqWriter::CheckZeros(const GridRows& rows,
                                    Backend& backend) const {
  const int64_t first_word = rows.first_row * bits() / 32;
  const int64_t num_words = rows.rows * bits() / 32;
  const int64_t word_bytes = groups() * num_words * DTypeBytes(DType::kI32);
  QS_ASSIGN_OR_RETURN(Buffer scratch,
                      Buffer::Allocate(word_bytes + groups() * rows.rows));
  auto* words = scratch.As<uint32_t>();
  uint8_t* fields = scratch.data() + word_bytes;
  for (int64_t g = 0; g < groups(); ++g) {
    std::copy_n(qzeros_.As<uint32_t>() + g * zero_words_ + first_word,
                num_words, words + g * num_words);
  }
  QS_RETURN_IF_ERROR(
      UnpackRows(backend, words, groups(), rows.rows, bits(), fields));
  for (int64_t g = 0; g < groups(); ++g) {
    for (int64_t r = 0; r < rows.rows; ++r) {
      const uint32_t field = fields[g * rows.rows + r];
      if (field + (v1() ? 1 : 0) != ZeroPoint(rows, r, g)) {
        return MismatchError(module_ + ".qzeros", rows.first_row + r);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status GptqWriter::AddRows(const GridRows& rows, Backend& backend) {
  Enter(rows.clock, Phase::kPack);
  QS_RETURN_IF_ERROR(CheckRows(rows, layout_.grid, shape()));
  QS_RETURN_IF_ERROR(AddZeros(rows));
  Enter(rows.clock, Phase::kVerify);
  QS_RETURN_IF_ERROR(CheckZeros(rows, backend));
  Enter(rows.clock, Phase::kPack);
  QS_RETURN_IF_ERROR(
      PutScales(rows, StoredScaleOf(OutputFormat::kGptq, shape().dtype).dtype,
                groups(), shape(), scales_.As<uint16_t>()));
  for (int64_t done = 0; done < rows.rows; done += kSlabRows) {
    QS_RETURN_IF_ERROR(
        AddSlab(rows, done, std::min(kSlabRows, rows.rows - done), backend));
  }
  return absl::OkStatus();
}

absl::Status GptqWriter::SetGroupIndex(std::span<const int32_t> g_idx) {
  bool fits = static_cast<int64_t>(g_idx.size()) == shape().cols;
  for (const int32_t group : g_idx) {
    fits = fits && group >= 0 && group < groups();
  }
  if (!fits) {
    return absl::InternalError(
        absl::StrCat("tensor \"", shape().name, "\": got a group index of ",
                     g_idx.size(), " columns, allowed ", shape().cols,
                     " columns of groups below ", groups()));
  }
  std::memcpy(g_idx_.data(), g_idx.data(), g_idx.size_bytes());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OutputTensor>> GptqWriter::Finish() {
  std::vector<OutputTensor> tensors;
  tensors.push_back({module_ + ".qweight",
                     DType::kI32,
                     {row_words_, shape().rows},
                     std::move(qweight_)});
  tensors.push_back({module_ + ".qzeros",
                     DType::kI32,
                     {groups(), zero_words_},
                     std::move(qzeros_)});
  tensors.push_back({module_ + ".scales",
                     DType::kF16,
                     {groups(), shape().rows},
                     std::move(scales_)});
  tensors.push_back(
      {module_ + ".g_idx", DType::kI32, {shape().cols}, std::move(g_idx_)});
  return tensors;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GridWriter>> NewGptqWriter(const GridSpec& grid,
                                                          GridShape shape,
                                                          bool v1) {
  GptqFileLayout layout{std::move(shape), grid,
                        v1 ? GptqVersion::kV1 : GptqVersion::kV2};
  QS_RETURN_IF_ERROR(CheckGptqLayout(layout));
  QS_ASSIGN_OR_RETURN(std::string module, ModuleOf(layout.shape.name));
  auto writer =
      std::make_unique<GptqWriter>(std::move(layout), std::move(module));
  QS_RETURN_IF_ERROR(writer->Allocate());
  return writer;
}

}  // namespace qs::grid
