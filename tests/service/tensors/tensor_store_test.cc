// TensorStore without its RPCs: what is there after every step, every error.
#include "service/tensors/tensor_store.h"

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "service/jobs/job_results.h"
#include "tests/service/tensors/store_fixture.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

StoreOnDisk Open(const std::string& path, TensorStoreOptions options = {},
                 int64_t allowed = int64_t{1} << 30) {
  auto opened = StoreOnDisk::Open(path, std::move(options), allowed);
  INFO(opened.status().ToString());
  REQUIRE(opened.ok());
  return *std::move(opened);
}

void CheckError(const absl::Status& status, absl::StatusCode code,
                const std::string& reason) {
  INFO(status.ToString());
  CHECK(status.code() == code);
  CHECK(ErrorReason(status) == reason);
}

TEST_CASE("a tensor goes in, comes out and goes", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  TensorStore& store = *disk.store;
  for (const int64_t count : {0, 1, 5000, 3 << 20}) {
    const Bytes bytes = RandomBytes(count, 3);
    const auto tensor = PutTensor(store, "p", bytes, "");
    INFO(tensor.status().ToString());
    REQUIRE(tensor.ok());
    CHECK(tensor->digest == DigestOf(bytes));
    CHECK(*store.GetTensor("p", tensor->id) == *tensor);
    CHECK(*ReadTensorBytes(store, "p", tensor->id) == bytes);
    CHECK(store.GetUpload("p", tensor->id)->complete);
    CheckError(store.GetTensor("q", tensor->id).status(),
               absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND");
    CheckError(store.DeleteTensor("q", tensor->id), absl::StatusCode::kNotFound,
               "TENSOR_NOT_FOUND");
    REQUIRE(store.DeleteTensor("p", tensor->id).ok());
    CheckError(store.OpenForRead("p", tensor->id).status(),
               absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND");
    CheckError(store.GetUpload("p", tensor->id).status(),
               absl::StatusCode::kNotFound, "UPLOAD_EXPIRED");
    CHECK(disk.blobs->bytes_used() == 0);
  }
  CHECK(disk.blobs->List()->empty());
}

TEST_CASE("tensors of the same bytes share them until the last is gone",
          "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(5000, 3);
  const StoredTensor one = *PutTensor(*disk.store, "p", bytes, "");
  const StoredTensor two = *PutTensor(*disk.store, "q", bytes, "");
  CHECK(disk.blobs->bytes_used() == 5000);
  REQUIRE(disk.store->DeleteTensor("p", one.id).ok());
  CHECK(*ReadTensorBytes(*disk.store, "q", two.id) == bytes);
  REQUIRE(disk.store->DeleteTensor("q", two.id).ok());
  CHECK(disk.blobs->bytes_used() == 0);
}

TEST_CASE("an upload goes on after a pause and after a restart", "[tensors]") {
  TemporaryFolder folder;
  const Bytes bytes = RandomBytes(9000, 3);
  std::string id;
  {
    const StoreOnDisk disk = Open(folder / "s");
    id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
    CHECK(disk.blobs->bytes_used() == 9000);
    auto writer = *disk.store->OpenUpload("p", id, nullptr);
    REQUIRE(writer->Write(0, std::span(bytes).first(3000)).ok());
    CHECK(disk.store->GetUpload("p", id)->persisted == 0);
    writer = nullptr;  // a pause persists what came
    CHECK(disk.store->GetUpload("p", id)->persisted == 3000);
    writer = *disk.store->OpenUpload("p", id, nullptr);
    CHECK(writer->persisted_size() == 3000);
    REQUIRE(writer->Write(3000, std::span(bytes).subspan(3000, 1000)).ok());
    REQUIRE(writer->Flush().ok());
    CHECK(writer->persisted_size() == 4000);
  }
  const StoreOnDisk disk = Open(folder / "s");
  CHECK(disk.store->GetUpload("p", id)->persisted == 4000);
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  REQUIRE(WriteFrom(*writer, bytes, 4000).ok());
  const auto tensor = writer->Finish();
  REQUIRE(tensor.ok());
  CHECK(tensor->digest == DigestOf(bytes));
  // The answer may have been lost: it can be had again.
  CHECK(*writer->Finish() == *tensor);
  writer = *disk.store->OpenUpload("p", id, nullptr);
  CHECK(writer->persisted_size() == 9000);
  CHECK(*writer->Finish() == *tensor);
  CHECK(*ReadTensorBytes(*disk.store, "p", id) == bytes);
}

TEST_CASE("overlap is skipped, a gap is named, no byte too many or too few",
          "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  const auto part = [&bytes](size_t at, size_t count) {
    return std::span(bytes).subspan(at, count);
  };
  REQUIRE(writer->Write(0, part(0, 3000)).ok());
  REQUIRE(writer->Write(1000, part(1000, 500)).ok());
  REQUIRE(writer->Write(2000, part(2000, 2000)).ok());
  REQUIRE(writer->Flush().ok());
  const absl::Status gap = writer->Write(4001, part(4001, 1));
  CheckError(gap, absl::StatusCode::kFailedPrecondition, "OFFSET_GAP");
  CHECK(ErrorMetadataValue(gap, "expected_offset") == "4000");
  CHECK(ErrorMetadataValue(gap, "persisted_size") == "4000");
  CheckError(writer->Write(8999, part(0, 2)),
             absl::StatusCode::kFailedPrecondition, "OFFSET_GAP");
  CheckError(writer->Write(3999, part(0, 6000)),
             absl::StatusCode::kInvalidArgument, "TOO_MANY_BYTES");
  CheckError(writer->Write(-1, part(0, 10)), absl::StatusCode::kInvalidArgument,
             "TOO_MANY_BYTES");
  CheckError(writer->Finish().status(), absl::StatusCode::kInvalidArgument,
             "TOO_FEW_BYTES");
  REQUIRE(WriteFrom(*writer, bytes, 3500).ok());
  CHECK(writer->Finish()->digest == DigestOf(bytes));
}

TEST_CASE("bytes are persisted by themselves, now and then", "[tensors]") {
  TemporaryFolder folder;
  TensorStoreOptions options;
  options.flush_bytes = 4000;
  const StoreOnDisk disk = Open(folder / "s", options);
  const Bytes bytes = RandomBytes(9000, 3);
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  std::set<int64_t> seen;
  for (size_t at = 0; at < bytes.size(); at += 1000) {
    REQUIRE(writer
                ->Write(static_cast<int64_t>(at),
                        std::span(bytes).subspan(at, 1000))
                .ok());
    seen.insert(writer->persisted_size());
  }
  CHECK(seen == std::set<int64_t>{0, 4000, 8000});
}

TEST_CASE("the newest writer has the upload, the one before must stop",
          "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  bool taken = false;
  auto old = *disk.store->OpenUpload("p", id, [&taken] { taken = true; });
  REQUIRE(old->Write(0, std::span(bytes).first(3000)).ok());
  auto newest = *disk.store->OpenUpload("p", id, nullptr);
  CHECK(taken);
  // What the old one brought is there.
  REQUIRE(newest->Write(3000, std::span(bytes).subspan(3000, 3000)).ok());
  for (const absl::Status& status :
       {old->Write(6000, std::span(bytes).subspan(6000, 1)), old->Flush(),
        old->Finish().status()}) {
    CheckError(status, absl::StatusCode::kAborted, "CONCURRENT_WRITER");
  }
  old = nullptr;  // its end changes nothing
  REQUIRE(WriteFrom(*newest, bytes, 6000).ok());
  CHECK(newest->Finish()->digest == DigestOf(bytes));
}

TEST_CASE("writers that take an upload from each other leave it whole",
          "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(200000, 3);
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int turn = 0; turn < 20; ++turn) {
          const auto writer = disk.store->OpenUpload("p", id, nullptr);
          if (!writer.ok()) std::abort();
          WriteFrom(**writer, bytes, (*writer)->persisted_size()).IgnoreError();
        }
      });
    }
  }
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  REQUIRE(WriteFrom(*writer, bytes, writer->persisted_size()).ok());
  CHECK(writer->Finish()->digest == DigestOf(bytes));
}

