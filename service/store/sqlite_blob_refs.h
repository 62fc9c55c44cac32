// BlobRefs in a SqliteDatabase; and the same as parts of other records'
// transactions.
#ifndef QS_SERVICE_STORE_SQLITE_BLOB_REFS_H_
#define QS_SERVICE_STORE_SQLITE_BLOB_REFS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "service/store/blob_refs.h"
#include "service/store/sqlite_database.h"

namespace qs {

// To be given to SqliteDatabase::Open.
SqliteSchema BlobRefsSchema();
// `database`, opened with the schema, outlives it.
std::unique_ptr<BlobRefs> NewSqliteBlobRefs(SqliteDatabase& database);

// Inside a transaction that writes.
absl::Status AddBlobRef(SqliteConnection& db, const std::string& project,
                        const std::string& digest, const BlobOwner& owner);
// Appends the digests that nobody refers to now.
absl::Status DropBlobRefs(SqliteConnection& db, const BlobOwner& owner,
                          std::vector<std::string>* unreferenced);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_BLOB_REFS_H_
