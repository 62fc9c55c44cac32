// A Quantize stream without its transport: memory, and every way to end.
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "service/server/error.h"
#include "tests/service/session_driver.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

TEST_CASE("a tensor waits until another stream's result was taken",
          "[session]") {
  const TestWeight a(1, "a.weight", 1024, 1024, 9);
  const int64_t need = MemoryOf(a.info);
  // Less beside a tensor than the result of another one, 576 KiB.
  QuantizeContext context(TestContextOptions(1, need + (64 << 10)));
  SessionDriver first(context);
  first.takes_messages = false;
  Requests requests = {Config("NF4")};
  a.AppendTo(&requests, 1 << 20);
  for (const auto& request : requests) REQUIRE(first.Send(request));
  // The input is free again, the result is not.
  REQUIRE(WaitFor([&] { return context.budget().reserved() < need; }));
  REQUIRE(context.budget().reserved() > (64 << 10));

  SessionDriver second(context);
  const TestWeight b(2, "b.weight", 1024, 1024, 10);
  Requests more = {Config("NF4")};
  b.AppendTo(&more, 1 << 20);
  REQUIRE(second.Send(more[0]));
  REQUIRE(second.Send(more[1]));
  REQUIRE(context.budget().waiting() == 1);
  REQUIRE_FALSE(second.Send(more[2].SerializeAsString(), SIZE_MAX,
                            absl::Milliseconds(50)));
  first.takes_messages = true;
  REQUIRE(first.HalfClose());
  REQUIRE(first.Finish().status.ok());
  for (size_t i = 2; i < more.size(); ++i) REQUIRE(second.Send(more[i]));
  REQUIRE(second.HalfClose());
  const Answers& answers = second.Finish();
  REQUIRE(answers.status.ok());
  RequireSameAsDirect(answers, Nf4Reference(), b);
}

TEST_CASE("a large tensor takes its window and its result, not its size",
          "[session]") {
  QuantizeContext context(TestContextOptions());
  const TensorInfo info{"a.weight", DType::kBF16, {1 << 19, 1024}};  // 1 GiB
  REQUIRE(MemoryOf(info) < int64_t{400} << 20);
  REQUIRE(MemoryOf(info) > int64_t{288} << 20);
}

TEST_CASE("a second open tensor does not wait for memory", "[session]") {
  const TestWeight a(1, "a.weight", 1024, 1024, 11);
  const int64_t need = MemoryOf(a.info);
  QuantizeContext context(TestContextOptions(1, need + need / 2));
  {
    SessionDriver stream(context);
    REQUIRE(stream.Send(Config("NF4")));
    REQUIRE(stream.Send(a.BeginRequest()));
    REQUIRE(stream.Send(Begin(2, "b.weight", v1::BF16, {1024, 1024})));
    const Answers& answers = stream.Finish();
    REQUIRE(answers.status.code() == absl::StatusCode::kResourceExhausted);
    REQUIRE(ErrorReason(answers.status) == "MEMORY_BUDGET");
    REQUIRE(ErrorMetadataValue(answers.status, "capacity") ==
            std::to_string(need + need / 2));
  }
  RequireClean(context);
}

TEST_CASE("a waiting stream that goes leaves the line", "[session]") {
  const TestWeight a(1, "a.weight", 1024, 1024, 12);
  const int64_t need = MemoryOf(a.info);
  QuantizeContext context(TestContextOptions(1, need + need / 2));
  {
    SessionDriver first(context);
    REQUIRE(first.Send(Config("NF4")));
    REQUIRE(first.Send(a.BeginRequest()));
    SessionDriver second(context);
    REQUIRE(second.Send(Config("NF4")));
    REQUIRE(second.Send(a.BeginRequest()));
    REQUIRE(context.budget().waiting() == 1);
    second.Cancel();
    REQUIRE(context.budget().waiting() == 0);
    REQUIRE(second.Finish().status.code() == absl::StatusCode::kCancelled);
  }
  RequireClean(context);
}

