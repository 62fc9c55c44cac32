// The embedded JobRecords: tables of a SqliteDatabase.
#ifndef QS_SERVICE_STORE_SQLITE_JOB_RECORDS_H_
#define QS_SERVICE_STORE_SQLITE_JOB_RECORDS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "service/store/job_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// For SqliteDatabase::Open.
SqliteSchema JobRecordsSchema();

// Told, after the change, of blobs that a job was the last to refer to: what
// BlobKeeper::Collect is for.
using BlobsFreed = std::function<void(std::vector<std::string>)>;

// `db` was opened with the schema, and BlobRefsSchema if jobs have inputs, and
// outlives the records.
std::unique_ptr<JobRecords> NewSqliteJobRecords(SqliteDatabase& db,
                                                BlobsFreed on_freed = {});

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_JOB_RECORDS_H_
