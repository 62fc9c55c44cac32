// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/stream_client.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "service/cli/channel.h"
#include "service/cli/exit_code.h"
#include "service/server/error.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"
#include "service/stream/digest.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Stream =
    grpc::ClientReaderWriter<v1::QuantizeRequest, v1::QuantizeResponse>;

constexpr int64_t kChunkBytes = int64_t{1} << 20;

// The chunk's bytes by pread: a file that shrinks gives an error here and a
// SIGBUS through a mapping.
absl::Status ReadChunk(int fd, const std::string& path, int64_t offset,
                       int64_t bytes, std::string* data) {
  data->resize(static_cast<size_t>(bytes));
  for (int64_t done = 0; done < bytes;) {
    const ssize_t got = pread(fd, data->data() + done,
                              static_cast<size_t>(bytes - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return InputError(PosixError(errno, "read", path));
    if (got == 0) {
      return InputError(absl::AbortedError(absl::StrCat(
          "file ", path, ": got an earlier end than when it was opened")));
    }
    done += got;
  }
  return absl::OkStatus();
}

// One Quantize call. The caller's thread writes, another one reads.
class Attempt {
 public:
  explicit Attempt(const StreamContext& context) : run_(context) {}

  // Until the board is empty and every answer came.
  absl::Status Run();
  // After Run. Of the tensors begun, in order, and what was sent of them.
  std::vector<size_t> Unreported() const;
  int64_t unreported_bytes() const { return sent_bytes_ - reported_bytes_; }
  bool any_reported() const { return any_reported_; }

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
  absl::Status SendTensor(size_t tensor, bool* written);
  absl::StatusOr<int> InputOf(int shard);
  void ReadAll();
  absl::Status Take(const v1::QuantizeResponse& response);
  absl::Status TakeReport(const v1::TensorReport& report);
  absl::StatusOr<TensorSink*> SinkOf(int64_t handle);
  absl::Status CheckComplete();

  const StreamContext& run_;
  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;
  int64_t chunk_bytes_ = kChunkBytes;

  // The writer's.
  int input_shard_ = -1;
  UniqueFd input_;
  v1::QuantizeRequest request_;
  int64_t sent_bytes_ = 0;

  // The reader's, and after it was joined anybody's.
  Sha256 digest_;
  std::string expected_digest_;
  bool summary_seen_ = false;
  bool any_reported_ = false;
  int64_t reported_bytes_ = 0;

  mutable absl::Mutex mutex_;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
  // By tensor; its handle is one more. Nodes stay where they are.
  std::map<size_t, TensorSink> sinks_ ABSL_GUARDED_BY(mutex_);
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
  return CheckComplete();
}

// False: the server ended the call; Finish says why.
bool Attempt::Open() {
  *request_.mutable_config()->mutable_quantization() = run_.quantization;
  if (!stream_->Write(request_)) return false;
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
  bool written = true;
  while (written) {
    const std::optional<size_t> tensor = run_.board.NextTensor();
    if (!tensor) break;
    Fail(SendTensor(*tensor, &written));
    written = written && error().ok();
  }
  stream_->WritesDone();
}

absl::StatusOr<int> Attempt::InputOf(int shard) {
  if (shard != input_shard_) {
    absl::StatusOr<UniqueFd> fd = OpenRegularFile(
        run_.checkpoint.shards()[static_cast<size_t>(shard)].path());
    if (!fd.ok()) return InputError(fd.status());
    input_ = *std::move(fd);
    input_shard_ = shard;
  }
  return input_.get();
}

// *written becomes false when the call takes no more.
absl::Status Attempt::SendTensor(size_t tensor, bool* written) {
  const CheckpointTensor& source = run_.checkpoint.tensors()[tensor];
  const SafetensorsFile& file =
      run_.checkpoint.shards()[static_cast<size_t>(source.shard)];
  QS_ASSIGN_OR_RETURN(SpillFile* const spill, run_.board.SpillOf(source.shard));
  {
    absl::MutexLock lock(&mutex_);
    sinks_.try_emplace(tensor, source, *spill);
  }
  QS_ASSIGN_OR_RETURN(const int fd, InputOf(source.shard));
  const int64_t handle = static_cast<int64_t>(tensor) + 1;
  v1::TensorBegin* begin = request_.mutable_tensor();
  begin->Clear();
  begin->set_handle(handle);
  begin->set_name(source.entry.name);
  begin->set_dtype(DTypeToProto(source.entry.dtype));
  begin->mutable_shape()->Add(source.entry.shape.begin(),
                              source.entry.shape.end());
  *written = stream_->Write(request_);
  v1::Chunk* chunk = request_.mutable_chunk();
  chunk->set_handle(handle);
  const int64_t size = source.entry.end - source.entry.begin;
  for (int64_t offset = 0; *written && offset < size; offset += chunk_bytes_) {
    const int64_t bytes = std::min(chunk_bytes_, size - offset);
    QS_RETURN_IF_ERROR(
        ReadChunk(fd, file.path(),
                  file.header().data_offset + source.entry.begin + offset,
                  bytes, chunk->mutable_data()));
    const std::string& data = chunk->data();
    chunk->set_offset(offset);
    chunk->set_crc32c(
        Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()}));
    chunk->set_last(offset + bytes == size);
    *written = stream_->Write(request_);
    if (!*written) break;
    sent_bytes_ += bytes;
    run_.progress.AddBytes(bytes);
  }
  return absl::OkStatus();
}

