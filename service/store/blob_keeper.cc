// Tested by tests/service/store/tensor_records_test.cc.
#include "service/store/blob_keeper.h"

#include "kernels/base/status_macros.h"

namespace qs {

absl::Status BlobKeeper::Collect(const std::vector<std::string>& digests) {
  absl::WriterMutexLock lock(&mutex_);
  for (const std::string& digest : digests) {
    QS_ASSIGN_OR_RETURN(const bool needed, refs_.IsReferenced(digest));
    if (needed) continue;
    const absl::Status deleted = blobs_.Delete(digest);
    // Damage had put it aside before.
    if (!deleted.ok() && !absl::IsNotFound(deleted)) return deleted;
  }
  return absl::OkStatus();
}

absl::Status BlobKeeper::CollectAll() {
  QS_ASSIGN_OR_RETURN(const std::vector<BlobInfo> blobs, blobs_.List());
  std::vector<std::string> digests;
  digests.reserve(blobs.size());
  for (const BlobInfo& blob : blobs) digests.push_back(blob.digest);
  return Collect(digests);
}

}  // namespace qs
