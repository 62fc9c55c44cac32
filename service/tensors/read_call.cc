// Tested by tests/service/tensors/tensor_service_test.cc.
#include "service/tensors/read_call.h"

#include <grpcpp/server_context.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/server/options.h"
#include "service/server/served_call.h"
#include "service/stream/crc32c.h"
#include "service/tensors/store_error.h"
#include "service/tensors/tensor_messages.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Response = v1::ReadTensorResponse;

class ReadCall final : public grpc::ServerWriteReactor<Response>,
                       public LiveCall {
 public:
  static ReadCall* New(TensorContext& context,
                       grpc::CallbackServerContext* call,
                       const v1::ReadTensorRequest& request) {
    const auto made = std::make_shared<ReadCall>(context, call, request);
    {
      absl::MutexLock lock(&made->mutex_);
      made->self_ = made;
    }
    made->Start(call);
    return made.get();
  }

  ReadCall(TensorContext& context, grpc::CallbackServerContext* call,
           const v1::ReadTensorRequest& request)
      : context_(context),
        served_("ReadTensor", *call),
        request_(request),
        strand_(context.pool) {}

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) EndLocked(absl::CancelledError("cancelled"));
    SendLocked();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    EndLocked(absl::CancelledError("cancelled"));
  }

  void OnDone() override {
    std::shared_ptr<ReadCall> self;
    {
      absl::MutexLock lock(&mutex_);
      self = std::move(self_);
      served_.End(status_);
    }
    // Behind the last step, which may use the store.
    strand_.Run([self] { self->context_.calls.Remove(self.get()); });
  }

  void End(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    EndLocked(status);
  }

  absl::Time waiting_since() const override {
    absl::MutexLock lock(&mutex_);
    return writing_ && !ended_ ? sent_ : absl::InfiniteFuture();
  }

 private:
  void Start(grpc::CallbackServerContext* call) {
    absl::StatusOr<Caller> caller =
        served_.Authorize(context_.access, *call, Role::kReader);
    absl::Status status = caller.status();
    if (status.ok()) caller_ = *std::move(caller);
    if (status.ok()) status = context_.calls.Admit(Self());
    absl::MutexLock lock(&mutex_);
    if (!status.ok()) return EndLocked(status);
    ReadNextLocked();
  }

  void ReadNextLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    strand_.Run([self = self_] { self->ReadNext(); });
  }

  // On the pool, one at a time.
  void ReadNext() {
    if (stopped()) return;
    Response response;
    const absl::Status status = Fill(&response);
    absl::MutexLock lock(&mutex_);
    if (!status.ok()) return EndLocked(status);
    ready_ = std::move(response);
    SendLocked();
  }

  absl::Status Fill(Response* response) {
    if (tensor_.reader == nullptr) QS_RETURN_IF_ERROR(Open());
    if (at_ == end_) {
      v1::ReadTensorEnd* end = response->mutable_end();
      end->set_sent_bytes(end_ - request_.offset());
      end->set_size_bytes(tensor_.record.spec.bytes);
      end->set_digest(tensor_.record.digest);
      response->set_offset(at_);
      return absl::OkStatus();
    }
    std::string* const data = response->mutable_data();
    data->resize(
        static_cast<size_t>(std::min(kRecommendedChunkBytes, end_ - at_)));
    const std::span<uint8_t> bytes(reinterpret_cast<uint8_t*>(data->data()),
                                   data->size());
    const absl::Status read = tensor_.reader->ReadAt(at_, bytes);
    if (absl::IsDataLoss(read)) return BlobCorruptError(tensor_.record.digest);
    if (!read.ok()) return StoreError(read);
    response->set_offset(at_);
    response->set_crc32c(Crc32c(bytes));
    at_ += static_cast<int64_t>(data->size());
    return absl::OkStatus();
  }

  absl::Status Open() {
    QS_ASSIGN_OR_RETURN(const std::string id,
                        IdFromName(caller_, "name", kTensors, request_.name()));
    for (const auto& [field, value] : {std::pair("offset", request_.offset()),
                                       std::pair("limit", request_.limit())}) {
      if (value >= 0) continue;
      return BadFieldError(field,
                           absl::StrCat("got ", value, ", allowed at least 0"));
    }
    QS_ASSIGN_OR_RETURN(tensor_,
                        context_.store.OpenForRead(caller_.project, id));
    const int64_t bytes = tensor_.record.spec.bytes;
    if (request_.offset() > bytes) {
      return RpcError(absl::StatusCode::kOutOfRange, "OFFSET_PAST_END",
                      absl::StrCat("offset: got ", request_.offset(),
                                   ", allowed 0 to ", bytes),
                      {{"size_bytes", absl::StrCat(bytes)}});
    }
    at_ = request_.offset();
    const int64_t rest = bytes - at_;
    end_ =
        at_ + (request_.limit() == 0 ? rest : std::min(rest, request_.limit()));
    return absl::OkStatus();
  }

  void SendLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (ended_) return FinishLocked();
    if (!ready_) return;
    sending_ = *std::move(ready_);
    ready_.reset();
    served_.AddBytes(static_cast<int64_t>(sending_.data().size()));
    if (sending_.has_end()) {
      ended_ = finished_ = true;
      return StartWriteAndFinish(&sending_, grpc::WriteOptions(),
                                 grpc::Status::OK);
    }
    writing_ = true;
    sent_ = absl::Now();
    StartWrite(&sending_);
    ReadNextLocked();
  }

  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    status_ = status;
    if (!writing_) FinishLocked();
  }

  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    finished_ = true;
    Finish(ToGrpcStatus(status_));
  }

  bool stopped() const {
    absl::MutexLock lock(&mutex_);
    return ended_;
  }

  std::shared_ptr<ReadCall> Self() const {
    absl::MutexLock lock(&mutex_);
    return self_;
  }

  TensorContext& context_;
  ServedCall served_;
  const v1::ReadTensorRequest request_;
  Caller caller_;  // before the first step
  IoStrand strand_;

  // Of the steps alone.
  OpenTensor tensor_;
  int64_t at_ = 0;
  int64_t end_ = 0;

  mutable absl::Mutex mutex_;
  // gRPC's hold on this, until OnDone; steps have their own.
  std::shared_ptr<ReadCall> self_ ABSL_GUARDED_BY(mutex_);
  std::optional<Response> ready_ ABSL_GUARDED_BY(mutex_);
  Response sending_;  // gRPC's while writing_
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // with status_
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC was told
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  absl::Time sent_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace

grpc::ServerWriteReactor<Response>* NewReadCall(
    TensorContext& context, grpc::CallbackServerContext* call,
    const v1::ReadTensorRequest& request) {
  return ReadCall::New(context, call, request);
}

}  // namespace qs
