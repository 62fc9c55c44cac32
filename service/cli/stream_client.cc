// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/stream_client.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "service/cli/channel.h"
#include "service/cli/exit_code.h"
#include "service/cli/stream_receiver.h"
#include "service/cli/stream_sender.h"
#include "service/server/error.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr int64_t kChunkBytes = int64_t{1} << 20;

// One Quantize call. The caller's thread writes, another one reads.
class Attempt {
 public:
  explicit Attempt(const StreamContext& context)
      : run_(context),
        receiver_(context.checkpoint, context.board, context.progress,
                  !context.config.skip_digest()) {}

  // Until the board is empty and every answer came.
  absl::Status Run();
  // After Run.
  const StreamReceiver& receiver() const { return receiver_; }
  int64_t unreported_bytes() const {
    return sent_bytes_ - receiver_.completed_bytes();
  }

 private:
  // The first error ends the call.
  void Fail(const absl::Status& status);
  absl::Status error() const {
    absl::MutexLock lock(&mutex_);
    return error_;
  }

  bool Open();
  void Exchange();
  void SendAll();
  void ReadAll();

  const StreamContext& run_;
  StreamReceiver receiver_;
  grpc::ClientContext context_;
  std::unique_ptr<QuantizeStream> stream_;
  int64_t chunk_bytes_ = kChunkBytes;
  int64_t sent_bytes_ = 0;

  mutable absl::Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

void Attempt::Fail(const absl::Status& status) {
  if (status.ok()) return;
  absl::MutexLock lock(&mutex_);
  if (error_.ok()) error_ = status;
  context_.TryCancel();
}

absl::Status Attempt::Run() {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                      MakeChannel(run_.server));
  const auto stub = v1::QuantizeService::NewStub(channel);
  RunControl::Call call(run_.control, context_);
  stream_ = stub->Quantize(&context_);
  if (Open()) {
    run_.board.AddStream(1);
    Exchange();
    run_.board.AddStream(-1);
  }
  const grpc::Status end = stream_->Finish();
  QS_RETURN_IF_ERROR(run_.control.status());
  QS_RETURN_IF_ERROR(error());
  if (!end.ok()) return FromServer(end, run_.server.address);
  return receiver_.CheckComplete();
}

// False: the server ended the call; Finish says why.
bool Attempt::Open() {
  v1::QuantizeRequest request;
  *request.mutable_config() = run_.config;
  if (!stream_->Write(request)) return false;
  v1::QuantizeResponse response;
  if (!stream_->Read(&response)) return false;
  if (!response.has_accepted()) {
    Fail(UnexpectedError("stream: got another first answer, allowed accepted"));
    while (stream_->Read(&response)) continue;
    return false;
  }
  const int64_t most = response.accepted().limits().max_chunk_bytes();
  // Whole elements, whatever the limit is.
  if (most >= 8) chunk_bytes_ = std::min(chunk_bytes_, most / 8 * 8);
  return true;
}

void Attempt::Exchange() {
  std::thread reader([this] { ReadAll(); });
  SendAll();
  reader.join();
}

void Attempt::SendAll() {
  StreamSender sender(*stream_, run_.checkpoint, run_.calibration, chunk_bytes_,
                      run_.progress);
  bool written = true;
  while (written) {
    const std::optional<size_t> batch = run_.board.NextBatch();
    if (!batch) break;
    absl::Status status = receiver_.Begin(*batch);
    if (status.ok()) {
      status = sender.Send(run_.board.batches()[*batch], &written);
    }
    Fail(status);
    written = written && error().ok();
  }
  sent_bytes_ = sender.sent_bytes();
  stream_->WritesDone();
}

void Attempt::ReadAll() {
  v1::QuantizeResponse response;
  // Finish may only follow a Read that failed.
  while (stream_->Read(&response)) {
    if (error().ok()) Fail(receiver_.Take(response));
  }
}

// Another stream of this run goes on and takes the batches.
bool CanLeaveToOthers(const absl::Status& status, const WorkBoard& board) {
  return ErrorReason(status) == "TOO_MANY_STREAMS" && board.streams() > 0;
}

// A stream that will not be opened again.
absl::Status GivenUp(const absl::Status& status, int retries) {
  if (retries == 0) return status;
  return WithText(status, absl::StrCat("; tried again ", retries, " times"));
}

}  // namespace

void RunStreams(const StreamContext& context) {
  int retries = 0;  // in a row without any batch done
  while (context.board.HasBatches() && !context.control.failed()) {
    Attempt attempt(context);
    const absl::Status status = attempt.Run();
    if (status.ok()) continue;
    context.board.GiveBack(attempt.receiver().Incomplete());
    // Bytes that are sent again are not progress.
    context.progress.AddBytes(-attempt.unreported_bytes());
    if (CanLeaveToOthers(status, context.board)) return;
    if (attempt.receiver().any_completed()) retries = 0;
    const int most = IsBusy(status) ? kMaxBusyRetries : kMaxRetries;
    if (!IsRetryable(status) || retries >= most) {
      return context.control.Fail(GivenUp(status, retries));
    }
    const absl::Duration delay = RetryDelay(retries++);
    context.progress.Note(absl::StrCat(status.message(), "; trying again (",
                                       retries, " of ", most, ")"));
    if (!context.control.Sleep(delay)) return;
  }
}

}  // namespace qs::cli