TEST_CASE("a request id finds its upload again", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const UploadRecord made =
      *disk.store->CreateUpload("p", UploadOf(bytes, "r"));
  CHECK(*disk.store->CreateUpload("p", UploadOf(bytes, "r")) == made);
  CHECK(disk.store->CreateUpload("q", UploadOf(bytes, "r"))->id != made.id);
  NewUpload other = UploadOf(bytes, "r");
  other.spec.name = "another";
  CheckError(disk.store->CreateUpload("p", other).status(),
             absl::StatusCode::kAlreadyExists, "REQUEST_ID_REUSED");
  auto writer = *disk.store->OpenUpload("p", made.id, nullptr);
  REQUIRE(WriteFrom(*writer, bytes, 0).ok());
  REQUIRE(writer->Finish().ok());
  const UploadRecord done =
      *disk.store->CreateUpload("p", UploadOf(bytes, "r"));
  CHECK(done.id == made.id);
  CHECK(done.complete);
  REQUIRE(disk.store->DeleteTensor("p", made.id).ok());
  CHECK(disk.store->CreateUpload("p", UploadOf(bytes, "r"))->id != made.id);
}

TEST_CASE("bytes for a complete upload are skipped", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const std::string id = disk.store->CreateUpload("p", UploadOf(bytes, ""))->id;
  {
    auto writer = *disk.store->OpenUpload("p", id, nullptr);
    REQUIRE(WriteFrom(*writer, bytes, 0).ok());
    REQUIRE(writer->Finish().ok());
  }
  // A client that did not get the last answer begins again where it was.
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  CHECK(writer->persisted_size() == 9000);
  REQUIRE(WriteFrom(*writer, bytes, 3000).ok());
  REQUIRE(writer->Flush().ok());
  CheckError(writer->Write(8999, std::span(bytes).first(2)),
             absl::StatusCode::kInvalidArgument, "TOO_MANY_BYTES");
  CHECK(writer->Finish()->digest == DigestOf(bytes));
}

