// Tested by tests/service/tensors/tensor_store_test.cc.
#include "service/tensors/upload_writer.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/base/metrics.h"
#include "service/server/error.h"
#include "service/tensors/store_error.h"

namespace qs {
namespace {

std::atomic<int64_t> last_ticket{0};

void CountBytes(size_t bytes) {
  static Counter& counter =
      CounterOf("quantd_upload_bytes_total", "Bytes that uploads have written");
  counter.Increment(static_cast<double>(bytes));
}

void CountResume() {
  static Counter& counter =
      CounterOf("quantd_upload_resumes_total",
                "Uploads that went on where another stream had ended");
  counter.Increment();
}

absl::Status GoneError(const std::string& id) {
  return RpcError(absl::StatusCode::kNotFound, "UPLOAD_EXPIRED",
                  absl::StrCat("upload: ", id, " is not there"));
}

}  // namespace

StoredTensor TensorOf(const TensorParts& parts, const UploadRecord& upload,
                      const std::string& digest) {
  const int64_t now = absl::ToUnixMillis(parts.options.now());
  return {upload.project, upload.id, upload.spec, digest,
          absl::FromUnixMillis(now)};
}

absl::StatusOr<bool> CompleteFromBlob(const TensorParts& parts,
                                      const UploadRecord& upload) {
  if (upload.digest.empty()) return false;
  const BlobKeeper::Hold hold(parts.keeper);
  const absl::StatusOr<bool> there = parts.blobs.HasDurable(upload.digest);
  if (!there.ok()) return StoreError(there.status());
  if (!*there) return false;
  QS_RETURN_IF_ERROR(StoreError(
      parts.records.Complete(TensorOf(parts, upload, upload.digest))));
  return true;
}

// The record first: a file without a record is taken away at the next start.
absl::Status DiscardUpload(const TensorParts& parts,
                           const UploadRecord& upload) {
  QS_RETURN_IF_ERROR(
      StoreError(parts.records.DropUpload(upload.project, upload.id)));
  parts.blobs.Discard(StagingId(upload)).IgnoreError();
  return absl::OkStatus();
}

std::shared_ptr<UploadSession> UploadSessions::Enter(const std::string& project,
                                                     const std::string& id) {
  absl::MutexLock lock(&mutex_);
  std::weak_ptr<UploadSession>& weak = sessions_[{project, id}];
  std::shared_ptr<UploadSession> session = weak.lock();
  if (session == nullptr) {
    session = std::make_shared<UploadSession>();
    weak = session;
  }
  return session;
}

void UploadSessions::Leave(const std::string& project, const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found = sessions_.find({project, id});
  if (found != sessions_.end() && found->second.expired()) {
    sessions_.erase(found);
  }
}

absl::StatusOr<std::unique_ptr<UploadWriter>> UploadWriter::Open(
    const TensorParts& parts, UploadSessions& sessions,
    const std::string& project, const std::string& id,
    std::function<void()> on_taken) {
  std::unique_ptr<UploadWriter> writer(
      new UploadWriter(parts, sessions, project, id));
  std::function<void()> taken_from;
  QS_RETURN_IF_ERROR(writer->Take(std::move(on_taken), &taken_from));
  if (taken_from) taken_from();
  return writer;
}

absl::Status UploadWriter::Take(std::function<void()> on_taken,
                                std::function<void()>* taken_from) {
  absl::MutexLock lock(&session_->mutex);
  if (session_->blob == nullptr) {
    absl::StatusOr<UploadRecord> record =
        parts_.records.GetUpload(project_, id_);
    if (absl::IsNotFound(record.status())) return GoneError(id_);
    if (!record.ok()) return StoreError(record.status());
    if (!record->complete && record->expires < parts_.options.now()) {
      return GoneError(id_);
    }
    QS_RETURN_IF_ERROR(Resume(*std::move(record)));
  }
  persisted_ = session_->record.persisted;
  complete_ = session_->record.complete;
  if (complete_) return absl::OkStatus();
  if (persisted_ > 0) CountResume();
  *taken_from = std::exchange(session_->on_taken, std::move(on_taken));
  ticket_ = session_->holder = ++last_ticket;
  return absl::OkStatus();
}

absl::Status UploadWriter::Resume(UploadRecord record) {
  session_->record = std::move(record);
  UploadRecord& upload = session_->record;
  if (upload.complete) return absl::OkStatus();
  auto blob = parts_.blobs.Resume(StagingId(upload), upload.spec.bytes,
                                  upload.persisted);
  if (blob.ok()) {
    session_->blob = *std::move(blob);
    return absl::OkStatus();
  }
  if (absl::IsNotFound(blob.status())) {
    QS_ASSIGN_OR_RETURN(upload.complete, CompleteFromBlob(parts_, upload));
    if (upload.complete) return absl::OkStatus();
  } else if (!absl::IsDataLoss(blob.status())) {
    return StoreError(blob.status());
  }
  QS_RETURN_IF_ERROR(DiscardUpload(parts_, upload));
  return RpcError(absl::StatusCode::kDataLoss, "UPLOAD_CORRUPT",
                  absl::StrCat("upload: ", std::string(blob.status().message()),
                               "; begin again"));
}

UploadWriter::~UploadWriter() {
  {
    absl::MutexLock lock(&session_->mutex);
    if (ticket_ != 0 && session_->holder == ticket_) {
      if (session_->blob != nullptr) FlushLocked("").IgnoreError();
      session_->blob = nullptr;
      session_->holder = 0;
      session_->on_taken = nullptr;
    }
  }
  session_ = nullptr;
  sessions_.Leave(project_, id_);
}

absl::Status UploadWriter::Invalid(const std::string& reason,
                                   const std::string& text) const {
  return RpcError(absl::StatusCode::kInvalidArgument, reason, text,
                  {{"persisted_size", absl::StrCat(persisted_)}});
}

absl::Status UploadWriter::CheckHolder() {
  if (session_->holder != ticket_ || ticket_ == 0) {
    return RpcError(absl::StatusCode::kAborted, "CONCURRENT_WRITER",
                    absl::StrCat("upload: another writer has taken ", id_),
                    {{"persisted_size", absl::StrCat(persisted_)}});
  }
  if (session_->blob != nullptr) return absl::OkStatus();
  return StoreError(absl::InternalError("upload: the disk failed before"));
}

absl::Status UploadWriter::Failed(const absl::Status& status) {
  // What lies on the disk is unknown: the next writer begins at what was
  // persisted.
  if (!absl::IsResourceExhausted(status)) session_->blob = nullptr;
  return StoreError(status, {{"persisted_size", absl::StrCat(persisted_)}});
}

absl::Status UploadWriter::Write(int64_t offset,
                                 std::span<const uint8_t> data) {
  absl::MutexLock lock(&session_->mutex);
  if (!complete_) QS_RETURN_IF_ERROR(CheckHolder());
  const int64_t bytes = session_->record.spec.bytes;
  const int64_t size = complete_ ? bytes : session_->blob->size();
  const auto count = static_cast<int64_t>(data.size());
  if (offset > size) {
    return RpcError(
        absl::StatusCode::kFailedPrecondition, "OFFSET_GAP",
        absl::StrCat("offset: got ", offset, ", allowed 0 to ", size),
        {{"expected_offset", absl::StrCat(size)},
         {"persisted_size", absl::StrCat(persisted_)}});
  }
  if (offset < 0 || count > bytes - offset) {
    return Invalid("TOO_MANY_BYTES",
                   absl::StrCat("offset: got ", count, " bytes from ", offset,
                                " on, the tensor has ", bytes));
  }
  if (complete_) return absl::OkStatus();
  const auto skip = static_cast<size_t>(std::min(size - offset, count));
  const absl::Status written = session_->blob->Append(data.subspan(skip));
  if (!written.ok()) return Failed(written);
  CountBytes(data.size() - skip);
  if (session_->blob->size() - persisted_ < parts_.options.flush_bytes) {
    return absl::OkStatus();
  }
  return FlushLocked("");
}

absl::Status UploadWriter::Flush() {
  if (complete_) return absl::OkStatus();
  absl::MutexLock lock(&session_->mutex);
  QS_RETURN_IF_ERROR(CheckHolder());
  return FlushLocked("");
}

// The bytes first, then the record, then the answer: what was answered is
// there. Bytes beyond the record are cut off when the upload is opened again.
absl::Status UploadWriter::FlushLocked(const std::string& digest) {
  BlobWriter& blob = *session_->blob;
  UploadRecord& record = session_->record;
  if (blob.size() == record.persisted &&
      (digest.empty() || digest == record.digest)) {
    return absl::OkStatus();
  }
  const absl::Status flushed = blob.Flush();
  if (!flushed.ok()) return Failed(flushed);
  const absl::Time expires = ExpiryOf(parts_.options);
  const absl::Status recorded = parts_.records.SetPersisted(
      project_, id_, blob.persisted_size(), digest, expires);
  if (!recorded.ok()) {
    return StoreError(recorded, {{"persisted_size", absl::StrCat(persisted_)}});
  }
  record.persisted = persisted_ = blob.persisted_size();
  record.digest = digest;
  record.expires = expires;
  return absl::OkStatus();
}

absl::StatusOr<StoredTensor> UploadWriter::Finish() {
  absl::MutexLock lock(&session_->mutex);
  if (!complete_) {
    QS_RETURN_IF_ERROR(CheckHolder());
    const int64_t size = session_->blob->size();
    const int64_t bytes = session_->record.spec.bytes;
    const std::string expected = session_->record.expected;
    if (size != bytes) {
      return Invalid(
          "TOO_FEW_BYTES",
          absl::StrCat("finish: got ", size, " bytes, the tensor has ", bytes));
    }
    const absl::StatusOr<std::string> digest = session_->blob->Digest();
    if (!digest.ok()) return Failed(digest.status());
    if (!expected.empty() && *digest != expected) {
      QS_RETURN_IF_ERROR(Discard());
      return RpcError(absl::StatusCode::kInvalidArgument, "DIGEST_MISMATCH",
                      absl::StrCat("sha256: got ", *digest, ", expected ",
                                   expected, "; the upload is discarded"),
                      {{"got", *digest}, {"expected", expected}});
    }
    return Publish(*digest);
  }
  absl::StatusOr<StoredTensor> tensor = parts_.records.GetTensor(project_, id_);
  if (absl::IsNotFound(tensor.status())) return GoneError(id_);
  if (!tensor.ok()) return StoreError(tensor.status());
  return tensor;
}

// The digest is recorded before the staging file becomes a blob: a process that
// is killed between finds by it what became of the bytes.
absl::StatusOr<StoredTensor> UploadWriter::Publish(const std::string& digest) {
  QS_RETURN_IF_ERROR(FlushLocked(digest));
  const StoredTensor tensor = TensorOf(parts_, session_->record, digest);
  const BlobKeeper::Hold hold(parts_.keeper);
  const absl::StatusOr<std::string> committed = session_->blob->Commit(digest);
  if (!committed.ok()) return Failed(committed.status());
  const absl::Status recorded = parts_.records.Complete(tensor);
  session_->blob = nullptr;  // its file is gone
  if (!recorded.ok()) return StoreError(recorded);
  complete_ = true;
  return tensor;
}

absl::Status UploadWriter::Discard() {
  session_->blob = nullptr;
  session_->holder = 0;
  session_->on_taken = nullptr;
  return DiscardUpload(parts_, session_->record);
}

}  // namespace qs
