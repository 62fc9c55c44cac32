// Tested by tests/cli/text_output_test.cc and tests/e2e/quantctl_files_test.py.
#include "service/cli/text_output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "service/checkpoint/text_file.h"
#include "service/cli/exit_code.h"
#include "service/cli/output_staging.h"

namespace qs::cli {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);

// Of a name for a descriptor that the process was started with; -1: it is none.
int DescriptorOf(const std::string& file) {
  if (file == "/dev/stdout") return STDOUT_FILENO;
  if (file == "/dev/stderr") return STDERR_FILENO;
  for (const std::string prefix : {"/dev/fd/", "/proc/self/fd/"}) {
    int number = -1;
    if (file.starts_with(prefix) &&
        absl::SimpleAtoi(file.substr(prefix.size()), &number)) {
      return number;
    }
  }
  return -1;
}

// Null for what may be written.
const char* WhyRefused(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISBLK(mode)) return "a block device";
  return S_ISSOCK(mode) ? "a socket" : nullptr;
}

int OpenToWrite(const std::string& file) {
  int fd = -1;
  do {
    fd = open(file.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

absl::Status StoppedWaiting(const std::string& file, RunControl& control) {
  return WithText(control.status(), absl::StrCat(" while ", QuoteForError(file),
                                                 " was not read"));
}

}  // namespace

absl::StatusOr<TextOutput> TextOutput::Open(
    const std::string& file, const std::vector<std::string>& inputs,
    const OutputTarget& output) {
  TextOutput text;
  if (file.empty()) return text;
  text.file_ = file;
  QS_RETURN_IF_ERROR(CheckFileTarget(file, inputs, output));
  if (const int number = DescriptorOf(file); number >= 0) {
    QS_RETURN_IF_ERROR(text.OpenDescriptor(number));
    return text;
  }
  struct stat info = {};
  const bool exists = stat(file.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) return OutputPosixError(errno, "open", file);
  if (!exists || S_ISREG(info.st_mode)) {
    QS_ASSIGN_OR_RETURN(text.target_, ResolveFile(file, inputs, output));
    return text;
  }
  if (const char* got = WhyRefused(info.st_mode); got != nullptr) {
    return RefusedOutput(file, got,
                         "a regular file, a FIFO or a character device");
  }
  QS_RETURN_IF_ERROR(text.OpenStream());
  return text;
}

// A name in /dev/fd is the descriptor itself: opening it anew would begin a
// redirected file at its first byte, and cannot be done with a socket.
absl::Status TextOutput::OpenDescriptor(int number) {
  const int kind = fcntl(number, F_GETFD);
  const int mode = fcntl(number, F_GETFL);
  // Those that close on exec are ours.
  const bool writable =
      kind >= 0 && (kind & FD_CLOEXEC) == 0 && (mode & O_ACCMODE) != O_RDONLY;
  if (!writable) return OutputPosixError(EBADF, "write to", file_);
  stream_ = UniqueFd(fcntl(number, F_DUPFD_CLOEXEC, 0));
  return stream_.get() >= 0 ? absl::OkStatus()
                            : OutputPosixError(errno, "write to", file_);
}

// Since the name was looked at, or while a FIFO had no reader, it may have
// become a file's, which would be written over from its first byte.
absl::Status TextOutput::CheckStream() {
  struct stat info = {};
  if (fstat(stream_.get(), &info) != 0) {
    return OutputPosixError(errno, "open", file_);
  }
  if (S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)) return absl::OkStatus();
  stream_ = UniqueFd();
  return RefusedOutput(file_, "another file in the place of a FIFO or device",
                       "the one that was there");
}

absl::Status TextOutput::OpenStream() {
  stream_ = UniqueFd(OpenToWrite(file_));
  if (stream_.get() >= 0) return CheckStream();
  struct stat info = {};
  const bool unread = errno == ENXIO && stat(file_.c_str(), &info) == 0 &&
                      S_ISFIFO(info.st_mode);
  return unread ? absl::OkStatus() : OutputPosixError(errno, "write to", file_);
}

absl::Status TextOutput::Write(const std::string& text, RunControl* control) {
  if (file_.empty()) return absl::OkStatus();
  if (control != nullptr) QS_RETURN_IF_ERROR(control->status());
  if (target_.path.empty()) {
    QS_RETURN_IF_ERROR(WaitForReader(control));
    return WriteStream(text, control);
  }
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<OutputStaging> staging,
                      OutputStaging::Create(target_));
  QS_RETURN_IF_ERROR(WriteTextFile(staging->file(), text));
  if (control != nullptr) QS_RETURN_IF_ERROR(control->status());
  return staging->Publish();
}

absl::Status TextOutput::WaitForReader(RunControl* control) {
  while (stream_.get() < 0) {
    QS_RETURN_IF_ERROR(OpenStream());
    if (stream_.get() >= 0) break;
    if (control == nullptr) {
      absl::SleepFor(kTick);
    } else if (!control->Sleep(kTick)) {
      return StoppedWaiting(file_, *control);
    }
  }
  return absl::OkStatus();
}

absl::Status TextOutput::WriteStream(std::string_view text,
                                     RunControl* control) {
  while (!text.empty()) {
    pollfd ready = {stream_.get(), POLLOUT, 0};
    const int count = poll(&ready, 1, absl::ToInt64Milliseconds(kTick));
    if (count < 0 && errno != EINTR) {
      return OutputPosixError(errno, "write", file_);
    }
    if (count <= 0) {
      if (control != nullptr && control->failed()) {
        return StoppedWaiting(file_, *control);
      }
      continue;
    }
    // A pipe that is ready takes this much without waiting.
    const size_t most = std::min<size_t>(text.size(), PIPE_BUF);
    const ssize_t wrote = write(stream_.get(), text.data(), most);
    if (wrote < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (wrote <= 0) {
      return OutputPosixError(wrote < 0 ? errno : ENOSPC, "write", file_);
    }
    text.remove_prefix(static_cast<size_t>(wrote));
  }
  const int error = stream_.Close();
  return error == 0 ? absl::OkStatus()
                    : OutputPosixError(error, "close", file_);
}

}  // namespace qs::cli
