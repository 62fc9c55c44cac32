// What jobs that are not done read of the store: uploaded tensors, as rows of
// their own and references to their blobs, and inline calibrations. Errors of
// all: SqliteStatement's.
#ifndef QS_SERVICE_STORE_SQLITE_JOB_INPUTS_H_
#define QS_SERVICE_STORE_SQLITE_JOB_INPUTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "service/store/job_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// Whether something of the job's project refers to each of its inputs.
absl::StatusOr<bool> InputsAreThere(SqliteConnection& c, const JobRecord& job);
// REQUIRES: the job's own row is there.
absl::Status InsertInputs(SqliteConnection& c, const JobRecord& job);
// By name.
absl::StatusOr<std::vector<JobInput>> ReadInputs(SqliteConnection& c,
                                                 int64_t sequence);
// Bytes of the inline calibrations of a project.
absl::StatusOr<int64_t> CountInlineBytes(SqliteConnection& c,
                                         const std::string& project);
// REQUIRES: the job's own row is there.
absl::Status InsertInlineCalibration(SqliteConnection& c, const JobRecord& job);
// Empty: it has none.
absl::StatusOr<std::string> ReadInlineCalibration(SqliteConnection& c,
                                                  int64_t sequence);
absl::Status DropInlineCalibration(SqliteConnection& c, int64_t sequence);

// Appends the digests that nobody refers to now.
absl::Status DropInputs(SqliteConnection& c, const JobRecord& job,
                        std::vector<std::string>* freed);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_JOB_INPUTS_H_