void Attempt::ReadAll() {
  v1::QuantizeResponse response;
  // Finish may only follow a Read that failed.
  while (stream_->Read(&response)) {
    if (error().ok()) Fail(Take(response));
  }
}

absl::StatusOr<TensorSink*> Attempt::SinkOf(int64_t handle) {
  absl::MutexLock lock(&mutex_);
  const auto found = sinks_.find(static_cast<size_t>(handle - 1));
  if (found != sinks_.end()) return &found->second;
  return UnexpectedError(absl::StrCat("stream: got an answer for handle ",
                                      handle, ", allowed one of those sent"));
}

absl::Status Attempt::Take(const v1::QuantizeResponse& response) {
  switch (response.message_case()) {
    case v1::QuantizeResponse::kFrame: {
      const v1::Frame& frame = response.frame();
      QS_ASSIGN_OR_RETURN(TensorSink* const sink, SinkOf(frame.handle()));
      digest_.Update({reinterpret_cast<const uint8_t*>(frame.data().data()),
                      frame.data().size()});
      return sink->TakeFrame(frame);
    }
    case v1::QuantizeResponse::kReport:
      return TakeReport(response.report());
    case v1::QuantizeResponse::kSummary:
      summary_seen_ = true;
      expected_digest_ = response.summary().digest();
      return absl::OkStatus();
    default:
      return UnexpectedError(
          "stream: got an answer of an unknown kind, allowed frame, report "
          "and summary");
  }
}

absl::Status Attempt::TakeReport(const v1::TensorReport& report) {
  QS_ASSIGN_OR_RETURN(TensorSink* const sink, SinkOf(report.handle()));
  QS_RETURN_IF_ERROR(sink->TakeReport(report));
  const size_t tensor = static_cast<size_t>(report.handle() - 1);
  run_.board.Complete(tensor, sink->outputs(), report);
  run_.progress.AddTensor();
  any_reported_ = true;
  const SafetensorsEntry& entry = run_.checkpoint.tensors()[tensor].entry;
  reported_bytes_ += entry.end - entry.begin;
  absl::MutexLock lock(&mutex_);
  sinks_.erase(tensor);
  return absl::OkStatus();
}

absl::Status Attempt::CheckComplete() {
  const std::vector<size_t> missing = Unreported();
  if (!missing.empty()) {
    return UnexpectedError(
        absl::StrCat("stream: got its end without a report for ",
                     run_.checkpoint.tensors()[missing[0]].entry.name,
                     ", allowed after every report"));
  }
  if (!summary_seen_) {
    return UnexpectedError("stream: got no summary, allowed: one, last");
  }
  const std::string digest = digest_.Finish();
  if (digest == expected_digest_ || digest.empty()) return absl::OkStatus();
  return UnexpectedError(absl::StrCat("summary.digest: got ", digest,
                                      " of what arrived, allowed ",
                                      expected_digest_, " as sent"));
}

std::vector<size_t> Attempt::Unreported() const {
  absl::MutexLock lock(&mutex_);
  std::vector<size_t> tensors;
  for (const auto& [tensor, sink] : sinks_) tensors.push_back(tensor);
  return tensors;
}

// Another stream of this run goes on and takes the tensors.
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
  int retries = 0;  // in a row without any tensor done
  while (context.board.HasTensors() && !context.control.failed()) {
    Attempt attempt(context);
    const absl::Status status = attempt.Run();
    if (status.ok()) continue;
    context.board.GiveBack(attempt.Unreported());
    // Bytes that are sent again are not progress.
    context.progress.AddBytes(-attempt.unreported_bytes());
    if (CanLeaveToOthers(status, context.board)) return;
    if (attempt.any_reported()) retries = 0;
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
