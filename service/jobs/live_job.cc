// Tested by tests/service/jobs/job_scheduler_test.cc.
#include "service/jobs/live_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/base/metrics.h"
#include "service/jobs/job.h"
#include "service/jobs/job_calibrations.h"
#include "service/jobs/job_creator.h"
#include "service/jobs/job_messages.h"
#include "service/jobs/job_summary.h"
#include "service/jobs/job_tensors.h"
#include "service/server/error.h"
#include "service/server/gpu_seconds.h"
#include "service/store/stored_calibration.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Reports that are written together when no shard comes meanwhile.
constexpr size_t kMaxUnwritten = 256;

v1::Job ParseSpec(const std::string& bytes) {
  v1::Job spec;
  if (!spec.ParseFromString(bytes)) spec.Clear();
  return spec;
}

absl::Status TimedOutError(absl::Duration limit) {
  return RpcError(absl::StatusCode::kDeadlineExceeded, "EXECUTION_TIMEOUT",
                  absl::StrCat("execution_timeout: the job ran for ",
                               absl::FormatDuration(limit)));
}

// Every error of a job has a reason.
absl::Status WithSomeReason(const absl::Status& status) {
  if (!ErrorReason(status).empty()) return status;
  return RpcError(status.code(), "JOB_FAILED", std::string(status.message()));
}

}  // namespace

LiveJob::LiveJob(const JobsContext& context, JobRecord job, Listener listener)
    : context_(context),
      key_(job.key),
      attempt_(job.attempt),
      crashes_(job.crashes),
      log_(job),
      started_(job.started),
      destination_(job.destination),
      staging_(StagingPath(job.destination, job.key.id)),
      stored_(job.stored),
      calibration_(job.calibration),
      spec_(ParseSpec(job.spec)),
      execution_timeout_(spec_.has_execution_timeout()
                             ? DurationFromProto(spec_.execution_timeout())
                             : absl::InfiniteDuration()),
      listener_(std::move(listener)),
      phase_(v1::JobProgress::PREPARING),
      waits_(!job.waiting.sites.empty()) {}

void LiveJob::Start() {
  context_.io.Run([self = shared_from_this()] { self->Prepare(); });
}

void LiveJob::Stop(Why why) {
  std::shared_ptr<CheckpointRun> run;
  {
    absl::MutexLock lock(&mutex_);
    if (why_ == Why::kGoOn) why_ = why;
    if (running_) run = run_;
  }
  if (run != nullptr) run->Stop();
}

// A run that is yet to be made sees it by itself.
void LiveJob::SitesSealed(
    const std::shared_ptr<const CalibrationSource>& moments) {
  const std::shared_ptr<CheckpointRun> run = Run();
  if (run != nullptr) run->SitesSealed(moments);
}

std::shared_ptr<CheckpointRun> LiveJob::Run() const {
  absl::MutexLock lock(&mutex_);
  return run_;
}

LiveJob::Why LiveJob::why() const {
  absl::MutexLock lock(&mutex_);
  return why_;
}

v1::JobProgress LiveJob::progress() const {
  v1::JobProgress out;
  out.set_phase(static_cast<v1::JobProgress::Phase>(phase_.load()));
  const auto upto = [](int64_t value, int64_t total) {
    return std::min(value, total);
  };
  out.set_tensors_total(tensors_total_);
  out.set_bytes_total(bytes_total_);
  out.set_shards_total(shards_total_);
  out.set_tensors_waiting(tensors_waiting_);
  // A tensor whose shard was not committed is done again and counted twice.
  out.set_tensors_done(upto(tensors_, out.tensors_total()));
  out.set_bytes_done(upto(bytes_, out.bytes_total()));
  out.set_shards_done(upto(shards_, out.shards_total()));
  return out;
}

absl::StatusOr<JobRecord> LiveJob::Change(const JobRecords::Change& change) {
  absl::StatusOr<JobRecords::Updated> updated =
      context_.records.Update(key_, context_.now(), change);
  if (!updated.ok()) return FromRecords(updated.status());
  listener_.changed(*updated);
  return std::move(updated->job);
}