TEST_CASE("fifty creates of one request make one upload", "[tensors]") {
  TemporaryFolder folder;
  const Bytes bytes = RandomBytes(9000, 3);
  // Room for one and no more.
  const StoreOnDisk disk = Open(folder / "s", {}, 10000);
  std::vector<absl::StatusOr<UploadRecord>> made(50);
  {
    std::vector<std::jthread> threads;
    for (auto& one : made) {
      threads.emplace_back([&disk, &bytes, &one] {
        one = disk.store->CreateUpload("p", UploadOf(bytes, "r"));
      });
    }
  }
  std::set<std::string> ids;
  for (const auto& one : made) {
    INFO(one.status().ToString());
    REQUIRE(one.ok());
    ids.insert(one->id);
  }
  CHECK(ids.size() == 1);
  CHECK(disk.blobs->Staged()->size() == 1);
  CHECK(disk.blobs->bytes_used() == 9000);
}

TEST_CASE("bytes that the project has need not be sent", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  const StoredTensor first = *PutTensor(*disk.store, "p", bytes, "");
  NewUpload upload = UploadOf(bytes, "r");
  upload.spec.name = "tied";
  upload.expected = first.digest;
  const UploadRecord at_once = *disk.store->CreateUpload("p", upload);
  CHECK(at_once.complete);
  CHECK(at_once.persisted == 9000);
  CHECK(at_once.id != first.id);
  CHECK(*ReadTensorBytes(*disk.store, "p", at_once.id) == bytes);
  // Another project does not learn of it.
  CHECK_FALSE(disk.store->CreateUpload("q", upload)->complete);
  upload.request_id = "s";
  upload.spec.shape = {4500};
  upload.spec.bytes = 4500;
  CheckError(disk.store->CreateUpload("p", upload).status(),
             absl::StatusCode::kInvalidArgument, "DIGEST_MISMATCH");
  REQUIRE(disk.store->DeleteTensor("p", first.id).ok());
  CHECK(*ReadTensorBytes(*disk.store, "p", at_once.id) == bytes);
}

