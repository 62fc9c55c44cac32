// Tested by tests/service/store/tensor_records_test.cc.
#include "service/store/sqlite_tensor_records.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_blob_refs.h"

namespace qs {
namespace {

// A project's uploads are counted as they come and go: counting a million rows
// takes longer than everything else here.
constexpr char kTables[] = R"sql(
CREATE TABLE uploads(
  project TEXT NOT NULL,
  id TEXT NOT NULL,
  request_id TEXT,
  request_hash TEXT NOT NULL,
  name TEXT NOT NULL,
  dtype TEXT NOT NULL,
  shape TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  expected TEXT NOT NULL,
  digest TEXT NOT NULL,
  persisted INTEGER NOT NULL,
  complete INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  PRIMARY KEY(project, id),
  CHECK(persisted >= 0 AND persisted <= bytes)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX uploads_by_request ON uploads(project, request_id)
  WHERE request_id IS NOT NULL;
CREATE INDEX uploads_open ON uploads(expires) WHERE complete = 0;
CREATE TABLE upload_counts(
  project TEXT PRIMARY KEY,
  uploads INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER upload_added AFTER INSERT ON uploads BEGIN
  INSERT INTO upload_counts(project, uploads) VALUES(new.project, 1)
    ON CONFLICT(project) DO UPDATE SET uploads = uploads + 1;
END;
CREATE TRIGGER upload_gone AFTER DELETE ON uploads BEGIN
  UPDATE upload_counts SET uploads = uploads - 1 WHERE project = old.project;
END;
CREATE TABLE tensors(
  project TEXT NOT NULL,
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  dtype TEXT NOT NULL,
  shape TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  digest TEXT NOT NULL,
  created INTEGER NOT NULL,
  PRIMARY KEY(project, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX tensors_by_name ON tensors(project, name, id);
)sql";

// So are their bytes.
constexpr char kBytes[] = R"sql(
ALTER TABLE upload_counts ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE upload_counts SET bytes = (
  SELECT COALESCE(SUM(uploads.bytes), 0) FROM uploads
  WHERE uploads.project = upload_counts.project);
DROP TRIGGER upload_added;
CREATE TRIGGER upload_added AFTER INSERT ON uploads BEGIN
  INSERT INTO upload_counts(project, uploads, bytes)
    VALUES(new.project, 1, new.bytes)
    ON CONFLICT(project) DO UPDATE
    SET uploads = uploads + 1, bytes = bytes + new.bytes;
END;
DROP TRIGGER upload_gone;
CREATE TRIGGER upload_gone AFTER DELETE ON uploads BEGIN
  UPDATE upload_counts SET uploads = uploads - 1, bytes = bytes - old.bytes
    WHERE project = old.project;
END;
CREATE TRIGGER upload_resized BEFORE UPDATE OF project, bytes ON uploads BEGIN
  SELECT RAISE(ABORT, 'an upload keeps its size');
END;
)sql";

#define QS_UPLOAD_COLUMNS                                              \
  "project, id, request_id, request_hash, name, dtype, shape, bytes, " \
  "expected, digest, persisted, complete, expires"
#define QS_TENSOR_COLUMNS \
  "project, id, name, dtype, shape, bytes, digest, created"

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrJoin(shape, ",");
}

// Errors: DATA_LOSS.
absl::Status ReadSpec(const SqliteStatement& row, int column,
                      StoredTensorSpec* spec) {
  spec->name = row.Text(column);
  const std::optional<DType> dtype = ParseDType(row.Text(column + 1));
  if (!dtype) return absl::DataLossError("records: a dtype is none");
  spec->dtype = *dtype;
  const std::string shape = row.Text(column + 2);
  for (const auto text : absl::StrSplit(shape, ',', absl::SkipEmpty())) {
    int64_t size = 0;
    if (!absl::SimpleAtoi(text, &size)) {
      return absl::DataLossError("records: a shape is none");
    }
    spec->shape.push_back(size);
  }
  spec->bytes = row.Int(column + 3);
  return absl::OkStatus();
}

absl::Status ReadUpload(const SqliteStatement& row, UploadRecord* upload) {
  upload->project = row.Text(0);
  upload->id = row.Text(1);
  upload->request_id = row.Text(2);
  upload->request_hash = row.Text(3);
  QS_RETURN_IF_ERROR(ReadSpec(row, 4, &upload->spec));
  upload->expected = row.Text(8);
  upload->digest = row.Text(9);
  upload->persisted = row.Int(10);
  upload->complete = row.Int(11) != 0;
  upload->expires = absl::FromUnixMillis(row.Int(12));
  return absl::OkStatus();
}

absl::Status ReadTensor(const SqliteStatement& row, StoredTensor* tensor) {
  tensor->project = row.Text(0);
  tensor->id = row.Text(1);
  QS_RETURN_IF_ERROR(ReadSpec(row, 2, &tensor->spec));
  tensor->digest = row.Text(6);
  tensor->created = absl::FromUnixMillis(row.Int(7));
  return absl::OkStatus();
}

// The one row of `row`. Errors: NOT_FOUND.
template <typename Record, typename Read>
absl::Status ReadOne(SqliteStatement row, const std::string& what, Read read,
                     Record* record) {
  if (row.Step()) return read(row, record);
  QS_RETURN_IF_ERROR(row.status());
  return absl::NotFoundError(what + " is not there");
}

template <typename Record, typename Read>
absl::Status ReadMany(SqliteStatement row, Read read,
                      std::vector<Record>* records) {
  while (row.Step()) QS_RETURN_IF_ERROR(read(row, &records->emplace_back()));
  return row.status();
}

void BindSpec(SqliteStatement& row, int position,
              const StoredTensorSpec& spec) {
  row.Bind(position, spec.name)
      .Bind(position + 1, DTypeName(spec.dtype))
      .Bind(position + 2, ShapeText(spec.shape))
      .Bind(position + 3, spec.bytes);
}

struct UploadCounts {
  int64_t uploads = 0;
  int64_t bytes = 0;
};

absl::StatusOr<UploadCounts> CountsOf(SqliteConnection& db,
                                      const std::string& project) {
  SqliteStatement row =
      db.Prepare("SELECT uploads, bytes FROM upload_counts WHERE project = ?");
  row.Bind(1, project);
  UploadCounts counts;
  if (row.Step()) counts = {.uploads = row.Int(0), .bytes = row.Int(1)};
  QS_RETURN_IF_ERROR(row.status());
  return counts;
}

absl::Status CheckLimits(SqliteConnection& db, const std::string& project,
                         const UploadLimits& limits) {
  QS_ASSIGN_OR_RETURN(const UploadCounts counts, CountsOf(db, project));
  if (counts.uploads >= limits.uploads) {
    return absl::OutOfRangeError(absl::StrCat("tensors and uploads: got ",
                                              counts.uploads + 1, ", allowed ",
                                              limits.uploads));
  }
  return limits.bytes == nullptr ? absl::OkStatus()
                                 : limits.bytes(counts.bytes);
}

absl::Status InsertUpload(SqliteConnection& db, const UploadRecord& upload) {
  SqliteStatement row = db.Prepare("INSERT INTO uploads(" QS_UPLOAD_COLUMNS
                                   ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)");
  row.Bind(1, upload.project).Bind(2, upload.id);
  if (upload.request_id.empty()) {
    row.BindNull(3);
  } else {
    row.Bind(3, upload.request_id);
  }
  row.Bind(4, upload.request_hash);
  BindSpec(row, 5, upload.spec);
  return row.Bind(9, upload.expected)
      .Bind(10, upload.digest)
      .Bind(11, upload.persisted)
      .Bind(12, static_cast<int64_t>(upload.complete ? 1 : 0))
      .Bind(13, absl::ToUnixMillis(upload.expires))
      .Run();
}

absl::Status InsertTensor(SqliteConnection& db, const StoredTensor& tensor) {
  SqliteStatement row = db.Prepare("INSERT INTO tensors(" QS_TENSOR_COLUMNS
                                   ") VALUES(?,?,?,?,?,?,?,?)");
  row.Bind(1, tensor.project).Bind(2, tensor.id);
  BindSpec(row, 3, tensor.spec);
  QS_RETURN_IF_ERROR(row.Bind(7, tensor.digest)
                         .Bind(8, absl::ToUnixMillis(tensor.created))
                         .Run());
  return AddBlobRef(db, tensor.project, tensor.digest, OwnerOf(tensor));
}

// Of a statement that changes one row or, when it is not there, none.
absl::Status RunOnOne(SqliteConnection& db, SqliteStatement& row,
                      const char* what) {
  QS_RETURN_IF_ERROR(row.Run());
  if (db.changes() > 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(what, " is not there"));
}

class SqliteTensorRecords final : public TensorRecords {
 public:
  explicit SqliteTensorRecords(SqliteDatabase& database)
      : database_(database) {}

  absl::Status AddUpload(const UploadRecord& upload, const StoredTensor* tensor,
                         const UploadLimits& limits) override {
    return database_.Write([&](SqliteConnection& db) -> absl::Status {
      QS_RETURN_IF_ERROR(CheckLimits(db, upload.project, limits));
      QS_RETURN_IF_ERROR(InsertUpload(db, upload));
      return tensor == nullptr ? absl::OkStatus() : InsertTensor(db, *tensor);
    });
  }

  // A transaction of the one writer, so that it has its turn among them.
  absl::Status CheckUploadBytes(const std::string& project,
                                const UploadBytesCheck& check) override {
    return database_.Write([&](SqliteConnection& db) -> absl::Status {
      QS_ASSIGN_OR_RETURN(const UploadCounts counts, CountsOf(db, project));
      return check(counts.bytes);
    });
  }

  absl::StatusOr<int64_t> UploadBytes(const std::string& project) override {
    UploadCounts counts;
    QS_RETURN_IF_ERROR(
        database_.Read([&](SqliteConnection& db) -> absl::Status {
          QS_ASSIGN_OR_RETURN(counts, CountsOf(db, project));
          return absl::OkStatus();
        }));
    return counts.bytes;
  }

  absl::StatusOr<UploadRecord> GetUpload(const std::string& project,
                                         const std::string& id) override {
    return Upload("SELECT " QS_UPLOAD_COLUMNS
                  " FROM uploads WHERE project = ? AND id = ?",
                  project, id);
  }

  absl::StatusOr<UploadRecord> FindUpload(
      const std::string& project, const std::string& request_id) override {
    return Upload("SELECT " QS_UPLOAD_COLUMNS
                  " FROM uploads WHERE project = ? AND request_id = ?",
                  project, request_id);
  }

  absl::Status SetPersisted(const std::string& project, const std::string& id,
                            int64_t persisted, const std::string& digest,
                            absl::Time expires) override {
    return database_.Write([&](SqliteConnection& db) {
      SqliteStatement row = db.Prepare(
          "UPDATE uploads SET persisted = ?, digest = ?, expires = ? "
          "WHERE project = ? AND id = ? AND complete = 0");
      row.Bind(1, persisted)
          .Bind(2, digest)
          .Bind(3, absl::ToUnixMillis(expires))
          .Bind(4, project)
          .Bind(5, id);
      return RunOnOne(db, row, "the upload");
    });
  }

  absl::Status Complete(const StoredTensor& tensor) override {
    return database_.Write([&](SqliteConnection& db) -> absl::Status {
      SqliteStatement row = db.Prepare(
          "UPDATE uploads SET complete = 1, persisted = bytes, digest = ? "
          "WHERE project = ? AND id = ? AND complete = 0");
      row.Bind(1, tensor.digest).Bind(2, tensor.project).Bind(3, tensor.id);
      QS_RETURN_IF_ERROR(RunOnOne(db, row, "the upload"));
      return InsertTensor(db, tensor);
    });
  }

  absl::Status DropUpload(const std::string& project,
                          const std::string& id) override {
    return database_.Write([&](SqliteConnection& db) {
      SqliteStatement row = db.Prepare(
          "DELETE FROM uploads WHERE project = ? AND id = ? AND complete = 0");
      row.Bind(1, project).Bind(2, id);
      return RunOnOne(db, row, "the upload");
    });
  }

  absl::StatusOr<std::vector<UploadRecord>> OpenUploads(
      absl::Time before, int64_t limit) override {
    std::vector<UploadRecord> uploads;
    QS_RETURN_IF_ERROR(database_.Read([&](SqliteConnection& db) {
      SqliteStatement row =
          db.Prepare("SELECT " QS_UPLOAD_COLUMNS
                     " FROM uploads WHERE complete = 0 AND expires < ? "
                     "ORDER BY expires LIMIT ?");
      row.Bind(1, absl::ToUnixMillis(before)).Bind(2, limit);
      return ReadMany(std::move(row), ReadUpload, &uploads);
    }));
    return uploads;
  }

  absl::StatusOr<StoredTensor> GetTensor(const std::string& project,
                                         const std::string& id) override {
    StoredTensor tensor;
    QS_RETURN_IF_ERROR(database_.Read([&](SqliteConnection& db) {
      SqliteStatement row =
          db.Prepare("SELECT " QS_TENSOR_COLUMNS
                     " FROM tensors WHERE project = ? AND id = ?");
      row.Bind(1, project).Bind(2, id);
      return ReadOne(std::move(row), "the tensor", ReadTensor, &tensor);
    }));
    return tensor;
  }

  absl::StatusOr<std::vector<StoredTensor>> ListTensors(
      const std::string& project, const TensorPosition& after,
      int64_t limit) override {
    std::vector<StoredTensor> tensors;
    QS_RETURN_IF_ERROR(database_.Read([&](SqliteConnection& db) {
      SqliteStatement row =
          db.Prepare("SELECT " QS_TENSOR_COLUMNS
                     " FROM tensors WHERE project = ? AND (name, id) > (?, ?) "
                     "ORDER BY name, id LIMIT ?");
      row.Bind(1, project).Bind(2, after.name).Bind(3, after.id).Bind(4, limit);
      return ReadMany(std::move(row), ReadTensor, &tensors);
    }));
    return tensors;
  }

  absl::StatusOr<std::vector<std::string>> DeleteTensor(
      const std::string& project, const std::string& id) override {
    std::vector<std::string> unreferenced;
    const absl::Status status = database_.Write([&](SqliteConnection& db)
                                                    -> absl::Status {
      unreferenced.clear();
      SqliteStatement tensor =
          db.Prepare("DELETE FROM tensors WHERE project = ? AND id = ?");
      tensor.Bind(1, project).Bind(2, id);
      QS_RETURN_IF_ERROR(RunOnOne(db, tensor, "the tensor"));
      SqliteStatement upload =
          db.Prepare("DELETE FROM uploads WHERE project = ? AND id = ?");
      QS_RETURN_IF_ERROR(upload.Bind(1, project).Bind(2, id).Run());
      return DropBlobRefs(db, {"tensor", project + "/" + id}, &unreferenced);
    });
    if (!status.ok()) return status;
    return unreferenced;
  }

 private:
  absl::StatusOr<UploadRecord> Upload(const char* sql,
                                      const std::string& project,
                                      const std::string& key) {
    UploadRecord upload;
    QS_RETURN_IF_ERROR(database_.Read([&](SqliteConnection& db) {
      SqliteStatement row = db.Prepare(sql);
      row.Bind(1, project).Bind(2, key);
      return ReadOne(std::move(row), "the upload", ReadUpload, &upload);
    }));
    return upload;
  }

  SqliteDatabase& database_;
};

}  // namespace

SqliteSchema TensorRecordsSchema() { return {"tensors", {kTables, kBytes}}; }

std::unique_ptr<TensorRecords> NewSqliteTensorRecords(
    SqliteDatabase& database) {
  return std::make_unique<SqliteTensorRecords>(database);
}

}  // namespace qs
