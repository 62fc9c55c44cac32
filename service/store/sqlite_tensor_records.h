// TensorRecords in a SqliteDatabase.
#ifndef QS_SERVICE_STORE_SQLITE_TENSOR_RECORDS_H_
#define QS_SERVICE_STORE_SQLITE_TENSOR_RECORDS_H_

#include <memory>

#include "service/store/sqlite_database.h"
#include "service/store/tensor_records.h"

namespace qs {

// To be given to SqliteDatabase::Open, beside BlobRefsSchema().
SqliteSchema TensorRecordsSchema();
// `database`, opened with both schemas, outlives it.
std::unique_ptr<TensorRecords> NewSqliteTensorRecords(SqliteDatabase& database);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_TENSOR_RECORDS_H_
