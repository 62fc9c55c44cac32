// ResultReader: the messages of one ReadResult call, without the call: which
// file or tensor comes next, what of it, and whether it is what was made.
//
// A result is a sequence of files that does not change: shards by number, then
// the rest by name. A reader is at one place of it. While the job runs the
// sequence grows; every step looks at the records for as much of it as it
// needs.
//
// Thread: one caller at a time. Everything blocks.
#ifndef QS_SERVICE_JOBS_RESULT_READER_H_
#define QS_SERVICE_JOBS_RESULT_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/safetensors.h"
#include "quant/v1/jobs.pb.h"
#include "service/jobs/job_results.h"
#include "service/jobs/result_file.h"
#include "service/jobs/result_weight.h"
#include "service/store/job_records.h"
#include "service/stream/byte_budget.h"
#include "service/tensors/read_step.h"

namespace qs {

class ResultReader {
 public:
  // What it reads from; all of it outlives it.
  struct Sources {
    JobRecords& records;
    const JobResults& results;
    ByteBudget& budget;
  };
  // `wake` is called from any thread when memory is there that it waits for.
  ResultReader(const Sources& sources, JobKey key,
               quant::v1::ReadResultRequest request,
               std::function<void()> wake);

  // The next message. kWait: the job has to do more, and the request waits for
  // it; or memory is not there. Errors: ReadResult's.
  absl::StatusOr<ReadStep> Next(quant::v1::ReadResultResponse* response);

 private:
  using Response = quant::v1::ReadResultResponse;

  // Where the request begins; once.
  absl::Status Begin();
  absl::Status BeginAtFile();
  absl::Status BeginAtTensor();

  // The job as it is now. Errors: it is gone, has no result, began again.
  absl::Status Look();
  // The file at `place_`; nullopt: not yet, or no more.
  absl::StatusOr<std::optional<JobFileRecord>> FileHere();
  absl::StatusOr<std::optional<JobFileRecord>> ShardHere();
  absl::StatusOr<ReadStep> EndOrWait(Response* response);
  absl::Status OpenHere(const JobFileRecord& file, int64_t offset);

  absl::StatusOr<ReadStep> NextOfFile(Response* response);

  // Of PACKED and DEQUANTIZED.
  bool Matches(const std::string& tensor) const;
  // More of the shard's tensors that match, if there are no others.
  absl::Status FillPage();
  absl::StatusOr<ReadStep> NextOfShard(Response* response);
  absl::Status ReadHeader();
  absl::StatusOr<ReadStep> NextOfTensor(Response* response);
  absl::Status OpenTensor();
  absl::StatusOr<const SafetensorsEntry*> Find(const std::string& name) const;
  absl::Status NextPacked(quant::v1::Frame* frame);
  // False: there is no memory for it yet.
  absl::StatusOr<bool> Dequantized();
  void NextFloats(quant::v1::Frame* frame);
  // What both have in common; the data is there.
  void FinishFrame(int64_t size, quant::v1::Frame* frame);

  JobRecords& records_;
  const JobResults& results_;
  ByteBudget& budget_;
  const std::function<void()> wake_;
  const JobKey key_;
  const quant::v1::ReadResultRequest request_;
  const bool packed_;  // tensors, not files
  bool begun_ = false;

  JobRecord job_;
  std::string fingerprint_;         // of the run whose shards were read
  int64_t place_ = 0;               // in the sequence of files
  std::optional<ResultFile> file_;  // at place_
  int64_t first_offset_ = 0;        // in the file where the request begins

  // Of PACKED and DEQUANTIZED, in the shard at place_.
  bool paged_ = false;  // page_ is of this shard
  std::string after_;   // the tensor behind which the next page begins
  std::vector<JobTensorRecord> page_;        // the last one is next
  std::optional<SafetensorsHeader> header_;  // its tensors by name
  quant::v1::TensorReport report_;      // of page_.back(), when outputs_ >= 0
  int outputs_ = -1;                    // of it that were sent
  std::optional<ResultWeight> weight_;  // DEQUANTIZED: of page_.back()
  int64_t at_ = 0;                      // in the next one

  int64_t files_ = 0;
  int64_t tensors_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_RESULT_READER_H_
