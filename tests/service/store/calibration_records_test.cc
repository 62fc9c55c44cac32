// Calibration records in SQLite: the conformance suite, and a restart.
#include <utility>

#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_calibration_records.h"
#include "tests/service/store/calibration_records_conformance.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

std::unique_ptr<SqliteDatabase> OpenDatabase(const std::string& path) {
  auto db = SqliteDatabase::Open(path, {BlobRefsSchema(), CalibrationSchema()});
  INFO(db.status().ToString());
  REQUIRE(db.ok());
  return *std::move(db);
}

// Records with the database and the folder that they stand in.
struct Opened {
  TemporaryFolder folder;
  std::unique_ptr<SqliteDatabase> db = OpenDatabase(folder / "db");
  std::unique_ptr<CalibrationRecords> records =
      NewSqliteCalibrationRecords(*db);
};

TEST_CASE("calibration records in SQLite", "[calibration_records]") {
  CheckCalibrationRecords([] {
    auto opened = std::make_shared<Opened>();
    return std::shared_ptr<CalibrationRecords>(opened, opened->records.get());
  });
}

TEST_CASE("calibration records after a restart", "[calibration_records]") {
  TemporaryFolder folder;
  int64_t key = 0;
  {
    const auto db = OpenDatabase(folder / "db");
    const auto records = NewSqliteCalibrationRecords(*db);
    key = MustCreate(*records, NewCalibration("a", "r")).key;
    REQUIRE(
        records->PutShard(key, "s", 0, 3, {ShardPart("s", "a", "blob", 3)}, 9)
            .ok());
  }
  const auto db = OpenDatabase(folder / "db");
  const auto records = NewSqliteCalibrationRecords(*db);
  CHECK(records->Get("p", "a")->key == key);
  CHECK(records->GetShard(key, "s")->durable_seq == 3);
  CHECK(MustCreate(*records, NewCalibration("b", "r")).id == "a");
}

}  // namespace
}  // namespace qs::testing