void LiveJob::Prepare() {
  const absl::StatusOr<JobRecord> job = context_.records.Get(key_);
  if (job.ok() && job->cancel_requested) Stop(Why::kCancelled);
  absl::Status status = job.ok() ? absl::OkStatus() : FromRecords(job.status());
  if (status.ok() && why() == Why::kGoOn) status = PrepareRun();
  if (!status.ok() || why() != Why::kGoOn) return Finish(status);
  const absl::StatusOr<std::set<int>> committed = Adopt(Run()->fingerprint());
  if (!committed.ok()) return Finish(committed.status());
  StartRun(*committed);
  if (!wait_.sites.empty()) LookAgain();
}

absl::Status LiveJob::PrepareRun() {
  v1::Job asked = spec_;
  if (asked.calibration().has_inline_()) {
    const auto numbers = context_.records.InlineCalibration(key_);
    if (!numbers.ok()) return FromRecords(numbers.status());
    if (!asked.mutable_calibration()->mutable_inline_()->ParseFromString(
            *numbers)) {
      return absl::DataLossError("records: the inline calibration is none");
    }
  }
  QS_ASSIGN_OR_RETURN(CheckpointRunSpec spec,
                      ResolveSpec(context_, key_.project, asked));
  if (!stored_ && spec.output != destination_) {
    return RpcError(absl::StatusCode::kFailedPrecondition, "OUTPUT_FAILED",
                    "job.destination.uri: it leads to another place than when "
                    "the job was made");
  }
  spec.output = staging_;
  if (spec_.source().has_tensors()) {
    const auto inputs = context_.records.Inputs(key_);
    if (!inputs.ok()) return FromRecords(inputs.status());
    ReadInputs(*inputs, &spec);
  }
  QS_ASSIGN_OR_RETURN(std::shared_ptr<CheckpointRun> run,
                      context_.prepare(std::move(spec)));
  // The server may have less memory than when the job was made.
  QS_RETURN_IF_ERROR(CheckFits(run->size(), context_.budget.capacity()));
  if (!run->open_sites().empty()) {
    wait_ = WaitOf(
        *run,
        static_cast<const StoredCalibration&>(*run->spec().moments).record());
    wait_.first.clear();  // it has begun
  }
  waits_ = !wait_.sites.empty();
  if (stored_) {
    QS_RETURN_IF_ERROR(context_.results->Begin(key_, run->size().file_bytes));
  }
  tensors_total_ = run->size().tensors;
  bytes_total_ = run->size().bytes;
  shards_total_ = run->size().shards;
  tensors_waiting_ = run->size().tensors_waiting;
  size_ = run->size();
  absl::MutexLock lock(&mutex_);
  run_ = std::move(run);
  return absl::OkStatus();
}

absl::StatusOr<std::set<int>> LiveJob::Adopt(const std::string& fingerprint) {
  bool same = false;
  QS_RETURN_IF_ERROR(Change([&](JobRecord& job) {
                       same = job.fingerprint == fingerprint;
                       job.fingerprint = fingerprint;
                       job.waiting = wait_;
                       return absl::OkStatus();
                     }).status());
  if (!same || !Exists(staging_)) {
    RemoveOutput(staging_, log_);
    QS_RETURN_IF_ERROR(FromRecords(context_.records.StartOver(key_)));
    return std::set<int>();
  }
  absl::StatusOr<std::vector<ShardRecord>> shards =
      context_.records.Shards(key_);
  if (!shards.ok()) return FromRecords(shards.status());
  std::set<int> committed;
  for (const ShardRecord& shard : *shards) {
    if (Exists(staging_ + "/" + shard.file)) committed.insert(shard.shard);
  }
  QS_RETURN_IF_ERROR(CountAdopted(committed.size()));
  return committed;
}

absl::Status LiveJob::CountAdopted(size_t shards) {
  shards_ = static_cast<int64_t>(shards);
  if (shards == 0) return absl::OkStatus();
  return FromRecords(
      context_.records.Tensors(key_, [this](const JobTensorRecord& tensor) {
        ++tensors_;
        bytes_ += tensor.bytes;
        return absl::OkStatus();
      }));
}

void LiveJob::StartRun(const std::set<int>& committed) {
  SetPhase(v1::JobProgress::QUANTIZING);
  resumed_ = !committed.empty();
  const std::shared_ptr<CheckpointRun> run = Run();
  run->Start({context_.pool, context_.budget, context_.io}, committed, *this,
             [self = shared_from_this()](const absl::Status& status) {
               self->context_.io.Run([self, status] { self->Finish(status); });
             });
  bool stop = false;
  {
    absl::MutexLock lock(&mutex_);
    running_ = true;
    stop = why_ != Why::kGoOn;
  }
  if (stop) run->Stop();
}

