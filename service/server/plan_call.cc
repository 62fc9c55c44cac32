// Tested by tests/service/plan_call_test.cc.
#include "service/server/plan_call.h"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "quant/v1/quantization.pb.h"
#include "service/server/error.h"
#include "service/server/grpc_status.h"
#include "service/server/plan_limits.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

class PlanCall final : public BytesReactor {
 public:
  static PlanCall* New(PlanContext& plans, QuantizeContext& context,
                       std::unique_ptr<ServedCall> served) {
    const auto made =
        std::make_shared<PlanCall>(plans, context, std::move(served));
    made->self_ = made;
    return made.get();
  }

  PlanCall(PlanContext& plans, QuantizeContext& context,
           std::unique_ptr<ServedCall> served)
      : plans_(plans),
        context_(context),
        served_(std::move(served)),
        input_(plans.limits, &cancelled_),
        lane_(context.pool().NewLane()) {
    const absl::Status admitted = Admit(++plans_.calls);
    if (admitted.ok()) {
      StartRead(&in_);
    } else {
      End(admitted);
    }
  }

  void OnReadDone(bool ok) override {
    const absl::Status status = ok ? Take() : input_.Complete();
    if (!status.ok()) return End(status);
    if (ok) return StartRead(&in_);
    {
      absl::MutexLock lock(&mutex_);
      planning_ = !ended_;
      if (!planning_) return;
    }
    context_.pool().Submit(lane_,
                           [self = self_](Backend&) { self->MakeResponses(); });
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("cancelled"));
    WriteNext();
  }

  void OnCancel() override { End(absl::CancelledError("cancelled")); }

  void OnDone() override {
    int64_t bytes = input_.bytes();
    for (size_t i = 0; i < next_; ++i) {
      bytes += static_cast<int64_t>(responses_[i].ByteSizeLong());
    }
    served_->AddBytes(bytes);
    served_->End(end_status_);
    --plans_.calls;
    const std::shared_ptr<PlanCall> last = std::move(self_);
  }

 private:
  absl::Status Admit(int64_t calls) const {
    if (context_.draining()) return DrainingError();
    if (calls <= plans_.max_calls) return absl::OkStatus();
    return RetryableError(
        absl::StatusCode::kResourceExhausted, "TOO_MANY_PLANS",
        absl::StrCat("plans: got ", calls, ", allowed ", plans_.max_calls),
        {{"allowed", absl::StrCat(plans_.max_calls)}});
  }

  absl::Status Take() {
    QS_RETURN_IF_ERROR(ParseMessage(++messages_, &in_, &request_));
    return input_.Add(request_);
  }

  absl::StatusOr<std::vector<v1::PlanCheckpointResponse>> Responses() {
    QS_ASSIGN_OR_RETURN(Plan plan, PlanWithReasons(input_.request()));
    QS_RETURN_IF_ERROR(CheckLimits(input_.request(), context_.limits(),
                                   context_.pool().kinds().prefer_large,
                                   &plan));
    std::vector<v1::PlanCheckpointResponse> responses =
        PlanToProto(plan, input_.request());
    QS_RETURN_IF_ERROR(CheckSizes(responses));
    return responses;
  }

  // On a worker.
  void MakeResponses() {
    absl::StatusOr<std::vector<v1::PlanCheckpointResponse>> made = Responses();
    if (made.ok()) responses_ = *std::move(made);
    {
      absl::MutexLock lock(&mutex_);
      planning_ = false;
      if (!made.ok() && !ended_) {
        ended_ = true;
        end_status_ = made.status();
      }
      if (ended_) return Finish(ToGrpcStatus(end_status_));
    }
    WriteNext();
  }

  void WriteNext() {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    if (next_ < responses_.size()) {
      out_ = SerializeMessage(responses_[next_++]);
      return StartWrite(&out_);
    }
    ended_ = true;
    Finish(grpc::Status::OK);
  }

  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    ended_ = true;
    end_status_ = status;
    cancelled_ = true;  // a worker may be planning
    if (!planning_) Finish(ToGrpcStatus(status));
  }

  // gRPC's hold on this; a queued or running plan has one of its own.
  std::shared_ptr<PlanCall> self_;
  PlanContext& plans_;
  QuantizeContext& context_;
  const std::unique_ptr<ServedCall> served_;
  grpc::ByteBuffer in_;
  grpc::ByteBuffer out_;
  int64_t messages_ = 0;
  v1::PlanCheckpointRequest request_;
  std::atomic<bool> cancelled_ = false;
  PlanInput input_;
  const std::shared_ptr<WorkerPool::Lane> lane_;
  std::vector<v1::PlanCheckpointResponse> responses_;
  size_t next_ = 0;

  absl::Mutex mutex_;
  bool planning_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status end_status_;
};

}  // namespace

BytesReactor* NewPlanReactor(PlanContext& plans, QuantizeContext& context,
                             std::unique_ptr<ServedCall> served) {
  return PlanCall::New(plans, context, std::move(served));
}

}  // namespace qs
