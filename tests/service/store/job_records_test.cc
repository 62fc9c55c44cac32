// The embedded JobRecords: the conformance suite.
#include "service/store/job_records.h"

#include <utility>

#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_job_records.h"
#include "tests/service/store/job_records_conformance.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

struct SqliteRecords final : OpenRecords {
  explicit SqliteRecords(const std::string& path, BlobsFreed on_freed = {}) {
    auto opened =
        SqliteDatabase::Open(path, {BlobRefsSchema(), JobRecordsSchema()});
    INFO(opened.status().ToString());
    REQUIRE(opened.ok());
    db = *std::move(opened);
    jobs = NewSqliteJobRecords(*db, std::move(on_freed));
  }
  JobRecords& records() override { return *jobs; }

  std::unique_ptr<SqliteDatabase> db;
  std::unique_ptr<JobRecords> jobs;
};

TEST_CASE("sqlite job records: inputs", "[job_records]") {
  TemporaryFolder folder;
  std::vector<std::string> freed;
  SqliteRecords* opened = nullptr;
  const RecordsOpener open = [&] {
    auto records = std::make_unique<SqliteRecords>(
        folder / "db", [&freed](std::vector<std::string> digests) {
          freed.insert(freed.end(), digests.begin(), digests.end());
        });
    opened = records.get();
    return records;
  };
  CheckInputs(
      open,
      {[&](const std::string& project, const std::string& digest) {
         REQUIRE(NewSqliteBlobRefs(*opened->db)
                     ->Add(project, digest, {"tensor", project + "/" + digest})
                     .ok());
       },
       [&] {
         const auto refs = NewSqliteBlobRefs(*opened->db);
         for (const char* id :
              {"default/sha256:1", "default/sha256:2", "other/sha256:2"}) {
           REQUIRE(refs->Drop({"tensor", id})->empty());
         }
       },
       freed});
}

TEST_CASE("sqlite job records: what waited before parts of jobs did",
          "[job_records]") {
  TemporaryFolder folder;
  {
    SqliteSchema before = JobRecordsSchema();
    before.steps.resize(4);
    auto db = SqliteDatabase::Open(folder / "db", {BlobRefsSchema(), before});
    REQUIRE(db.ok());
    REQUIRE(
        (*db)
            ->Write([](SqliteConnection& c) {
              return c
                  .Prepare(
                      "INSERT INTO jobs(project, id, request_hash, spec, "
                      "plan, destination, trace, priority, created, state, "
                      "attempt, crashes, cancel_requested, publishing, "
                      "fingerprint, progress, revision, calibration, "
                      "waiting, waiting_text) VALUES('default', 'a', 'h', "
                      "x'00', x'00', '/out/a', '', 2, 1, 1, 1, 0, 0, 0, '', "
                      "x'', 1, 'c', '1,2', x'41')")
                  .Run();
            })
            .ok());
  }
  SqliteRecords opened(folder / "db");
  REQUIRE(opened.records().Get({"default", "a"})->waiting ==
          JobWait{{1, 2}, "A", {{1, 2}}});
  REQUIRE_FALSE(opened.records().NextQueued({})->has_value());
  REQUIRE(*opened.records().UpdateWaiting({"default", "c"},
                                          [](JobWait& wait) { wait = {}; }));
  REQUIRE((*opened.records().NextQueued({}))->key.id == "a");
}

TEST_CASE("sqlite job records conform", "[job_records]") {
  TemporaryFolder folder;
  const RecordsOpener open = [&] {
    return std::make_unique<SqliteRecords>(folder / "db");
  };
  SECTION("kept over a restart") { CheckKeptOverRestart(open); }
  SECTION("create once") { CheckCreateOnce(open); }
  SECTION("create limits") { CheckCreateLimits(open); }
  SECTION("updates") { CheckUpdates(open); }
  SECTION("illegal states") { CheckIllegalStates(open); }
  SECTION("trimmed events") { CheckTrimmedEvents(open); }
  SECTION("pages") { CheckPages(open); }
  SECTION("times of lists") { CheckTimesOfLists(open); }
  SECTION("inline calibrations") { CheckInlineCalibrations(open); }
  SECTION("long specs") { CheckLongSpecs(open); }
  SECTION("queue order") { CheckQueueOrder(open); }
  SECTION("waiting") { CheckWaiting(open); }
  SECTION("parts that wait") { CheckPartsThatWait(open); }
  SECTION("users of calibrations") { CheckCalibrationUsers(open); }
  SECTION("queue deadlines") { CheckQueueDeadlines(open); }
  SECTION("commits") { CheckCommits(open); }
  SECTION("results") { CheckResults(open); }
  SECTION("stored results stay") { CheckStoredStay(open); }
  SECTION("delete and history") { CheckDeleteAndHistory(open); }
}

}  // namespace
}  // namespace qs::testing