// For what was sealed since the run was planned, and is to be told by nobody.
void LiveJob::LookAgain() {
  const CalibrationKey key = {key_.project, calibration_};
  const absl::StatusOr<CalibrationRecord> found =
      FindCalibration(context_, key);
  if (found.ok()) SitesSealed(SourceOf(context_, *found));
  const absl::StatusOr<bool> starts = UpdateWaiting(context_, key, found);
  if (!starts.ok()) {
    log_.WriteError("job_waiting_not_recorded", starts.status());
  } else if (*starts) {
    listener_.waiting_changed();
  }
}

void LiveJob::OnWaiting(int64_t tensors, bool parked) {
  tensors_waiting_ = tensors;
  if (parked) ForgetCrashes();
  SetPhase(parked ? v1::JobProgress::WAITING : v1::JobProgress::QUANTIZING);
  waits_ = tensors > 0;
  parked_ = parked;
  listener_.waiting_changed();
}

// What it could do it has done; a process that ends while it is parked does not
// end for it.
void LiveJob::ForgetCrashes() {
  if (crashes_ == 0) return;
  const absl::Status status = Change([](JobRecord& job) {
                                job.crashes = 0;
                                return absl::OkStatus();
                              }).status();
  if (status.ok()) crashes_ = 0;
}

absl::Status LiveJob::OnTensor(int shard, const v1::TensorReport& report,
                               const QuantizedTensor&) {
  ++tensors_;
  CountQuantized(report.algorithm().substr(0, report.algorithm().find('-')),
                 report.bytes_in(), report.bytes_out());
  CountGpuSeconds(report);
  log_.Write(LogLevel::kDebug, "tensor",
             {{"tensor", report.name()},
              {"bytes_in", report.bytes_in()},
              {"bytes_out", report.bytes_out()}});
  bool full = false;
  {
    absl::MutexLock lock(&mutex_);
    unwritten_.push_back(
        {report.name(), report.bytes_in(), report.SerializeAsString(), shard});
    full = unwritten_.size() >= kMaxUnwritten;
  }
  return full ? Flush() : absl::OkStatus();
}

absl::Status LiveJob::Flush() {
  absl::MutexLock commits(&commits_);
  const std::vector<JobTensorRecord> tensors = TakeUnwritten();
  if (tensors.empty()) return absl::OkStatus();
  return FromRecords(
      context_.records.Commit(key_, attempt_, std::nullopt, tensors));
}

std::vector<JobTensorRecord> LiveJob::TakeUnwritten() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(unwritten_, {});
}

absl::Status LiveJob::OnShard(int shard, const std::string& file,
                              int64_t bytes) {
  // What cannot be read now is said at the end.
  auto digest =
      DigestFile(staging_ + "/" + file, [this] { return why() != Why::kGoOn; });
  const ShardRecord record = {shard, file, bytes,
                              digest.ok() ? digest->digest : ""};
  if (digest.ok()) digests_[file] = *std::move(digest);
  {
    absl::MutexLock commits(&commits_);
    QS_RETURN_IF_ERROR(FromRecords(
        context_.records.Commit(key_, attempt_, record, TakeUnwritten())));
  }
  ++shards_;
  return absl::OkStatus();
}

void LiveJob::Finish(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    running_ = false;
    run_.reset();
  }
  absl::Status end = status;
  // Stopped too late: the run is complete. Only a wish to cancel undoes that.
  if (end.ok() &&
      (why() == Why::kGoOn || phase_ != v1::JobProgress::PREPARING)) {
    end = Complete();
    if (end.ok()) return;
  }
  StopNow(end);
}

