// Tested by tests/formats/safetensors_write_test.cc and
// tests/formats/posix_fault_test.cc.
#include "quant/formats/posix_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"

namespace qs {
namespace {

// write() takes 2 GiB at most. Shorter pieces let the disk start early.
constexpr size_t kWriteBytes = size_t{32} << 20;

template <typename Call>
auto RetryInterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == path.npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::StatusCode::kResourceExhausted;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

}  // namespace

absl::Status PosixError(int error, std::string_view what,
                        std::string_view path) {
  return absl::Status(
      CodeOf(error),
      absl::StrCat(std::string(what), " ", QuoteForError(path), ": ",
                   std::generic_category().message(error)));
}

UniqueFd::~UniqueFd() { Close(); }

int UniqueFd::Close() {
  if (fd_ < 0) return 0;
  // After EINTR the descriptor is closed all the same.
  const int result = close(std::exchange(fd_, -1));
  return result == 0 || errno == EINTR ? 0 : errno;
}

absl::StatusOr<UniqueFd> OpenRegularFile(const std::string& path,
                                         const FileOpener* opener) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  QS_ASSIGN_OR_RETURN(UniqueFd fd,
                      OpenFile(path, O_RDONLY | O_NONBLOCK, opener));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return PosixError(errno, "stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("open ", QuoteForError(path),
                     ": got a directory or device, allowed: a regular file"));
  }
  return fd;
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path,
                                          int64_t max_bytes,
                                          const FileOpener* opener) {
  QS_ASSIGN_OR_RETURN(UniqueFd fd, OpenRegularFile(path, opener));
  std::string text;
  char piece[16384];
  while (true) {
    const ssize_t got =
        RetryInterrupted([&] { return read(fd.get(), piece, sizeof(piece)); });
    if (got < 0) return PosixError(errno, "read", path);
    if (got == 0) return text;
    text.append(piece, static_cast<size_t>(got));
    if (static_cast<int64_t>(text.size()) > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("file ", QuoteForError(path),
                       ": got more bytes than allowed: ", max_bytes));
    }
  }
}

absl::Status ReadAt(const UniqueFd& fd, const std::string& path, int64_t offset,
                    std::span<uint8_t> data) {
  while (!data.empty()) {
    const ssize_t got = RetryInterrupted(
        [&] { return pread(fd.get(), data.data(), data.size(), offset); });
    if (got < 0) return PosixError(errno, "read", path);
    if (got == 0) {
      return absl::AbortedError(
          absl::StrCat("file ", QuoteForError(path), ": got an end at byte ",
                       offset, ", allowed: unchanged since opened"));
    }
    data = data.subspan(static_cast<size_t>(got));
    offset += got;
  }
  return absl::OkStatus();
}

AtomicFile::AtomicFile(const std::string& path, UniqueFd fd)
    : path_(path), temporary_(path + ".tmp"), fd_(std::move(fd)) {}

AtomicFile::~AtomicFile() {
  if (fd_.get() >= 0) unlink(temporary_.c_str());
}

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::string& path) {
  const std::string temporary = path + ".tmp";
  UniqueFd fd(RetryInterrupted([&] {
    return open(temporary.c_str(),
                O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  }));
  if (fd.get() < 0) return PosixError(errno, "create", temporary);
  return AtomicFile(path, std::move(fd));
}

absl::Status AtomicFile::Append(std::string_view text) {
  return Append(
      std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

absl::Status AtomicFile::Append(std::span<const uint8_t> data) {
  while (!data.empty()) {
    const size_t most = std::min(data.size(), kWriteBytes);
    const ssize_t wrote =
        RetryInterrupted([&] { return write(fd_.get(), data.data(), most); });
    if (wrote < 0 && errno == EFAULT) {
      return absl::AbortedError(absl::StrCat(
          "write ", QuoteForError(temporary_),
          ": got a mapped file that has shrunk, allowed: unchanged"));
    }
    if (wrote < 0) return PosixError(errno, "write", temporary_);
    if (wrote == 0) return PosixError(ENOSPC, "write", temporary_);
    data = data.subspan(static_cast<size_t>(wrote));
    size_ += wrote;
    if (size_ - unflushed_begin_ >= static_cast<int64_t>(kWriteBytes)) {
      // Only a hint: fsync in Commit is what counts.
      (void)sync_file_range(fd_.get(), unflushed_begin_,
                            size_ - unflushed_begin_, SYNC_FILE_RANGE_WRITE);
      unflushed_begin_ = size_;
    }
  }
  return absl::OkStatus();
}

absl::Status AtomicFile::Commit() {
  if (fsync(fd_.get()) != 0) return PosixError(errno, "sync", temporary_);
  if (const int error = fd_.Close(); error != 0) {
    unlink(temporary_.c_str());
    return PosixError(error, "close", temporary_);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(temporary_.c_str());
    return PosixError(error, "rename to", path_);
  }
  const std::string directory = DirectoryOf(path_);
  UniqueFd fd(RetryInterrupted([&] {
    return open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }));
  if (fd.get() < 0) return PosixError(errno, "open", directory);
  // Some file systems cannot sync a directory and say EINVAL.
  if (fsync(fd.get()) != 0 && errno != EINVAL) {
    return PosixError(errno, "sync", directory);
  }
  return absl::OkStatus();
}

}  // namespace qs
