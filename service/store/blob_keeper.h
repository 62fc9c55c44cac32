// BlobKeeper: deletes blobs that nobody refers to, and none that somebody is
// about to refer to.
//
// Who makes a blob or finds one to refer to holds the keeper from before that
// until the reference is recorded:
//
//   BlobKeeper::Hold hold(keeper);
//   digest = writer->Commit(...);   // or: refs.IsInProject(...)
//   ... record the owner with its reference ...
//
// Who drops references calls Collect afterwards, without a Hold. A process that
// is killed between the two leaves a blob without a reference: CollectAll at
// the start takes it away, after every kind of owner has put its records in
// order.
//
// Thread: thread-safe; the calls block.
#ifndef QS_SERVICE_STORE_BLOB_KEEPER_H_
#define QS_SERVICE_STORE_BLOB_KEEPER_H_

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "service/store/blob_refs.h"
#include "service/store/blob_store.h"

namespace qs {

class BlobKeeper {
 public:
  // Both outlive it.
  BlobKeeper(BlobStore& blobs, BlobRefs& refs) : blobs_(blobs), refs_(refs) {}

  class ABSL_SCOPED_LOCKABLE Hold {
   public:
    explicit Hold(BlobKeeper& keeper) ABSL_SHARED_LOCK_FUNCTION(keeper.mutex_)
        : lock_(&keeper.mutex_) {}
    ~Hold() ABSL_UNLOCK_FUNCTION() = default;

   private:
    absl::ReaderMutexLock lock_;
  };

  // Deletes those of `digests` that nobody refers to. Errors: of BlobStore's
  // Delete and of BlobRefs; the rest is left for CollectAll.
  absl::Status Collect(const std::vector<std::string>& digests);
  absl::Status CollectAll();

 private:
  BlobStore& blobs_;
  BlobRefs& refs_;
  absl::Mutex mutex_;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_BLOB_KEEPER_H_
