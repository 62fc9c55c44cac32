#ifndef QS_SERVICE_STORE_SQLITE_ERROR_H_
#define QS_SERVICE_STORE_SQLITE_ERROR_H_

#include "absl/status/status.h"

struct sqlite3;

namespace qs {

// The errors of SqliteStatement::Run, with the database's own text. `db` may be
// null.
absl::Status SqliteError(sqlite3* db, int code, const char* what);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_ERROR_H_