// OK: the job is published and its end is recorded or will be.
absl::Status LiveJob::Complete() {
  QS_RETURN_IF_ERROR(Flush());
  SetPhase(v1::JobProgress::VERIFYING);
  QS_ASSIGN_OR_RETURN(
      const OutputDigest digest,
      DigestOutput(staging_, digests_, [this] { return why() != Why::kGoOn; }));
  if (stored_) QS_RETURN_IF_ERROR(RecordFiles(digest));
  QS_ASSIGN_OR_RETURN(v1::JobSummary summary,
                      SummarizeJob(context_.records, key_));
  summary.set_files(static_cast<int64_t>(digest.files.size()));
  summary.set_file_bytes(digest.bytes);
  summary.set_digest(digest.digest);
  summary.set_seconds(absl::ToDoubleSeconds(context_.now() - started_));
  const absl::Status publishing =
      Change([&](JobRecord& job) {
        return PublishJob(job, summary.SerializeAsString());
      }).status();
  // Cancelled in the records already, of which Stop is yet to tell.
  if (ErrorReason(publishing) == "BAD_STATE") Stop(Why::kCancelled);
  QS_RETURN_IF_ERROR(publishing);
  SetPhase(v1::JobProgress::PUBLISHING);
  QS_RETURN_IF_ERROR(PublishOutput(staging_, destination_));
  if (stored_) context_.results->Settle(key_, digest.bytes);
  absl::MutexLockMaybe lock(spec_.calibration().delete_after_use()
                                ? context_.last_use.get()
                                : nullptr);
  DeleteAfterUse(context_, key_, spec_);
  const absl::Time now = context_.now();
  if (!resumed_ && wait_.sites.empty())
    context_.pace->Learn(size_, now - started_);
  EndWith([now](JobRecord& job) { return SucceedJob(job, now); }, true);
  return absl::OkStatus();
}

// In the order in which ReadResult gives them: shards, then the rest by name.
absl::Status LiveJob::RecordFiles(const OutputDigest& output) {
  const absl::StatusOr<std::vector<ShardRecord>> shards =
      context_.records.Shards(key_);
  if (!shards.ok()) return FromRecords(shards.status());
  std::map<std::string, FileDigest> rest = output.files;
  std::vector<JobFileRecord> files;
  for (const ShardRecord& shard : *shards) {
    const auto found = rest.find(shard.file);
    if (found == rest.end()) continue;
    files.push_back({shard.file, found->second.bytes, found->second.digest});
    rest.erase(found);
  }
  for (const auto& [file, digest] : rest) {
    files.push_back({file, digest.bytes, digest.digest});
  }
  return FromRecords(context_.records.SetFiles(key_, files));
}

void LiveJob::StopNow(const absl::Status& status) {
  const absl::Time now = context_.now();
  switch (why()) {
    case Why::kCancelled:
      return EndWith([now](JobRecord& job) { return StoppedJob(job, now); },
                     false);
    case Why::kDrained:
      // A job that failed by itself, failed.
      if (!status.ok() && !absl::IsCancelled(status)) break;
      return EndWith([now](JobRecord& job) { return ReleaseJob(job, now); },
                     true);
    case Why::kTimedOut: {
      const absl::Status error = TimedOutError(execution_timeout_);
      return EndWith(
          [now, error](JobRecord& job) { return FailJob(job, now, error); },
          false);
    }
    case Why::kGoOn:
      break;
  }
  const absl::Status error = WithSomeReason(status);
  EndWith([now, error](JobRecord& job) { return FailJob(job, now, error); },
          false);
}

void LiveJob::EndWith(JobRecords::Change change, bool keep_output) {
  v1::JobProgress last = progress();
  last.clear_phase();
  {
    absl::MutexLock lock(&mutex_);
    unwritten_.clear();
    unrecorded_ = [change = std::move(change), last](JobRecord& job) {
      QS_RETURN_IF_ERROR(change(job));
      job.progress = last.SerializeAsString();
      return absl::OkStatus();
    };
  }
  // Before the job's name for the destination is free again.
  if (!keep_output) RemoveOutput(staging_, log_);
  RetryEnd(false);
}

void LiveJob::RetryEnd(bool give_up) {
  JobRecords::Change change;
  {
    absl::MutexLock lock(&mutex_);
    change.swap(unrecorded_);
  }
  if (!change) return;
  const absl::StatusOr<JobRecord> job = Change(change);
  if (job.ok()) return listener_.ended(*this, *job);
  log_.WriteError("job_not_recorded", job.status());
  const bool hopeless = absl::IsNotFound(job.status()) ||
                        ErrorReason(job.status()) == "BAD_STATE";
  if (give_up || hopeless) {
    JobRecord unknown;
    unknown.key = key_;
    unknown.state = JobState::kRunning;
    return listener_.ended(*this, unknown);
  }
  absl::MutexLock lock(&mutex_);
  unrecorded_ = std::move(change);
}

}  // namespace qs
