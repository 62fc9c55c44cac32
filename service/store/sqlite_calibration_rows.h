// The rows of SqliteCalibrationRecords, in a transaction of the caller.
// Thread: as the connection.
#ifndef QS_SERVICE_STORE_SQLITE_CALIBRATION_ROWS_H_
#define QS_SERVICE_STORE_SQLITE_CALIBRATION_ROWS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/store/calibration_records.h"
#include "service/store/sqlite_database.h"

namespace qs::calibration_rows {

// How lists and maps stand in a column.
std::string ListText(const std::vector<std::string>& list);
std::string MapText(const std::map<std::string, std::string>& map);

// The columns of ReadRow, FROM calibrations c.
extern const char kSelect[];
CalibrationRecord ReadRow(const SqliteStatement& row);
// The first row, with its sites. Errors: NOT_FOUND.
absl::StatusOr<CalibrationRecord> ReadOne(SqliteConnection& db,
                                          SqliteStatement row);
absl::StatusOr<int64_t> Count(SqliteStatement row);
absl::StatusOr<std::vector<std::string>> Texts(SqliteStatement row);

// Errors: NOT_FOUND; of CheckOpen FAILED_PRECONDITION — the site is sealed.
absl::StatusOr<CalibrationRecord> Find(SqliteConnection& db,
                                       const std::string& project,
                                       const std::string& id);
absl::Status CheckKey(SqliteConnection& db, int64_t key);
absl::Status CheckOpen(SqliteConnection& db, int64_t key,
                       const std::string& site);

// As the calls of CalibrationRecords.
absl::StatusOr<CalibrationShardRecord> FindShard(SqliteConnection& db,
                                                 int64_t key,
                                                 const std::string& shard);
absl::StatusOr<bool> FindMoments(SqliteConnection& db, int64_t key,
                                 const CalibrationPart& part);
absl::StatusOr<std::vector<CalibrationPart>> FindParts(SqliteConnection& db,
                                                       int64_t key,
                                                       const std::string& site);

// A blob that a row names is referred to in blob_refs, as owner "calibration"
// and itself, since no two rows name the same one.
absl::Status Refer(SqliteConnection& db, int64_t key, const std::string& blob);
absl::Status Unrefer(SqliteConnection& db,
                     const std::vector<std::string>& blobs);

// Refers to its blob.
absl::Status PutPart(SqliteConnection& db, int64_t key,
                     const CalibrationPart& part);

}  // namespace qs::calibration_rows

#endif  // QS_SERVICE_STORE_SQLITE_CALIBRATION_ROWS_H_
