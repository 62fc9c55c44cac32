// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/server/stores.h"

#include <filesystem>
#include <string>
#include <system_error>

#include "kernels/base/status_macros.h"
#include "service/store/blob_folder.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_calibration_records.h"
#include "service/store/sqlite_job_records.h"
#include "service/store/sqlite_tensor_records.h"

namespace qs {
namespace {

// Unary calls that may wait for a thread; streams bound themselves.
constexpr size_t kMaxQueuedCalls = 1024;

// Those that are not there, each synced into its parent.
absl::Status MakeFolders(const std::filesystem::path& path) {
  std::error_code error;
  if (path.empty() || std::filesystem::exists(path, error)) {
    return absl::OkStatus();
  }
  QS_RETURN_IF_ERROR(MakeFolders(path.parent_path()));
  return MakeFolder(path.string());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stores>> Stores::Open(
    const ServerOptions& options) {
  const std::string& path = options.data_dir;
  QS_RETURN_IF_ERROR(MakeFolders(std::filesystem::absolute(path)));
  std::unique_ptr<Stores> stores(new Stores);
  QS_ASSIGN_OR_RETURN(
      stores->blobs_,
      OpenDirBlobStore(path + "/blobs", options.max_store_bytes));
  QS_ASSIGN_OR_RETURN(
      stores->records_,
      SqliteDatabase::Open(path + "/meta.sqlite",
                           {BlobRefsSchema(), TensorRecordsSchema(),
                            JobRecordsSchema(), CalibrationSchema()}));
  stores->refs_ = NewSqliteBlobRefs(*stores->records_);
  stores->keeper_.emplace(*stores->blobs_, *stores->refs_);
  stores->pool_.emplace(static_cast<int>(options.io_threads), kMaxQueuedCalls);
  return stores;
}

}  // namespace qs
