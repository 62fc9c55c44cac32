// Tested by tests/service/store/job_records_test.cc.
#include "service/store/sqlite_job_inputs.h"

#include <optional>

#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_job_rows.h"

namespace qs {
namespace {

// Not that of a result.
BlobOwner InputOwner(const JobKey& job) {
  return {"job-input", job.project + "/" + job.id};
}

}  // namespace

absl::StatusOr<bool> InputsAreThere(SqliteConnection& c, const JobRecord& job) {
  for (const JobInput& input : job.inputs) {
    SqliteStatement row =
        c.Prepare("SELECT 1 FROM blob_refs WHERE digest = ? AND project = ?");
    row.Bind(1, input.digest).Bind(2, job.key.project);
    const bool found = row.Step();
    QS_RETURN_IF_ERROR(row.status());
    if (!found) return false;
  }
  return true;
}

absl::Status InsertInputs(SqliteConnection& c, const JobRecord& job) {
  for (const JobInput& input : job.inputs) {
    QS_RETURN_IF_ERROR(c.Prepare("INSERT INTO job_inputs(sequence, name, "
                                 "dtype, shape, digest) VALUES(?, ?, ?, ?, ?)")
                           .Bind(1, job.sequence)
                           .Bind(2, input.name)
                           .Bind(3, std::string(DTypeName(input.dtype)))
                           .Bind(4, absl::StrJoin(input.shape, ","))
                           .Bind(5, input.digest)
                           .Run());
    QS_RETURN_IF_ERROR(
        AddBlobRef(c, job.key.project, input.digest, InputOwner(job.key)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JobInput>> ReadInputs(SqliteConnection& c,
                                                 int64_t sequence) {
  SqliteStatement rows = c.Prepare(
      "SELECT name, dtype, shape, digest FROM job_inputs WHERE sequence = ? "
      "ORDER BY name");
  rows.Bind(1, sequence);
  std::vector<JobInput> inputs;
  while (rows.Step()) {
    const std::optional<DType> dtype = ParseDType(rows.Text(1));
    if (!dtype) return absl::DataLossError("records: a dtype is none");
    inputs.push_back(
        {rows.Text(0), *dtype, NumbersFromText(rows.Text(2)), rows.Text(3)});
  }
  QS_RETURN_IF_ERROR(rows.status());
  return inputs;
}

absl::StatusOr<int64_t> CountInlineBytes(SqliteConnection& c,
                                         const std::string& project) {
  SqliteStatement row = c.Prepare(
      "SELECT COALESCE(SUM(size), 0) FROM job_calibrations WHERE project = ?");
  row.Bind(1, project);
  const int64_t bytes = row.Step() ? row.Int(0) : 0;
  QS_RETURN_IF_ERROR(row.status());
  return bytes;
}

absl::Status InsertInlineCalibration(SqliteConnection& c,
                                     const JobRecord& job) {
  if (job.inline_calibration.empty()) return absl::OkStatus();
  return c
      .Prepare(
          "INSERT INTO job_calibrations(sequence, project, size, bytes) "
          "VALUES(?, ?, ?, ?)")
      .Bind(1, job.sequence)
      .Bind(2, job.key.project)
      .Bind(3, static_cast<int64_t>(job.inline_calibration.size()))
      .BindBlob(4, job.inline_calibration)
      .Run();
}

absl::StatusOr<std::string> ReadInlineCalibration(SqliteConnection& c,
                                                  int64_t sequence) {
  SqliteStatement row =
      c.Prepare("SELECT bytes FROM job_calibrations WHERE sequence = ?");
  row.Bind(1, sequence);
  std::string bytes = row.Step() ? row.Text(0) : "";
  QS_RETURN_IF_ERROR(row.status());
  return bytes;
}

absl::Status DropInlineCalibration(SqliteConnection& c, int64_t sequence) {
  return c.Prepare("DELETE FROM job_calibrations WHERE sequence = ?")
      .Bind(1, sequence)
      .Run();
}

absl::Status DropInputs(SqliteConnection& c, const JobRecord& job,
                        std::vector<std::string>* freed) {
  {
    SqliteStatement row =
        c.Prepare("SELECT 1 FROM job_inputs WHERE sequence = ? LIMIT 1");
    row.Bind(1, job.sequence);
    const bool has = row.Step();
    QS_RETURN_IF_ERROR(row.status());
    if (!has) return absl::OkStatus();
  }
  QS_RETURN_IF_ERROR(DropBlobRefs(c, InputOwner(job.key), freed));
  return c.Prepare("DELETE FROM job_inputs WHERE sequence = ?")
      .Bind(1, job.sequence)
      .Run();
}

}  // namespace qs
