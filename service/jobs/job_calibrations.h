// Calibrations of the store in jobs: what needs sites that are not sealed yet
// waits for them, and nobody deletes what a job is to read.
//
//   create   plan with the declared sites -> under the store's use_mutex: is
//            the calibration still there? record the job with what it waits
//            for -> look again, for sites that were sealed meanwhile
//   start    among the live jobs -> plan -> start the run -> look again
//   seal     first the sites, then the jobs that wait, in the records and live:
//            of seal and create, and of seal and start, one sees the other
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

// What is left of `wait` with the calibration as it is now.
JobWait WaitFor(const CalibrationRecord& calibration, JobWait wait);
// What a run waits for that was planned with the calibration, as it is or as it
// was before.
JobWait WaitOf(const CheckpointRun& run, const CalibrationRecord& calibration);

// Looks again at what the jobs of the calibration wait for; `found`: what
// FindCalibration said. True: one may start, or has all. A calibration that is
// gone keeps nobody waiting.
absl::StatusOr<bool> UpdateWaiting(
    const JobsContext& context, const CalibrationKey& key,
    const absl::StatusOr<CalibrationRecord>& found);

// The job's result has its name: deletes the calibration if the job asks for it
// and no other that is not done uses it. What fails is logged.
void DeleteAfterUse(const JobsContext& context, const JobKey& job,
                    const quant::v1::Job& spec);

class JobCalibrations final : public CalibrationUsers {
 public:
  // `tell`: live jobs are to see it. `wake`: a job may start. The context
  // outlives it.
  JobCalibrations(const JobsContext& context,
                  std::function<void(const CalibrationRecord&)> tell,
                  std::function<void()> wake)
      : context_(context), tell_(std::move(tell)), wake_(std::move(wake)) {}

  // For what was sealed when a process ended before it told the jobs. Errors:
  // the records'.
  absl::Status Recover();

  absl::Status CheckUnused(const std::string& project,
                           const std::string& id) override;
  void Sealed(const std::string& project, const std::string& id) override;

 private:
  const JobsContext& context_;
  const std::function<void(const CalibrationRecord&)> tell_;
  const std::function<void()> wake_;
};

}  // namespace qs

#endif  // QS_SERVICE_JOBS_JOB_CALIBRATIONS_H_
