// What the tensor store and its writers are made of, and their limits.
#ifndef QS_SERVICE_TENSORS_TENSOR_PARTS_H_
#define QS_SERVICE_TENSORS_TENSOR_PARTS_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/store/blob_keeper.h"
#include "service/store/blob_refs.h"
#include "service/store/blob_store.h"
#include "service/store/tensor_records.h"

namespace qs {

struct TensorStoreOptions {
  int64_t max_tensor_bytes = int64_t{16} << 30;
  int64_t max_tensors = 1'000'000;  // of a project, open uploads counted
  // Of a project: whole uploads, open or complete, and what `result_bytes`
  // says. 0: no limit.
  int64_t max_project_bytes = 0;
  // Bytes that results of jobs of a project take; null: none. Called on the
  // thread that writes records: does not block.
  std::function<int64_t(const std::string& project)> result_bytes;
  // An open upload is discarded so long after its last byte.
  absl::Duration upload_expiry = absl::Hours(24);
  // Received bytes are persisted, at the latest, when there are so many.
  int64_t flush_bytes = int64_t{32} << 20;
  std::function<absl::Time()> now = [] { return absl::Now(); };
};

// All outlive who uses them.
struct TensorParts {
  BlobStore& blobs;
  TensorRecords& records;
  BlobRefs& refs;
  BlobKeeper& keeper;
  TensorStoreOptions options;
};

// When an upload that gets a byte now expires, in the records' precision.
inline absl::Time ExpiryOf(const TensorStoreOptions& options) {
  return absl::FromUnixMillis(
      absl::ToUnixMillis(options.now() + options.upload_expiry));
}

// Of an upload's staging file. Others use the same BlobStore.
constexpr char kStagingPrefix[] = "u-";
inline std::string StagingId(const UploadRecord& upload) {
  return kStagingPrefix + upload.id;
}

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_TENSOR_PARTS_H_
