// The BlobReader of a DirBlobStore. Thread: one user at a time.
#ifndef QS_SERVICE_STORE_DIR_BLOB_READER_H_
#define QS_SERVICE_STORE_DIR_BLOB_READER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "quant/formats/posix_file.h"
#include "service/store/blob_folder.h"
#include "service/store/blob_store.h"
#include "service/store/blob_sums.h"

namespace qs {

// Errors: INVALID_ARGUMENT — not a digest; NOT_FOUND; DATA_LOSS. Sums that are
// damaged are made anew when the blob's digest is right.
absl::StatusOr<std::unique_ptr<BlobReader>> OpenDirBlob(
    std::shared_ptr<BlobFolder> folder, const std::string& digest);

}  // namespace qs

#endif  // QS_SERVICE_STORE_DIR_BLOB_READER_H_
