// Tested by tests/service/jobs/job_results_test.cc.
#include "service/jobs/job_results.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"
#include "service/jobs/job_log.h"
#include "service/jobs/job_output.h"
#include "service/server/error.h"
#include "service/store/blob_folder.h"
#include "service/tensors/store_error.h"

namespace qs {
namespace {

namespace fs = std::filesystem;

absl::Status StoreFull(int64_t bytes, const BlobStore& store) {
  const int64_t used = store.bytes_used();
  const int64_t allowed = store.bytes_allowed();
  return RetryableError(absl::StatusCode::kResourceExhausted, "STORE_FULL",
                        absl::StrCat("job: its result takes up to ", bytes,
                                     " bytes, the store "
                                     "has ",
                                     used, " of ", allowed,
                                     " in use: delete jobs or "
                                     "tensors, or give a destination"),
                        {{"needed", absl::StrCat(bytes)},
                         {"used", absl::StrCat(used)},
                         {"allowed", absl::StrCat(allowed)}},
                        absl::Seconds(30));
}

int64_t BytesBelow(const std::string& path) {
  int64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator at(path, error), end;
       !error && at != end; at.increment(error)) {
    std::error_code gone;
    if (at->is_regular_file(gone)) bytes += FileSize(at->path());
  }
  return bytes;
}

// The names in a folder; none of one that is not there.
std::set<std::string> NamesIn(const std::string& path) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end;
       at.increment(error)) {
    names.insert(at->path().filename().string());
  }
  return names;
}

// "ID" of "ID" and of ".ID.ID".
std::string JobIdOf(const std::string& name) {
  if (name.empty() || name[0] != '.') return name;
  const std::string id = name.substr(1, (name.size() - 1) / 2);
  return name == absl::StrCat(".", id, ".", id) ? id : name;
}

