// Calibrations of the store in jobs: a job that needs sites which are not
// sealed yet waits for them, and nobody deletes what a job is to read.
//
//   create   plan with the declared sites -> under the store's use_mutex: is
//            the calibration still there? record the job with what it waits
//            for -> look again, for sites that were sealed meanwhile
//   seal     first the sites, then the jobs that wait: one of the two sees the
//            other
//
// Thread: thread-safe. Everything blocks: on an IoPool.
#ifndef QS_SERVICE_JOBS_JOB_CALIBRATIONS_H_
#define QS_SERVICE_JOBS_JOB_CALIBRATIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/v1/jobs.pb.h"
#include "service/calibrations/calibration_users.h"
#include "service/jobs/jobs_context.h"
#include "service/store/calibration_records.h"

namespace qs {

// The id in "projects/PROJECT/calibrations/ID". Errors: IdFromName's.
absl::StatusOr<std::string> CalibrationIdOf(const std::string& project,
                                            const std::string& name);
std::string CalibrationName(const std::string& project, const std::string& id);

// A calibration with its sites. Errors: NOT_FOUND CALIBRATION_NOT_FOUND; the
// store's.
absl::StatusOr<CalibrationRecord> FindCalibration(const JobsContext& context,
                                                  const CalibrationKey& key);
// What a run reads it from.
std::shared_ptr<const CalibrationSource> SourceOf(const JobsContext& context,
                                                  CalibrationRecord record);

// What a job waits for that needs `sites` of the calibration.
JobWait WaitFor(const CalibrationRecord& calibration,
                std::vector<int64_t> sites);

// Looks again at what the jobs of the calibration wait for. True: one may
// start. A calibration that is gone keeps nobody waiting.
absl::StatusOr<bool> UpdateWaiting(const JobsContext& context,
                                   const CalibrationKey& key);

// The job's result has its name: deletes the calibration if the job asks for it
// and no other that is not done uses it. What fails is logged.
void DeleteAfterUse(const JobsContext& context, const JobKey& job,
                    const quant::v1::Job& spec);

class JobCalibrations final : public CalibrationUsers {
 public:
  // `wake`: a job may start. The context outlives it.
  JobCalibrations(const JobsContext& context, std::function<void()> wake)
      : context_(context), wake_(std::move(wake)) {}

  // For what was sealed when a process ended before it told the jobs. Errors:
  // the records'.
  absl::Status Recover();

  absl::Status CheckUnused(const std::string& project,
                           const std::string& id) override;
  void Sealed(const std::string& project, const std::string& id) override;

 private:
  const JobsContext& context_;
  const std::function<void()> wake_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_CALIBRATIONS_H_
