// What the grid formats' writers and readers share: transposing, bit streams of
// small counts, checks. Internal to quant/formats.
#ifndef QS_QUANT_FORMATS_GRID_PIECES_H_
#define QS_QUANT_FORMATS_GRID_PIECES_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/stored_tensors.h"

namespace qs::grid {

// The module of a weight: its name without ".weight".
// Errors: INVALID_ARGUMENT — it ends otherwise.
absl::StatusOr<std::string> ModuleOf(const std::string& name);

// Groups of a row; the last may be shorter.
int64_t NumGroups(const GridSpec& grid, int64_t cols);

// One block of Transpose, through memory of its own: strides that are powers of
// two would throw the lines that it needs out of the cache.
template <typename T, int64_t kBlock>
void TransposeBlock(const T* from, int64_t from_stride, T* to,
                    int64_t to_stride) {
  T in[kBlock][kBlock];
  T out[kBlock][kBlock];
  for (int64_t r = 0; r < kBlock; ++r) {
    std::copy_n(from + r * from_stride, kBlock, in[r]);
  }
  for (int64_t c = 0; c < kBlock; ++c) {
    for (int64_t r = 0; r < kBlock; ++r) out[c][r] = in[r][c];
  }
  for (int64_t c = 0; c < kBlock; ++c) {
    std::copy_n(out[c], kBlock, to + c * to_stride);
  }
}

// to[c * to_stride + r] = from[r * from_stride + c], in blocks of whole cache
// lines.
template <typename T>
void Transpose(const T* from, int64_t rows, int64_t cols, int64_t from_stride,
               T* to, int64_t to_stride) {
  constexpr int64_t kBlock = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t r = 0; r < rows; r += kBlock) {
    const int64_t some_rows = std::min(kBlock, rows - r);
    for (int64_t c = 0; c < cols; c += kBlock) {
      const int64_t some_cols = std::min(kBlock, cols - c);
      const T* block = from + r * from_stride + c;
      T* place = to + c * to_stride + r;
      if (some_rows == kBlock && some_cols == kBlock) {
        TransposeBlock<T, kBlock>(block, from_stride, place, to_stride);
      } else {
        for (int64_t i = 0; i < some_cols; ++i) {
          for (int64_t j = 0; j < some_rows; ++j) {
            place[i * to_stride + j] = block[j * from_stride + i];
          }
        }
      }
    }
  }
}

// Some rows' scales, of `from`, into F16 [groups, total_rows] at `first_row`.
// Errors: INTERNAL — a scale is not positive, or not exact in F16.
absl::Status PutScales(const GridRows& rows, DType from, int64_t groups,
                       const GridShape& shape, uint16_t* to);

// INVALID_ARGUMENT, in a reader — a scale is negative or not finite.
absl::Status CheckScales(std::span<const uint8_t> scales, DType dtype,
                         const std::string& name);

// Scales [groups, rows] of F16, BF16 or F32 as stored, to [rows, groups].
absl::StatusOr<Buffer> TransposedScales(std::span<const uint8_t> scales,
                                        DType dtype, int64_t rows,
                                        int64_t groups);

// The dtype of a stored tensor of scales: F16, BF16 or F32 [groups, rows].
absl::StatusOr<DType> ScaleDType(const StoredTensors& tensors,
                                 const std::string& name);

// "tensor NAME: the packed codes differ from those that went in", with the
// first row that may differ.
absl::Status MismatchError(const std::string& name, int64_t first_row);

// INTERNAL unless rows are cut as GridRows wants and its pointers are there.
absl::Status CheckRows(const GridRows& rows, const GridSpec& grid,
                       const GridShape& shape);

// Rows of `rows` to pack at a time: `least`, whose codes and words fit a core's
// cache, or more where a call costs more than that saves.
int64_t SlabRows(int64_t rows, int64_t cols, int64_t least,
                 const Backend& backend);

// PackRows and UnpackRows of a backend.
absl::Status PackRows(Backend& backend, const uint8_t* codes, int64_t rows,
                      int64_t cols, int bits, uint32_t* words);
absl::Status UnpackRows(Backend& backend, const uint32_t* words, int64_t rows,
                        int64_t cols, int bits, uint8_t* codes);

// One writer a format, for GridWriter::Create.
absl::StatusOr<std::unique_ptr<GridWriter>> NewCompressedTensorsWriter(
    const GridSpec& grid, GridShape shape, bool streamed);
absl::StatusOr<std::unique_ptr<GridWriter>> NewGptqWriter(const GridSpec& grid,
                                                          GridShape shape,
                                                          bool v1);
absl::StatusOr<std::unique_ptr<GridWriter>> NewAwqWriter(const GridSpec& grid,
                                                         GridShape shape);

}  // namespace qs::grid

#endif  // QS_QUANT_FORMATS_GRID_PIECES_H_
