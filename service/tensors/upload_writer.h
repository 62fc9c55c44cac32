// UploadWriter: one writer of an upload. The newest one of an upload has it;
// those before get CONCURRENT_WRITER.
#ifndef QS_SERVICE_TENSORS_UPLOAD_WRITER_H_
#define QS_SERVICE_TENSORS_UPLOAD_WRITER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/tensors/tensor_parts.h"

namespace qs {

// What `upload` becomes now, with these bytes.
StoredTensor TensorOf(const TensorParts& parts, const UploadRecord& upload,
                      const std::string& digest);
// Of an upload without a staging file: true when its bytes are a blob already,
// because the process ended before that was recorded. It is complete then.
absl::StatusOr<bool> CompleteFromBlob(const TensorParts& parts,
                                      const UploadRecord& upload);
// REQUIRES: it is open and has no writer.
absl::Status DiscardUpload(const TensorParts& parts,
                           const UploadRecord& upload);

// What the writers of one upload share. The staging file is open while one of
// them has the upload.
struct UploadSession {
  absl::Mutex mutex;
  UploadRecord record ABSL_GUARDED_BY(mutex);
  std::unique_ptr<BlobWriter> blob ABSL_GUARDED_BY(mutex);  // or null
  int64_t holder ABSL_GUARDED_BY(mutex) = 0;                // 0: nobody
  std::function<void()> on_taken ABSL_GUARDED_BY(mutex);
};

// The sessions in use, by project and id. Thread: thread-safe.
class UploadSessions {
 public:
  std::shared_ptr<UploadSession> Enter(const std::string& project,
                                       const std::string& id);
  // After the caller let its session go.
  void Leave(const std::string& project, const std::string& id);

 private:
  using Key = std::pair<std::string, std::string>;
  absl::Mutex mutex_;
  std::map<Key, std::weak_ptr<UploadSession>> sessions_ ABSL_GUARDED_BY(mutex_);
};

// Thread: one call at a time; each may block. Errors of all calls but the
// destructor, with `persisted_size` in the metadata where the upload lives on:
// ABORTED CONCURRENT_WRITER; RESOURCE_EXHAUSTED DISK_FULL — the same call may
// go well later; INTERNAL STORE_FAILED — this writer is of no more use, a new
// one is.
class UploadWriter {
 public:
  // Takes the upload from whoever has it, whose `on_taken` is called (on this
  // thread). Opens a complete upload, too; bytes are skipped then.
  // `parts` and `sessions` outlive it. Errors: NOT_FOUND UPLOAD_EXPIRED;
  // DATA_LOSS UPLOAD_CORRUPT — the upload is discarded; StoreError's.
  static absl::StatusOr<std::unique_ptr<UploadWriter>> Open(
      const TensorParts& parts, UploadSessions& sessions,
      const std::string& project, const std::string& id,
      std::function<void()> on_taken);
  // Persists what was received when it has the upload still.
  ~UploadWriter();
  UploadWriter(const UploadWriter&) = delete;
  UploadWriter& operator=(const UploadWriter&) = delete;

  const std::string& id() const { return id_; }
  // As of the last call.
  int64_t persisted_size() const { return persisted_; }

  // Errors: FAILED_PRECONDITION OFFSET_GAP; INVALID_ARGUMENT TOO_MANY_BYTES.
  absl::Status Write(int64_t offset, std::span<const uint8_t> data);
  absl::Status Flush();
  // The tensor, visible and durable. Errors: INVALID_ARGUMENT TOO_FEW_BYTES;
  // INVALID_ARGUMENT DIGEST_MISMATCH — the upload is discarded.
  absl::StatusOr<StoredTensor> Finish();

 private:
  UploadWriter(const TensorParts& parts, UploadSessions& sessions,
               std::string project, std::string id)
      : parts_(parts),
        sessions_(sessions),
        project_(std::move(project)),
        id_(std::move(id)),
        session_(sessions.Enter(project_, id_)) {}

  absl::Status Take(std::function<void()> on_taken,
                    std::function<void()>* taken_from);
  absl::Status Resume(UploadRecord record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session_->mutex);
  absl::Status CheckHolder() ABSL_EXCLUSIVE_LOCKS_REQUIRED(session_->mutex);
  absl::Status FlushLocked(const std::string& digest)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session_->mutex);
  absl::Status Discard() ABSL_EXCLUSIVE_LOCKS_REQUIRED(session_->mutex);
  absl::StatusOr<StoredTensor> Publish(const std::string& digest)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session_->mutex);
  // After an error of the blob's writer.
  absl::Status Failed(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(session_->mutex);
  absl::Status Invalid(const std::string& reason,
                       const std::string& text) const;

  const TensorParts& parts_;
  UploadSessions& sessions_;
  const std::string project_;
  const std::string id_;
  std::shared_ptr<UploadSession> session_;
  int64_t ticket_ = 0;  // of this writer as a holder
  int64_t persisted_ = 0;
  bool complete_ = false;
};

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_UPLOAD_WRITER_H_
