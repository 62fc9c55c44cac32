// TensorStore: uploads and tensors — the records and the bytes of them, changed
// in an order that a crash at any moment leaves in one piece.
//
//   create    staging file, then record
//   write     bytes, sync, then record, then answer
//   finish    sync, record with the digest, blob, then record as complete
//   delete    record, then blob
//
// So a record without bytes and bytes without a record mean that the process
// was ended between two steps; Open puts both in order.
//
// Thread: thread-safe; every call blocks: call them on an IoPool. Errors: as
// the .proto says, StoreError's for the rest.
#ifndef QS_SERVICE_TENSORS_TENSOR_STORE_H_
#define QS_SERVICE_TENSORS_TENSOR_STORE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/tensors/tensor_parts.h"
#include "service/tensors/upload_writer.h"

namespace qs {

struct NewUpload {
  StoredTensorSpec spec;   // sound: the caller checked it
  std::string expected;    // digest, or ""
  std::string request_id;  // or ""
};

// A tensor that is being read.
struct OpenTensor {
  StoredTensor record;
  std::unique_ptr<BlobReader> reader;
};

class TensorStore {
 public:
  // Puts in order what the last process left. BlobKeeper::CollectAll should
  // follow when every other owner of blobs has done the same.
  static absl::StatusOr<std::unique_ptr<TensorStore>> Open(
      const TensorParts& parts);

  const TensorStoreOptions& options() const { return parts_.options; }

  // Errors: ALREADY_EXISTS REQUEST_ID_REUSED; INVALID_ARGUMENT
  // TENSOR_TOO_LARGE, DIGEST_MISMATCH; RESOURCE_EXHAUSTED TOO_MANY_TENSORS,
  // PROJECT_QUOTA.
  absl::StatusOr<UploadRecord> CreateUpload(const std::string& project,
                                            const NewUpload& upload);
  // Errors: NOT_FOUND UPLOAD_EXPIRED.
  absl::StatusOr<UploadRecord> GetUpload(const std::string& project,
                                         const std::string& id);
  // See UploadWriter::Open. The store outlives the writer.
  absl::StatusOr<std::unique_ptr<UploadWriter>> OpenUpload(
      const std::string& project, const std::string& id,
      std::function<void()> on_taken);

  // Errors: NOT_FOUND TENSOR_NOT_FOUND.
  absl::StatusOr<StoredTensor> GetTensor(const std::string& project,
                                         const std::string& id);
  absl::StatusOr<std::vector<StoredTensor>> ListTensors(
      const std::string& project, const TensorPosition& after, int64_t limit);
  // Errors: NOT_FOUND TENSOR_NOT_FOUND.
  absl::Status DeleteTensor(const std::string& project, const std::string& id);
  // Errors: NOT_FOUND TENSOR_NOT_FOUND; DATA_LOSS BLOB_CORRUPT.
  absl::StatusOr<OpenTensor> OpenForRead(const std::string& project,
                                         const std::string& id);

  // Discards uploads that expired and that nobody writes, a thousand at most.
  absl::Status Expire();

 private:
  explicit TensorStore(const TensorParts& parts) : parts_(parts) {}

  absl::Status PutInOrder();
  absl::StatusOr<UploadRecord> Find(const std::string& project,
                                    const std::string& request_id,
                                    const std::string& hash);
  // Errors: RESOURCE_EXHAUSTED PROJECT_QUOTA.
  absl::Status CheckBytes(const UploadRecord& upload, int64_t used) const;
  absl::Status CheckBytesNow(const UploadRecord& upload);
  UploadLimits LimitsFor(const UploadRecord& upload) const;
  absl::StatusOr<UploadRecord> CreateNew(UploadRecord upload);
  // False: the project does not have these bytes.
  absl::StatusOr<bool> CreateFromBlob(UploadRecord* upload);
  absl::Status ExpireOne(const UploadRecord& upload);

  const TensorParts parts_;
  UploadSessions sessions_;
  // One create of a request id at a time, so that the others find its upload.
  std::array<absl::Mutex, 64> creating_;
};

// Of a damaged or missing blob that a record names.
absl::Status BlobCorruptError(const std::string& digest);

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_TENSOR_STORE_H_
