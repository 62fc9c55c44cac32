// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/quantize_reactor.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/slice.h>

#include <memory>
#include <utility>
#include <vector>

#include "service/server/grpc_status.h"
#include "service/stream/quantize_session.h"

namespace qs {
namespace {

void DropOwner(void* owner) {
  delete static_cast<std::shared_ptr<const void>*>(owner);
}

// The payload is not copied: the slice keeps its owner until it is sent.
grpc::ByteBuffer ToByteBuffer(OutMessage message) {
  std::vector<grpc::Slice> slices;
  slices.emplace_back(message.head);
  if (!message.payload.empty()) {
    slices.emplace_back(const_cast<uint8_t*>(message.payload.data()),
                        message.payload.size(), DropOwner,
                        new std::shared_ptr<const void>(message.owner));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

// A message that has come in. The last hold on its bytes is the buffer's: where
// --connection-memory is used up, gRPC goes on as they are given back, which
// from a slice, unlike from a buffer, it can do on threads of its own only.
struct Received {
  grpc::ByteBuffer message;
  std::vector<grpc::Slice> slices;  // dropped before it
};

// Of a message after which a thread may rest; smaller ones do not keep two
// processors busy.
constexpr size_t kLeastBeforeRest = size_t{256} << 10;

class QuantizeReactor final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
      private SessionTransport {
 public:
  QuantizeReactor(QuantizeContext& context, grpc::CallbackServerContext* call,
                  std::unique_ptr<ServedCall> served)
      : call_(call),
        served_(std::move(served)),
        poller_rest_(context.poller_rest()) {
    poller_rest_.StreamBegins(this);
    session_ = QuantizeSession::Start(context, *this);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      poller_rest_.StreamEnds(this);
      return call_->IsCancelled() ? session_->OnCancel()
                                  : session_->OnReadEnd();
    }
    poller_rest_.CountEvent();
    const size_t bytes = in_.Length();
    served_->AddBytes(static_cast<int64_t>(bytes));
    // Not members: the next message may come while this one is taken in.
    auto received = std::make_shared<Received>();
    received->message.Swap(&in_);
    if (!received->message.Dump(&received->slices).ok()) {
      return session_->OnCancel();
    }
    std::vector<ByteSpan> spans;
    spans.reserve(received->slices.size());
    for (const grpc::Slice& slice : received->slices) {
      if (slice.size() > 0) spans.emplace_back(slice.begin(), slice.size());
    }
    session_->OnRequest(spans, std::move(received));
    if (bytes >= kLeastBeforeRest) poller_rest_.Rest(this);
  }

  void OnWriteDone(bool ok) override {
    poller_rest_.CountEvent();
    out_.Clear();
    session_->OnWriteDone(ok);
  }

  void OnCancel() override { session_->OnCancel(); }

  void OnDone() override {
    served_->End(status_);
    delete this;
  }

 private:
  void StartRead() override { ServerBidiReactor::StartRead(&in_); }

  void StartWrite(OutMessage message) override {
    grpc::WriteOptions options;
    if (message.more) options.set_buffer_hint();
    out_ = ToByteBuffer(std::move(message));
    served_->AddBytes(static_cast<int64_t>(out_.Length()));
    ServerBidiReactor::StartWrite(&out_, options);
  }

  void Abort(const absl::Status&) override { call_->TryCancel(); }

  void Finish(const absl::Status& status) override {
    status_ = status;
    poller_rest_.StreamEnds(this);
    ServerBidiReactor::Finish(ToGrpcStatus(status));
  }

  grpc::CallbackServerContext* const call_;
  const std::unique_ptr<ServedCall> served_;
  PollerRest& poller_rest_;
  std::shared_ptr<QuantizeSession> session_;
  grpc::ByteBuffer in_;
  grpc::ByteBuffer out_;
  absl::Status status_;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* NewQuantizeReactor(
    QuantizeContext& context, grpc::CallbackServerContext* call,
    std::unique_ptr<ServedCall> served) {
  return new QuantizeReactor(context, call, std::move(served));
}

}  // namespace qs
