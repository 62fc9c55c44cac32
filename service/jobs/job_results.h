// JobResults: the results that the server itself keeps, of jobs without a
// destination: where they are, how much room they take, when they go.
//
//   DIR/PROJECT/JOB-ID           a result that is complete
//   DIR/PROJECT/.JOB-ID.JOB-ID   one that is being made (StagingPath)
//
// A job fills its place as it would fill a destination. Bytes count against the
// budget of the blob store and of the project, and so do kRecordBytes of each
// result for what the records keep of it.
//
// Thread: thread-safe. Everything but PathOf blocks.
#ifndef QS_SERVICE_JOBS_JOB_RESULTS_H_
#define QS_SERVICE_JOBS_JOB_RESULTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/formats/posix_file.h"
#include "service/store/blob_store.h"
#include "service/store/job_records.h"
#include "service/store/tensor_records.h"

namespace qs {

// What a project may have: uploads, tensors and results together.
struct ResultQuota {
  TensorRecords* tensors = nullptr;  // where uploads and tensors are counted
  int64_t max_project_bytes = 0;     // 0: no limit, and `tensors` is not used
};

class JobResults {
 public:
  static constexpr int64_t kRecordBytes = int64_t{1} << 20;

  // Makes `folder` if need be; its parent is there. The store and the records
  // outlive it.
  // Errors: as PosixError.
  static absl::StatusOr<std::unique_ptr<JobResults>> Open(
      const std::string& folder, BlobStore& store,
      const ResultQuota& quota = {});

  std::string PathOf(const JobKey& key) const;

  // Whether files of so many bytes would have room now. Errors:
  // RESOURCE_EXHAUSTED PROJECT_QUOTA, STORE_FULL; of the records.
  absl::Status CheckRoom(const std::string& project, int64_t file_bytes);
  // Takes the room, in place of what the job has, and makes the folder of its
  // project. Errors: RESOURCE_EXHAUSTED PROJECT_QUOTA, STORE_FULL;
  // FAILED_PRECONDITION OUTPUT_FAILED; of the records.
  absl::Status Begin(const JobKey& key, int64_t file_bytes);
  // The result is complete, with so many bytes.
  void Settle(const JobKey& key, int64_t file_bytes);
  // Takes away whatever there is of it, and gives the room back. What is left
  // over is logged, and for Sweep.
  void Remove(const JobKey& key);

  // What the results of a project take. Does not block.
  int64_t BytesOf(const std::string& project) ABSL_LOCKS_EXCLUDED(mutex_);

  // A file of the result, complete or not. Errors: NOT_FOUND — there is none
  // of that name; DATA_LOSS RESULT_CORRUPT — it is there and cannot be read.
  absl::StatusOr<UniqueFd> OpenFile(const JobKey& key,
                                    const std::string& file) const;

  // Once, when the jobs of the process before are in order: counts the results
  // and takes away those that no job has. Errors: of the records.
  absl::Status Sweep(JobRecords& records);

 private:
  JobResults(const std::string& folder, BlobStore& store,
             const ResultQuota& quota)
      : folder_(folder), store_(store), quota_(quota) {}

  std::string ProjectFolder(const JobKey& key) const {
    return folder_ + "/" + key.project;
  }
  absl::Status SweepProject(JobRecords& records, const std::string& project);
  void RemoveFiles(const JobKey& key) const;
  int64_t BytesOfLocked(const std::string& project) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Errors: PROJECT_QUOTA, STORE_FULL.
  absl::Status TakeRoom(const JobKey& key, int64_t bytes, int64_t upload_bytes)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Room that a job has from now on; -1: none.
  void SetRoom(const JobKey& key, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string folder_;
  BlobStore& store_;
  const ResultQuota quota_;
  absl::Mutex mutex_;
  std::map<JobKey, int64_t> room_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_RESULTS_H_