TEST_CASE("many streams share a small budget and all finish", "[session]") {
  const TestWeight sample(1, "w.weight", 600, 1024, 0);
  const int64_t need = MemoryOf(sample.info);
  QuantizeContext context(TestContextOptions(2, 2 * need));
  std::atomic<bool> done{false};
  int64_t most = 0;
  std::thread watcher([&] {
    while (!done) {
      most = std::max(most, context.budget().reserved());
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> clients;
  std::atomic<int> succeeded{0};
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&context, &succeeded, i] {
      const TestWeight weight(1, "w.weight", 600, 1024,
                              static_cast<uint32_t>(i));
      Requests requests = {Config("NF4")};
      for (int round = 0; round < 4; ++round) {
        weight.AppendTo(&requests, 1 << 20);
      }
      SessionDriver stream(context);
      const Answers& answers = stream.Run(requests);
      if (answers.status.ok() && answers.reports.size() == 4) ++succeeded;
    });
  }
  for (std::thread& client : clients) client.join();
  done = true;
  watcher.join();
  REQUIRE(succeeded == 8);
  REQUIRE(most <= context.budget().capacity());
  REQUIRE(most > need);  // more than one at once
  RequireClean(context);
}

TEST_CASE("a stream that is gone frees workers and memory", "[session]") {
  QuantizeContext context(TestContextOptions(2));
  const TestWeight weight(1, "a.weight", 8000, 1024, 13);
  Requests requests = {Config("NF4", false, v1::BEST)};
  weight.AppendTo(&requests, 1 << 20);
  for (size_t sent = 1; sent <= requests.size(); sent += 3) {
    SessionDriver stream(context);
    for (size_t i = 0; i < sent; ++i) REQUIRE(stream.Send(requests[i]));
    stream.Cancel();
    REQUIRE(stream.Finish().status.code() == absl::StatusCode::kCancelled);
    REQUIRE(WaitFor(
        [&] {
          return context.budget().reserved() == 0 &&
                 context.pool().running() == 0 && context.pool().queued() == 0;
        },
        absl::Seconds(1)));
  }
}

TEST_CASE("a client that sends nothing is ended", "[session]") {
  QuantizeContextOptions options = TestContextOptions();
  options.stream_idle_timeout = absl::Milliseconds(50);
  options.sweep_interval = absl::Milliseconds(5);
  QuantizeContext context(options);
  {
    SessionDriver stream(context);
    REQUIRE(stream.Send(Config("NF4")));
    const Answers& answers = stream.Finish();
    REQUIRE(answers.status.code() == absl::StatusCode::kDeadlineExceeded);
    REQUIRE(ErrorReason(answers.status) == "STREAM_STALLED");
    REQUIRE_FALSE(stream.transport().aborted());  // the status reaches it
  }
  RequireClean(context);
}

TEST_CASE("a client that takes nothing is cut off", "[session]") {
  QuantizeContextOptions options = TestContextOptions();
  options.stream_idle_timeout = absl::Milliseconds(50);
  options.sweep_interval = absl::Milliseconds(5);
  QuantizeContext context(options);
  SessionDriver stream(context);
  stream.takes_messages = false;
  REQUIRE(stream.Send(Config("NF4")));
  REQUIRE(WaitFor([&] { return stream.transport().aborted().has_value(); }));
  REQUIRE(ErrorReason(*stream.transport().aborted()) == "STREAM_STALLED");
  REQUIRE_FALSE(stream.ended());  // the write in flight comes back first
  stream.FailWrite();
  REQUIRE(stream.Finish().status.code() == absl::StatusCode::kDeadlineExceeded);
}

