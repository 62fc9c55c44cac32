// Tested by tests/service/jobs/job_calibration_test.cc.
#include "service/jobs/job_calibrations.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/base/status_macros.h"
#include "service/access/access.h"
#include "service/calibrations/calibration_errors.h"
#include "service/jobs/job_messages.h"
#include "service/server/error.h"
#include "service/server/log.h"
#include "service/store/stored_calibration.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr char kCollection[] = "calibrations";
constexpr size_t kFirstSites = 5;

std::string NameOf(const CalibrationRecord& calibration) {
  return CalibrationName(calibration.project, calibration.id);
}

void LogFailure(const char* what, const CalibrationKey& key,
                const absl::Status& status) {
  Log(LogLevel::kError, "job_calibration",
      {{"what", what},
       {"project", key.project},
       {"calibration", key.id},
       {"error", std::string(status.message())}});
}

// FAILED_PRECONDITION CALIBRATION_IN_USE: by another job than `except`.
absl::Status CheckUnusedBut(const JobsContext& context,
                            const CalibrationKey& key, const JobKey& except) {
  const auto user = context.records.UserOf(key, except);
  if (!user.ok()) return FromRecords(user.status());
  if (!*user) return absl::OkStatus();
  const std::string job = NameFromId((*user)->project, "jobs", (*user)->id);
  return RpcError(absl::StatusCode::kFailedPrecondition, "CALIBRATION_IN_USE",
                  "calibration: got one that " + job +
                      " uses, allowed one of which no job is left that is not "
                      "done",
                  {{"job", job}});
}

}  // namespace

absl::StatusOr<std::string> CalibrationIdOf(const std::string& project,
                                            const std::string& name) {
  return IdFromName(Caller{project, Role::kUser}, "job.calibration.name",
                    kCollection, name);
}

std::string CalibrationName(const std::string& project, const std::string& id) {
  return NameFromId(project, kCollection, id);
}

absl::StatusOr<CalibrationRecord> FindCalibration(const JobsContext& context,
                                                  const CalibrationKey& key) {
  absl::StatusOr<CalibrationRecord> found = absl::NotFoundError(
      "job.calibration.name: this server keeps no calibrations");
  if (context.calibrations != nullptr) {
    found = context.calibrations->records().Get(key.project, key.id);
  }
  if (!found.ok()) return CalibrationError(found.status());
  return found;
}

std::shared_ptr<const CalibrationSource> SourceOf(const JobsContext& context,
                                                  CalibrationRecord record) {
  std::string name = NameOf(record);
  return std::make_shared<StoredCalibration>(
      *context.calibrations, std::move(record), std::move(name));
}

JobWait WaitFor(const CalibrationRecord& calibration, JobWait wait) {
  const auto sealed = [&](int64_t site) {
    const auto at = static_cast<size_t>(site);
    return at >= calibration.sites.size() || calibration.sites[at].sealed;
  };
  std::erase_if(wait.sites, sealed);
  if (wait.sites.empty()) return {};
  for (std::vector<int64_t>& set : wait.first) std::erase_if(set, sealed);
  if (std::any_of(wait.first.begin(), wait.first.end(),
                  [](const auto& set) { return set.empty(); })) {
    wait.first.clear();
  }
  v1::JobWaiting text;
  text.set_calibration(NameOf(calibration));
  text.set_open_sites(static_cast<int64_t>(wait.sites.size()));
  for (size_t i = 0; i < wait.sites.size() && i < kFirstSites; ++i) {
    text.add_first_sites(
        calibration.sites[static_cast<size_t>(wait.sites[i])].name);
  }
  wait.text = text.SerializeAsString();
  return wait;
}

JobWait WaitOf(const CheckpointRun& run, const CalibrationRecord& calibration) {
  const std::vector<size_t> open = run.open_sites();
  JobWait wait = {{open.begin(), open.end()}, ""};
  for (const std::vector<size_t>& set : run.first_sites()) {
    wait.first.emplace_back(set.begin(), set.end());
  }
  return WaitFor(calibration, std::move(wait));
}

absl::StatusOr<bool> UpdateWaiting(
    const JobsContext& context, const CalibrationKey& key,
    const absl::StatusOr<CalibrationRecord>& found) {
  if (!found.ok() && !absl::IsNotFound(found.status())) return found.status();
  return context.records.UpdateWaiting(key, [&](JobWait& wait) {
    wait = found.ok() ? WaitFor(*found, std::move(wait)) : JobWait();
  });
}

void DeleteAfterUse(const JobsContext& context, const JobKey& job,
                    const v1::Job& spec) {
  if (!spec.calibration().delete_after_use()) return;
  const auto id = CalibrationIdOf(job.project, spec.calibration().name());
  if (!id.ok() || context.calibrations == nullptr) return;
  const CalibrationKey key = {job.project, *id};
  const absl::Status status = context.calibrations->Delete(
      key.project, key.id, [&] { return CheckUnusedBut(context, key, job); });
  if (status.ok() || absl::IsNotFound(status) ||
      ErrorReason(status) == "CALIBRATION_IN_USE") {
    return;
  }
  LogFailure("delete after use", key, status);
}

absl::Status JobCalibrations::Recover() {
  QS_ASSIGN_OR_RETURN(const std::vector<CalibrationKey> awaited,
                      context_.records.Awaited());
  for (const CalibrationKey& key : awaited) {
    QS_RETURN_IF_ERROR(
        UpdateWaiting(context_, key, FindCalibration(context_, key)).status());
  }
  return absl::OkStatus();
}

absl::Status JobCalibrations::CheckUnused(const std::string& project,
                                          const std::string& id) {
  return CheckUnusedBut(context_, {project, id}, JobKey());
}

// Where it fails the jobs wait for the next call, or the next start.
void JobCalibrations::Sealed(const std::string& project,
                             const std::string& id) {
  const CalibrationKey key = {project, id};
  const absl::StatusOr<CalibrationRecord> found =
      FindCalibration(context_, key);
  const absl::StatusOr<bool> starts = UpdateWaiting(context_, key, found);
  if (!starts.ok()) LogFailure("wake jobs", key, starts.status());
  if (found.ok()) tell_(*found);
  if (starts.ok() && *starts) wake_();
}

}  // namespace qs
