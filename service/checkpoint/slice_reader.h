// SliceReader: the values of a tensor as it is sent, from the file that holds
// it. A slice of a stack is put together from the stack's rows or columns, one
// tile after the other, so that memory is bounded whatever the stack's size.
#ifndef QS_SERVICE_CHECKPOINT_SLICE_READER_H_
#define QS_SERVICE_CHECKPOINT_SLICE_READER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "quant/formats/safetensors.h"
#include "service/checkpoint/planned_checkpoint.h"

namespace qs {

// Bytes by pread: a file that shrinks gives an error here and a SIGBUS through
// a mapping. Errors: kInput.
absl::Status ReadBytes(int fd, const std::string& path, int64_t offset,
                       int64_t bytes, char* to);

// Thread: one caller at a time.
class SliceReader {
 public:
  // A tile's bytes, or those of one row where that is more.
  static constexpr int64_t kTileBytes = int64_t{8} << 20;

  // `fd` is open on `file`, which has `tensor`; all outlive this.
  SliceReader(int fd, const SafetensorsFile& file, const PlannedTensor& tensor,
              int64_t tile_bytes = kTileBytes);

  // Bytes [offset, offset + bytes) of the tensor, row after row. Cheap when
  // offsets ascend. Errors: kInput.
  absl::Status Read(int64_t offset, int64_t bytes, char* to);

 private:
  int64_t RowBytes() const { return cols_ * element_bytes_; }
  // Of the stack's value in the file.
  int64_t Position(int64_t matrix_row, int64_t matrix_col) const;
  absl::Status LoadTile(int64_t row);
  absl::Status LoadRows(int64_t row, int64_t count);
  absl::Status LoadColumns(int64_t row, int64_t count);

  const int fd_;
  const SafetensorsFile& file_;
  const PlannedTensor& tensor_;
  const int64_t tile_bytes_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t element_bytes_ = 0;
  int64_t tile_begin_ = 0;  // byte of the tensor
  std::string tile_;
  std::string strip_;  // pieces of the stack's rows
};

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_SLICE_READER_H_