TEST_CASE("a client that waits for us is not stalled", "[session]") {
  const TestWeight a(1, "a.weight", 1024, 1024, 14);
  const int64_t need = MemoryOf(a.info);
  QuantizeContextOptions options = TestContextOptions(1, need + need / 2);
  options.stream_idle_timeout = absl::Milliseconds(50);
  options.sweep_interval = absl::Milliseconds(5);
  QuantizeContext context(options);
  // Memory is gone for four times the limit: the waiting stream must live.
  std::optional<Reservation> held = context.budget().TryReserve(need);
  SessionDriver stream(context);
  REQUIRE(stream.Send(Config("NF4")));
  REQUIRE(stream.Send(a.BeginRequest()));
  REQUIRE_FALSE(
      WaitFor([&] { return stream.ended(); }, absl::Milliseconds(200)));
  held.reset();
  for (size_t at = 0; at < a.bytes.size(); at += 1 << 20) {
    REQUIRE(stream.Send(a.ChunkAt(at, 1 << 20)));
  }
  REQUIRE(stream.HalfClose());
  REQUIRE(stream.Finish().status.ok());
}

TEST_CASE("the drain refuses new streams and ends the rest", "[session]") {
  QuantizeContext context(TestContextOptions());
  SessionDriver running(context);
  REQUIRE(running.Send(Config("NF4")));
  context.StartDraining();
  {
    SessionDriver late(context);
    const absl::Status status = late.Finish().status;
    REQUIRE(status.code() == absl::StatusCode::kUnavailable);
    REQUIRE(ErrorReason(status) == "DRAINING");
  }
  REQUIRE(context.live_streams() == 1);
  REQUIRE(running.Send(Begin(1, "a", v1::BF16, {64})));  // goes on
  context.CancelAll();
  REQUIRE(ErrorReason(running.Finish().status) == "DRAINING");
}

TEST_CASE("the end waits for a message in flight", "[session]") {
  QuantizeContext context(TestContextOptions());
  SessionDriver stream(context);
  stream.takes_messages = false;
  REQUIRE(stream.Send(Config("NF4")));
  REQUIRE(stream.transport().writing());
  context.EndAll();
  REQUIRE_FALSE(stream.ended());
  REQUIRE(stream.TakeOne());
  REQUIRE(ErrorReason(stream.Finish().status) == "DRAINING");
  REQUIRE_FALSE(stream.transport().aborted());
}

TEST_CASE("a stream ends with its first error", "[session]") {
  // The half-close was read ahead of it and would say "stream ended". Chunks of
  // many sizes, so that the two meet at the lock.
  QuantizeContext context(TestContextOptions());
  for (int i = 0; i < 1000; ++i) {
    TestWeight weight(1, "w", 2, 64 * (i + 1), 1);
    Requests requests = {Config("NF4")};
    weight.AppendTo(&requests, 128 * (i + 1));
    REQUIRE(requests.size() == 4);
    SessionDriver stream(context);
    REQUIRE(stream.Send(requests[0]));
    REQUIRE(stream.Send(requests[1]));
    requests[2].mutable_chunk()->set_crc32c(12345);
    REQUIRE(stream.SendAndHalfClose(requests[2]));
    const absl::Status status = stream.Finish().status;
    INFO("round " << i << ": " << status);
    REQUIRE(ErrorReason(status) == "CHUNK_CRC_MISMATCH");
  }
}

TEST_CASE("no more streams than allowed", "[session]") {
  QuantizeContextOptions options = TestContextOptions();
  options.limits.set_max_streams(2);
  QuantizeContext context(options);
  auto first = std::make_unique<SessionDriver>(context);
  SessionDriver second(context);
  {
    SessionDriver third(context);
    const absl::Status status = third.Finish().status;
    REQUIRE(status.code() == absl::StatusCode::kResourceExhausted);
    REQUIRE(ErrorReason(status) == "TOO_MANY_STREAMS");
    REQUIRE(ErrorMetadataValue(status, "allowed") == "2");
  }
  first.reset();
  REQUIRE(context.live_streams() == 1);
  SessionDriver fourth(context);
  REQUIRE(fourth.Run({Config("NF4")}).status.ok());
}

}  // namespace
}  // namespace qs::testing
