// TensorRecords and BlobRefs on SQLite, and the keeper of blobs.
#include <functional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "service/store/blob_keeper.h"
#include "service/store/dir_blob_store.h"
#include "service/store/failpoint.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_tensor_records.h"
#include "tests/service/store/blob_store_conformance.h"
#include "tests/service/store/tensor_records_conformance.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

struct OpenedRecords {
  std::unique_ptr<SqliteDatabase> database;
  std::unique_ptr<TensorRecords> tensors;
  std::unique_ptr<BlobRefs> refs;
};

RecordParts Open(const std::string& path) {
  const auto opened = std::make_shared<OpenedRecords>();
  auto database =
      SqliteDatabase::Open(path, {BlobRefsSchema(), TensorRecordsSchema()});
  INFO(database.status().ToString());
  REQUIRE(database.ok());
  opened->database = *std::move(database);
  opened->tensors = NewSqliteTensorRecords(*opened->database);
  opened->refs = NewSqliteBlobRefs(*opened->database);
  return {opened, opened->tensors.get(), opened->refs.get()};
}

TEST_CASE("a SQLite file keeps tensor records", "[store]") {
  TemporaryFolder folder;
  CheckTensorRecords([&] { return Open(folder / "db"); });
}

TEST_CASE("tensor records are there after a restart", "[store]") {
  TemporaryFolder folder;
  StoredTensor tensor;
  UploadRecord upload = MakeUpload("p", "open");
  {
    const RecordParts records = Open(folder / "db");
    tensor = AddTensor(records, "p", "a", '1');
    REQUIRE(records.tensors->AddUpload(upload, nullptr, {10}).ok());
    REQUIRE(records.tensors->SetPersisted("p", "open", 50, "", upload.expires)
                .ok());
  }
  upload.persisted = 50;
  const RecordParts records = Open(folder / "db");
  CHECK(*records.tensors->GetTensor("p", "a") == tensor);
  CHECK(*records.tensors->GetUpload("p", "open") == upload);
  CHECK(*records.tensors->UploadBytes("p") == 192);
  CHECK(*records.refs->IsInProject("p", tensor.digest));
}

TEST_CASE("a file of before bytes were counted is counted", "[store]") {
  TemporaryFolder folder;
  SqliteSchema before = TensorRecordsSchema();
  before.steps.resize(1);
  {
    const auto db =
        *SqliteDatabase::Open(folder / "db", {BlobRefsSchema(), before});
    const absl::Status put = db->Write([](SqliteConnection& connection) {
      SqliteStatement row = connection.Prepare(
          "INSERT INTO uploads(project, id, request_hash, name, dtype, shape, "
          "bytes, expected, digest, persisted, complete, expires) VALUES"
          "('p','a','','','u8','',100,'','',0,0,0),"
          "('p','b','','','u8','',23,'','',23,1,0),"
          "('q','a','','','u8','',7,'','',0,0,0)");
      return row.Run();
    });
    INFO(put.ToString());
    REQUIRE(put.ok());
  }
  const RecordParts records = Open(folder / "db");
  CHECK(*records.tensors->UploadBytes("p") == 123);
  CHECK(*records.tensors->UploadBytes("q") == 7);
  REQUIRE(records.tensors->AddUpload(MakeUpload("q", "b"), nullptr, {10}).ok());
  REQUIRE(records.tensors->DropUpload("p", "a").ok());
  CHECK(*records.tensors->UploadBytes("p") == 23);
  CHECK(*records.tensors->UploadBytes("q") == 103);
}

TEST_CASE("scalars and odd names are kept as they are", "[store]") {
  TemporaryFolder folder;
  const RecordParts records = Open(folder / "db");
  UploadRecord upload = MakeUpload("p", "a");
  upload.spec = {"it's \"\u00e9\"; DROP TABLE uploads", DType::kF8E4M3, {}, 1};
  REQUIRE(records.tensors->AddUpload(upload, nullptr, {10}).ok());
  CHECK(*records.tensors->GetUpload("p", "a") == upload);
}

TEST_CASE("the keeper deletes what nobody refers to, and nothing else",
          "[store]") {
  TemporaryFolder folder;
  const auto blobs = *OpenDirBlobStore(folder / "b", int64_t{1} << 30);
  const RecordParts records = Open(folder / "db");
  BlobKeeper keeper(*blobs, *records.refs);
  const std::string needed = *PutBlob(*blobs, "a", RandomBytes(1000, 1));
  const std::string orphan = *PutBlob(*blobs, "b", RandomBytes(1000, 2));
  const std::string dropped = *PutBlob(*blobs, "c", RandomBytes(1000, 3));
  REQUIRE(records.refs->Add("p", needed, {"job", "1"}).ok());
  REQUIRE(records.refs->Add("p", dropped, {"job", "2"}).ok());
  const auto free = records.refs->Drop({"job", "2"});
  REQUIRE(free.ok());
  CHECK(*free == std::vector<std::string>{dropped});
  REQUIRE(keeper.Collect({dropped, needed, FakeDigest('0')}).ok());
  CHECK_FALSE(*blobs->Has(dropped));
  CHECK(*blobs->Has(needed));
  CHECK(*blobs->Has(orphan));
  REQUIRE(keeper.CollectAll().ok());
  CHECK(*blobs->Has(needed));
  CHECK_FALSE(*blobs->Has(orphan));
  CHECK(blobs->bytes_used() == 1000);
}

TEST_CASE("the keeper waits for who is about to refer to a blob", "[store]") {
  TemporaryFolder folder;
  const auto blobs = *OpenDirBlobStore(folder / "b", int64_t{1} << 30);
  const RecordParts records = Open(folder / "db");
  BlobKeeper keeper(*blobs, *records.refs);
  const std::string digest = *PutBlob(*blobs, "a", RandomBytes(1000, 1));
  std::jthread collector;
  {
    BlobKeeper::Hold hold(keeper);
    absl::Notification begun;
    collector = std::jthread([&] {
      begun.Notify();
      REQUIRE(keeper.CollectAll().ok());
    });
    begun.WaitForNotification();
    // It has time to do what it must not.
    absl::SleepFor(absl::Milliseconds(20));
    REQUIRE(*blobs->Has(digest));
    REQUIRE(records.refs->Add("p", digest, {"job", "1"}).ok());
  }
  collector.join();
  CHECK(*blobs->Has(digest));
}

}  // namespace
}  // namespace qs::testing