TEST_CASE("other bytes than promised are discarded", "[tensors]") {
  TemporaryFolder folder;
  const StoreOnDisk disk = Open(folder / "s");
  const Bytes bytes = RandomBytes(9000, 3);
  NewUpload upload = UploadOf(bytes, "r");
  upload.expected = DigestOf(RandomBytes(9000, 4));
  const std::string id = disk.store->CreateUpload("p", upload)->id;
  auto writer = *disk.store->OpenUpload("p", id, nullptr);
  REQUIRE(WriteFrom(*writer, bytes, 0).ok());
  CheckError(writer->Finish().status(), absl::StatusCode::kInvalidArgument,
             "DIGEST_MISMATCH");
  CheckError(disk.store->GetUpload("p", id).status(),
             absl::StatusCode::kNotFound, "UPLOAD_EXPIRED");
  CHECK(disk.blobs->bytes_used() == 0);
  CHECK(disk.blobs->Staged()->empty());
  CHECK(disk.blobs->List()->empty());
  CHECK_FALSE(disk.store->CreateUpload("p", upload)->complete);
}

TEST_CASE("uploads expire, tensors and uploads at work do not", "[tensors]") {
  TemporaryFolder folder;
  absl::Time now = absl::FromUnixSeconds(1000);
  TensorStoreOptions options;
  options.upload_expiry = absl::Seconds(100);
  options.now = [&now] { return now; };
  const StoreOnDisk disk = Open(folder / "s", options);
  TensorStore& store = *disk.store;
  const Bytes bytes = RandomBytes(9000, 3);
  const StoredTensor tensor = *PutTensor(store, "p", bytes, "");
  const std::string idle = store.CreateUpload("p", UploadOf(bytes, "a"))->id;
  const std::string held = store.CreateUpload("p", UploadOf(bytes, "b"))->id;
  const std::string fed = store.CreateUpload("p", UploadOf(bytes, "c"))->id;
  auto holder = *store.OpenUpload("p", held, nullptr);
  now += absl::Seconds(60);
  auto feeder = *store.OpenUpload("p", fed, nullptr);
  REQUIRE(feeder->Write(0, std::span(bytes).first(10)).ok());
  feeder = nullptr;
  now += absl::Seconds(60);
  CheckError(store.GetUpload("p", idle).status(), absl::StatusCode::kNotFound,
             "UPLOAD_EXPIRED");
  CheckError(store.OpenUpload("p", idle, nullptr).status(),
             absl::StatusCode::kNotFound, "UPLOAD_EXPIRED");
  REQUIRE(store.Expire().ok());
  CHECK(disk.blobs->Staged()->size() == 2);
  CHECK(disk.blobs->bytes_used() == 3 * 9000);
  CHECK(store.GetUpload("p", fed)->persisted == 10);
  REQUIRE(holder->Write(0, std::span(bytes).first(20)).ok());
  holder = nullptr;
  CHECK(store.GetUpload("p", held)->persisted == 20);
  // Its request begins anew, before and after the sweep.
  CHECK(store.CreateUpload("p", UploadOf(bytes, "a"))->id != idle);
  now += absl::Seconds(1000);
  CHECK(store.CreateUpload("p", UploadOf(bytes, "c"))->id != fed);
  REQUIRE(store.Expire().ok());
  CHECK(disk.blobs->Staged()->size() == 1);
  CHECK(*ReadTensorBytes(store, "p", tensor.id) == bytes);
}

