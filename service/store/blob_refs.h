// BlobRefs: who needs which blob. A blob that nobody refers to is deleted.
//
// The references are records: whoever owns a blob (a tensor, a job, a
// calibration) adds or drops its references in the transaction that makes or
// deletes the owner. BlobKeeper says when.
#ifndef QS_SERVICE_STORE_BLOB_REFS_H_
#define QS_SERVICE_STORE_BLOB_REFS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qs {

// "tensor" and "projects/p/tensors/1". An owner may have many blobs.
struct BlobOwner {
  std::string kind;
  std::string id;
};

// Thread: thread-safe; every call blocks. Errors of all: RESOURCE_EXHAUSTED —
// the disk is full; DATA_LOSS — the records are damaged; INTERNAL.
class BlobRefs {
 public:
  virtual ~BlobRefs() = default;

  // No effect when it is there.
  virtual absl::Status Add(const std::string& project,
                           const std::string& digest,
                           const BlobOwner& owner) = 0;
  // All of the owner's. Returns the digests that nobody refers to now: what
  // BlobKeeper::Collect is for.
  virtual absl::StatusOr<std::vector<std::string>> Drop(
      const BlobOwner& owner) = 0;
  virtual absl::StatusOr<bool> IsReferenced(const std::string& digest) = 0;
  // Whether something of the project refers to it. One project does not learn
  // what another has.
  virtual absl::StatusOr<bool> IsInProject(const std::string& project,
                                           const std::string& digest) = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_BLOB_REFS_H_
