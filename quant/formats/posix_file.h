// Files by POSIX calls: descriptors that close themselves, small reads, and
// files that appear complete under their name or not at all. PosixError stands
// in quant/formats/safetensors.h.
#ifndef QS_QUANT_FORMATS_POSIX_FILE_H_
#define QS_QUANT_FORMATS_POSIX_FILE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qs {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    UniqueFd taken(std::move(other));
    std::swap(fd_, taken.fd_);
    return *this;
  }
  ~UniqueFd();

  int get() const { return fd_; }
  // Closes and says whether the kernel agreed; 0 or errno.
  int Close();

 private:
  int fd_ = -1;
};

class FileOpener;  // quant/formats/file_opener.h; null: any path

// Opens a regular file for reading. Errors: as OpenFile; INVALID_ARGUMENT —
// a directory, FIFO or device.
absl::StatusOr<UniqueFd> OpenRegularFile(const std::string& path,
                                         const FileOpener* opener = nullptr);

// The whole file. Errors: as OpenRegularFile; INVALID_ARGUMENT — longer than
// `max_bytes`.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          int64_t max_bytes,
                                          const FileOpener* opener = nullptr);

// Fills `data` from `offset` on; `path` is for errors. Errors: as PosixError;
// ABORTED — the file ends before.
absl::Status ReadAt(const UniqueFd& fd, const std::string& path, int64_t offset,
                    std::span<uint8_t> data);

// Writes `path` + ".tmp"; Commit syncs it and renames it to `path`. Without
// Commit, or when it fails, nothing is left behind and `path` is as it was
// (unless only the last sync, of the directory, failed). One writer a path.
class AtomicFile {
 public:
  static absl::StatusOr<AtomicFile> Create(const std::string& path);
  AtomicFile(AtomicFile&&) noexcept = default;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  // Errors: as PosixError; ABORTED — `data` is a mapping of a file that has
  // shrunk.
  absl::Status Append(std::span<const uint8_t> data);
  absl::Status Append(std::string_view text);
  absl::Status Commit();

 private:
  AtomicFile(const std::string& path, UniqueFd fd);

  std::string path_;
  std::string temporary_;
  UniqueFd fd_;
  int64_t unflushed_begin_ = 0;
  int64_t size_ = 0;
};

}  // namespace qs

#endif  // QS_QUANT_FORMATS_POSIX_FILE_H_
