// Safetensors files: strict header parsing, memory-mapped reading, writing.
//
// Layout: 8-byte little-endian header length N, N bytes of JSON, tensor data.
// The reader trusts nothing: length capped at kMaxHeaderBytes, no duplicate
// keys, no overlap, no hole, ranges inside the file, dtype x shape equal to the
// byte range, UTF-8, bounded JSON depth. The writer orders tensors as the
// library does (descending alignment rank of dtype, then name), pads the header
// with spaces to 8 bytes and writes metadata {"format":"pt"} unless told
// otherwise, so that a file is byte-equal to the library's.
#ifndef QS_QUANT_FORMATS_SAFETENSORS_H_
#define QS_QUANT_FORMATS_SAFETENSORS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"

namespace qs {

class FileOpener;  // quant/formats/file_opener.h; null: any path

constexpr int64_t kMaxHeaderBytes = int64_t{16} << 20;

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // in the data section
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  // by begin, then end, then name
  std::map<std::string, std::string> metadata;
  int64_t data_offset = 0;  // of the data section in the file
};

// Parses the first bytes of a file of `file_bytes` bytes; `head` holds at least
// the length and the header. Errors: INVALID_ARGUMENT — what, where, got,
// allowed.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(
    std::span<const uint8_t> head, int64_t file_bytes);

// A mapped file. Movable; the spans die with it. Thread-safe for reading.
// Touching the span of a file that has shrunk raises SIGBUS; giving it to
// write() or WriteSafetensors is safe (an error, or zeros in the last page: ask
// CheckUnchanged afterwards). Who must touch the bytes of a file that others
// may change reads them (posix_file.h, ReadAt).
class SafetensorsFile {
 public:
  // Errors: NOT_FOUND, PERMISSION_DENIED; INVALID_ARGUMENT — malformed;
  // ABORTED — it shrinks just now.
  static absl::StatusOr<SafetensorsFile> Open(
      const std::string& path,
      std::shared_ptr<const FileOpener> opener = nullptr);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  const std::string& path() const;
  const SafetensorsHeader& header() const;
  const SafetensorsEntry* Find(std::string_view name) const;
  std::span<const uint8_t> Data(const SafetensorsEntry& entry) const;
  // ABORTED — size, mtime or inode differ from when it was opened.
  absl::Status CheckUnchanged() const;

 private:
  struct Rep;
  explicit SafetensorsFile(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

struct SafetensorsItem {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> data;  // must outlive WriteSafetensors
};

// Writes to `path` + ".tmp", syncs, renames. `items` in any order.
// Errors: INVALID_ARGUMENT — duplicate name, size does not fit the shape;
// RESOURCE_EXHAUSTED — disk full; PERMISSION_DENIED; ABORTED — an item lies in
// a mapped file that has shrunk; UNAVAILABLE — other I/O.
// Leaves no temporary file behind on error.
absl::Status WriteSafetensors(
    const std::string& path, std::vector<SafetensorsItem> items,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

// The same without the data at hand: for each item, in the file's order,
// `source` passes its bytes to `append` in pieces. For files that are larger
// than memory. `items` have no data. Errors: also those of `source`.
using AppendBytes = std::function<absl::Status(std::span<const uint8_t>)>;
using SafetensorsSource = std::function<absl::Status(
    const SafetensorsItem& item, const AppendBytes& append)>;
absl::Status StreamSafetensors(
    const std::string& path, std::vector<SafetensorsItem> items,
    const std::map<std::string, std::string>& metadata,
    const SafetensorsSource& source);

// The one place where errno becomes a Status for files.
absl::Status PosixError(int error, std::string_view what,
                        std::string_view path);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_SAFETENSORS_H_
