// Tested by tests/e2e/quantctl_jobs_test.py.
#include "service/cli/job_watch.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "quant/formats/utf8.h"
#include "service/cli/exit_code.h"
#include "service/cli/job_text.h"
#include "service/cli/progress.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr int kMaxRetriesInARow = 27;
constexpr absl::Duration kMaxDelay = absl::Seconds(5);
constexpr absl::Duration kLineInterval = absl::Seconds(2);

class Watch {
 public:
  Watch(const std::string& name, const Console& console)
      : console_(console), id_(JobIdOf(name)) {}

  int64_t revision() const { return revision_; }
  const std::optional<v1::Job>& done() const { return done_; }

  void Take(const v1::JobEvent& event) {
    revision_ = event.revision();
    if (event.has_snapshot()) {
      const v1::Job& job = event.snapshot();
      ShowState(job.state(), job.attempt(), job.cancelling());
      if (job.has_progress()) ShowProgress(job.progress());
      if (job.state() >= v1::Job::SUCCEEDED) done_ = job;
    } else if (event.has_change()) {
      const v1::JobChange& change = event.change();
      ShowState(change.state(), change.attempt(), change.cancelling());
      if (change.has_job()) done_ = change.job();
    } else if (event.has_progress()) {
      ShowProgress(event.progress());
    }
  }

  void Note(const std::string& text) {
    Clear();
    console_.error << EscapeControls(absl::StrCat(id_, "  ", text)) << "\n"
                   << std::flush;
  }
  void Clear() {
    if (bar_shown_) console_.error << "\r\x1b[K" << std::flush;
    bar_shown_ = false;
  }

 private:
  void ShowState(v1::Job::State state, int attempt, bool cancelling) {
    std::string text = StateText(state, attempt, cancelling);
    if (text == state_) return;
    state_ = std::move(text);
    if (state == v1::Job::RUNNING && !running_since_) {
      running_since_ = absl::Now();
    }
    Note(state_);
  }

  void ShowProgress(const v1::JobProgress& progress) {
    ShowWaiting(progress);
    if (progress.bytes_total() == 0) return;
    if (!first_bytes_) first_bytes_ = progress.bytes_done();
    const absl::Time now = absl::Now();
    if (console_.columns == 0 && now - shown_ < kLineInterval) return;
    shown_ = now;
    const ProgressState state = StateOf(progress, now);
    if (console_.columns == 0) return Note(ProgressLine(state));
    console_.error << "\r" << ProgressBar(state, console_.columns) << "\x1b[K"
                   << std::flush;
    bar_shown_ = true;
  }

  void ShowWaiting(const v1::JobProgress& progress) {
    const bool waits = progress.phase() == v1::JobProgress::WAITING;
    if (waits && !waits_) {
      Note(absl::StrCat("waiting for sites that ", progress.tensors_waiting(),
                        " tensors read"));
    }
    waits_ = waits;
  }

  // The rate is that of what was seen. No seconds: no rate.
  ProgressState StateOf(const v1::JobProgress& progress, absl::Time now) const {
    ProgressState state;
    state.bytes = progress.bytes_done();
    state.total_bytes = progress.bytes_total();
    state.tensors = progress.tensors_done();
    state.total_tensors = progress.tensors_total();
    if (running_since_ && *first_bytes_ == 0) {
      state.seconds = absl::ToDoubleSeconds(now - *running_since_);
    }
    return state;
  }

  const Console& console_;
  const std::string id_;
  int64_t revision_ = 0;
  std::string state_;
  std::optional<v1::Job> done_;
  std::optional<absl::Time> running_since_;
  std::optional<int64_t> first_bytes_;
  absl::Time shown_ = absl::InfinitePast();
  bool bar_shown_ = false;
  bool waits_ = false;
};

// Reads one stream to its end. `events`: how many came.
grpc::Status ReadStream(v1::JobService::Stub& stub, const std::string& name,
                        RunControl& control, Watch* watch, int* events) {
  grpc::ClientContext context;
  RunControl::Call call(control, context);
  v1::WatchJobRequest request;
  request.set_name(name);
  request.set_from_revision(watch->revision());
  const auto reader = stub.WatchJob(&context, request);
  v1::JobEvent event;
  while (reader->Read(&event)) {
    ++*events;
    watch->Take(event);
  }
  return reader->Finish();
}

}  // namespace

absl::StatusOr<v1::Job> WatchToEnd(v1::JobService::Stub& stub,
                                   const std::string& name,
                                   const std::string& server,
                                   const Console& console,
                                   RunControl& control) {
  Watch watch(name, console);
  int retries = 0;
  while (true) {
    int events = 0;
    const grpc::Status end = ReadStream(stub, name, control, &watch, &events);
    if (watch.done()) {
      watch.Clear();
      return *watch.done();
    }
    if (events > 0) retries = 0;
    const absl::Status status =
        end.ok() ? UnexpectedError("the watch ended before the job")
                 : FromServer(end, server);
    if (control.failed() || !IsRetryable(status) ||
        retries == kMaxRetriesInARow) {
      watch.Clear();
      return control.failed() ? control.status() : status;
    }
    if (retries == 0) watch.Note("connection lost, trying again");
    control.Sleep(std::min(RetryDelay(std::min(retries, 10)), kMaxDelay));
    ++retries;
  }
}

absl::Status CheckSucceeded(const v1::Job& job) {
  if (job.state() == v1::Job::SUCCEEDED) return absl::OkStatus();
  return WithExitCode(
      absl::FailedPreconditionError(absl::StrCat(
          "job ", JobIdOf(job.name()), ": got ",
          v1::Job::State_Name(job.state()), ", allowed SUCCEEDED",
          job.has_error() ? ": " : "", EscapeControls(job.error().message()))),
      ExitCode::kJobEnded);
}

}  // namespace qs::cli
