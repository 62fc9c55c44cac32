// TensorRecords: what is known of tensors and of the uploads that make them.
// The bytes are a BlobStore's.
//
// An upload and the tensor that it becomes have the same id, which the caller
// chooses and never uses twice. A tensor refers to its blob as owner "tensor"
// (see BlobRefs); the reference comes and goes with it.
//
// Thread: thread-safe; every call blocks: call them on an IoPool.
// Errors of all: RESOURCE_EXHAUSTED — the disk is full; DATA_LOSS — the records
// are damaged; INTERNAL — the disk failed. What returned OK is durable.
#ifndef QS_SERVICE_STORE_TENSOR_RECORDS_H_
#define QS_SERVICE_STORE_TENSOR_RECORDS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/base/dtype.h"
#include "service/store/blob_refs.h"

namespace qs {

struct StoredTensorSpec {
  std::string name;  // as in its checkpoint; need not be unique
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t bytes = 0;  // of dtype and shape
  bool operator==(const StoredTensorSpec&) const = default;
};

struct UploadRecord {
  std::string project;
  std::string id;
  std::string request_id;    // "": none; else one of its project
  std::string request_hash;  // of what was asked for under request_id
  StoredTensorSpec spec;
  std::string expected;   // digest that the client named, or ""
  std::string digest;     // of all its bytes, once they are persisted, or ""
  int64_t persisted = 0;  // bytes that a crash leaves
  bool complete = false;  // the tensor is there
  absl::Time expires;     // while it is not complete; milliseconds count
  bool operator==(const UploadRecord&) const = default;
};

struct StoredTensor {
  std::string project;
  std::string id;
  StoredTensorSpec spec;
  std::string digest;
  absl::Time created;  // milliseconds count
  bool operator==(const StoredTensor&) const = default;
};

// Where a page of a list begins: behind this one. Empty: at the start.
struct TensorPosition {
  std::string name;
  std::string id;
  bool operator==(const TensorPosition&) const = default;
};

// Called with the bytes of a project's uploads, each with its whole size and
// complete ones (that is, tensors) counted: two tensors of one blob count
// twice. Runs on the thread that writes, so it does not block and does not use
// the records.
using UploadBytesCheck = std::function<absl::Status(int64_t bytes)>;

struct UploadLimits {
  int64_t uploads = 0;               // of a project, complete ones counted
  UploadBytesCheck bytes = nullptr;  // before the new one; null: any
};

inline BlobOwner OwnerOf(const StoredTensor& tensor) {
  return {"tensor", tensor.project + "/" + tensor.id};
}

class TensorRecords {
 public:
  virtual ~TensorRecords() = default;

  // `tensor` null: the upload is open. Else it is complete and this is the
  // tensor, whose blob is there. The limits hold at the moment of the write.
  // Errors: ALREADY_EXISTS — its id or its request id is in use; OUT_OF_RANGE —
  // `limits.uploads` are there; those of `limits.bytes`.
  virtual absl::Status AddUpload(const UploadRecord& upload,
                                 const StoredTensor* tensor,
                                 const UploadLimits& limits) = 0;
  // Calls `check` so that no upload is added from its call to its end, and
  // returns its error.
  virtual absl::Status CheckUploadBytes(const std::string& project,
                                        const UploadBytesCheck& check) = 0;
  // As they are now: see UploadBytesCheck.
  virtual absl::StatusOr<int64_t> UploadBytes(const std::string& project) = 0;
  // Errors: NOT_FOUND.
  virtual absl::StatusOr<UploadRecord> GetUpload(const std::string& project,
                                                 const std::string& id) = 0;
  // Errors: NOT_FOUND.
  virtual absl::StatusOr<UploadRecord> FindUpload(
      const std::string& project, const std::string& request_id) = 0;
  // Errors: NOT_FOUND — no open upload of that id.
  virtual absl::Status SetPersisted(const std::string& project,
                                    const std::string& id, int64_t persisted,
                                    const std::string& digest,
                                    absl::Time expires) = 0;
  // The upload of the tensor's id becomes complete, and the tensor is there.
  // Errors: NOT_FOUND — no open upload of that id.
  virtual absl::Status Complete(const StoredTensor& tensor) = 0;
  // Errors: NOT_FOUND — no open upload of that id.
  virtual absl::Status DropUpload(const std::string& project,
                                  const std::string& id) = 0;
  // Those that are open and expire before `time`, at most `limit`.
  virtual absl::StatusOr<std::vector<UploadRecord>> OpenUploads(
      absl::Time before, int64_t limit) = 0;

  // Errors: NOT_FOUND.
  virtual absl::StatusOr<StoredTensor> GetTensor(const std::string& project,
                                                 const std::string& id) = 0;
  // By name, then id.
  virtual absl::StatusOr<std::vector<StoredTensor>> ListTensors(
      const std::string& project, const TensorPosition& after,
      int64_t limit) = 0;
  // With its upload. Returns the digests that nobody refers to now.
  // Errors: NOT_FOUND.
  virtual absl::StatusOr<std::vector<std::string>> DeleteTensor(
      const std::string& project, const std::string& id) = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_TENSOR_RECORDS_H_
