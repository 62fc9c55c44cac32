// Tested by tests/service/store/blob_store_test.cc.
#include "service/store/blob_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"
#include "service/store/failpoint.h"

namespace qs {
namespace {

namespace fs = std::filesystem;

constexpr char kScheme[] = "sha256:";
constexpr size_t kSchemeSize = sizeof(kScheme) - 1;
constexpr size_t kHexDigits = 64;

}  // namespace

absl::StatusOr<std::string> HexOfDigest(const std::string& digest) {
  const std::string hex = digest.substr(std::min(kSchemeSize, digest.size()));
  const bool good = digest.compare(0, kSchemeSize, kScheme) == 0 &&
                    hex.size() == kHexDigits &&
                    std::all_of(hex.begin(), hex.end(), [](char c) {
                      return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                    });
  if (good) return hex;
  return absl::InvalidArgumentError(absl::StrCat(
      "digest: got \"", digest, "\", allowed sha256: and 64 hex digits"));
}

std::string DigestOfHex(const std::string& hex) { return kScheme + hex; }

absl::Status SyncFolder(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return PosixError(errno, "open", path);
  int error = QS_FAILPOINT("blob.sync_folder");
  if (error == 0 && ::fsync(fd.get()) != 0) error = errno;
  return error == 0 ? absl::OkStatus() : PosixError(error, "sync", path);
}

absl::Status MakeFolder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0) {
    if (errno == EEXIST) return absl::OkStatus();
    return PosixError(errno, "make folder", path);
  }
  const absl::Status synced = SyncFolder(fs::path(path).parent_path());
  // So that the next one to need it makes and syncs it again.
  if (!synced.ok()) ::rmdir(path.c_str());
  return synced;
}

absl::Status RenameFile(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return PosixError(errno, "rename", from);
}

int64_t FileSize(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  return error ? 0 : static_cast<int64_t>(size);
}

absl::StatusOr<std::vector<fs::path>> FilesBelow(const std::string& path) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(path, error), end;
       !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error) && !error) files.push_back(it->path());
  }
  if (error) return PosixError(error.value(), "list", path);
  return files;
}

absl::Status BlobFolder::Open() {
  for (const char* name : {"", "/staging", "/blobs", "/quarantine"}) {
    QS_RETURN_IF_ERROR(MakeFolder(path_ + name));
  }
  const std::string lock = path_ + "/lock";
  lock_ = UniqueFd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (lock_.get() < 0) return PosixError(errno, "open", lock);
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("store \"", path_, "\": another process uses it"));
  }
  QS_RETURN_IF_ERROR(SyncFolders());
  QS_RETURN_IF_ERROR(CountBlobs());
  return CountStaging();
}

// A process that was killed may have made folders without syncing them. (What
// is in the lowest ones is synced where it is found.)
absl::Status BlobFolder::SyncFolders() const {
  QS_RETURN_IF_ERROR(SyncFolder(path_));
  QS_RETURN_IF_ERROR(SyncFolder(Blobs()));
  std::error_code error;
  for (fs::directory_iterator it(Blobs(), error), end; !error && it != end;
       it.increment(error)) {
    QS_RETURN_IF_ERROR(SyncFolder(it->path().string()));
  }
  if (error) return PosixError(error.value(), "list", Blobs());
  return absl::OkStatus();
}

absl::Status BlobFolder::CountBlobs() {
  QS_ASSIGN_OR_RETURN(const std::vector<fs::path> files, FilesBelow(Blobs()));
  int64_t bytes = 0;
  for (const fs::path& file : files) {
    if (file.extension().empty()) {
      bytes += FileSize(file);
    } else if (!fs::exists(fs::path(file).replace_extension())) {
      ::unlink(file.c_str());  // sums of a blob that did not come
    }
  }
  absl::MutexLock lock(&mutex_);
  used_ += bytes;
  return absl::OkStatus();
}

absl::Status BlobFolder::CountStaging() {
  QS_ASSIGN_OR_RETURN(const std::vector<fs::path> files, FilesBelow(Staging()));
  absl::MutexLock lock(&mutex_);
  for (const fs::path& file : files) {
    const int64_t bytes = FileSize(file);
    staged_[file.filename()] = {.bytes = bytes, .has_writer = false};
    used_ += bytes;
  }
  return absl::OkStatus();
}

absl::Status BlobFolder::MakeFolderOf(const std::string& hex) {
  QS_RETURN_IF_ERROR(MakeFolder(Blobs() + "/" + hex.substr(0, 2)));
  return MakeFolder(FolderOf(hex));
}

absl::Status BlobFolder::BeginWriter(const std::string& id, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto found = staged_.find(id);
  const Staged before = found == staged_.end() ? Staged() : found->second;
  if (before.has_writer) {
    return absl::AlreadyExistsError(
        absl::StrCat("staging \"", id, "\" has a writer"));
  }
  QS_RETURN_IF_ERROR(TakeLocked(bytes, before.bytes));
  staged_[id] = {.bytes = bytes, .has_writer = true};
  return absl::OkStatus();
}

// `bytes` in place of `before`, which are counted.
absl::Status BlobFolder::TakeLocked(int64_t bytes, int64_t before) {
  if (bytes - before > allowed_ - used_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("store: got ", bytes, " bytes more, ", used_ - before,
                     " are in use, allowed ", allowed_));
  }
  used_ += bytes - before;
  return absl::OkStatus();
}

absl::Status BlobFolder::ReserveRoom(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  return TakeLocked(bytes, 0);
}

void BlobFolder::AddRoom(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  used_ += bytes;
}

void BlobFolder::EndWriter(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found = staged_.find(id);
  if (found != staged_.end()) found->second.has_writer = false;
}

void BlobFolder::CommitStaging(const std::string& id, bool is_new_blob) {
  absl::MutexLock lock(&mutex_);
  const auto found = staged_.find(id);
  if (found == staged_.end()) return;
  if (!is_new_blob) used_ -= found->second.bytes;
  staged_.erase(found);
}

absl::Status BlobFolder::DiscardStaging(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found = staged_.find(id);
  if (found != staged_.end() && found->second.has_writer) {
    return absl::FailedPreconditionError(
        absl::StrCat("staging \"", id, "\" has a writer"));
  }
  if (::unlink(Staging(id).c_str()) != 0) {
    return PosixError(errno, "delete", Staging(id));
  }
  if (found == staged_.end()) return absl::OkStatus();
  used_ -= found->second.bytes;
  staged_.erase(found);
  return absl::OkStatus();
}

void BlobFolder::DropBlob(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  used_ -= bytes;
}

void BlobFolder::Quarantine(const std::string& hex, int64_t bytes) {
  absl::MutexLock lock(&MutexOf(hex));
  std::string aside;
  for (int n = 0; aside.empty() || fs::exists(aside); ++n) {
    aside = absl::StrCat(path_, "/quarantine/", hex, ".", n);
  }
  if (!RenameFile(Blob(hex), aside).ok()) return;  // another reader did it
  RenameFile(Sums(hex), aside + ".crc").IgnoreError();
  DropBlob(bytes);
  SyncFolder(FolderOf(hex)).IgnoreError();
}

}  // namespace qs
