// The embedded JobRecords: tables of a SqliteDatabase.
#ifndef QS_SERVICE_STORE_SQLITE_JOB_RECORDS_H_
#define QS_SERVICE_STORE_SQLITE_JOB_RECORDS_H_

#include <memory>

#include "service/store/job_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// For SqliteDatabase::Open.
SqliteSchema JobRecordsSchema();

// `db` was opened with the schema and outlives the records.
std::unique_ptr<JobRecords> NewSqliteJobRecords(SqliteDatabase& db);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_JOB_RECORDS_H_
