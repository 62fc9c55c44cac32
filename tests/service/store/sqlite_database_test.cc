// The SQLite file: what is committed is there after a kill, a body that fails
// changes nothing, writes that wait are committed together, and a file of
// another process, of a newer program, or damaged is refused.
#include "service/store/sqlite_database.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <thread>

#include "kernels/base/status_macros.h"
#include "service/store/failpoint.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

const SqliteSchema kItems = {
    "items",
    {"CREATE TABLE items(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, "
     "size INTEGER CHECK(size >= 0)) STRICT;"
     "CREATE INDEX items_by_size ON items(size)"}};

std::unique_ptr<SqliteDatabase> Open(
    const std::string& path,
    const std::vector<SqliteSchema>& schemas = {kItems}) {
  auto db = SqliteDatabase::Open(path, schemas);
  INFO(db.status().ToString());
  REQUIRE(db.ok());
  return *std::move(db);
}

absl::Status Insert(SqliteConnection& db, const std::string& text,
                    int64_t size = 1) {
  return db.Prepare("INSERT INTO items(text, size) VALUES(?, ?)")
      .Bind(1, text)
      .Bind(2, size)
      .Run();
}

absl::Status Put(SqliteDatabase& db, const std::string& text) {
  return db.Write([&](SqliteConnection& c) { return Insert(c, text); });
}

int64_t Count(SqliteDatabase& db) {
  int64_t count = -1;
  const absl::Status status = db.Read([&](SqliteConnection& c) {
    SqliteStatement row = c.Prepare("SELECT COUNT(*) FROM items");
    if (row.Step()) count = row.Int(0);
    return row.status();
  });
  INFO(status.ToString());
  REQUIRE(status.ok());
  return count;
}

TEST_CASE("what was written is read, also after a restart", "[sqlite]") {
  TemporaryFolder folder;
  const std::string bytes("\0\x01z\0", 4);
  {
    const auto db = Open(folder / "db");
    REQUIRE(db->Write([&](SqliteConnection& c) {
                c.Prepare("CREATE TABLE t(a BLOB, b REAL, c TEXT)")
                    .Run()
                    .IgnoreError();
                return c.Prepare("INSERT INTO t VALUES(?, ?, ?)")
                    .BindBlob(1, bytes)
                    .Bind(2, 0.1)
                    .BindNull(3)
                    .Run();
              }).ok());
  }
  const auto db = Open(folder / "db");
  REQUIRE(db->Read([&](SqliteConnection& c) {
              SqliteStatement row = c.Prepare("SELECT a, b, c FROM t");
              REQUIRE(row.Step());
              CHECK(row.Text(0) == bytes);
              CHECK(row.Double(1) == 0.1);
              CHECK(row.IsNull(2));
              CHECK_FALSE(row.Step());
              return row.status();
            }).ok());
}

TEST_CASE("a body that fails changes nothing, its neighbours stay",
          "[sqlite]") {
  TemporaryFolder folder;
  const auto db = Open(folder / "db");
  REQUIRE(Put(*db, "a").ok());
  const absl::Status twice = db->Write([](SqliteConnection& c) {
    QS_RETURN_IF_ERROR(Insert(c, "b"));
    return Insert(c, "a");
  });
  CHECK(twice.code() == absl::StatusCode::kAlreadyExists);
  const absl::Status negative =
      db->Write([](SqliteConnection& c) { return Insert(c, "c", -1); });
  CHECK(negative.code() == absl::StatusCode::kFailedPrecondition);
  CHECK(db->Write([](SqliteConnection& c) {
            return c.Prepare("SELECT nothing").Run();
          }).code() == absl::StatusCode::kInternal);
  CHECK(Count(*db) == 1);
}

TEST_CASE("a reader cannot write", "[sqlite]") {
  TemporaryFolder folder;
  const auto db = Open(folder / "db");
  CHECK_FALSE(
      db->Read([](SqliteConnection& c) { return Insert(c, "a"); }).ok());
  CHECK(Count(*db) == 0);
}

TEST_CASE("many writers: every OK is there, order is that of the queue",
          "[sqlite]") {
  TemporaryFolder folder;
  const auto db = Open(folder / "db");
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&db, t] {
        for (int i = 0; i < 50; ++i) {
          CHECK(Put(*db, std::to_string(t * 1000 + i)).ok());
        }
      });
    }
  }
  CHECK(Count(*db) == 400);
  std::atomic<int> last = 0;
  std::atomic<bool> ordered = true;
  for (int i = 1; i <= 300; ++i) {
    db->WriteAsync(
        [i](SqliteConnection& c) { return Insert(c, "x" + std::to_string(i)); },
        [&, i](const absl::Status& status) {
          if (!status.ok() || last.exchange(i) != i - 1) ordered = false;
        });
  }
  REQUIRE(Put(*db, "end").ok());
  CHECK(last == 300);
  CHECK(ordered);
}

