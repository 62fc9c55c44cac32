// Tested by tests/e2e/quantctl_results_test.py.
#include "service/cli/result_fetch.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/utf8.h"
#include "service/cli/exit_code.h"
#include "service/cli/job_text.h"
#include "service/cli/result_folder.h"
#include "service/server/error.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr int kMaxRetriesInARow = 27;
constexpr int kMaxStartsOver = 3;
constexpr absl::Duration kMaxDelay = absl::Seconds(5);

class Fetch {
 public:
  Fetch(v1::JobService::Stub& stub, const std::string& job,
        const std::string& server, const Console& console, RunControl& control,
        ResultFolder& folder)
      : stub_(stub),
        job_(job),
        server_(server),
        console_(console),
        control_(control),
        folder_(folder) {}

  absl::Status Run() {
    int retries = 0;
    while (true) {
      received_ = false;
      absl::Status status = ReadOnce();
      if (status.ok()) {
        QS_ASSIGN_OR_RETURN(
            const bool published,
            folder_.Publish(digest_, [this] { return control_.failed(); }));
        if (published) return absl::OkStatus();
        status = Other("what was received does not have the job's digest");
      }
      if (control_.failed()) return control_.status();
      if (IsStale(status)) {
        QS_RETURN_IF_ERROR(StartOver(status));
        continue;
      }
      if (received_) retries = 0;
      if (!MayRetry(status) || retries == kMaxRetriesInARow) return status;
      if (retries == 0) Note("connection lost, trying again");
      control_.Sleep(std::min(RetryDelay(std::min(retries, 10)), kMaxDelay));
      ++retries;
    }
  }

 private:
  static absl::Status Other(const std::string& text) {
    return WithExitCode(absl::AbortedError(text), ExitCode::kUnexpected);
  }

  // One call, to its end. OK: everything was received.
  absl::Status ReadOnce() {
    grpc::ClientContext context;
    RunControl::Call call(control_, context);
    v1::ReadResultRequest request;
    request.set_name(job_);
    request.set_wait(true);
    request.set_file(folder_.file());
    request.set_offset(folder_.offset());
    resumed_ = !folder_.file().empty();
    const auto reader = stub_.ReadResult(&context, request);
    v1::ReadResultResponse response;
    absl::Status taken;
    bool complete = false;
    while (taken.ok() && reader->Read(&response)) {
      if (response.has_chunk()) taken = Take(response.chunk());
      if (!response.has_end()) continue;
      complete = response.end().complete();
      digest_ = response.end().digest();
    }
    if (!taken.ok()) context.TryCancel();
    const grpc::Status end = reader->Finish();
    if (!taken.ok()) return taken;
    if (!end.ok()) return FromServer(end, server_);
    return complete ? absl::OkStatus()
                    : UnexpectedError("the result ended before the job");
  }

  absl::Status Take(const v1::FileChunk& chunk) {
    QS_RETURN_IF_ERROR(folder_.Take(chunk));
    received_ = true;
    if (chunk.last()) {
      Note(absl::StrCat(chunk.file(), ", ", chunk.size_bytes(), " bytes"));
    }
    return absl::OkStatus();
  }

  // What an earlier run or call has received is of another attempt of the job.
  bool IsStale(const absl::Status& status) const {
    const std::string reason = ErrorReason(status);
    return absl::IsAborted(status) ||
           (resumed_ && (reason == "BAD_FIELD" || reason == "OFFSET_PAST_END"));
  }

  absl::Status StartOver(const absl::Status& why) {
    if (++starts_over_ > kMaxStartsOver) return why;
    Note("the result is another one than before, from the beginning");
    return folder_.StartOver();
  }

  // A stalled stream ends with CANCELLED.
  static bool MayRetry(const absl::Status& status) {
    return IsRetryable(status) || absl::IsCancelled(status);
  }

  void Note(const std::string& text) {
    console_.error << EscapeControls(absl::StrCat(JobIdOf(job_), "  ", text))
                   << "\n"
                   << std::flush;
  }

  v1::JobService::Stub& stub_;
  const std::string& job_;
  const std::string& server_;
  const Console& console_;
  RunControl& control_;
  ResultFolder& folder_;
  bool received_ = false;  // by the last call
  bool resumed_ = false;   // the last call
  int starts_over_ = 0;
  std::string digest_;
};

}  // namespace

absl::Status FetchResult(v1::JobService::Stub& stub, const std::string& job,
                         const std::string& output, const std::string& server,
                         const Console& console, RunControl& control) {
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<ResultFolder> folder,
                      ResultFolder::Open(output, JobIdOf(job)));
  const absl::Status status =
      Fetch(stub, job, server, console, control, *folder).Run();
  if (status.ok() || ErrorReason(status) == "NO_RESULT") {
    if (!status.ok()) folder->Discard();
    return status;
  }
  return WithText(
      status, absl::StrCat("; what was received is kept in ", folder->staging(),
                           ", run it again to go on"));
}

}  // namespace qs::cli