TEST_CASE("limits are errors with a name", "[tensors]") {
  TemporaryFolder folder;
  TensorStoreOptions options;
  options.max_tensor_bytes = 9000;
  options.max_tensors = 2;
  const StoreOnDisk disk = Open(folder / "s", options, 12000);
  TensorStore& store = *disk.store;
  CheckError(
      store.CreateUpload("p", UploadOf(RandomBytes(9001, 1), "")).status(),
      absl::StatusCode::kInvalidArgument, "TENSOR_TOO_LARGE");
  REQUIRE(store.CreateUpload("p", UploadOf(RandomBytes(9000, 1), "")).ok());
  CheckError(
      store.CreateUpload("p", UploadOf(RandomBytes(3001, 1), "")).status(),
      absl::StatusCode::kResourceExhausted, "DISK_FULL");
  REQUIRE(store.CreateUpload("p", UploadOf(RandomBytes(10, 1), "")).ok());
  CheckError(store.CreateUpload("p", UploadOf(RandomBytes(10, 1), "")).status(),
             absl::StatusCode::kResourceExhausted, "TOO_MANY_TENSORS");
  CHECK(disk.blobs->Staged()->size() == 2);
  CHECK(disk.blobs->bytes_used() == 9010);
}

TEST_CASE("a project has so many bytes", "[tensors]") {
  TemporaryFolder folder;
  int64_t results = 0;
  TensorStoreOptions options;
  options.max_project_bytes = 1000;
  options.result_bytes = [&results](const std::string& project) {
    return project == "p" ? results : 0;
  };
  const StoreOnDisk disk = Open(folder / "s", options, 12000);
  TensorStore& store = *disk.store;
  const auto create = [&store](const char* project, int64_t bytes) {
    return store.CreateUpload(project, UploadOf(RandomBytes(bytes, 1), ""))
        .status();
  };
  const auto refused = [](const absl::Status& status, const std::string& got,
                          bool again) {
    CheckError(status, absl::StatusCode::kResourceExhausted, "PROJECT_QUOTA");
    CHECK(std::string(status.message()) ==
          "bytes of the project: got " + got + ", allowed 1000");
    CHECK(ErrorMetadataValue(status, "got") == got);
    CHECK(ErrorMetadataValue(status, "allowed") == "1000");
    CHECK(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo")
              .has_value() == again);
  };
  refused(create("p", 1001), "1001", false);
  REQUIRE(create("p", 600).ok());
  refused(create("p", 401), "1001", true);
  // Before the whole store is full, and without room in it.
  refused(create("p", 20000), "20600", false);
  CHECK(disk.blobs->Staged()->size() == 1);
  CHECK(disk.blobs->bytes_used() == 600);
  REQUIRE(create("q", 1000).ok());
  results = 1;
  refused(create("p", 400), "1001", true);
  REQUIRE(create("p", 399).ok());
  REQUIRE(create("p", 0).ok());

  // A tensor whose bytes are there counts, too.
  const Bytes bytes = RandomBytes(600, 2);
  const auto tensor = PutTensor(store, "r", bytes, "");
  REQUIRE(tensor.ok());
  NewUpload same = UploadOf(bytes, "again");
  same.expected = tensor->digest;
  refused(store.CreateUpload("r", same).status(), "1200", true);
  REQUIRE(store.DeleteTensor("r", tensor->id).ok());
  REQUIRE(store.CreateUpload("r", same).ok());
  // What was made is found again, and is not made twice.
  REQUIRE(store.CreateUpload("r", same).ok());
}

