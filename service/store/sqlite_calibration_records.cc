// Tested by tests/service/store/calibration_records_test.cc.
#include "service/store/sqlite_calibration_records.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_calibration_rows.h"

namespace qs {
namespace {

namespace rows = calibration_rows;

constexpr char kTables[] =
    "CREATE TABLE calibrations("
    " key INTEGER PRIMARY KEY AUTOINCREMENT,"
    " project TEXT NOT NULL, id TEXT NOT NULL,"
    " request_id TEXT, request_hash TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL, metadata TEXT NOT NULL,"
    " UNIQUE(project, id), UNIQUE(project, request_id)) STRICT;"
    "CREATE TABLE calibration_sites("
    " calibration INTEGER NOT NULL REFERENCES calibrations ON DELETE CASCADE,"
    " name TEXT NOT NULL, inputs INTEGER NOT NULL CHECK(inputs > 0),"
    " modules TEXT NOT NULL,"
    " sealed INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,"
    " blob TEXT NOT NULL DEFAULT '', digest TEXT NOT NULL DEFAULT '',"
    " PRIMARY KEY(calibration, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE calibration_shards("
    " calibration INTEGER NOT NULL REFERENCES calibrations ON DELETE CASCADE,"
    " shard TEXT NOT NULL, durable_seq INTEGER NOT NULL,"
    " PRIMARY KEY(calibration, shard)) STRICT, WITHOUT ROWID;"
    // A merged one of kind 2 stays, without blob: its request was served.
    "CREATE TABLE calibration_parts("
    " calibration INTEGER NOT NULL, site TEXT NOT NULL,"
    " kind INTEGER NOT NULL CHECK(kind IN (1, 2)), source TEXT NOT NULL,"
    " blob TEXT NOT NULL, dtype TEXT NOT NULL, tokens INTEGER NOT NULL,"
    " request_hash TEXT NOT NULL,"
    " PRIMARY KEY(calibration, site, kind, source),"
    " FOREIGN KEY(calibration, site) REFERENCES calibration_sites"
    " ON DELETE CASCADE) STRICT, WITHOUT ROWID;"
    "CREATE INDEX calibration_parts_by_source"
    " ON calibration_parts(calibration, kind, source)";

class SqliteCalibrationRecords final : public CalibrationRecords {
 public:
  explicit SqliteCalibrationRecords(SqliteDatabase& db) : db_(db) {}

  absl::StatusOr<CalibrationRecord> Create(const CalibrationRecord& calibration,
                                           int64_t limit,
                                           bool* request_id_reused) override;
  absl::StatusOr<CalibrationRecord> Get(const std::string& project,
                                        const std::string& id) override {
    return Read<CalibrationRecord>(
        [&](SqliteConnection& db) { return rows::Find(db, project, id); });
  }
  absl::StatusOr<std::vector<CalibrationRecord>> List(
      const std::string& project, const std::string& after,
      int64_t limit) override;
  absl::StatusOr<std::vector<std::string>> Delete(
      const std::string& project, const std::string& id) override;
  absl::StatusOr<CalibrationShardRecord> GetShard(
      int64_t key, const std::string& shard) override {
    return Read<CalibrationShardRecord>(
        [&](SqliteConnection& db) { return rows::FindShard(db, key, shard); });
  }
  absl::StatusOr<std::vector<std::string>> PutShard(
      int64_t key, const std::string& shard, int64_t from_seq, int64_t to_seq,
      const std::vector<CalibrationPart>& parts, int64_t max_shards) override;
  absl::StatusOr<bool> AddMoments(int64_t key, const CalibrationPart& part,
                                  int64_t max_parts) override;
  absl::StatusOr<bool> HasMoments(int64_t key,
                                  const CalibrationPart& part) override {
    return Read<bool>(
        [&](SqliteConnection& db) { return rows::FindMoments(db, key, part); });
  }
  absl::StatusOr<std::vector<CalibrationPart>> PartsOf(
      int64_t key, const std::string& site) override {
    return Read<std::vector<CalibrationPart>>(
        [&](SqliteConnection& db) { return rows::FindParts(db, key, site); });
  }
  absl::StatusOr<std::vector<std::string>> Seal(
      int64_t key, const SealedSite& site,
      const std::vector<std::string>& merged) override;
  absl::StatusOr<std::vector<std::string>> Blobs() override;

 private:
  // The value that `body` gives, in a transaction.
  template <typename T, typename Body>
  absl::StatusOr<T> Read(const Body& body) {
    absl::StatusOr<T> out = absl::InternalError("not read");
    QS_RETURN_IF_ERROR(db_.Read([&](SqliteConnection& db) {
      out = body(db);
      return out.status();
    }));
    return out;
  }
  template <typename T, typename Body>
  absl::StatusOr<T> Write(const Body& body) {
    absl::StatusOr<T> out = absl::InternalError("not written");
    QS_RETURN_IF_ERROR(db_.Write([&](SqliteConnection& db) {
      out = body(db);
      return out.status();
    }));
    return out;
  }

  static absl::StatusOr<CalibrationRecord> Insert(
      SqliteConnection& db, const CalibrationRecord& calibration);

