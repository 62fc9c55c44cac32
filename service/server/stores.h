// Stores: what a server keeps in its data directory, and the threads that may
// block on it.
//
//   DIR/meta.sqlite  records
//   DIR/blobs/       bytes (see dir_blob_store.h)
//   DIR/results/     of jobs without a destination (jobs/job_results.h)
//
// Thread: thread-safe after Open.
#ifndef QS_SERVICE_SERVER_STORES_H_
#define QS_SERVICE_SERVER_STORES_H_

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/base/io_pool.h"
#include "service/server/options.h"
#include "service/store/blob_keeper.h"
#include "service/store/blob_refs.h"
#include "service/store/blob_store.h"
#include "service/store/sqlite_database.h"

namespace qs {

class Stores {
 public:
  // Makes the directory if need be. REQUIRES: options.data_dir is set.
  // Errors: as PosixError; FAILED_PRECONDITION — another process uses it;
  // DATA_LOSS — the records are damaged.
  static absl::StatusOr<std::unique_ptr<Stores>> Open(
      const ServerOptions& options);

  BlobStore& blobs() { return *blobs_; }
  SqliteDatabase& records() { return *records_; }
  BlobRefs& refs() { return *refs_; }
  BlobKeeper& keeper() { return *keeper_; }
  IoPool& pool() { return *pool_; }

  // Once, after every service has put its records in order.
  absl::Status CollectGarbage() { return keeper_->CollectAll(); }

 private:
  Stores() = default;

  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<SqliteDatabase> records_;
  std::unique_ptr<BlobRefs> refs_;
  std::optional<BlobKeeper> keeper_;
  // Last: its tasks use the rest until they have ended.
  std::optional<IoPool> pool_;
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_STORES_H_
