// Tested by tests/checkpoint/slice_reader_test.cc.
#include "service/checkpoint/slice_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "service/checkpoint/fault.h"

namespace qs {
namespace {

// Rows of the stack that are turned at once: their pieces stay in the cache,
// and what is written of a row of the slice fills whole lines.
constexpr int64_t kStripRows = 64;

// to[r * to_stride + i] = from[i * from_stride + r * step].
template <typename T>
void Turn(const char* from, int64_t from_stride, int64_t step, int64_t inputs,
          int64_t outputs, int64_t to_stride, char* to) {
  for (int64_t r = 0; r < outputs; ++r) {
    for (int64_t i = 0; i < inputs; ++i) {
      std::memcpy(to + (r * to_stride + i) * int64_t{sizeof(T)},
                  from + (i * from_stride + r * step) * int64_t{sizeof(T)},
                  sizeof(T));
    }
  }
}

}  // namespace

absl::Status ReadBytes(int fd, const std::string& path, int64_t offset,
                       int64_t bytes, char* to) {
  for (int64_t done = 0; done < bytes;) {
    const ssize_t got =
        pread(fd, to + done, static_cast<size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return InputFault(PosixError(errno, "read", path));
    if (got == 0) {
      return InputFault(absl::AbortedError(absl::StrCat(
          "file ", path, ": got an earlier end than when it was opened")));
    }
    done += got;
  }
  return absl::OkStatus();
}

SliceReader::SliceReader(int fd, const SafetensorsFile& file,
                         const PlannedTensor& tensor, int64_t tile_bytes)
    : fd_(fd), file_(file), tensor_(tensor), tile_bytes_(tile_bytes) {
  if (!tensor.slice) return;
  rows_ = tensor.entry.shape[0];
  cols_ = tensor.entry.shape[1];
  element_bytes_ = DTypeBytes(tensor.entry.dtype);
}

int64_t SliceReader::Position(int64_t matrix_row, int64_t matrix_col) const {
  const StackSlice& slice = *tensor_.slice;
  const int64_t row = slice.expert * slice.matrix_rows + matrix_row;
  return file_.header().data_offset + slice.begin +
         (row * slice.matrix_cols + matrix_col) * element_bytes_;
}

absl::Status SliceReader::Read(int64_t offset, int64_t bytes, char* to) {
  if (!tensor_.slice) {
    return ReadBytes(fd_, file_.path(),
                     file_.header().data_offset + tensor_.entry.begin + offset,
                     bytes, to);
  }
  while (bytes > 0) {
    const auto held = static_cast<int64_t>(tile_.size());
    if (offset < tile_begin_ || offset >= tile_begin_ + held) {
      QS_RETURN_IF_ERROR(LoadTile(offset / RowBytes()));
      continue;
    }
    const int64_t at = offset - tile_begin_;
    const int64_t n = std::min(bytes, held - at);
    std::memcpy(to, tile_.data() + at, static_cast<size_t>(n));
    to += n;
    offset += n;
    bytes -= n;
  }
  return absl::OkStatus();
}

absl::Status SliceReader::LoadTile(int64_t row) {
  const int64_t count =
      std::min(rows_ - row, std::max<int64_t>(1, tile_bytes_ / RowBytes()));
  tile_begin_ = row * RowBytes();
  tile_.resize(static_cast<size_t>(count * RowBytes()));
  return tensor_.slice->transposed ? LoadColumns(row, count)
                                   : LoadRows(row, count);
}

absl::Status SliceReader::LoadRows(int64_t row, int64_t count) {
  const StackSlice& slice = *tensor_.slice;
  if (slice.step == 1) {
    return ReadBytes(fd_, file_.path(), Position(slice.first + row, 0),
                     count * RowBytes(), tile_.data());
  }
  for (int64_t r = 0; r < count; ++r) {
    QS_RETURN_IF_ERROR(ReadBytes(
        fd_, file_.path(), Position(slice.first + (row + r) * slice.step, 0),
        RowBytes(), tile_.data() + r * RowBytes()));
  }
  return absl::OkStatus();
}

absl::Status SliceReader::LoadColumns(int64_t row, int64_t count) {
  const StackSlice& slice = *tensor_.slice;
  const int64_t width = (count - 1) * slice.step + 1;
  const auto turn = element_bytes_ == 4 ? &Turn<uint32_t> : &Turn<uint16_t>;
  strip_.resize(static_cast<size_t>(kStripRows * width * element_bytes_));
  for (int64_t col = 0; col < cols_; col += kStripRows) {
    const int64_t n = std::min(kStripRows, cols_ - col);
    for (int64_t i = 0; i < n; ++i) {
      QS_RETURN_IF_ERROR(ReadBytes(
          fd_, file_.path(), Position(col + i, slice.first + row * slice.step),
          width * element_bytes_, strip_.data() + i * width * element_bytes_));
    }
    turn(strip_.data(), width, slice.step, n, count, cols_,
         tile_.data() + col * element_bytes_);
  }
  return absl::OkStatus();
}

}  // namespace qs
