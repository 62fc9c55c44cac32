// Tested by tests/service/store/calibration_records_test.cc.
#include "service/store/sqlite_calibration_rows.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/store/sqlite_blob_refs.h"

namespace qs::calibration_rows {
namespace {

using Json = nlohmann::json;
using Kind = CalibrationPart::Kind;

// Of what ListText and MapText wrote.
std::vector<std::string> ListFrom(const std::string& text) {
  std::vector<std::string> out;
  const Json json = Json::parse(text, nullptr, false);
  for (const Json& item : json) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
  return out;
}

std::map<std::string, std::string> MapFrom(const std::string& text) {
  std::map<std::string, std::string> out;
  const Json json = Json::parse(text, nullptr, false);
  for (const auto& [key, value] : json.items()) {
    if (value.is_string()) out[key] = value.get<std::string>();
  }
  return out;
}

absl::Status NoCalibration() {
  return absl::NotFoundError("calibration: got none of this name");
}

absl::Status ReadSites(SqliteConnection& db, CalibrationRecord* out) {
  SqliteStatement row = db.Prepare(
      "SELECT name, inputs, modules, sealed, tokens, blob, digest"
      " FROM calibration_sites WHERE calibration = ? ORDER BY name");
  row.Bind(1, out->key);
  while (row.Step()) {
    CalibrationSiteRecord& site = out->sites.emplace_back();
    site.name = row.Text(0);
    site.inputs = row.Int(1);
    site.modules = ListFrom(row.Text(2));
    site.sealed = row.Int(3) != 0;
    site.tokens = row.Int(4);
    site.blob = row.Text(5);
    site.digest = row.Text(6);
  }
  return row.status();
}

CalibrationPart ReadPart(const SqliteStatement& row) {
  CalibrationPart part;
  part.site = row.Text(0);
  part.kind = static_cast<Kind>(row.Int(1));
  part.source = row.Text(2);
  part.blob = row.Text(3);
  part.dtype = row.Text(4);
  part.tokens = row.Int(5);
  part.request_hash = row.Text(6);
  return part;
}

}  // namespace

std::string ListText(const std::vector<std::string>& list) {
  return Json(list).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string MapText(const std::map<std::string, std::string>& map) {
  return Json(map).dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char kSelect[] =
    "SELECT c.key, c.project, c.id, c.request_id, c.request_hash,"
    " c.created_ms, c.metadata,"
    " (SELECT COUNT(*) FROM calibration_sites WHERE calibration = c.key),"
    " (SELECT COUNT(*) FROM calibration_sites"
    "  WHERE calibration = c.key AND sealed)"
    " FROM calibrations c ";

CalibrationRecord ReadRow(const SqliteStatement& row) {
  CalibrationRecord out;
  out.key = row.Int(0);
  out.project = row.Text(1);
  out.id = row.Text(2);
  if (!row.IsNull(3)) out.request_id = row.Text(3);
  out.request_hash = row.Text(4);
  out.created_ms = row.Int(5);
  out.metadata = MapFrom(row.Text(6));
  out.site_count = row.Int(7);
  out.sealed_count = row.Int(8);
  return out;
}

absl::StatusOr<CalibrationRecord> ReadOne(SqliteConnection& db,
                                          SqliteStatement row) {
  if (!row.Step()) return row.status().ok() ? NoCalibration() : row.status();
  CalibrationRecord out = ReadRow(row);
  QS_RETURN_IF_ERROR(ReadSites(db, &out));
  return out;
}

absl::StatusOr<CalibrationRecord> Find(SqliteConnection& db,
                                       const std::string& project,
                                       const std::string& id) {
  static const std::string sql =
      absl::StrCat(kSelect, "WHERE c.project = ? AND c.id = ?");
  SqliteStatement row = db.Prepare(sql.c_str());
  row.Bind(1, project).Bind(2, id);
  return ReadOne(db, std::move(row));
}

absl::StatusOr<int64_t> Count(SqliteStatement row) {
  if (row.Step()) return row.Int(0);
  return row.status();
}

// OK, or NOT_FOUND.
absl::Status CheckKey(SqliteConnection& db, int64_t key) {
  SqliteStatement row = db.Prepare("SELECT 1 FROM calibrations WHERE key = ?");
  row.Bind(1, key);
  if (row.Step()) return absl::OkStatus();
  return row.status().ok() ? NoCalibration() : row.status();
}

absl::Status CheckOpen(SqliteConnection& db, int64_t key,
                       const std::string& site) {
  SqliteStatement row = db.Prepare(
      "SELECT sealed FROM calibration_sites WHERE calibration = ? AND name = "
      "?");
  row.Bind(1, key).Bind(2, site);
  if (!row.Step()) return row.status().ok() ? NoCalibration() : row.status();
  if (row.Int(0) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("site \"", site, "\": got one that is sealed"));
}

absl::Status Refer(SqliteConnection& db, int64_t key, const std::string& blob) {
  std::string project;
  {
    SqliteStatement row =
        db.Prepare("SELECT project FROM calibrations WHERE key = ?");
    row.Bind(1, key);
    if (!row.Step()) return row.status().ok() ? NoCalibration() : row.status();
    project = row.Text(0);
  }
  return AddBlobRef(db, project, blob, {"calibration", blob});
}

absl::Status Unrefer(SqliteConnection& db,
                     const std::vector<std::string>& blobs) {
  std::vector<std::string> unreferenced;
  for (const std::string& blob : blobs) {
    QS_RETURN_IF_ERROR(DropBlobRefs(db, {"calibration", blob}, &unreferenced));
  }
  return absl::OkStatus();
}

absl::Status PutPart(SqliteConnection& db, int64_t key,
                     const CalibrationPart& part) {
  QS_RETURN_IF_ERROR(Refer(db, key, part.blob));
  return db
      .Prepare(
          "INSERT OR REPLACE INTO calibration_parts VALUES"
          "(?, ?, ?, ?, ?, ?, ?, ?)")
      .Bind(1, key)
      .Bind(2, part.site)
      .Bind(3, static_cast<int64_t>(part.kind))
      .Bind(4, part.source)
      .Bind(5, part.blob)
      .Bind(6, part.dtype)
      .Bind(7, part.tokens)
      .Bind(8, part.request_hash)
      .Run();
}

absl::StatusOr<std::vector<std::string>> Texts(SqliteStatement row) {
  std::vector<std::string> out;
  while (row.Step()) out.push_back(row.Text(0));
  QS_RETURN_IF_ERROR(row.status());
  return out;
}

absl::StatusOr<CalibrationShardRecord> FindShard(SqliteConnection& db,
                                                 int64_t key,
                                                 const std::string& shard) {
  QS_RETURN_IF_ERROR(CheckKey(db, key));
  CalibrationShardRecord out;
  {
    SqliteStatement row = db.Prepare(
        "SELECT durable_seq FROM calibration_shards"
        " WHERE calibration = ? AND shard = ?");
    row.Bind(1, key).Bind(2, shard);
    if (row.Step()) out.durable_seq = row.Int(0);
    QS_RETURN_IF_ERROR(row.status());
  }
  SqliteStatement row = db.Prepare(
      "SELECT site, kind, source, blob, dtype, tokens, request_hash"
      " FROM calibration_parts"
      " WHERE calibration = ? AND kind = 1 AND source = ? ORDER BY site");
  row.Bind(1, key).Bind(2, shard);
  while (row.Step()) out.parts.push_back(ReadPart(row));
  QS_RETURN_IF_ERROR(row.status());
  return out;
}

absl::StatusOr<bool> FindMoments(SqliteConnection& db, int64_t key,
                                 const CalibrationPart& part) {
  QS_RETURN_IF_ERROR(CheckKey(db, key));
  {
    SqliteStatement row = db.Prepare(
        "SELECT request_hash FROM calibration_parts"
        " WHERE calibration = ? AND kind = 2 AND source = ?");
    row.Bind(1, key).Bind(2, part.source);
    if (row.Step()) {
      if (row.Text(0) == part.request_hash) return true;
      return absl::AlreadyExistsError("request_id: got one of another");
    }
    QS_RETURN_IF_ERROR(row.status());
  }
  QS_RETURN_IF_ERROR(CheckOpen(db, key, part.site));
  return false;
}

absl::StatusOr<std::vector<CalibrationPart>> FindParts(
    SqliteConnection& db, int64_t key, const std::string& site) {
  QS_RETURN_IF_ERROR(CheckKey(db, key));
  SqliteStatement row = db.Prepare(
      "SELECT site, kind, source, blob, dtype, tokens, request_hash"
      " FROM calibration_parts"
      " WHERE calibration = ? AND site = ? AND blob <> ''"
      " ORDER BY kind, source");
  row.Bind(1, key).Bind(2, site);
  std::vector<CalibrationPart> parts;
  while (row.Step()) parts.push_back(ReadPart(row));
  QS_RETURN_IF_ERROR(row.status());
  return parts;
}

}  // namespace qs::calibration_rows
