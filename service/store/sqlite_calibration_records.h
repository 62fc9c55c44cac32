// CalibrationRecords in a SqliteDatabase.
#ifndef QS_SERVICE_STORE_SQLITE_CALIBRATION_RECORDS_H_
#define QS_SERVICE_STORE_SQLITE_CALIBRATION_RECORDS_H_

#include <memory>

#include "service/store/calibration_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// To be opened with the database, behind BlobRefsSchema.
const SqliteSchema& CalibrationSchema();

// `db` was opened with both and must outlive it.
std::unique_ptr<CalibrationRecords> NewSqliteCalibrationRecords(
    SqliteDatabase& db);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_CALIBRATION_RECORDS_H_
