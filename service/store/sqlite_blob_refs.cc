// Tested by tests/service/store/tensor_records_test.cc.
#include "service/store/sqlite_blob_refs.h"

#include "kernels/base/status_macros.h"

namespace qs {
namespace {

constexpr char kTables[] = R"sql(
CREATE TABLE blob_refs(
  digest TEXT NOT NULL,
  owner_kind TEXT NOT NULL,
  owner_id TEXT NOT NULL,
  project TEXT NOT NULL,
  PRIMARY KEY(digest, owner_kind, owner_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_refs_by_owner ON blob_refs(owner_kind, owner_id);
)sql";

absl::Status Exists(SqliteStatement row, bool* found) {
  *found = row.Step();
  return row.status();
}

class SqliteBlobRefs final : public BlobRefs {
 public:
  explicit SqliteBlobRefs(SqliteDatabase& database) : database_(database) {}

  absl::Status Add(const std::string& project, const std::string& digest,
                   const BlobOwner& owner) override {
    return database_.Write([&](SqliteConnection& db) {
      return AddBlobRef(db, project, digest, owner);
    });
  }

  absl::StatusOr<std::vector<std::string>> Drop(
      const BlobOwner& owner) override {
    std::vector<std::string> unreferenced;
    QS_RETURN_IF_ERROR(database_.Write([&](SqliteConnection& db) {
      return DropBlobRefs(db, owner, &unreferenced);
    }));
    return unreferenced;
  }

  absl::StatusOr<bool> IsReferenced(const std::string& digest) override {
    bool found = false;
    QS_RETURN_IF_ERROR(database_.Read([&](SqliteConnection& db) {
      SqliteStatement row =
          db.Prepare("SELECT 1 FROM blob_refs WHERE digest = ?");
      row.Bind(1, digest);
      return Exists(std::move(row), &found);
    }));
    return found;
  }

  absl::StatusOr<bool> IsInProject(const std::string& project,
                                   const std::string& digest) override {
    bool found = false;
    QS_RETURN_IF_ERROR(database_.Read([&](SqliteConnection& db) {
      SqliteStatement row = db.Prepare(
          "SELECT 1 FROM blob_refs WHERE digest = ? AND project = ?");
      row.Bind(1, digest).Bind(2, project);
      return Exists(std::move(row), &found);
    }));
    return found;
  }

 private:
  SqliteDatabase& database_;
};

}  // namespace

SqliteSchema BlobRefsSchema() { return {"blob_refs", {kTables}}; }

std::unique_ptr<BlobRefs> NewSqliteBlobRefs(SqliteDatabase& database) {
  return std::make_unique<SqliteBlobRefs>(database);
}

absl::Status AddBlobRef(SqliteConnection& db, const std::string& project,
                        const std::string& digest, const BlobOwner& owner) {
  return db
      .Prepare(
          "INSERT INTO blob_refs(digest, owner_kind, owner_id, project) "
          "VALUES(?, ?, ?, ?) ON CONFLICT DO NOTHING")
      .Bind(1, digest)
      .Bind(2, owner.kind)
      .Bind(3, owner.id)
      .Bind(4, project)
      .Run();
}

absl::Status DropBlobRefs(SqliteConnection& db, const BlobOwner& owner,
                          std::vector<std::string>* unreferenced) {
  {
    SqliteStatement row = db.Prepare(
        "SELECT digest FROM blob_refs AS mine "
        "WHERE owner_kind = ?1 AND owner_id = ?2 AND NOT EXISTS("
        "SELECT 1 FROM blob_refs AS other WHERE other.digest = mine.digest "
        "AND (other.owner_kind != ?1 OR other.owner_id != ?2))");
    row.Bind(1, owner.kind).Bind(2, owner.id);
    while (row.Step()) unreferenced->push_back(row.Text(0));
    QS_RETURN_IF_ERROR(row.status());
  }
  return db
      .Prepare("DELETE FROM blob_refs WHERE owner_kind = ? AND owner_id = ?")
      .Bind(1, owner.kind)
      .Bind(2, owner.id)
      .Run();
}

}  // namespace qs