TEST_CASE("the same statement may be open twice", "[sqlite]") {
  TemporaryFolder folder;
  const auto db = Open(folder / "db");
  REQUIRE(Put(*db, "a").ok());
  REQUIRE(Put(*db, "b").ok());
  REQUIRE(db->Read([](SqliteConnection& c) {
              const char* const sql = "SELECT text FROM items ORDER BY text";
              SqliteStatement one = c.Prepare(sql);
              REQUIRE(one.Step());
              SqliteStatement other = c.Prepare(sql);
              REQUIRE(other.Step());
              REQUIRE(one.Step());
              CHECK(one.Text(0) == "b");
              CHECK(other.Text(0) == "a");
              return absl::OkStatus();
            }).ok());
}

TEST_CASE("a file is refused: in use, newer, damaged", "[sqlite]") {
  TemporaryFolder folder;
  {
    const auto db = Open(folder / "db");
    const auto other = SqliteDatabase::Open(folder / "db", {kItems});
    CHECK(other.status().code() == absl::StatusCode::kFailedPrecondition);
    for (int i = 0; i < 300; ++i) {
      REQUIRE(Put(*db, std::string(200, 'x') + std::to_string(i)).ok());
    }
  }
  CHECK(SqliteDatabase::Open(folder / "db", {{"items", {}}}).status().code() ==
        absl::StatusCode::kFailedPrecondition);
  {
    std::fstream file(folder / "db",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(8192);
    file << std::string(3000, '\x5a');
  }
  CHECK(SqliteDatabase::Open(folder / "db", {kItems}).status().code() ==
        absl::StatusCode::kDataLoss);
}

TEST_CASE("a schema grows by its steps", "[sqlite]") {
  TemporaryFolder folder;
  { CHECK(Put(*Open(folder / "db"), "a").ok()); }
  SqliteSchema grown = kItems;
  grown.steps.push_back("ALTER TABLE items ADD COLUMN more TEXT DEFAULT 'm'");
  {
    const auto db = Open(folder / "db", {grown});
    REQUIRE(db->Read([](SqliteConnection& c) {
                SqliteStatement row = c.Prepare("SELECT more FROM items");
                REQUIRE(row.Step());
                CHECK(row.Text(0) == "m");
                return row.status();
              }).ok());
  }
  grown.steps.push_back("CREATE TABLE half(a); this is no SQL");
  CHECK_FALSE(SqliteDatabase::Open(folder / "db", {grown}).ok());
  grown.steps.back() = "CREATE TABLE half(a)";
  CHECK(Count(*Open(folder / "db", {grown})) == 1);
}

#if defined(QS_FAILPOINTS)

TEST_CASE("a disk that is full loses the write alone", "[sqlite]") {
  TemporaryFolder folder;
  const auto db = Open(folder / "db");
  SetFailpointsForTest("meta.commit=ENOSPC@2");
  CHECK(Put(*db, "a").ok());
  CHECK(Put(*db, "b").code() == absl::StatusCode::kResourceExhausted);
  CHECK(Put(*db, "c").ok());
  CHECK(Count(*db) == 2);
  SetFailpointsForTest("");
}

TEST_CASE("after a failed sync nothing is written any more", "[sqlite]") {
  TemporaryFolder folder;
  {
    const auto db = Open(folder / "db");
    SetFailpointsForTest("meta.commit=EIO@2");
    CHECK(Put(*db, "a").ok());
    CHECK(Put(*db, "b").code() == absl::StatusCode::kInternal);
    CHECK(Put(*db, "c").code() == absl::StatusCode::kInternal);
    CHECK(Count(*db) == 1);
    SetFailpointsForTest("");
  }
  CHECK(Put(*Open(folder / "db"), "c").ok());
}

// Writes until it is killed, and says over the pipe what was acknowledged.
[[noreturn]] void WriteUntilKilled(const std::string& path, int pipe,
                                   const std::string& failpoints) {
  SetFailpointsForTest(failpoints);
  auto db = SqliteDatabase::Open(path, {kItems});
  if (!db.ok()) ::_exit(3);
  for (char i = 0; i < 100; ++i) {
    if (!Put(**db, std::to_string(i)).ok()) ::_exit(4);
    if (::write(pipe, &i, 1) != 1) ::_exit(5);
  }
  ::_exit(6);
}

TEST_CASE("killed at any commit: what was acknowledged is there", "[sqlite]") {
  for (const std::string point : {"meta.commit", "meta.committed"}) {
    for (int hit = 1; hit <= 12; ++hit) {
      TemporaryFolder folder;
      int ends[2];
      REQUIRE(::pipe(ends) == 0);
      const pid_t child = ::fork();
      if (child == 0) {
        WriteUntilKilled(folder / "db", ends[1],
                         point + "=kill@" + std::to_string(hit));
      }
      ::close(ends[1]);
      int64_t acknowledged = 0;
      char byte = 0;
      while (::read(ends[0], &byte, 1) == 1) ++acknowledged;
      ::close(ends[0]);
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      REQUIRE(WIFSIGNALED(status));
      CHECK(acknowledged == hit - 1);
      const int64_t found = Count(*Open(folder / "db"));
      CHECK(found >= acknowledged);
      CHECK(found <= acknowledged + (point == "meta.committed" ? 1 : 0));
    }
  }
}

#endif

}  // namespace
}  // namespace qs::testing
