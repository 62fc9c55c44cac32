// Tested by tests/service/tensors/tensor_store_test.cc.
#include "service/tensors/tensor_store.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "service/base/random_id.h"
#include "service/server/error.h"
#include "service/stream/digest.h"
#include "service/tensors/store_error.h"

namespace qs {
namespace {

constexpr int64_t kAllUploads = int64_t{1} << 40;
constexpr int64_t kExpiredAtOnce = 1000;

absl::Status TensorGone(const std::string& id) {
  return RpcError(absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND",
                  absl::StrCat("tensor: ", id, " is not there"));
}

absl::Status UploadGone(const std::string& id) {
  return RpcError(absl::StatusCode::kNotFound, "UPLOAD_EXPIRED",
                  absl::StrCat("upload: ", id, " is not there"));
}

absl::Status TooManyError(const absl::Status& status) {
  return RetryableError(absl::StatusCode::kResourceExhausted,
                        "TOO_MANY_TENSORS", std::string(status.message()), {},
                        absl::Minutes(1));
}

// Of everything that the request says. Lengths keep fields apart.
std::string RequestHash(const NewUpload& upload) {
  const std::string text =
      absl::StrCat(upload.spec.name.size(), ":", upload.spec.name, ":",
                   DTypeName(upload.spec.dtype), ":",
                   absl::StrJoin(upload.spec.shape, ","), ":", upload.expected);
  Sha256 hash;
  hash.Update(
      std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  return hash.Finish();
}

}  // namespace

absl::Status BlobCorruptError(const std::string& digest) {
  CountDamagedRead();
  return RpcError(
      absl::StatusCode::kDataLoss, "BLOB_CORRUPT",
      absl::StrCat("tensor: its bytes are damaged: upload ", digest, " again"),
      {{"digest", digest}});
}

absl::StatusOr<std::unique_ptr<TensorStore>> TensorStore::Open(
    const TensorParts& parts) {
  std::unique_ptr<TensorStore> store(new TensorStore(parts));
  QS_RETURN_IF_ERROR(store->PutInOrder());
  return store;
}

absl::Status TensorStore::PutInOrder() {
  QS_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                      parts_.blobs.Staged());
  std::set<std::string> staged(files.begin(), files.end());
  QS_ASSIGN_OR_RETURN(
      const std::vector<UploadRecord> uploads,
      parts_.records.OpenUploads(absl::InfiniteFuture(), kAllUploads));
  for (const UploadRecord& upload : uploads) {
    if (staged.erase(StagingId(upload)) > 0) continue;
    QS_ASSIGN_OR_RETURN(const bool complete, CompleteFromBlob(parts_, upload));
    if (complete) continue;
    QS_RETURN_IF_ERROR(parts_.records.DropUpload(upload.project, upload.id));
  }
  for (const std::string& id : staged) {
    if (!absl::StartsWith(id, kStagingPrefix)) continue;
    QS_RETURN_IF_ERROR(parts_.blobs.Discard(id));
  }
  return absl::OkStatus();
}

absl::StatusOr<UploadRecord> TensorStore::CreateUpload(
    const std::string& project, const NewUpload& upload) {
  if (upload.spec.bytes > parts_.options.max_tensor_bytes) {
    return RpcError(
        absl::StatusCode::kInvalidArgument, "TENSOR_TOO_LARGE",
        absl::StrCat("shape: got ", upload.spec.bytes, " bytes, allowed ",
                     parts_.options.max_tensor_bytes),
        {{"allowed", absl::StrCat(parts_.options.max_tensor_bytes)}});
  }
  const std::string hash = RequestHash(upload);
  const size_t stripe =
      std::hash<std::string>()(upload.request_id) % creating_.size();
  std::optional<absl::MutexLock> lock;
  if (!upload.request_id.empty()) {
    lock.emplace(&creating_[stripe]);
    absl::StatusOr<UploadRecord> found = Find(project, upload.request_id, hash);
    if (!absl::IsNotFound(found.status())) return found;
  }
  UploadRecord record;
  record.project = project;
  record.id = RandomId();
  record.request_id = upload.request_id;
  record.request_hash = hash;
  record.spec = upload.spec;
  record.expected = upload.expected;
  record.expires = ExpiryOf(parts_.options);
  QS_RETURN_IF_ERROR(CheckBytesNow(record));
  QS_ASSIGN_OR_RETURN(const bool known, CreateFromBlob(&record));
  return known ? record : CreateNew(std::move(record));
}

absl::StatusOr<UploadRecord> TensorStore::Find(const std::string& project,
                                               const std::string& request_id,
                                               const std::string& hash) {
  absl::StatusOr<UploadRecord> found =
      parts_.records.FindUpload(project, request_id);
  if (absl::IsNotFound(found.status())) return found;
  if (!found.ok()) return StoreError(found.status());
  if (!found->complete && found->expires < parts_.options.now()) {
    QS_RETURN_IF_ERROR(ExpireOne(*found));
    return absl::NotFoundError("expired");
  }
  if (found->request_hash == hash) return found;
  return RpcError(absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED",
                  absl::StrCat("request_id: got \"", request_id,
                               "\", which came with another request"));
}

absl::Status TensorStore::CheckBytes(const UploadRecord& upload,
                                     int64_t used) const {
  const TensorStoreOptions& options = parts_.options;
  if (options.result_bytes) used += options.result_bytes(upload.project);
  return CheckProjectBytes(used, upload.spec.bytes, options.max_project_bytes);
}

// Before room in the store is taken; LimitsFor is what holds.
absl::Status TensorStore::CheckBytesNow(const UploadRecord& upload) {
  if (parts_.options.max_project_bytes == 0) return absl::OkStatus();
  const absl::StatusOr<int64_t> used =
      parts_.records.UploadBytes(upload.project);
  return used.ok() ? CheckBytes(upload, *used) : StoreError(used.status());
}

UploadLimits TensorStore::LimitsFor(const UploadRecord& upload) const {
  UploadLimits limits{.uploads = parts_.options.max_tensors};
  if (parts_.options.max_project_bytes > 0) {
    limits.bytes = [this, &upload](int64_t used) {
      return CheckBytes(upload, used);
    };
  }
  return limits;
}

absl::StatusOr<bool> TensorStore::CreateFromBlob(UploadRecord* upload) {
  if (upload->expected.empty()) return false;
  const BlobKeeper::Hold hold(parts_.keeper);
  const absl::StatusOr<bool> known =
      parts_.refs.IsInProject(upload->project, upload->expected);
  if (!known.ok()) return StoreError(known.status());
  if (!*known) return false;
  const auto blob = parts_.blobs.Open(upload->expected);
  // Damaged: the bytes may come again.
  if (absl::IsNotFound(blob.status()) || absl::IsDataLoss(blob.status())) {
    return false;
  }
  if (!blob.ok()) return StoreError(blob.status());
  const int64_t bytes = (*blob)->info().bytes;
  if (bytes != upload->spec.bytes) {
    return RpcError(absl::StatusCode::kInvalidArgument, "DIGEST_MISMATCH",
                    absl::StrCat("sha256: got a tensor of ", upload->spec.bytes,
                                 " bytes, the digest is of ", bytes));
  }
  upload->complete = true;
  upload->digest = upload->expected;
  upload->persisted = bytes;
  const StoredTensor tensor = TensorOf(parts_, *upload, upload->digest);
  const absl::Status added =
      parts_.records.AddUpload(*upload, &tensor, LimitsFor(*upload));
  if (added.ok()) return true;
  return absl::IsOutOfRange(added) ? TooManyError(added) : StoreError(added);
}

absl::StatusOr<UploadRecord> TensorStore::CreateNew(UploadRecord upload) {
  const absl::Status staged =
      parts_.blobs.Create(StagingId(upload), upload.spec.bytes).status();
  if (!staged.ok()) return StoreError(staged);
  const absl::Status added =
      parts_.records.AddUpload(upload, nullptr, LimitsFor(upload));
  if (added.ok()) return upload;
  parts_.blobs.Discard(StagingId(upload)).IgnoreError();
  return absl::IsOutOfRange(added) ? TooManyError(added) : StoreError(added);
}

absl::StatusOr<UploadRecord> TensorStore::GetUpload(const std::string& project,
                                                    const std::string& id) {
  absl::StatusOr<UploadRecord> upload = parts_.records.GetUpload(project, id);
  if (absl::IsNotFound(upload.status())) return UploadGone(id);
  if (!upload.ok()) return StoreError(upload.status());
  if (!upload->complete && upload->expires < parts_.options.now()) {
    return UploadGone(id);
  }
  return upload;
}

absl::StatusOr<std::unique_ptr<UploadWriter>> TensorStore::OpenUpload(
    const std::string& project, const std::string& id,
    std::function<void()> on_taken) {
  return UploadWriter::Open(parts_, sessions_, project, id,
                            std::move(on_taken));
}

absl::StatusOr<StoredTensor> TensorStore::GetTensor(const std::string& project,
                                                    const std::string& id) {
  absl::StatusOr<StoredTensor> tensor = parts_.records.GetTensor(project, id);
  if (absl::IsNotFound(tensor.status())) return TensorGone(id);
  if (!tensor.ok()) return StoreError(tensor.status());
  return tensor;
}

absl::StatusOr<std::vector<StoredTensor>> TensorStore::ListTensors(
    const std::string& project, const TensorPosition& after, int64_t limit) {
  absl::StatusOr<std::vector<StoredTensor>> tensors =
      parts_.records.ListTensors(project, after, limit);
  if (!tensors.ok()) return StoreError(tensors.status());
  return tensors;
}

absl::Status TensorStore::DeleteTensor(const std::string& project,
                                       const std::string& id) {
  const auto unreferenced = parts_.records.DeleteTensor(project, id);
  if (absl::IsNotFound(unreferenced.status())) return TensorGone(id);
  if (!unreferenced.ok()) return StoreError(unreferenced.status());
  // It is deleted, whatever becomes of its bytes: those that stay are taken
  // away at the next start.
  parts_.keeper.Collect(*unreferenced).IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<OpenTensor> TensorStore::OpenForRead(const std::string& project,
                                                    const std::string& id) {
  QS_ASSIGN_OR_RETURN(StoredTensor record, GetTensor(project, id));
  auto reader = parts_.blobs.Open(record.digest);
  if (reader.ok()) return OpenTensor{std::move(record), *std::move(reader)};
  if (absl::IsNotFound(reader.status())) {
    // Deleted just now, or damaged before.
    QS_RETURN_IF_ERROR(GetTensor(project, id).status());
    return BlobCorruptError(record.digest);
  }
  if (absl::IsDataLoss(reader.status())) return BlobCorruptError(record.digest);
  return StoreError(reader.status());
}

absl::Status TensorStore::Expire() {
  QS_ASSIGN_OR_RETURN(
      const std::vector<UploadRecord> uploads,
      parts_.records.OpenUploads(parts_.options.now(), kExpiredAtOnce));
  for (const UploadRecord& upload : uploads) {
    QS_RETURN_IF_ERROR(ExpireOne(upload));
  }
  return absl::OkStatus();
}

absl::Status TensorStore::ExpireOne(const UploadRecord& upload) {
  absl::Status status;
  {
    const auto session = sessions_.Enter(upload.project, upload.id);
    absl::MutexLock lock(&session->mutex);
    // It may have got bytes, or an end, since it was found.
    const auto now = parts_.records.GetUpload(upload.project, upload.id);
    const bool expired = now.ok() && !now->complete && session->holder == 0 &&
                         now->expires < parts_.options.now();
    if (expired) status = DiscardUpload(parts_, upload);
  }
  sessions_.Leave(upload.project, upload.id);
  return status;
}

}  // namespace qs
