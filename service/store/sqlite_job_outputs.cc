// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_outputs.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

#define QS_SEQUENCE_OF_JOB \
  "(SELECT sequence FROM jobs WHERE project = ? AND id = ?)"
#define QS_TENSOR_COLUMNS "name, bytes, report, shard"

JobTensorRecord TensorFromRow(const SqliteStatement& row) {
  return {row.Text(0), row.Int(1), row.Text(2), static_cast<int>(row.Int(3))};
}

// A statement whose one parameter is the sequence.
absl::Status RunFor(SqliteConnection& c, const char* text, int64_t sequence) {
  return c.Prepare(text).Bind(1, sequence).Run();
}

}  // namespace

absl::Status WriteOutputs(SqliteConnection& c, int64_t sequence,
                          const std::optional<ShardRecord>& shard,
                          const std::vector<JobTensorRecord>& tensors) {
  for (const JobTensorRecord& tensor : tensors) {
    QS_RETURN_IF_ERROR(
        c.Prepare("INSERT OR REPLACE INTO job_tensors(sequence, "
                  "name, bytes, report, shard) VALUES(?, ?, ?, ?, ?)")
            .Bind(1, sequence)
            .Bind(2, tensor.name)
            .Bind(3, tensor.bytes)
            .BindBlob(4, tensor.report)
            .Bind(5, int64_t{tensor.shard})
            .Run());
  }
  if (!shard) return absl::OkStatus();
  QS_RETURN_IF_ERROR(
      c.Prepare("INSERT OR REPLACE INTO job_shards(sequence, "
                "shard, file, bytes, digest) VALUES(?, ?, ?, ?, ?)")
          .Bind(1, sequence)
          .Bind(2, int64_t{shard->shard})
          .Bind(3, shard->file)
          .Bind(4, shard->bytes)
          .Bind(5, shard->digest)
          .Run());
  return RunFor(c, "UPDATE jobs SET crashes = 0 WHERE sequence = ?", sequence);
}

absl::Status WriteFiles(SqliteConnection& c, int64_t sequence,
                        const std::vector<JobFileRecord>& files) {
  QS_RETURN_IF_ERROR(
      RunFor(c, "DELETE FROM job_files WHERE sequence = ?", sequence));
  int64_t place = 0;
  for (const JobFileRecord& file : files) {
    QS_RETURN_IF_ERROR(c.Prepare("INSERT INTO job_files(sequence, place, "
                                 "file, bytes, digest) VALUES(?, ?, ?, ?, ?)")
                           .Bind(1, sequence)
                           .Bind(2, place++)
                           .Bind(3, file.file)
                           .Bind(4, file.bytes)
                           .Bind(5, file.digest)
                           .Run());
  }
  return absl::OkStatus();
}

absl::Status DropOutputs(SqliteConnection& c, int64_t sequence) {
  for (const char* const text :
       {"DELETE FROM job_shards WHERE sequence = ?",
        "DELETE FROM job_files WHERE sequence = ?",
        "DELETE FROM job_tensors WHERE sequence = ?"}) {
    QS_RETURN_IF_ERROR(RunFor(c, text, sequence));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ShardRecord>> ReadShards(SqliteConnection& c,
                                                    const JobKey& key) {
  SqliteStatement rows = c.Prepare(
      "SELECT shard, file, bytes, digest FROM job_shards WHERE "
      "sequence = " QS_SEQUENCE_OF_JOB " ORDER BY shard");
  rows.Bind(1, key.project).Bind(2, key.id);
  std::vector<ShardRecord> shards;
  while (rows.Step()) {
    shards.push_back({static_cast<int>(rows.Int(0)), rows.Text(1), rows.Int(2),
                      rows.Text(3)});
  }
  QS_RETURN_IF_ERROR(rows.status());
  return shards;
}

absl::Status ReadTensors(
    SqliteConnection& c, const JobKey& key,
    const std::function<absl::Status(const JobTensorRecord&)>& each) {
  SqliteStatement rows =
      c.Prepare("SELECT " QS_TENSOR_COLUMNS
                " FROM job_tensors WHERE sequence = " QS_SEQUENCE_OF_JOB
                " ORDER BY name");
  rows.Bind(1, key.project).Bind(2, key.id);
  while (rows.Step()) QS_RETURN_IF_ERROR(each(TensorFromRow(rows)));
  return rows.status();
}

absl::StatusOr<std::vector<JobTensorRecord>> ReadShardTensors(
    SqliteConnection& c, const JobKey& key, int shard, const std::string& after,
    int64_t limit) {
  SqliteStatement rows =
      c.Prepare("SELECT " QS_TENSOR_COLUMNS
                " FROM job_tensors INDEXED BY job_tensors_of_shard WHERE "
                "sequence = " QS_SEQUENCE_OF_JOB
                " AND shard = ? AND name > ? ORDER BY name LIMIT ?");
  rows.Bind(1, key.project).Bind(2, key.id).Bind(3, int64_t{shard});
  rows.Bind(4, after).Bind(5, limit);
  std::vector<JobTensorRecord> tensors;
  while (rows.Step()) tensors.push_back(TensorFromRow(rows));
  QS_RETURN_IF_ERROR(rows.status());
  return tensors;
}

absl::StatusOr<JobTensorRecord> ReadTensor(SqliteConnection& c,
                                           const JobKey& key,
                                           const std::string& name) {
  SqliteStatement row = c.Prepare(
      "SELECT " QS_TENSOR_COLUMNS
      " FROM job_tensors WHERE sequence = " QS_SEQUENCE_OF_JOB " AND name = ?");
  row.Bind(1, key.project).Bind(2, key.id).Bind(3, name);
  if (row.Step()) return TensorFromRow(row);
  QS_RETURN_IF_ERROR(row.status());
  return absl::NotFoundError(
      absl::StrCat("job ", key.id, ": no tensor \"", name, "\""));
}

absl::StatusOr<std::vector<JobFileRecord>> ReadFiles(SqliteConnection& c,
                                                     const JobKey& key,
                                                     int64_t skip,
                                                     int64_t limit) {
  SqliteStatement rows = c.Prepare(
      "SELECT file, bytes, digest FROM job_files WHERE "
      "sequence = " QS_SEQUENCE_OF_JOB
      " AND place >= ? ORDER BY place LIMIT ?");
  rows.Bind(1, key.project).Bind(2, key.id).Bind(3, skip).Bind(4, limit);
  std::vector<JobFileRecord> files;
  while (rows.Step()) {
    files.push_back({rows.Text(0), rows.Int(1), rows.Text(2)});
  }
  QS_RETURN_IF_ERROR(rows.status());
  return files;
}

}  // namespace qs
