// SqliteDatabase: one SQLite file with one writer — the ground on which the
// embedded records stand.
//
// WAL and synchronous=FULL: what Write returned OK for survives a killed
// process and a power cut. One thread writes; writes that wait are committed
// together, so that a sync serves many. Readers have connections of their own
// and see what is committed.
//
// Thread: thread-safe. Write and Read block: call them on an IoPool.
#ifndef QS_SERVICE_STORE_SQLITE_DATABASE_H_
#define QS_SERVICE_STORE_SQLITE_DATABASE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct sqlite3;
struct sqlite3_stmt;

namespace qs {

// A statement that is being run. Values are bound and read by position, from 1
// and from 0, as SQLite counts them.
//
//   SqliteStatement row = db.Prepare("SELECT state FROM jobs WHERE id = ?");
//   row.Bind(1, id);
//   if (row.Step()) state = row.Int(0);
//   QS_RETURN_IF_ERROR(row.status());
//
// Errors stay in status(); after one every call does nothing, and Step is
// false.
class SqliteStatement {
 public:
  ~SqliteStatement();
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement(const SqliteStatement&) = delete;
  SqliteStatement& operator=(const SqliteStatement&) = delete;

  SqliteStatement& Bind(int position, int64_t value);
  SqliteStatement& Bind(int position, double value);
  SqliteStatement& Bind(int position, const std::string& text);
  SqliteStatement& BindBlob(int position, const std::string& bytes);
  SqliteStatement& BindNull(int position);

  // To the next row; false: there is none, or an error.
  bool Step();
  // Runs to the end. Errors: ALREADY_EXISTS — a uniqueness constraint;
  // FAILED_PRECONDITION — another constraint; RESOURCE_EXHAUSTED — the disk is
  // full; DATA_LOSS — the file is damaged; INTERNAL.
  absl::Status Run();
  const absl::Status& status() const { return status_; }

  // Of the row that Step went to. Text of a blob: its bytes.
  int64_t Int(int column) const;
  double Double(int column) const;
  std::string Text(int column) const;
  bool IsNull(int column) const;

 private:
  friend class SqliteConnection;
  using Free = std::vector<sqlite3_stmt*>;
  SqliteStatement(sqlite3* db, sqlite3_stmt* statement, Free* free,
                  absl::Status status)
      : db_(db),
        statement_(statement),
        free_(free),
        status_(std::move(status)) {}
  void Check(int code);

  sqlite3* db_;
  sqlite3_stmt* statement_;  // null after an error of Prepare
  Free* free_;               // of the connection, where it goes back to
  absl::Status status_;
};

// Thread: one user at a time.
class SqliteConnection {
 public:
  ~SqliteConnection();
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  // Compiled once for each text, so `sql` is best a literal.
  SqliteStatement Prepare(const char* sql);
  // Rows that the last INSERT, UPDATE or DELETE changed.
  int64_t changes() const;
  int64_t last_row_id() const;

 private:
  friend class SqliteFile;
  explicit SqliteConnection(sqlite3* db) : db_(db) {}

  sqlite3* db_;
  std::unordered_map<std::string, SqliteStatement::Free> statements_;
};

// The tables of one kind of records. Step i takes them from version i to i + 1;
// a step that was released is never changed.
struct SqliteSchema {
  std::string name;
  std::vector<const char*> steps;
};

class SqliteDatabase {
 public:
  using Body = std::function<absl::Status(SqliteConnection&)>;

  // Makes the file and brings the schemas up to date; checks the whole file.
  // Errors: FAILED_PRECONDITION — another process uses it, or it is of a newer
  // version; DATA_LOSS — damaged; as PosixError.
  static absl::StatusOr<std::unique_ptr<SqliteDatabase>> Open(
      const std::string& path, const std::vector<SqliteSchema>& schemas);
  // Writes what is queued first.
  virtual ~SqliteDatabase() = default;

  // Runs `body` in a transaction and returns when that is on the disk. A body
  // that fails changes nothing, and its error is returned. Errors: the body's;
  // RESOURCE_EXHAUSTED — the disk is full; INTERNAL — the disk failed: from
  // then on every call that writes says so, since what lies on the disk is
  // unknown.
  virtual absl::Status Write(const Body& body) = 0;
  // The same; `done` is called on the writer's thread. The caller bounds what
  // it has under way.
  virtual void WriteAsync(Body body,
                          std::function<void(absl::Status)> done) = 0;
  // One consistent state of what is committed; `body` changes nothing.
  virtual absl::Status Read(const Body& body) = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_SQLITE_DATABASE_H_
