// BlobFolder: the paths, the lock and the bytes of a DirBlobStore, which the
// store, its writers and its readers share; and the file calls that they need.
// Thread: thread-safe.
#ifndef QS_SERVICE_STORE_BLOB_FOLDER_H_
#define QS_SERVICE_STORE_BLOB_FOLDER_H_

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/formats/posix_file.h"

namespace qs {

// The 64 digits of "sha256:<hex>". Errors: INVALID_ARGUMENT.
absl::StatusOr<std::string> HexOfDigest(const std::string& digest);
std::string DigestOfHex(const std::string& hex);

// Errors of all: as PosixError.
absl::Status SyncFolder(const std::string& path);
absl::Status MakeFolder(const std::string& path);  // its parent is there
absl::Status RenameFile(const std::string& from, const std::string& to);
// 0 when it is not there.
int64_t FileSize(const std::filesystem::path& path);
// Regular files below `path`.
absl::StatusOr<std::vector<std::filesystem::path>> FilesBelow(
    const std::string& path);

class BlobFolder {
 public:
  BlobFolder(std::string path, int64_t allowed)
      : path_(std::move(path)), allowed_(allowed) {}

  // Makes what is missing, takes the lock, counts what is there. Errors: as
  // PosixError; FAILED_PRECONDITION — another process has the lock.
  absl::Status Open();

  std::string Staging() const { return path_ + "/staging"; }
  std::string Staging(const std::string& id) const {
    return Staging() + "/" + id;
  }
  std::string Blobs() const { return path_ + "/blobs"; }
  std::string FolderOf(const std::string& hex) const {
    return Blobs() + "/" + hex.substr(0, 2) + "/" + hex.substr(2, 2);
  }
  std::string Blob(const std::string& hex) const {
    return FolderOf(hex) + "/" + hex;
  }
  std::string Sums(const std::string& hex) const { return Blob(hex) + ".crc"; }
  // REQUIRES: the caller holds MutexOf(hex).
  absl::Status MakeFolderOf(const std::string& hex);

  int64_t allowed() const { return allowed_; }
  int64_t used() const {
    absl::MutexLock lock(&mutex_);
    return used_;
  }

  // A writer of `id`, for `bytes` in all: reserves them, instead of what `id`
  // had. Errors: ALREADY_EXISTS — it has a writer; RESOURCE_EXHAUSTED.
  absl::Status BeginWriter(const std::string& id, int64_t bytes);
  void EndWriter(const std::string& id);
  // The staging file is gone: its bytes are a blob's now, or free.
  void CommitStaging(const std::string& id, bool is_new_blob);
  // Errors: as PosixError; FAILED_PRECONDITION — it has a writer.
  absl::Status DiscardStaging(const std::string& id);

  // Of BlobStore.
  absl::Status ReserveRoom(int64_t bytes);
  void AddRoom(int64_t bytes);

  // Held while a blob comes or goes: one for all below the same folder of
  // Blobs(), so that blobs of others are synced at the same time.
  absl::Mutex& MutexOf(const std::string& hex) {
    return blob_mutexes_[std::stoul(hex.substr(0, 2), nullptr, 16)];
  }
  // A blob of so many bytes is gone.
  void DropBlob(int64_t bytes);
  // Puts a damaged blob aside.
  void Quarantine(const std::string& hex, int64_t bytes);

 private:
  struct Staged {
    int64_t bytes = 0;  // counted in used_
    bool has_writer = false;
  };

  absl::Status TakeLocked(int64_t bytes, int64_t before)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status SyncFolders() const;
  absl::Status CountBlobs();
  absl::Status CountStaging();

  const std::string path_;
  const int64_t allowed_;
  UniqueFd lock_;
  std::array<absl::Mutex, 256> blob_mutexes_;
  mutable absl::Mutex mutex_;
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Staged> staged_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_BLOB_FOLDER_H_