  SqliteDatabase& db_;
};

absl::StatusOr<CalibrationRecord> SqliteCalibrationRecords::Insert(
    SqliteConnection& db, const CalibrationRecord& calibration) {
  {
    SqliteStatement row = db.Prepare(
        "INSERT INTO calibrations(project, id, request_id, request_hash,"
        " created_ms, metadata) VALUES(?, ?, ?, ?, ?, ?)");
    row.Bind(1, calibration.project).Bind(2, calibration.id);
    calibration.request_id.empty() ? row.BindNull(3)
                                   : row.Bind(3, calibration.request_id);
    row.Bind(4, calibration.request_hash)
        .Bind(5, calibration.created_ms)
        .Bind(6, rows::MapText(calibration.metadata));
    QS_RETURN_IF_ERROR(row.Run());
  }
  const int64_t key = db.last_row_id();
  for (const CalibrationSiteRecord& site : calibration.sites) {
    QS_RETURN_IF_ERROR(
        db.Prepare("INSERT INTO calibration_sites(calibration, name, inputs,"
                   " modules) VALUES(?, ?, ?, ?)")
            .Bind(1, key)
            .Bind(2, site.name)
            .Bind(3, site.inputs)
            .Bind(4, rows::ListText(site.modules))
            .Run());
  }
  return rows::Find(db, calibration.project, calibration.id);
}

absl::StatusOr<CalibrationRecord> SqliteCalibrationRecords::Create(
    const CalibrationRecord& calibration, int64_t limit,
    bool* request_id_reused) {
  *request_id_reused = false;
  const auto body =
      [&](SqliteConnection& db) -> absl::StatusOr<CalibrationRecord> {
    if (!calibration.request_id.empty()) {
      static const std::string sql = absl::StrCat(
          rows::kSelect, "WHERE c.project = ? AND c.request_id = ?");
      SqliteStatement row = db.Prepare(sql.c_str());
      row.Bind(1, calibration.project).Bind(2, calibration.request_id);
      absl::StatusOr<CalibrationRecord> same =
          rows::ReadOne(db, std::move(row));
      if (same.ok() && same->request_hash == calibration.request_hash) {
        return same;
      }
      if (same.ok()) {
        *request_id_reused = true;
        return absl::AlreadyExistsError("request_id: got one of another");
      }
      if (!absl::IsNotFound(same.status())) return same;
    }
    SqliteStatement row =
        db.Prepare("SELECT COUNT(*) FROM calibrations WHERE project = ?");
    row.Bind(1, calibration.project);
    QS_ASSIGN_OR_RETURN(const int64_t count, rows::Count(std::move(row)));
    if (count >= limit) return absl::OutOfRangeError("calibrations: too many");
    return Insert(db, calibration);
  };
  return Write<CalibrationRecord>(body);
}

absl::StatusOr<std::vector<CalibrationRecord>> SqliteCalibrationRecords::List(
    const std::string& project, const std::string& after, int64_t limit) {
  using Page = std::vector<CalibrationRecord>;
  return Read<Page>([&](SqliteConnection& db) -> absl::StatusOr<Page> {
    static const std::string sql =
        absl::StrCat(rows::kSelect,
                     "WHERE c.project = ? AND c.id > ? ORDER BY c.id LIMIT ?");
    SqliteStatement row = db.Prepare(sql.c_str());
    row.Bind(1, project).Bind(2, after).Bind(3, limit);
    Page page;
    while (row.Step()) page.push_back(rows::ReadRow(row));
    QS_RETURN_IF_ERROR(row.status());
    return page;
  });
}

absl::StatusOr<std::vector<std::string>> SqliteCalibrationRecords::Delete(
    const std::string& project, const std::string& id) {
  using Freed = std::vector<std::string>;
  return Write<Freed>([&](SqliteConnection& db) -> absl::StatusOr<Freed> {
    QS_ASSIGN_OR_RETURN(const CalibrationRecord found,
                        rows::Find(db, project, id));
    SqliteStatement row = db.Prepare(
        "SELECT blob FROM calibration_sites WHERE calibration = ?1 AND blob <> "
        "'' UNION ALL "
        "SELECT blob FROM calibration_parts WHERE calibration = ?1 AND blob <> "
        "''");
    row.Bind(1, found.key);
    QS_ASSIGN_OR_RETURN(Freed freed, rows::Texts(std::move(row)));
    QS_RETURN_IF_ERROR(db.Prepare("DELETE FROM calibrations WHERE key = ?")
                           .Bind(1, found.key)
                           .Run());
    QS_RETURN_IF_ERROR(rows::Unrefer(db, freed));
    return freed;
  });
}

absl::StatusOr<std::vector<std::string>> SqliteCalibrationRecords::PutShard(
    int64_t key, const std::string& shard, int64_t from_seq, int64_t to_seq,
    const std::vector<CalibrationPart>& parts, int64_t max_shards) {
  using Freed = std::vector<std::string>;
  return Write<Freed>([&](SqliteConnection& db) -> absl::StatusOr<Freed> {
    QS_ASSIGN_OR_RETURN(const CalibrationShardRecord now,
                        rows::FindShard(db, key, shard));
    if (now.durable_seq != from_seq) {
      return absl::AbortedError("shard: got another writer");
    }
    Freed freed;
    for (const CalibrationPart& part : parts) {
      QS_RETURN_IF_ERROR(rows::CheckOpen(db, key, part.site));
      for (const CalibrationPart& old : now.parts) {
        if (old.site == part.site) freed.push_back(old.blob);
      }
      QS_RETURN_IF_ERROR(rows::PutPart(db, key, part));
    }
    QS_RETURN_IF_ERROR(
        db.Prepare("INSERT OR REPLACE INTO calibration_shards VALUES(?, ?, ?)")
            .Bind(1, key)
            .Bind(2, shard)
            .Bind(3, to_seq)
            .Run());
    SqliteStatement row = db.Prepare(
        "SELECT COUNT(*) FROM calibration_shards WHERE calibration = ?");
    row.Bind(1, key);
    QS_ASSIGN_OR_RETURN(const int64_t shards, rows::Count(std::move(row)));
    if (shards > max_shards) return absl::OutOfRangeError("shards: too many");
    QS_RETURN_IF_ERROR(rows::Unrefer(db, freed));
    return freed;
  });
}

absl::StatusOr<bool> SqliteCalibrationRecords::AddMoments(
    int64_t key, const CalibrationPart& part, int64_t max_parts) {
  return Write<bool>([&](SqliteConnection& db) -> absl::StatusOr<bool> {
    QS_ASSIGN_OR_RETURN(const bool there, rows::FindMoments(db, key, part));
    if (there) return false;
    SqliteStatement row = db.Prepare(
        "SELECT COUNT(*) FROM calibration_parts"
        " WHERE calibration = ? AND site = ? AND kind = 2");
    row.Bind(1, key).Bind(2, part.site);
    QS_ASSIGN_OR_RETURN(const int64_t parts, rows::Count(std::move(row)));
    if (parts >= max_parts) return absl::OutOfRangeError("parts: too many");
    QS_RETURN_IF_ERROR(rows::PutPart(db, key, part));
    return true;
  });
}

absl::StatusOr<std::vector<std::string>> SqliteCalibrationRecords::Seal(
    int64_t key, const SealedSite& site,
    const std::vector<std::string>& merged) {
  using Freed = std::vector<std::string>;
  return Write<Freed>([&](SqliteConnection& db) -> absl::StatusOr<Freed> {
    QS_RETURN_IF_ERROR(rows::CheckKey(db, key));
    const absl::Status open = rows::CheckOpen(db, key, site.name);
    if (absl::IsFailedPrecondition(open)) {
      return absl::AbortedError("site: got one that was sealed meanwhile");
    }
    QS_RETURN_IF_ERROR(open);
    QS_ASSIGN_OR_RETURN(const std::vector<CalibrationPart> parts,
                        rows::FindParts(db, key, site.name));
    Freed freed;
    for (const CalibrationPart& part : parts) freed.push_back(part.blob);
    if (!std::is_permutation(freed.begin(), freed.end(), merged.begin(),
                             merged.end())) {
      return absl::AbortedError("site: got more while it was sealed");
    }
    QS_RETURN_IF_ERROR(
        db.Prepare("UPDATE calibration_sites SET sealed = 1, tokens = ?,"
                   " blob = ?, digest = ? WHERE calibration = ? AND name = ?")
            .Bind(1, site.tokens)
            .Bind(2, site.blob)
            .Bind(3, site.digest)
            .Bind(4, key)
            .Bind(5, site.name)
            .Run());
    QS_RETURN_IF_ERROR(
        db.Prepare("DELETE FROM calibration_parts"
                   " WHERE calibration = ? AND site = ? AND kind = 1")
            .Bind(1, key)
            .Bind(2, site.name)
            .Run());
    QS_RETURN_IF_ERROR(db.Prepare("UPDATE calibration_parts SET blob = ''"
                                  " WHERE calibration = ? AND site = ?")
                           .Bind(1, key)
                           .Bind(2, site.name)
                           .Run());
    if (!site.blob.empty()) {
      QS_RETURN_IF_ERROR(rows::Refer(db, key, site.blob));
    }
    QS_RETURN_IF_ERROR(rows::Unrefer(db, freed));
    return freed;
  });
}

absl::StatusOr<std::vector<std::string>> SqliteCalibrationRecords::Blobs() {
  using Found = std::vector<std::string>;
  return Read<Found>([&](SqliteConnection& db) {
    return rows::Texts(
        db.Prepare("SELECT blob FROM calibration_sites WHERE blob <> ''"
                   " UNION ALL "
                   "SELECT blob FROM calibration_parts WHERE blob <> ''"));
  });
}

}  // namespace

const SqliteSchema& CalibrationSchema() {
  static const auto* const schema = new SqliteSchema{"calibrations", {kTables}};
  return *schema;
}

std::unique_ptr<CalibrationRecords> NewSqliteCalibrationRecords(
    SqliteDatabase& db) {
  return std::make_unique<SqliteCalibrationRecords>(db);
}

}  // namespace qs