TEST_CASE("uploads and the results of jobs do not pass a limit together",
          "[tensors]") {
  TemporaryFolder folder;
  TensorStoreOptions options;
  options.max_project_bytes = 10 * JobResults::kRecordBytes;
  std::unique_ptr<JobResults> results;
  options.result_bytes = [&results](const std::string& project) {
    return results->BytesOf(project);
  };
  const StoreOnDisk disk = Open(folder / "s", options);
  results = *JobResults::Open(folder / "results", *disk.blobs,
                              {disk.records.get(), options.max_project_bytes});
  for (const char* const project : {"a", "b", "c", "d", "e", "f", "g", "h"}) {
    std::atomic<int> fit = 0;
    {
      std::vector<std::jthread> threads;
      for (int i = 0; i < 24; ++i) {
        threads.emplace_back([&, i] {
          NewUpload upload;
          upload.spec = {"w", DType::kU8, {1 << 20}, 1 << 20};
          const absl::Status status =
              i % 2 == 0 ? disk.store->CreateUpload(project, upload).status()
                         : results->Begin({project, std::to_string(i)}, 0);
          if (status.ok()) ++fit;
          if (!status.ok() && ErrorReason(status) != "PROJECT_QUOTA") fit = 100;
        });
      }
    }
    CHECK(fit == 10);
    CHECK(*disk.records->UploadBytes(project) + results->BytesOf(project) ==
          options.max_project_bytes);
  }
}

TEST_CASE("the start puts in order what a crash left", "[tensors]") {
  TemporaryFolder folder;
  const Bytes bytes = RandomBytes(9000, 3);
  std::string gone;
  std::string kept;
  {
    const StoreOnDisk disk = Open(folder / "s");
    gone = disk.store->CreateUpload("p", UploadOf(bytes, "a"))->id;
    kept = disk.store->CreateUpload("p", UploadOf(bytes, "b"))->id;
    REQUIRE(disk.blobs->Discard("u-" + gone).ok());         // a row, no file
    REQUIRE(disk.blobs->Create("u-lost", 10).ok());         // a file, no row
    REQUIRE(disk.blobs->Create("calibration-1", 10).ok());  // not ours
    REQUIRE(PutBlob(*disk.blobs, "u-orphan", bytes).ok());  // not recorded
    // Longer than recorded.
    auto writer = *disk.blobs->Resume("u-" + kept, 9000, 0);
    REQUIRE(writer->Append(std::span(bytes).first(500)).ok());
    REQUIRE(writer->Flush().ok());
  }
  const StoreOnDisk disk = Open(folder / "s");
  CheckError(disk.store->GetUpload("p", gone).status(),
             absl::StatusCode::kNotFound, "UPLOAD_EXPIRED");
  const auto staged = *disk.blobs->Staged();
  CHECK(std::set<std::string>(staged.begin(), staged.end()) ==
        std::set<std::string>{"calibration-1", "u-" + kept});
  CHECK(disk.blobs->List()->empty());
  CHECK(disk.store->GetUpload("p", kept)->persisted == 0);
  auto writer = *disk.store->OpenUpload("p", kept, nullptr);
  const absl::Status gap = writer->Write(500, std::span(bytes).subspan(500, 1));
  CHECK(ErrorMetadataValue(gap, "expected_offset") == "0");
}

TEST_CASE("bytes that the server lost end an upload", "[tensors]") {
  TemporaryFolder folder;
  const Bytes bytes = RandomBytes(9000, 3);
  std::string id;
  {
    const StoreOnDisk disk = Open(folder / "s");
    id = disk.store->CreateUpload("p", UploadOf(bytes, "a"))->id;
    auto writer = *disk.store->OpenUpload("p", id, nullptr);
    REQUIRE(WriteFrom(*writer, bytes, 0).ok());
  }
  std::filesystem::resize_file(folder / "s/blobs/staging/u-" + id, 8999);
  const StoreOnDisk disk = Open(folder / "s");
  CheckError(disk.store->OpenUpload("p", id, nullptr).status(),
             absl::StatusCode::kDataLoss, "UPLOAD_CORRUPT");
  CheckError(disk.store->GetUpload("p", id).status(),
             absl::StatusCode::kNotFound, "UPLOAD_EXPIRED");
  CHECK(disk.blobs->bytes_used() == 0);
}

}  // namespace
}  // namespace qs::testing
