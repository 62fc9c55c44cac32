// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/write_call.h"

#include <grpcpp/server_context.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "quant/v1/tensors.pb.h"
#include "service/base/metrics.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/server/message_bytes.h"
#include "service/server/options.h"
#include "service/server/served_call.h"
#include "service/stream/crc32c.h"
#include "service/tensors/tensor_messages.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Request = v1::WriteTensorRequest;
using Response = v1::WriteTensorResponse;

std::span<const uint8_t> DataOf(const Request& request) {
  return {reinterpret_cast<const uint8_t*>(request.data().data()),
          request.data().size()};
}

absl::Status CheckData(const Request& request) {
  const auto bytes = static_cast<int64_t>(request.data().size());
  if (bytes > kMaxChunkBytes) {
    return RpcError(
        absl::StatusCode::kInvalidArgument, "CHUNK_TOO_LARGE",
        absl::StrCat("data: got ", bytes, " bytes, allowed ", kMaxChunkBytes));
  }
  return absl::OkStatus();
}

absl::Status CheckCrc(const Request& request, int64_t persisted) {
  if (!request.has_crc32c()) return absl::OkStatus();
  const uint32_t crc = Crc32c(DataOf(request));
  if (crc == request.crc32c()) return absl::OkStatus();
  CountChunkCrcError();
  return RpcError(
      absl::StatusCode::kAborted, "CHUNK_CRC_MISMATCH",
      absl::StrCat("crc32c: got ", request.crc32c(), ", the data gives ", crc),
      {{"offset", absl::StrCat(request.offset())},
       {"persisted_size", absl::StrCat(persisted)}});
}

class WriteCall final : public BytesReactor, public LiveCall {
 public:
  static WriteCall* New(TensorContext& context,
                        grpc::CallbackServerContext* call) {
    const auto made = std::make_shared<WriteCall>(context, call);
    {
      absl::MutexLock lock(&made->mutex_);
      made->self_ = made;
    }
    made->Start();
    return made.get();
  }

  WriteCall(TensorContext& context, grpc::CallbackServerContext* call)
      : context_(context),
        call_(call),
        served_("WriteTensor", *call),
        strand_(context.pool) {}

