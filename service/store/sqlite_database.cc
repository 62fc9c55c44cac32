// Tested by tests/service/store/sqlite_database_test.cc.
#include "service/store/sqlite_database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>

#include <cerrno>
#include <deque>
#include <filesystem>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"
#include "service/store/failpoint.h"
#include "service/store/sqlite_error.h"

namespace qs {
namespace {

// Writes that are committed together, at most: a commit that fails fails all.
constexpr size_t kMaxBatch = 256;
constexpr int kBusyMilliseconds = 10'000;
constexpr size_t kMaxIdleReaders = 8;

absl::Status Execute(SqliteConnection& db, const char* sql) {
  return db.Prepare(sql).Run();
}

absl::StatusOr<UniqueFd> Lock(const std::string& path) {
  const std::string name = path + ".lock";
  UniqueFd fd(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (fd.get() < 0) return PosixError(errno, "open", name);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": another process uses it"));
}

absl::Status SyncFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const UniqueFd fd(
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) {
    return PosixError(errno, "sync", folder);
  }
  return absl::OkStatus();
}

}  // namespace

class SqliteFile final : public SqliteDatabase {
 public:
  SqliteFile(std::string path, UniqueFd lock)
      : lock_(std::move(lock)), path_(std::move(path)) {}

  ~SqliteFile() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start(const std::vector<SqliteSchema>& schemas) {
    QS_ASSIGN_OR_RETURN(writer_, Connect());
    QS_RETURN_IF_ERROR(CheckWhole());
    for (const SqliteSchema& schema : schemas) {
      QS_RETURN_IF_ERROR(Migrate(schema));
    }
    QS_RETURN_IF_ERROR(SyncFolderOf(path_));
    thread_ = std::jthread([this] { Work(); });
    return absl::OkStatus();
  }

  absl::Status Write(const Body& body) override {
    absl::Status result;
    bool done = false;
    absl::Mutex mutex;
    WriteAsync(body, [&](absl::Status status) {
      absl::MutexLock lock(&mutex);
      result = std::move(status);
      done = true;
    });
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(&done));
    return result;
  }

  void WriteAsync(Body body, std::function<void(absl::Status)> done) override {
    absl::MutexLock lock(&mutex_);
    queue_.push_back({std::move(body), std::move(done), absl::OkStatus()});
  }

  absl::Status Read(const Body& body) override {
    QS_ASSIGN_OR_RETURN(std::unique_ptr<SqliteConnection> reader, TakeReader());
    QS_RETURN_IF_ERROR(Execute(*reader, "BEGIN"));
    const absl::Status status = body(*reader);
    QS_RETURN_IF_ERROR(Execute(*reader, "ROLLBACK"));
    absl::MutexLock lock(&mutex_);
    if (readers_.size() < kMaxIdleReaders) {
      readers_.push_back(std::move(reader));
    }
    return status;
  }

 private:
  struct Task {
    Body body;
    std::function<void(absl::Status)> done;
    absl::Status status;
  };

  absl::StatusOr<std::unique_ptr<SqliteConnection>> Connect() const;
  absl::StatusOr<std::unique_ptr<SqliteConnection>> TakeReader();
  absl::Status CheckWhole();
  absl::Status Migrate(const SqliteSchema& schema);
  absl::Status MigrateFrom(const SqliteSchema& schema, size_t version);

  void Work();
  std::vector<Task> TakeBatch();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !queue_.empty();
  }
  absl::Status RunBatch(std::vector<Task>* batch);
  absl::Status RunTask(Task* task);
  absl::Status Commit();
  void RollBack();

  const UniqueFd lock_;
  const std::string path_;
  std::unique_ptr<SqliteConnection> writer_;  // the writer's thread
  absl::Status broken_;                       // the same

  absl::Mutex mutex_;
  std::deque<Task> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::unique_ptr<SqliteConnection>> readers_
      ABSL_GUARDED_BY(mutex_);
  std::jthread thread_;
};

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteFile::Connect() const {
  sqlite3* db = nullptr;
  const int code = sqlite3_open_v2(
      path_.c_str(), &db,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
      nullptr);
  std::unique_ptr<SqliteConnection> connection(new SqliteConnection(db));
  if (code != SQLITE_OK) return SqliteError(db, code, path_.c_str());
  sqlite3_extended_result_codes(db, 1);
  sqlite3_busy_timeout(db, kBusyMilliseconds);
  for (const char* const sql :
       {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
        "PRAGMA foreign_keys=ON"}) {
    QS_RETURN_IF_ERROR(Execute(*connection, sql));
  }
  return connection;
}

absl::StatusOr<std::unique_ptr<SqliteConnection>> SqliteFile::TakeReader() {
  {
    absl::MutexLock lock(&mutex_);
    if (!readers_.empty()) {
      std::unique_ptr<SqliteConnection> reader = std::move(readers_.back());
      readers_.pop_back();
      return reader;
    }
  }
  QS_ASSIGN_OR_RETURN(std::unique_ptr<SqliteConnection> reader, Connect());
  QS_RETURN_IF_ERROR(Execute(*reader, "PRAGMA query_only=ON"));
  return reader;
}

