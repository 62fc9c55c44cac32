// Tested by tests/service/store/blob_store_test.cc.
#include "service/store/dir_blob_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"
#include "service/store/failpoint.h"

namespace qs {

absl::Status DirWriter::OpenNew() {
  fd_ = UniqueFd(
      ::open(path().c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd_.get() < 0) {
    if (errno == EEXIST) {
      return absl::AlreadyExistsError(
          absl::StrCat("staging \"", id_, "\" is there already"));
    }
    return PosixError(errno, "create", path());
  }
  return SyncFolder(folder_->Staging());
}

absl::Status DirWriter::OpenOld(int64_t persisted_size) {
  fd_ = UniqueFd(::open(path().c_str(), O_RDWR | O_CLOEXEC));
  if (fd_.get() < 0) return PosixError(errno, "open", path());
  struct stat info;
  if (::fstat(fd_.get(), &info) != 0) return PosixError(errno, "stat", path());
  if (info.st_size < persisted_size) {
    return absl::DataLossError(absl::StrCat("staging \"", id_, "\" has ",
                                            info.st_size, " bytes, ",
                                            persisted_size, " were persisted"));
  }
  if (::ftruncate(fd_.get(), persisted_size) != 0) {
    return PosixError(errno, "truncate", path());
  }
  std::vector<uint8_t> block(static_cast<size_t>(BlobSums::kBlockBytes));
  while (size() < persisted_size) {
    const auto count = std::min(persisted_size - size(), BlobSums::kBlockBytes);
    const std::span<uint8_t> part =
        std::span(block).first(static_cast<size_t>(count));
    QS_RETURN_IF_ERROR(ReadAt(fd_, path(), size(), part));
    Take(part);
  }
  persisted_ = persisted_size;
  return absl::OkStatus();
}

absl::Status DirWriter::Failed(int error, std::string_view what) {
  failed_ = absl::InternalError(PosixError(error, what, path()).message());
  return failed_;
}

absl::Status DirWriter::Write(std::span<const uint8_t> data) {
  int64_t at = size();
  while (!data.empty()) {
    int error = QS_FAILPOINT("blob.write");
    ssize_t written = -1;
    if (error == 0) {
      written = ::pwrite(fd_.get(), data.data(), data.size(), at);
      error = written < 0 ? errno : 0;
    }
    if (error == EINTR) continue;
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
      return absl::ResourceExhaustedError(
          PosixError(error, "write", path()).message());
    }
    if (error != 0) return Failed(error, "write");
    at += written;
    data = data.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status DirWriter::Append(std::span<const uint8_t> data) {
  QS_RETURN_IF_ERROR(failed_);
  const auto count = static_cast<int64_t>(data.size());
  if (count > reserved_ - size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("staging \"", id_, "\": got ", size() + count,
                     " bytes, allowed ", reserved_));
  }
  QS_RETURN_IF_ERROR(Write(data));
  Take(data);
  return absl::OkStatus();
}

absl::Status DirWriter::Flush() {
  QS_RETURN_IF_ERROR(failed_);
  int error = QS_FAILPOINT("blob.sync");
  if (error == 0 && ::fdatasync(fd_.get()) != 0) error = errno;
  if (error != 0) return Failed(error, "sync");
  (void)QS_FAILPOINT("blob.synced");
  persisted_ = size();
  return absl::OkStatus();
}

absl::StatusOr<std::string> DirWriter::Digest() {
  QS_RETURN_IF_ERROR(failed_);
  if (size() != reserved_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "staging \"", id_, "\": got ", size(), " bytes, allowed ", reserved_));
  }
  if (digest_.empty()) digest_ = hash_.Finish();
  if (digest_.empty()) return absl::InternalError("OpenSSL refused SHA-256");
  return digest_;
}

absl::StatusOr<std::string> DirWriter::Commit(const std::string& expected) {
  QS_RETURN_IF_ERROR(Digest().status());
  if (!expected.empty() && digest_ != expected) {
    return absl::FailedPreconditionError(
        absl::StrCat("digest: got ", digest_, ", expected ", expected));
  }
  QS_RETURN_IF_ERROR(Flush());
  QS_ASSIGN_OR_RETURN(const std::string hex, HexOfDigest(digest_));
  QS_RETURN_IF_ERROR(Publish(hex));
  return digest_;
}

absl::Status DirWriter::Publish(const std::string& hex) {
  absl::MutexLock lock(&folder_->MutexOf(hex));
  if (std::filesystem::exists(folder_->Blob(hex))) {
    // The same bytes came before; who brought them may have failed to sync.
    const absl::Status synced = SyncFolder(folder_->FolderOf(hex));
    if (!synced.ok()) {
      failed_ = absl::InternalError(synced.message());
      return failed_;
    }
    ::unlink(path().c_str());
    folder_->CommitStaging(id_, /*is_new_blob=*/false);
    return absl::OkStatus();
  }
  QS_RETURN_IF_ERROR(folder_->MakeFolderOf(hex));
  QS_ASSIGN_OR_RETURN(AtomicFile sums, AtomicFile::Create(folder_->Sums(hex)));
  QS_RETURN_IF_ERROR(sums.Append(std::string_view(sums_.ToFile())));
  QS_RETURN_IF_ERROR(sums.Commit());
  (void)QS_FAILPOINT("blob.before_rename");
  QS_RETURN_IF_ERROR(RenameFile(path(), folder_->Blob(hex)));
  (void)QS_FAILPOINT("blob.after_rename");
  folder_->CommitStaging(id_, /*is_new_blob=*/true);
  const absl::Status synced = SyncFolder(folder_->FolderOf(hex));
  if (!synced.ok()) {
    failed_ = absl::InternalError(synced.message());
    return failed_;
  }
  return SyncFolder(folder_->Staging());
}

}  // namespace qs