  // gRPC's reactions.

  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (!ok) {
      if (call_->IsCancelled()) {
        EndLocked(absl::CancelledError("cancelled"));
      } else if (!ended_) {
        // Half-close: a pause.
        RunLocked([](WriteCall& call) { call.Pause(absl::OkStatus()); });
      }
      return;
    }
    last_message_ = absl::Now();
    const auto bytes = static_cast<int64_t>(in_.Length());
    served_.AddBytes(bytes);
    waiting_bytes_ += bytes;
    RunLocked([message = std::exchange(in_, grpc::ByteBuffer()),
               bytes](WriteCall& call) mutable {
      call.Take(&message);
      call.Taken(bytes);
    });
    ReadLocked();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    last_message_ = absl::Now();
    if (!ok) EndLocked(absl::CancelledError("cancelled"));
    SendLocked();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    EndLocked(absl::CancelledError("cancelled"));
  }

  void OnDone() override {
    std::shared_ptr<WriteCall> self;
    {
      absl::MutexLock lock(&mutex_);
      self = std::move(self_);
      served_.End(status_);
    }
    strand_.Run([self] {
      self->writer_ = nullptr;  // persists what it has
      self->context_.calls.Remove(self.get());
    });
  }

  // LiveCall.

  // What was received by now is written and answered first.
  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    if (ended_ || ending_) return;
    ending_ = true;
    RunLocked([status](WriteCall& call) { call.Pause(status); });
  }

  absl::Time waiting_since() const override {
    absl::MutexLock lock(&mutex_);
    const bool waits = !ended_ && !ending_ && (reading_ || writing_);
    return waits && waiting_bytes_ == 0 ? last_message_
                                        : absl::InfiniteFuture();
  }

 private:
  void Start() {
    absl::StatusOr<Caller> caller =
        served_.Authorize(context_.access, *call_, Role::kUser);
    absl::Status status = caller.status();
    if (status.ok()) caller_ = *std::move(caller);
    if (status.ok()) status = context_.calls.Admit(Self());
    absl::MutexLock lock(&mutex_);
    if (!status.ok()) return EndLocked(status);
    ReadLocked();
  }

  // One step after the other, on the pool.
  template <typename Step>
  void RunLocked(Step step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (self_ == nullptr) return;
    strand_.Run(
        [self = self_, step = std::move(step)]() mutable { step(*self); });
  }

  void ReadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_ || ending_ || reading_ || waiting_bytes_ >= kWriteAheadBytes) {
      return;
    }
    reading_ = true;
    StartRead(&in_);
  }

  // The steps.

  void Take(grpc::ByteBuffer* message) {
    if (stopped()) return;
    const absl::Status status = TakeMessage(message);
    absl::MutexLock lock(&mutex_);
    if (!status.ok()) return EndLocked(status);
    SendLocked();
  }

  void Taken(int64_t bytes) {
    absl::MutexLock lock(&mutex_);
    waiting_bytes_ -= bytes;
    last_message_ = absl::Now();
    ReadLocked();
  }

  absl::Status TakeMessage(grpc::ByteBuffer* message) {
    QS_RETURN_IF_ERROR(ParseMessage(++messages_, message, &request_));
    const bool first = writer_ == nullptr;
    QS_RETURN_IF_ERROR(first ? OpenUpload() : CheckSameUpload());
    QS_RETURN_IF_ERROR(CheckData(request_));
    QS_RETURN_IF_ERROR(CheckCrc(request_, writer_->persisted_size()));
    if (!request_.data().empty()) {
      QS_RETURN_IF_ERROR(writer_->Write(request_.offset(), DataOf(request_)));
    }
    if (request_.finish()) return FinishUpload();
    if (request_.flush()) QS_RETURN_IF_ERROR(writer_->Flush());
    Answer(first || request_.flush());
    return absl::OkStatus();
  }

  absl::Status OpenUpload() {
    QS_ASSIGN_OR_RETURN(
        upload_, IdFromName(caller_, "upload", kUploads, request_.upload()));
    QS_ASSIGN_OR_RETURN(writer_, context_.store.OpenUpload(
                                     caller_.project, upload_,
                                     [weak = std::weak_ptr<WriteCall>(Self())] {
                                       if (auto made = weak.lock())
                                         made->TakenOver();
                                     }));
    return absl::OkStatus();
  }

  absl::Status CheckSameUpload() const {
    if (request_.upload().empty()) return absl::OkStatus();
    QS_ASSIGN_OR_RETURN(
        const std::string id,
        IdFromName(caller_, "upload", kUploads, request_.upload()));
    if (id == upload_) return absl::OkStatus();
    return BadFieldError("upload", "got another one than in the first request");
  }

  absl::Status FinishUpload() {
    QS_ASSIGN_OR_RETURN(const StoredTensor tensor, writer_->Finish());
    Response last;
    last.set_persisted_size(tensor.spec.bytes);
    *last.mutable_tensor() = TensorToProto(tensor);
    absl::MutexLock lock(&mutex_);
    last_response_ = std::move(last);
    EndLocked(absl::OkStatus());
    return absl::OkStatus();
  }

  void Pause(const absl::Status& status) {
    if (stopped()) return;
    absl::Status flushed =
        writer_ == nullptr ? absl::OkStatus() : writer_->Flush();
    absl::MutexLock lock(&mutex_);
    if (flushed.ok() && writer_ != nullptr) {
      last_response_.emplace().set_persisted_size(writer_->persisted_size());
    }
    EndLocked(status.ok() ? flushed : status);
  }

  // Another writer has the upload.
  void TakenOver() {
    absl::MutexLock lock(&mutex_);
    EndLocked(RpcError(absl::StatusCode::kAborted, "CONCURRENT_WRITER",
                       "upload: another writer has taken it"));
  }

  // Answers.

  // The newest size only: older ones say less.
  void Answer(bool asked) {
    absl::MutexLock lock(&mutex_);
    const int64_t persisted = writer_->persisted_size();
    if (!asked && persisted <= answered_) return;
    answered_ = persisted;
    next_response_.emplace().set_persisted_size(persisted);
  }

  void SendLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (ended_) return FinishLocked();
    if (!next_response_) return;
    Encode(*next_response_);
    next_response_.reset();
    writing_ = true;
    StartWrite(&out_);
  }

  // The first status counts. It is sent behind the answer under way.
  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    status_ = status;
    if (!writing_) FinishLocked();
  }

  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    finished_ = true;
    if (!last_response_) return Finish(ToGrpcStatus(status_));
    Encode(*last_response_);
    StartWriteAndFinish(&out_, grpc::WriteOptions(), ToGrpcStatus(status_));
  }

  void Encode(const Response& response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    out_ = SerializeMessage(response);
    served_.AddBytes(static_cast<int64_t>(out_.Length()));
  }

  bool stopped() const {
    absl::MutexLock lock(&mutex_);
    return ended_;
  }

  std::shared_ptr<WriteCall> Self() const {
    absl::MutexLock lock(&mutex_);
    return self_;
  }

  TensorContext& context_;
  grpc::CallbackServerContext* const call_;  // until OnDone
  ServedCall served_;
  Caller caller_;  // before the first step
  IoStrand strand_;

  // Of the steps alone.
  int64_t messages_ = 0;
  Request request_;
  std::string upload_;
  std::unique_ptr<UploadWriter> writer_;

  mutable absl::Mutex mutex_;
  // gRPC's hold on this, until OnDone; steps have their own.
  std::shared_ptr<WriteCall> self_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer in_;
  grpc::ByteBuffer out_;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;    // a step will end it
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // with status_
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC was told
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t answered_ ABSL_GUARDED_BY(mutex_) = -1;
  absl::Time last_message_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  std::optional<Response> next_response_ ABSL_GUARDED_BY(mutex_);
  std::optional<Response> last_response_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

BytesReactor* NewWriteCall(TensorContext& context,
                           grpc::CallbackServerContext* call) {
  return WriteCall::New(context, call);
}

}  // namespace qs
