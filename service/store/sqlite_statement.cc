// Tested by tests/service/store/sqlite_database_test.cc.
#include <sqlite3.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "service/store/sqlite_database.h"
#include "service/store/sqlite_error.h"

namespace qs {
namespace {

// The errno of the last call that failed on the database's file (`which`
// SQLITE_FCNTL_FILE_POINTER) or its log's (SQLITE_FCNTL_JOURNAL_POINTER).
int LastErrno(sqlite3* db, int which) {
  sqlite3_file* file = nullptr;
  int error = 0;
  if (sqlite3_file_control(db, nullptr, which, &file) == SQLITE_OK &&
      file != nullptr && file->pMethods != nullptr) {
    file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &error);
  }
  return error;
}

// SQLite knows ENOSPC only: a quota and a limit of the process are others.
bool HasNoRoom(sqlite3* db, int code) {
  if (db == nullptr || code != SQLITE_IOERR_WRITE) return false;
  for (const int file :
       {SQLITE_FCNTL_FILE_POINTER, SQLITE_FCNTL_JOURNAL_POINTER}) {
    const int error = LastErrno(db, file);
    if (error == EDQUOT || error == EFBIG) return true;
  }
  return false;
}

}  // namespace

absl::Status SqliteError(sqlite3* db, int code, const char* what) {
  const std::string text = absl::StrCat(
      what, ": ", db == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(db));
  switch (code & 0xff) {
    case SQLITE_CONSTRAINT:
      if (code == SQLITE_CONSTRAINT_UNIQUE ||
          code == SQLITE_CONSTRAINT_PRIMARYKEY) {
        return absl::AlreadyExistsError(text);
      }
      return absl::FailedPreconditionError(text);
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(text);
    case SQLITE_IOERR:
      return HasNoRoom(db, code) ? absl::ResourceExhaustedError(text)
                                 : absl::InternalError(text);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(text);
    default:
      return absl::InternalError(text);
  }
}

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : db_(other.db_),
      statement_(std::exchange(other.statement_, nullptr)),
      free_(other.free_),
      status_(std::move(other.status_)) {}

SqliteStatement::~SqliteStatement() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  free_->push_back(statement_);
}

void SqliteStatement::Check(int code) {
  if (code == SQLITE_OK || !status_.ok()) return;
  status_ = SqliteError(db_, sqlite3_extended_errcode(db_),
                        statement_ == nullptr ? "" : sqlite3_sql(statement_));
}

SqliteStatement& SqliteStatement::Bind(int position, int64_t value) {
  if (status_.ok()) Check(sqlite3_bind_int64(statement_, position, value));
  return *this;
}

SqliteStatement& SqliteStatement::Bind(int position, double value) {
  if (status_.ok()) Check(sqlite3_bind_double(statement_, position, value));
  return *this;
}

SqliteStatement& SqliteStatement::Bind(int position, const std::string& text) {
  if (status_.ok()) {
    Check(sqlite3_bind_text64(statement_, position, text.data(), text.size(),
                              SQLITE_TRANSIENT, SQLITE_UTF8));
  }
  return *this;
}

SqliteStatement& SqliteStatement::BindBlob(int position,
                                           const std::string& bytes) {
  if (status_.ok()) {
    Check(sqlite3_bind_blob64(statement_, position, bytes.data(), bytes.size(),
                              SQLITE_TRANSIENT));
  }
  return *this;
}

SqliteStatement& SqliteStatement::BindNull(int position) {
  if (status_.ok()) Check(sqlite3_bind_null(statement_, position));
  return *this;
}

bool SqliteStatement::Step() {
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) Check(code);
  return false;
}

absl::Status SqliteStatement::Run() {
  while (Step()) {
  }
  return status_;
}

int64_t SqliteStatement::Int(int column) const {
  return sqlite3_column_int64(statement_, column);
}

double SqliteStatement::Double(int column) const {
  return sqlite3_column_double(statement_, column);
}

std::string SqliteStatement::Text(int column) const {
  const void* const data = sqlite3_column_blob(statement_, column);
  const int bytes = sqlite3_column_bytes(statement_, column);
  if (data == nullptr) return "";
  return std::string(static_cast<const char*>(data),
                     static_cast<size_t>(bytes));
}

bool SqliteStatement::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

SqliteConnection::~SqliteConnection() {
  for (const auto& [sql, free] : statements_) {
    for (sqlite3_stmt* const statement : free) sqlite3_finalize(statement);
  }
  sqlite3_close(db_);
}

SqliteStatement SqliteConnection::Prepare(const char* sql) {
  SqliteStatement::Free& free = statements_[sql];
  if (!free.empty()) {
    sqlite3_stmt* const statement = free.back();
    free.pop_back();
    return SqliteStatement(db_, statement, &free, absl::OkStatus());
  }
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(db_, sql, -1, SQLITE_PREPARE_PERSISTENT,
                                      &statement, nullptr);
  absl::Status status;
  if (code != SQLITE_OK) {
    status = SqliteError(db_, sqlite3_extended_errcode(db_), sql);
  }
  return SqliteStatement(db_, statement, &free, std::move(status));
}

int64_t SqliteConnection::changes() const { return sqlite3_changes64(db_); }

int64_t SqliteConnection::last_row_id() const {
  return sqlite3_last_insert_rowid(db_);
}

}  // namespace qs