absl::Status SqliteFile::CheckWhole() {
  SqliteStatement check = writer_->Prepare("PRAGMA quick_check(1)");
  const std::string found = check.Step() ? check.Text(0) : "";
  QS_RETURN_IF_ERROR(check.status());
  if (found == "ok") return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path_, ": damaged: ", found));
}

absl::Status SqliteFile::Migrate(const SqliteSchema& schema) {
  QS_RETURN_IF_ERROR(Execute(*writer_,
                             "CREATE TABLE IF NOT EXISTS schema_versions("
                             "name TEXT PRIMARY KEY, version INTEGER NOT NULL) "
                             "STRICT, WITHOUT ROWID"));
  size_t version = 0;
  {
    SqliteStatement row =
        writer_->Prepare("SELECT version FROM schema_versions WHERE name = ?");
    row.Bind(1, schema.name);
    if (row.Step()) version = static_cast<size_t>(row.Int(0));
    QS_RETURN_IF_ERROR(row.status());
  }
  if (version > schema.steps.size()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path_, ": got version ", version, " of ", schema.name,
        ", allowed 0 to ", schema.steps.size(), ": a newer program made it"));
  }
  if (version == schema.steps.size()) return absl::OkStatus();
  QS_RETURN_IF_ERROR(Execute(*writer_, "BEGIN IMMEDIATE"));
  absl::Status status = MigrateFrom(schema, version);
  if (status.ok()) return Execute(*writer_, "COMMIT");
  Execute(*writer_, "ROLLBACK").IgnoreError();
  return status;
}

absl::Status SqliteFile::MigrateFrom(const SqliteSchema& schema,
                                     size_t version) {
  for (; version < schema.steps.size(); ++version) {
    // A step is a list of statements, so it is not prepared as one.
    const int code = sqlite3_exec(writer_->db_, schema.steps[version], nullptr,
                                  nullptr, nullptr);
    if (code != SQLITE_OK) {
      return SqliteError(writer_->db_, code, schema.name.c_str());
    }
  }
  SqliteStatement row = writer_->Prepare(
      "INSERT INTO schema_versions(name, version) VALUES(?, ?) "
      "ON CONFLICT(name) DO UPDATE SET version = excluded.version");
  return row.Bind(1, schema.name).Bind(2, static_cast<int64_t>(version)).Run();
}

std::vector<SqliteFile::Task> SqliteFile::TakeBatch() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &SqliteFile::HasWork));
  std::vector<Task> batch;
  while (!queue_.empty() && batch.size() < kMaxBatch) {
    batch.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  return batch;
}

void SqliteFile::Work() {
  while (true) {
    std::vector<Task> batch = TakeBatch();
    if (batch.empty()) return;
    const absl::Status committed = broken_.ok() ? RunBatch(&batch) : broken_;
    for (Task& task : batch) {
      task.body = nullptr;
      task.done(task.status.ok() ? committed : task.status);
    }
  }
}

// A body that fails is undone alone. An error that makes SQLite undo the whole
// transaction undoes what went well before, too.
absl::Status SqliteFile::RunBatch(std::vector<Task>* batch) {
  QS_RETURN_IF_ERROR(Execute(*writer_, "BEGIN IMMEDIATE"));
  for (Task& task : *batch) {
    if (const absl::Status status = RunTask(&task); !status.ok()) {
      RollBack();
      return status;
    }
  }
  return Commit();
}

void SqliteFile::RollBack() {
  if (sqlite3_get_autocommit(writer_->db_) != 0) return;
  Execute(*writer_, "ROLLBACK").IgnoreError();
}

absl::Status SqliteFile::RunTask(Task* task) {
  QS_RETURN_IF_ERROR(Execute(*writer_, "SAVEPOINT task"));
  task->status = task->body(*writer_);
  if (sqlite3_get_autocommit(writer_->db_) != 0) {
    return task->status.ok()
               ? absl::InternalError(path_ + ": a write ended the transaction")
               : task->status;
  }
  if (!task->status.ok()) {
    QS_RETURN_IF_ERROR(Execute(*writer_, "ROLLBACK TO task"));
  }
  return Execute(*writer_, "RELEASE task");
}

absl::Status SqliteFile::Commit() {
  absl::Status status;
  if (const int error = QS_FAILPOINT("meta.commit")) {
    status = error == ENOSPC ? absl::ResourceExhaustedError("disk full")
                             : absl::InternalError("disk failed");
  } else {
    status = Execute(*writer_, "COMMIT");
  }
  (void)QS_FAILPOINT("meta.committed");
  if (status.ok()) return status;
  RollBack();
  // A sync that failed is not tried again.
  if (!absl::IsResourceExhausted(status)) broken_ = status;
  return status;
}

absl::StatusOr<std::unique_ptr<SqliteDatabase>> SqliteDatabase::Open(
    const std::string& path, const std::vector<SqliteSchema>& schemas) {
  QS_ASSIGN_OR_RETURN(UniqueFd lock, Lock(path));
  auto file = std::make_unique<SqliteFile>(path, std::move(lock));
  QS_RETURN_IF_ERROR(file->Start(schemas));
  return std::unique_ptr<SqliteDatabase>(std::move(file));
}

}  // namespace qs