bool HasResult(const JobRecord& job) {
  return job.stored &&
         (!IsTerminal(job.state) || job.state == JobState::kSucceeded);
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobResults>> JobResults::Open(
    const std::string& folder, BlobStore& store, const ResultQuota& quota) {
  QS_RETURN_IF_ERROR(MakeFolder(folder));
  return std::unique_ptr<JobResults>(new JobResults(folder, store, quota));
}

std::string JobResults::PathOf(const JobKey& key) const {
  return ProjectFolder(key) + "/" + key.id;
}

absl::Status JobResults::CheckRoom(const std::string& project,
                                   int64_t file_bytes) {
  const int64_t bytes = file_bytes + kRecordBytes;
  if (quota_.max_project_bytes > 0) {
    const absl::StatusOr<int64_t> uploads =
        quota_.tensors->UploadBytes(project);
    if (!uploads.ok()) return StoreError(uploads.status());
    QS_RETURN_IF_ERROR(CheckProjectBytes(*uploads + BytesOf(project), bytes,
                                         quota_.max_project_bytes));
  }
  if (bytes <= store_.bytes_allowed() - store_.bytes_used()) {
    return absl::OkStatus();
  }
  return StoreFull(bytes, store_);
}

absl::Status JobResults::Begin(const JobKey& key, int64_t file_bytes) {
  const absl::Status made = MakeFolder(ProjectFolder(key));
  if (!made.ok()) {
    return RpcError(absl::StatusCode::kFailedPrecondition, "OUTPUT_FAILED",
                    std::string(made.message()));
  }
  const int64_t bytes = file_bytes + kRecordBytes;
  if (quota_.max_project_bytes == 0) return TakeRoom(key, bytes, 0);
  // In turn with uploads, so that both together do not pass the limit.
  return StoreError(quota_.tensors->CheckUploadBytes(
      key.project,
      [&](int64_t uploads) { return TakeRoom(key, bytes, uploads); }));
}

absl::Status JobResults::TakeRoom(const JobKey& key, int64_t bytes,
                                  int64_t upload_bytes) {
  absl::MutexLock lock(&mutex_);
  const auto found = room_.find(key);
  const int64_t more = bytes - (found == room_.end() ? 0 : found->second);
  QS_RETURN_IF_ERROR(
      CheckProjectBytes(upload_bytes + BytesOfLocked(key.project), more,
                        quota_.max_project_bytes));
  if (more > 0 && !store_.ReserveRoom(more).ok()) {
    return StoreFull(bytes, store_);
  }
  if (more <= 0) store_.AddRoom(more);
  room_[key] = bytes;
  return absl::OkStatus();
}

int64_t JobResults::BytesOf(const std::string& project) {
  absl::MutexLock lock(&mutex_);
  return BytesOfLocked(project);
}

int64_t JobResults::BytesOfLocked(const std::string& project) const {
  int64_t bytes = 0;
  for (auto at = room_.lower_bound({project, ""});
       at != room_.end() && at->first.project == project; ++at) {
    bytes += at->second;
  }
  return bytes;
}

void JobResults::Settle(const JobKey& key, int64_t file_bytes) {
  SetRoom(key, file_bytes + kRecordBytes);
}

void JobResults::SetRoom(const JobKey& key, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const auto found = room_.find(key);
  const int64_t before = found == room_.end() ? 0 : found->second;
  if (found != room_.end()) room_.erase(found);
  if (bytes >= 0) room_[key] = bytes;
  store_.AddRoom((bytes < 0 ? 0 : bytes) - before);
}

void JobResults::Remove(const JobKey& key) {
  RemoveFiles(key);
  SetRoom(key, -1);
}

// Under the name of what is not complete first: a crash in between leaves
// nothing that looks like a result.
void JobResults::RemoveFiles(const JobKey& key) const {
  const std::string path = PathOf(key);
  const std::string staging = StagingPath(path, key.id);
  const JobLog log(key);
  RemoveOutput(staging, log);
  if (!Exists(path)) return;
  const bool renamed = ::rename(path.c_str(), staging.c_str()) == 0;
  RemoveOutput(renamed ? staging : path, log);
}

absl::StatusOr<UniqueFd> JobResults::OpenFile(const JobKey& key,
                                              const std::string& file) const {
  const std::string path = PathOf(key);
  // In this order: what is being made becomes complete, never the reverse.
  for (const std::string& folder : {StagingPath(path, key.id), path}) {
    const std::string name = folder + "/" + file;
    UniqueFd fd(::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (fd.get() >= 0) return fd;
    if (errno == ENOENT || errno == ENOTDIR) continue;
    const absl::Status status = PosixError(errno, "open", name);
    return RpcError(absl::StatusCode::kDataLoss, "RESULT_CORRUPT",
                    std::string(status.message()));
  }
  return absl::NotFoundError(absl::StrCat("result file \"", file, "\""));
}

absl::Status JobResults::Sweep(JobRecords& records) {
  for (const std::string& project : NamesIn(folder_)) {
    QS_RETURN_IF_ERROR(SweepProject(records, project));
  }
  return absl::OkStatus();
}

absl::Status JobResults::SweepProject(JobRecords& records,
                                      const std::string& project) {
  std::set<std::string> ids;
  for (const std::string& name : NamesIn(folder_ + "/" + project)) {
    ids.insert(JobIdOf(name));
  }
  for (const std::string& id : ids) {
    const JobKey key{project, id};
    const absl::StatusOr<JobRecord> job = records.Get(key);
    if (!job.ok() && !absl::IsNotFound(job.status())) return job.status();
    if (job.ok() && HasResult(*job)) {
      const std::string path = PathOf(key);
      Settle(key, BytesBelow(path) + BytesBelow(StagingPath(path, id)));
      continue;
    }
    JobLog(key).Write(LogLevel::kInfo, "job_result_swept", {});
    Remove(key);
  }
  return absl::OkStatus();
}

}  // namespace qs
