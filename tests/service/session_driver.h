// Drives QuantizeSessions without gRPC: a transport that queues what the
// session asks for, and a client that answers it from the test's thread.
#ifndef QS_TESTS_SERVICE_SESSION_DRIVER_H_
#define QS_TESTS_SERVICE_SESSION_DRIVER_H_

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "service/stream/quantize_session.h"
#include "service/stream/tensor_job.h"
#include "tests/service/quantize_messages.h"
#include "tests/testing/sanitized.h"

namespace qs::testing {

// A group that is solved whole takes 20 s under ThreadSanitizer.
inline constexpr absl::Duration kPatience = absl::Seconds(kSanitized ? 90 : 20);

// Polls until `done()` or the limit; true when done.
template <typename Done>
bool WaitFor(const Done& done, absl::Duration limit = kPatience) {
  const absl::Time end = absl::Now() + limit;
  while (!done()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

inline QuantizeContextOptions TestContextOptions(int workers = 1,
                                                 int64_t budget = int64_t{256}
                                                                  << 20) {
  QuantizeContextOptions options;
  options.limits.set_max_chunk_bytes(2 << 20);
  options.limits.set_max_tensor_bytes(int64_t{64} << 20);
  options.limits.set_max_open_tensors(4);
  options.limits.set_max_streams(8);
  options.limits.set_memory_budget_bytes(budget);
  options.make_backends = [workers] { return NewCpuBackends(workers, 1); };
  return options;
}

// As gRPC promises: one read, one write, one finish; what it is asked for
// happens later, from another call.
class QueueingTransport final : public SessionTransport {
 public:
  void StartRead() override {
    absl::MutexLock lock(&mutex_);
    Forbid(reading_ || finished_, "StartRead");
    reading_ = true;
  }
  void StartWrite(OutMessage message) override {
    absl::MutexLock lock(&mutex_);
    Forbid(in_flight_ || finished_, "StartWrite");
    in_flight_ = true;
    writing_ = std::move(message);
  }
  void Abort(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    Forbid(finished_.has_value(), "Abort");
    aborted_ = status;
  }
  void Finish(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    Forbid(finished_ || in_flight_, "Finish");
    finished_ = status;
  }

  // Each takes what was asked for, or says that nothing was.
  bool TakeRead() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(reading_, false);
  }
  std::optional<OutMessage> TakeWrite() {
    absl::MutexLock lock(&mutex_);
    std::optional<OutMessage> taken = std::move(writing_);
    writing_.reset();
    return taken;
  }
  // The message is sent; OnWriteDone must follow.
  void EndWrite() {
    absl::MutexLock lock(&mutex_);
    in_flight_ = false;
  }
  bool reading() const {
    absl::MutexLock lock(&mutex_);
    return reading_;
  }
  bool writing() const {
    absl::MutexLock lock(&mutex_);
    return writing_.has_value();
  }
  std::optional<absl::Status> finished() const {
    absl::MutexLock lock(&mutex_);
    return finished_;
  }
  std::optional<absl::Status> aborted() const {
    absl::MutexLock lock(&mutex_);
    return aborted_;
  }
  std::string misuse() const {
    absl::MutexLock lock(&mutex_);
    return misuse_;
  }

 private:
  void Forbid(bool wrong, const char* what) {
    if (wrong) misuse_ = what;
  }

  mutable absl::Mutex mutex_;
  bool reading_ = false;
  bool in_flight_ = false;
  std::optional<OutMessage> writing_;  // asked for and not taken yet
  std::optional<absl::Status> finished_;
  std::optional<absl::Status> aborted_;
  std::string misuse_;
};

// One stream and its client.
class SessionDriver {
 public:
  explicit SessionDriver(QuantizeContext& context)
      : session_(QuantizeSession::Start(context, transport_)) {}
  ~SessionDriver() {
    takes_messages = true;
    session_->OnCancel();
    while (!transport_.finished()) DrainWrites();
  }

  // False: a client that sends and never reads.
  bool takes_messages = true;

  // The next request, as one or as several slices, once the session reads; the
  // session alone keeps them. False: it ended, or did not read in time.
  bool Send(const std::string& bytes, size_t slice_bytes = SIZE_MAX,
            absl::Duration limit = kPatience) {
    if (!AwaitRead(limit)) return false;
    Deliver(bytes, slice_bytes);
    return true;
  }
  bool Send(const v1::QuantizeRequest& request) {
    return Send(request.SerializeAsString());
  }
  bool HalfClose() {
    if (!AwaitRead(kPatience)) return false;
    session_->OnReadEnd();
    return true;
  }
  // The half-close comes from another thread while the request is taken in, if
  // the session reads ahead.
  bool SendAndHalfClose(const v1::QuantizeRequest& request) {
    if (!AwaitRead(kPatience)) return false;
    std::atomic<bool> delivered = false;
    std::thread end([&] {
      bool read = false;
      while (!read && !delivered) read = transport_.TakeRead();
      if (read) session_->OnReadEnd();
    });
    Deliver(request.SerializeAsString(), SIZE_MAX);
    delivered = true;
    end.join();
    return true;
  }

  // Takes what the session writes until it has finished.
  const Answers& Finish() {
    if (!WaitFor([this] { return DrainWrites(), ended(); })) {
      answers_.problem = "the stream did not end";
      session_->OnCancel();
    }
    answers_.status =
        transport_.finished().value_or(absl::UnknownError("not finished"));
    if (!transport_.misuse().empty()) answers_.problem = transport_.misuse();
    return answers_;
  }

  // Everything in order, then half-close.
  const Answers& Run(const Requests& requests, size_t slice_bytes = SIZE_MAX) {
    for (const v1::QuantizeRequest& request : requests) {
      if (!Send(request.SerializeAsString(), slice_bytes)) return Finish();
    }
    HalfClose();
    return Finish();
  }

  void Cancel() { session_->OnCancel(); }
  // The client took one message; false when none was written.
  bool TakeOne() {
    std::optional<OutMessage> message = transport_.TakeWrite();
    if (!message) return false;
    Collect(*message);
    message.reset();
    transport_.EndWrite();
    session_->OnWriteDone(true);
    return true;
  }
  // The write in flight fails, as it does once a call was cut.
  void FailWrite() {
    if (!transport_.TakeWrite()) return;
    transport_.EndWrite();
    session_->OnWriteDone(false);
  }

  // The last message taken said that another one follows.
  bool more_to_come() const { return more_to_come_; }

  const Answers& answers() const { return answers_; }
  QueueingTransport& transport() { return transport_; }
  bool ended() const { return transport_.finished().has_value(); }

 private:
  void Deliver(const std::string& bytes, size_t slice_bytes) {
    std::vector<ByteSpan> slices;
    auto kept = std::make_shared<const std::string>(bytes);
    const auto* data = reinterpret_cast<const uint8_t*>(kept->data());
    for (size_t at = 0; at < bytes.size(); at += slice_bytes) {
      slices.emplace_back(data + at, std::min(slice_bytes, bytes.size() - at));
    }
    session_->OnRequest(slices, std::move(kept));
  }
  bool AwaitRead(absl::Duration limit) {
    return WaitFor(
               [this] {
                 return DrainWrites(), ended() || transport_.reading();
               },
               limit) &&
           !ended() && transport_.TakeRead();
  }
  void DrainWrites() {
    while (takes_messages && TakeOne()) {
    }
  }
  void Collect(const OutMessage& message) {
    more_to_come_ = message.more;
    std::string all = message.head;
    all.append(reinterpret_cast<const char*>(message.payload.data()),
               message.payload.size());
    v1::QuantizeResponse response;
    if (!response.ParseFromString(all)) answers_.problem = "no response";
    answers_.Add(response);
  }

  QueueingTransport transport_;
  bool more_to_come_ = false;
  std::shared_ptr<QuantizeSession> session_;
  Answers answers_;
};

inline QuantSpec Nf4Reference() {
  return PresetSpec("NF4", Profile::kReference);
}

// What a stream reserves for a tensor.
inline int64_t MemoryOf(const TensorInfo& info) {
  QuantizeOptions options;
  options.tiled_input = true;
  return *EstimateMemoryBytes(Nf4Reference(), info, options,
                              TensorJob::kMaxTilesHeld) +
         TensorJob::kOverhead;
}

// Nothing of a stream is left in the context.
inline void RequireClean(QuantizeContext& context) {
  REQUIRE(WaitFor([&] { return context.budget().reserved() == 0; }));
  REQUIRE(context.budget().waiting() == 0);
  REQUIRE(WaitFor(
      [&] { return context.pool().queued() + context.pool().running() == 0; }));
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_SESSION_DRIVER_H_
