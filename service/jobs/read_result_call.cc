// Tested by tests/service/jobs/read_result_test.cc.
#include "service/jobs/read_result_call.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/status_macros.h"
#include "service/jobs/result_reader.h"
#include "service/tensors/reading_call.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Response = v1::ReadResultResponse;

class ReadResultCall final : public ReadingCall<Response> {
 public:
  ReadResultCall(ReadResultContext& context, grpc::CallbackServerContext* call,
                 const v1::ReadResultRequest& request)
      : ReadingCall("ReadResult", call,
                    {context.access, context.jobs.io, context.calls}),
        context_(context),
        request_(request) {}

 private:
  // What the hub tells about the job.
  class News final : public JobWatcher {
   public:
    explicit News(std::weak_ptr<ReadResultCall> call)
        : call_(std::move(call)) {}
    void Poke() override {
      if (const auto call = call_.lock()) call->Wake();
    }
    void Tick(absl::Time) override {}
    void End(const absl::Status& status) override {
      if (const auto call = call_.lock()) call->NoMoreNews(status);
    }

   private:
    const std::weak_ptr<ReadResultCall> call_;
  };

  absl::StatusOr<ReadStep> Make(Response* response) override {
    if (!reader_) QS_RETURN_IF_ERROR(Open());
    QS_ASSIGN_OR_RETURN(const ReadStep step, reader_->Next(response));
    if (step != ReadStep::kWait) return step;
    absl::MutexLock lock(&mutex_);
    if (!no_news_.ok()) return no_news_;
    return step;
  }

  absl::Status Open() {
    QS_ASSIGN_OR_RETURN(std::string id,
                        IdFromName(caller(), "name", "jobs", request_.name()));
    key_ = {caller().project, std::move(id)};
    // Before the first look at the records: nothing is missed.
    if (request_.wait()) {
      news_ = std::make_shared<News>(
          std::static_pointer_cast<ReadResultCall>(Self()));
      QS_RETURN_IF_ERROR(context_.hub.Join(key_, news_).status());
    }
    const std::weak_ptr<ReadingCall> self = Self();
    reader_.emplace(
        ResultReader::Sources{context_.jobs.records, *context_.jobs.results,
                              context_.jobs.budget},
        key_, request_, [self] {
          if (const auto call = self.lock()) {
            static_cast<ReadResultCall&>(*call).Wake();
          }
        });
    return absl::OkStatus();
  }

  void OnGone() override {
    reader_.reset();
    if (news_ != nullptr) context_.hub.Leave(key_, news_.get());
  }

  // What is there may still be read.
  void NoMoreNews(const absl::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      no_news_ = status;
    }
    Wake();
  }

  ReadResultContext& context_;
  const v1::ReadResultRequest request_;
  // Of the steps alone.
  JobKey key_;
  std::shared_ptr<News> news_;
  std::optional<ResultReader> reader_;

  absl::Mutex mutex_;
  absl::Status no_news_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<Response>* NewReadResultCall(
    ReadResultContext& context, grpc::CallbackServerContext* call,
    const v1::ReadResultRequest& request) {
  return ReadResultCall::Launch(
      std::make_shared<ReadResultCall>(context, call, request));
}

}  // namespace qs
