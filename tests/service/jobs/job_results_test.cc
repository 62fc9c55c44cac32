// JobResults on a real store and real records.
#include "service/jobs/job_results.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "service/jobs/job.h"
#include "service/jobs/job_output.h"
#include "service/server/error.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_job_records.h"
#include "service/store/sqlite_tensor_records.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kAllowed = 10 << 20;
constexpr int64_t kRecord = JobResults::kRecordBytes;
const JobKey kJob = {"default", "00112233445566778899"};

struct Fixture {
  Fixture() {
    store = *OpenDirBlobStore(folder / "blobs", kAllowed);
    db = *SqliteDatabase::Open(
        folder / "db",
        {BlobRefsSchema(), TensorRecordsSchema(), JobRecordsSchema()});
    tensors = NewSqliteTensorRecords(*db);
    records = NewSqliteJobRecords(*db);
    Open();
  }
  void Open() {
    auto opened = JobResults::Open(folder / "results", *store,
                                   {tensors.get(), max_project_bytes});
    INFO(opened.status().ToString());
    REQUIRE(opened.ok());
    results = *std::move(opened);
  }
  // As a process that starts after this one; the store forgets nothing here.
  void Reopen() {
    store->AddRoom(-store->bytes_used());
    Open();
    REQUIRE(results->Sweep(*records).ok());
  }
  void Write(const std::string& path, size_t bytes) const {
    fs::create_directories(fs::path(path).parent_path());
    std::ofstream(path) << std::string(bytes, 'x');
  }
  std::string Staging(const JobKey& key) const {
    return StagingPath(results->PathOf(key), key.id);
  }
  void Put(const JobKey& key, bool stored, JobState state) const {
    JobRecord job;
    job.key = key;
    job.stored = stored;
    job.destination = results->PathOf(key);
    REQUIRE(records->Create(job, 100).ok());
    const auto to = [&](JobState next) {
      REQUIRE(records
                  ->Update(key, absl::Now(),
                           [next](JobRecord& changed) {
                             changed.state = next;
                             changed.started = absl::Now();
                             if (IsTerminal(next)) changed.ended = absl::Now();
                             if (next == JobState::kSucceeded) {
                               changed.summary = "s";
                             }
                             if (next == JobState::kFailed) {
                               changed.error = "e";
                             }
                             return absl::OkStatus();
                           })
                  .ok());
    };
    if (state != JobState::kQueued) to(JobState::kRunning);
    if (IsTerminal(state)) to(state);
  }

  TemporaryFolder folder;
  std::unique_ptr<BlobStore> store;
  std::unique_ptr<SqliteDatabase> db;
  std::unique_ptr<JobRecords> records;
  std::unique_ptr<TensorRecords> tensors;
  std::unique_ptr<JobResults> results;
  int64_t max_project_bytes = 0;
};

TEST_CASE("a result takes room from its beginning to its removal",
          "[job_results]") {
  Fixture f;
  REQUIRE(f.results->PathOf(kJob) ==
          (f.folder / "results/default/00112233445566778899"));
  REQUIRE(f.results->CheckRoom("default", kAllowed - kRecord).ok());
  const absl::Status full =
      f.results->CheckRoom("default", kAllowed - kRecord + 1);
  REQUIRE(full.code() == absl::StatusCode::kResourceExhausted);
  REQUIRE(ErrorReason(full) == "STORE_FULL");
  REQUIRE(f.store->bytes_used() == 0);

  REQUIRE(f.results->Begin(kJob, 3 << 20).ok());
  REQUIRE(fs::is_directory(f.folder / "results/default"));
  REQUIRE(f.store->bytes_used() == (3 << 20) + kRecord);
  // Another attempt has its room again, and no more.
  REQUIRE(f.results->Begin(kJob, 2 << 20).ok());
  REQUIRE(f.store->bytes_used() == (2 << 20) + kRecord);
  REQUIRE(f.results->Begin(kJob, kAllowed - kRecord).ok());
  REQUIRE(f.store->bytes_used() == kAllowed);
  const JobKey other = {"default", "other"};
  REQUIRE(ErrorReason(f.results->Begin(other, 0)) == "STORE_FULL");
  REQUIRE(f.store->bytes_used() == kAllowed);

  f.Write(f.results->PathOf(kJob) + "/config.json", 5);
  f.results->Settle(kJob, 5);
  REQUIRE(f.store->bytes_used() == 5 + kRecord);
  f.results->Remove(other);
  REQUIRE(f.store->bytes_used() == 5 + kRecord);
  f.results->Remove(kJob);
  REQUIRE(f.store->bytes_used() == 0);
  REQUIRE(fs::is_empty(f.folder / "results/default"));
}

