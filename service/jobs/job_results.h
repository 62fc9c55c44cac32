// JobResults: the results that the server itself keeps, of jobs without a
// destination: where they are, how much room they take, when they go.
//
//   DIR/PROJECT/JOB-ID           a result that is complete
//   DIR/PROJECT/.JOB-ID.JOB-ID   one that is being made (StagingPath)
//
// A job fills its place as it would fill a destination. Bytes count against the
// budget of the blob store, and so do kRecordBytes of each result for what the
// records keep of it.
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

namespace qs {

class JobResults {
 public:
  static constexpr int64_t kRecordBytes = int64_t{1} << 20;

  // Makes `folder` if need be; its parent is there. `store` outlives it.
  // Errors: as PosixError.
  static absl::StatusOr<std::unique_ptr<JobResults>> Open(
      const std::string& folder, BlobStore& store);

  std::string PathOf(const JobKey& key) const;

  // Whether files of so many bytes would have room now. Errors:
  // RESOURCE_EXHAUSTED STORE_FULL.
  absl::Status CheckRoom(int64_t file_bytes) const;
  // Takes the room, in place of what the job has, and makes the folder of its
  // project. Errors: RESOURCE_EXHAUSTED STORE_FULL; FAILED_PRECONDITION
  // OUTPUT_FAILED.
  absl::Status Begin(const JobKey& key, int64_t file_bytes);
  // The result is complete, with so many bytes.
  void Settle(const JobKey& key, int64_t file_bytes);
  // Takes away whatever there is of it, and gives the room back. What is left
  // over is logged, and for Sweep.
  void Remove(const JobKey& key);

  // A file of the result, complete or not. Errors: NOT_FOUND — there is none
  // of that name; DATA_LOSS RESULT_CORRUPT — it is there and cannot be read.
  absl::StatusOr<UniqueFd> OpenFile(const JobKey& key,
                                    const std::string& file) const;

  // Once, when the jobs of the process before are in order: counts the results
  // and takes away those that no job has. Errors: of the records.
  absl::Status Sweep(JobRecords& records);

 private:
  JobResults(const std::string& folder, BlobStore& store)
      : folder_(folder), store_(store) {}

  std::string ProjectFolder(const JobKey& key) const {
    return folder_ + "/" + key.project;
  }
  absl::Status SweepProject(JobRecords& records, const std::string& project);
  void RemoveFiles(const JobKey& key) const;
  // Room that a job has from now on; -1: none.
  void SetRoom(const JobKey& key, int64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  const std::string folder_;
  BlobStore& store_;
  absl::Mutex mutex_;
  std::map<JobKey, int64_t> room_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_RESULTS_H_
