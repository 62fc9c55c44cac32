// Tested by tests/service/store/blob_store_test.cc.
#include "service/store/dir_blob_store.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"
#include "service/store/blob_folder.h"
#include "service/store/dir_blob_reader.h"
#include "service/store/dir_blob_writer.h"

namespace qs {
namespace {

constexpr size_t kMaxId = 64;

bool IsId(const std::string& id) {
  return !id.empty() && id.size() <= kMaxId &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  c == '_' || c == '-';
         });
}

class DirBlobStore final : public BlobStore {
 public:
  explicit DirBlobStore(std::shared_ptr<BlobFolder> folder)
      : folder_(std::move(folder)) {}

  absl::StatusOr<std::unique_ptr<BlobWriter>> Create(const std::string& id,
                                                     int64_t bytes) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> Resume(
      const std::string& id, int64_t bytes, int64_t persisted_size) override;
  absl::Status Discard(const std::string& id) override;
  absl::StatusOr<std::vector<std::string>> Staged() const override;
  absl::StatusOr<std::unique_ptr<BlobReader>> Open(
      const std::string& digest) override;
  absl::StatusOr<bool> Has(const std::string& digest) const override;
  absl::StatusOr<bool> HasDurable(const std::string& digest) override;
  absl::Status Delete(const std::string& digest) override;
  absl::StatusOr<std::vector<BlobInfo>> List() const override;
  absl::Status ReserveRoom(int64_t bytes) override {
    return folder_->ReserveRoom(bytes);
  }
  void AddRoom(int64_t bytes) override { folder_->AddRoom(bytes); }
  int64_t bytes_used() const override { return folder_->used(); }
  int64_t bytes_allowed() const override { return folder_->allowed(); }

 private:
  const std::shared_ptr<BlobFolder> folder_;
};

absl::Status CheckStaging(const std::string& id, int64_t bytes) {
  if (!IsId(id)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "id: got \"", id, "\", allowed 1 to ", kMaxId, " of A-Z a-z 0-9 _ -"));
  }
  if (bytes >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("bytes: got ", bytes, ", allowed at least 0"));
}

absl::StatusOr<std::unique_ptr<BlobWriter>> DirBlobStore::Create(
    const std::string& id, int64_t bytes) {
  QS_RETURN_IF_ERROR(CheckStaging(id, bytes));
  if (std::filesystem::exists(folder_->Staging(id))) {
    return absl::AlreadyExistsError(
        absl::StrCat("staging \"", id, "\" is there already"));
  }
  QS_RETURN_IF_ERROR(folder_->BeginWriter(id, bytes));
  auto writer = std::make_unique<DirWriter>(folder_, id, bytes);
  const absl::Status opened = writer->OpenNew();
  if (opened.ok()) return writer;
  writer = nullptr;
  ::unlink(folder_->Staging(id).c_str());
  folder_->CommitStaging(id, /*is_new_blob=*/false);
  return opened;
}

absl::StatusOr<std::unique_ptr<BlobWriter>> DirBlobStore::Resume(
    const std::string& id, int64_t bytes, int64_t persisted_size) {
  QS_RETURN_IF_ERROR(CheckStaging(id, bytes));
  if (!std::filesystem::exists(folder_->Staging(id))) {
    return absl::NotFoundError(
        absl::StrCat("staging \"", id, "\" is not there"));
  }
  if (persisted_size < 0 || persisted_size > bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "persisted_size: got ", persisted_size, ", allowed 0 to ", bytes));
  }
  QS_RETURN_IF_ERROR(folder_->BeginWriter(id, bytes));
  auto writer = std::make_unique<DirWriter>(folder_, id, bytes);
  QS_RETURN_IF_ERROR(writer->OpenOld(persisted_size));
  return writer;
}

absl::Status DirBlobStore::Discard(const std::string& id) {
  QS_RETURN_IF_ERROR(CheckStaging(id, 0));
  return folder_->DiscardStaging(id);
}

absl::StatusOr<std::vector<std::string>> DirBlobStore::Staged() const {
  QS_ASSIGN_OR_RETURN(const auto files, FilesBelow(folder_->Staging()));
  std::vector<std::string> ids;
  for (const auto& file : files) ids.push_back(file.filename());
  return ids;
}

absl::StatusOr<std::unique_ptr<BlobReader>> DirBlobStore::Open(
    const std::string& digest) {
  return OpenDirBlob(folder_, digest);
}

absl::StatusOr<bool> DirBlobStore::Has(const std::string& digest) const {
  QS_ASSIGN_OR_RETURN(const std::string hex, HexOfDigest(digest));
  return std::filesystem::exists(folder_->Blob(hex));
}

absl::StatusOr<bool> DirBlobStore::HasDurable(const std::string& digest) {
  QS_ASSIGN_OR_RETURN(const bool there, Has(digest));
  if (!there) return false;
  QS_ASSIGN_OR_RETURN(const std::string hex, HexOfDigest(digest));
  QS_RETURN_IF_ERROR(SyncFolder(folder_->FolderOf(hex)));
  return true;
}

absl::Status DirBlobStore::Delete(const std::string& digest) {
  QS_ASSIGN_OR_RETURN(const std::string hex, HexOfDigest(digest));
  absl::MutexLock lock(&folder_->MutexOf(hex));
  const std::string path = folder_->Blob(hex);
  const int64_t bytes = FileSize(path);
  if (::unlink(path.c_str()) != 0) {
    if (errno != ENOENT) return PosixError(errno, "delete", path);
    return absl::NotFoundError(absl::StrCat("blob ", digest, " is not there"));
  }
  ::unlink(folder_->Sums(hex).c_str());
  folder_->DropBlob(bytes);
  return SyncFolder(folder_->FolderOf(hex));
}

absl::StatusOr<std::vector<BlobInfo>> DirBlobStore::List() const {
  QS_ASSIGN_OR_RETURN(const auto files, FilesBelow(folder_->Blobs()));
  std::vector<BlobInfo> blobs;
  for (const auto& file : files) {
    if (!file.extension().empty()) continue;
    blobs.push_back({DigestOfHex(file.filename()), FileSize(file)});
  }
  return blobs;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenDirBlobStore(
    const std::string& path, int64_t bytes_allowed) {
  auto folder = std::make_shared<BlobFolder>(path, bytes_allowed);
  QS_RETURN_IF_ERROR(folder->Open());
  return std::make_unique<DirBlobStore>(std::move(folder));
}

}  // namespace qs