TEST_CASE("a project's results and uploads have a limit", "[job_results]") {
  Fixture f;
  f.max_project_bytes = 5 << 20;
  f.Open();
  UploadRecord upload;
  upload.project = "default";
  upload.id = "u";
  upload.spec = {"w", DType::kU8, {1 << 20}, 1 << 20};
  REQUIRE(f.tensors->AddUpload(upload, nullptr, {10}).ok());
  const auto refused = [](const absl::Status& status, int64_t got) {
    INFO(status.ToString());
    REQUIRE(status.code() == absl::StatusCode::kResourceExhausted);
    REQUIRE(ErrorReason(status) == "PROJECT_QUOTA");
    REQUIRE(ErrorMetadataValue(status, "got") == std::to_string(got));
    REQUIRE(ErrorMetadataValue(status, "allowed") == "5242880");
  };
  refused(f.results->CheckRoom("default", (3 << 20) + 1), (5 << 20) + 1);
  REQUIRE(f.results->CheckRoom("default", 3 << 20).ok());
  refused(f.results->Begin(kJob, (3 << 20) + 1), (5 << 20) + 1);
  REQUIRE(f.results->Begin(kJob, 2 << 20).ok());
  REQUIRE(f.results->BytesOf("default") == (2 << 20) + kRecord);
  // Another attempt: in place of what it has.
  REQUIRE(f.results->Begin(kJob, 3 << 20).ok());
  REQUIRE(f.store->bytes_used() == (3 << 20) + kRecord);
  const JobKey other = {"default", "other"};
  refused(f.results->Begin(other, 0), (5 << 20) + kRecord);
  REQUIRE(f.results->Begin({"defaul", "other"}, 0).ok());
  REQUIRE(f.results->Begin({"default2", "other"}, 3 << 20).ok());
  REQUIRE(f.results->BytesOf("default") == (3 << 20) + kRecord);
  // A result counts as it is, not as it was planned.
  f.results->Settle(kJob, 5);
  REQUIRE(f.results->BytesOf("default") == 5 + kRecord);
  REQUIRE(f.results->Begin(other, 0).ok());
  f.results->Remove(kJob);
  REQUIRE(f.results->BytesOf("default") == kRecord);
  f.results->Remove(other);
  REQUIRE(f.results->BytesOf("default") == 0);
}

TEST_CASE("files are found in what is being made and in what is complete",
          "[job_results]") {
  Fixture f;
  f.Write(f.Staging(kJob) + "/a.safetensors", 3);
  const auto read = [&](const std::string& file) {
    const auto fd = f.results->OpenFile(kJob, file);
    REQUIRE(fd.ok());
    char text[10];
    return ::read(fd->get(), text, sizeof(text));
  };
  REQUIRE(read("a.safetensors") == 3);
  REQUIRE(f.results->OpenFile(kJob, "b").status().code() ==
          absl::StatusCode::kNotFound);
  REQUIRE(f.results->OpenFile(kJob, "a.safetensors/b").status().code() ==
          absl::StatusCode::kNotFound);
  REQUIRE(PublishOutput(f.Staging(kJob), f.results->PathOf(kJob)).ok());
  REQUIRE(read("a.safetensors") == 3);
  // What is there and is no file of ours is damage.
  fs::create_symlink("a.safetensors", f.results->PathOf(kJob) + "/link");
  REQUIRE(ErrorReason(f.results->OpenFile(kJob, "link").status()) ==
          "RESULT_CORRUPT");
}

TEST_CASE("the start takes away what no job has, and counts the rest",
          "[job_results]") {
  Fixture f;
  const JobKey done = {"a", "done"};
  const JobKey waits = {"a", "waits"};
  const JobKey failed = {"b", "failed"};
  const JobKey elsewhere = {"b", "elsewhere"};
  const JobKey gone = {"c", "gone"};
  f.Put(done, true, JobState::kSucceeded);
  f.Put(waits, true, JobState::kQueued);
  f.Put(failed, true, JobState::kFailed);
  f.Put(elsewhere, false, JobState::kSucceeded);
  for (const JobKey& key : {done, failed, elsewhere, gone}) {
    f.Write(f.results->PathOf(key) + "/sub/file", 100);
  }
  for (const JobKey& key : {waits, failed, gone}) {
    f.Write(f.Staging(key) + "/shard", 10);
  }
  f.Reopen();
  REQUIRE(fs::exists(f.results->PathOf(done) + "/sub/file"));
  REQUIRE(fs::exists(f.Staging(waits) + "/shard"));
  for (const JobKey& key : {failed, elsewhere, gone}) {
    REQUIRE_FALSE(Exists(f.results->PathOf(key)));
    REQUIRE_FALSE(Exists(f.Staging(key)));
  }
  REQUIRE(f.store->bytes_used() == 110 + 2 * kRecord);
  f.results->Remove(done);
  f.results->Remove(waits);
  REQUIRE(f.store->bytes_used() == 0);
}

}  // namespace
}  // namespace qs::testing
