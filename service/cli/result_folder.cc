// Tested by tests/cli/result_folder_test.cc.
#include "service/cli/result_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/safetensors.h"
#include "service/checkpoint/text_file.h"
#include "service/cli/exit_code.h"
#include "service/cli/output_staging.h"
#include "service/server/error.h"
#include "service/stream/crc32c.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;

constexpr size_t kMaxPath = 4096;
constexpr int64_t kReadBytes = int64_t{1} << 20;

absl::Status Failed(int error, const char* what, const std::string& path) {
  return OutputFault(PosixError(error, what, path));
}

// "a/b": names only, so that nothing outside is ever opened.
bool IsSafe(const std::string& path) {
  if (path.empty() || path.size() > kMaxPath ||
      path.find('\0') != std::string::npos) {
    return false;
  }
  const std::vector<std::string> parts = absl::StrSplit(path, '/');
  return std::none_of(parts.begin(), parts.end(), [](const std::string& part) {
    return part.empty() || part == "." || part == "..";
  });
}

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

absl::Status WriteAll(int fd, const std::string& data, int64_t offset,
                      const std::string& path) {
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t wrote =
        ::pwrite(fd, data.data() + done, data.size() - done,
                 static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return Failed(errno, "write", path);
    done += static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

// The real path of a name that is not there.
absl::StatusOr<std::string> FreshPath(std::string output) {
  while (output.size() > 1 && output.back() == '/') output.pop_back();
  std::error_code error;
  const fs::path path = fs::absolute(output, error);
  if (error) return Failed(error.value(), "open", output);
  const fs::path parent = fs::canonical(path.parent_path(), error);
  if (error) {
    return Failed(error.value(), "open", path.parent_path().string());
  }
  const std::string fresh = (parent / path.filename()).string();
  if (!Exists(fresh)) return fresh;
  return OutputFault(absl::AlreadyExistsError(
      absl::StrCat("output ", QuoteForError(fresh),
                   ": got a name that exists, allowed a new one")));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResultFolder>> ResultFolder::Open(
    const std::string& output, const std::string& job_id) {
  QS_ASSIGN_OR_RETURN(const std::string path, FreshPath(output));
  const fs::path place(path);
  const std::string staging =
      (place.parent_path() /
       absl::StrCat(".", place.filename().string(), ".quantctl-", job_id))
          .string();
  std::unique_ptr<ResultFolder> folder(new ResultFolder(path, staging));
  for (const std::string& name : {staging, folder->files_}) {
    if (::mkdir(name.c_str(), 0777) != 0 && errno != EEXIST) {
      return Failed(errno, "make", name);
    }
  }
  QS_RETURN_IF_ERROR(folder->Lock());
  QS_RETURN_IF_ERROR(folder->Recall());
  return folder;
}

absl::Status ResultFolder::Lock() {
  lock_ = UniqueFd(::open(staging_.c_str(),
                          O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (lock_.get() < 0) return Failed(errno, "open", staging_);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  return OutputFault(absl::FailedPreconditionError(absl::StrCat(
      "output ", QuoteForError(output_), ": another quantctl fills it")));
}

// Where the run before was.
absl::Status ResultFolder::Recall() {
  const std::string at = staging_ + "/at";
  if (!Exists(at)) return absl::OkStatus();
  const auto path = ReadSmallFile(at, kMaxPath);
  if (!path.ok()) return OutputFault(path.status());
  if (!IsSafe(*path) || !Exists(files_ + "/" + *path)) {
    // Its first byte did not come.
    return IsSafe(*path) ? BeginFile(*path) : StartOver();
  }
  QS_RETURN_IF_ERROR(OpenFile(*path, /*fresh=*/false));
  struct stat info = {};
  if (::fstat(fd_->get(), &info) != 0) return Failed(errno, "open", *path);
  return Hash(info.st_size);
}

absl::Status ResultFolder::Hash(int64_t bytes) {
  std::vector<uint8_t> data(static_cast<size_t>(std::min(bytes, kReadBytes)));
  while (offset_ < bytes) {
    const std::span<uint8_t> part(
        data.data(),
        static_cast<size_t>(std::min(kReadBytes, bytes - offset_)));
    QS_RETURN_IF_ERROR(
        OutputFault(ReadAt(*fd_, files_ + "/" + file_, offset_, part)));
    hash_.Update(part);
    offset_ += static_cast<int64_t>(part.size());
  }
  return absl::OkStatus();
}

absl::Status ResultFolder::OpenFile(const std::string& file, bool fresh) {
  const std::string path = files_ + "/" + file;
  const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(::open(path.c_str(), fresh ? flags | O_TRUNC : flags, 0666));
  if (fd.get() < 0) return Failed(errno, "write", path);
  fd_ = std::move(fd);
  file_ = file;
  offset_ = 0;
  ended_ = false;
  hash_ = Sha256();
  return absl::OkStatus();
}

absl::Status ResultFolder::BeginFile(const std::string& file) {
  std::error_code error;
  const fs::path path(files_ + "/" + file);
  fs::create_directories(path.parent_path(), error);
  if (error) return Failed(error.value(), "make", path.parent_path().string());
  QS_RETURN_IF_ERROR(WriteTextFile(staging_ + "/at", file));
  return OpenFile(file, /*fresh=*/true);
}

absl::Status ResultFolder::Take(const v1::FileChunk& chunk) {
  if (chunk.crc32c() != Crc32c(BytesOf(chunk.data()))) {
    return absl::UnavailableError("a chunk was damaged on its way");
  }
  if (chunk.file() != file_) {
    if (!IsSafe(chunk.file()) || !ended_ || known_.contains(chunk.file())) {
      return UnexpectedError(absl::StrCat("the server sent file ",
                                          QuoteForError(chunk.file()),
                                          ", which is not the next one"));
    }
    QS_RETURN_IF_ERROR(BeginFile(chunk.file()));
  }
  if (ended_ || chunk.offset() != offset_) {
    return UnexpectedError(
        absl::StrCat("the server sent offset ", chunk.offset(), " of file ",
                     QuoteForError(file_), ", allowed ", offset_));
  }
  QS_RETURN_IF_ERROR(
      WriteAll(fd_->get(), chunk.data(), offset_, files_ + "/" + file_));
  hash_.Update(BytesOf(chunk.data()));
  offset_ += static_cast<int64_t>(chunk.data().size());
  return chunk.last() ? EndFile(chunk) : absl::OkStatus();
}

absl::Status ResultFolder::EndFile(const v1::FileChunk& chunk) {
  const std::string digest = hash_.Finish();
  if (digest != chunk.digest() || offset_ != chunk.size_bytes()) {
    // What an earlier run has left was damaged since.
    QS_RETURN_IF_ERROR(OpenFile(std::string(file_), /*fresh=*/true));
    return absl::UnavailableError(
        absl::StrCat("file ", QuoteForError(file_),
                     " does not have its digest, it is received again"));
  }
  if (::fsync(fd_->get()) != 0) return Failed(errno, "sync", file_);
  known_[file_] = {offset_, digest};
  ended_ = true;
  fd_.reset();
  return absl::OkStatus();
}

absl::Status ResultFolder::StartOver() {
  fd_.reset();
  file_.clear();
  offset_ = 0;
  ended_ = true;
  known_.clear();
  std::error_code error;
  for (const char* name : {"/at", "/files"}) {
    fs::remove_all(staging_ + name, error);
    if (error) return Failed(error.value(), "remove", staging_ + name);
  }
  if (::mkdir(files_.c_str(), 0777) != 0) return Failed(errno, "make", files_);
  return absl::OkStatus();
}

absl::StatusOr<bool> ResultFolder::Publish(const std::string& digest,
                                           const std::function<bool()>& stop) {
  const absl::StatusOr<OutputDigest> got = DigestOutput(files_, known_, stop);
  if (!got.ok()) return WithExitCode(got.status(), ExitCode::kOutput);
  if (got->digest != digest) return false;
  QS_RETURN_IF_ERROR(SyncDirectories(files_));
  const absl::Status published = PublishOutput(files_, output_);
  if (!published.ok()) return WithExitCode(published, ExitCode::kOutput);
  Discard();
  return true;
}

void ResultFolder::Discard() {
  std::error_code ignored;  // nobody needs it
  fs::remove_all(staging_, ignored);
}

}  // namespace qs::cli
