// A BlobStore in a directory of a local file system:
//
//   DIR/lock                     held by the one process that uses it
//   DIR/staging/ID               bytes of a blob that is being written
//   DIR/blobs/ab/cd/<hex>        a blob, its bytes as they are
//   DIR/blobs/ab/cd/<hex>.crc    CRC32C of each MiB of it
//   DIR/quarantine/<hex>.N       a damaged blob and its sums
//
// A blob becomes visible by the rename of its bytes, after its sums; both and
// their folder are synced before the digest is returned. A failed sync is never
// tried again: what it left on the disk is unknown.
#ifndef QS_SERVICE_STORE_DIR_BLOB_STORE_H_
#define QS_SERVICE_STORE_DIR_BLOB_STORE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/store/blob_store.h"

namespace qs {

// Makes the folders, and takes away sums without a blob. Staging files count as
// large as they are until they are resumed or discarded.
// Errors: as PosixError; FAILED_PRECONDITION — another process uses it.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenDirBlobStore(
    const std::string& path, int64_t bytes_allowed);

}  // namespace qs

#endif  // QS_SERVICE_STORE_DIR_BLOB_STORE_H_
