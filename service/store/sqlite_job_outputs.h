// What a job's run has done: the shards, the reports of their tensors, and the
// files of its result. Errors of all: SqliteStatement's.
#ifndef QS_SERVICE_STORE_SQLITE_JOB_OUTPUTS_H_
#define QS_SERVICE_STORE_SQLITE_JOB_OUTPUTS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "service/store/job_records.h"
#include "service/store/sqlite_database.h"

namespace qs {

// As JobRecords::Commit, of the job with that sequence.
absl::Status WriteOutputs(SqliteConnection& c, int64_t sequence,
                          const std::optional<ShardRecord>& shard,
                          const std::vector<JobTensorRecord>& tensors);
absl::Status WriteFiles(SqliteConnection& c, int64_t sequence,
                        const std::vector<JobFileRecord>& files);
absl::Status DropOutputs(SqliteConnection& c, int64_t sequence);

// As the calls of JobRecords with these names.
absl::StatusOr<std::vector<ShardRecord>> ReadShards(SqliteConnection& c,
                                                    const JobKey& key);
absl::Status ReadTensors(
    SqliteConnection& c, const JobKey& key,
    const std::function<absl::Status(const JobTensorRecord&)>& each);
absl::StatusOr<std::vector<JobTensorRecord>> ReadShardTensors(
    SqliteConnection& c, const JobKey& key, int shard, const std::string& after,
    int64_t limit);
absl::StatusOr<JobTensorRecord> ReadTensor(SqliteConnection& c,
                                           const JobKey& key,
                                           const std::string& name);
absl::StatusOr<std::vector<JobFileRecord>> ReadFiles(SqliteConnection& c,
                                                     const JobKey& key,
                                                     int64_t skip,
                                                     int64_t limit);

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_JOB_OUTPUTS_H_
