// Quantize over a real connection: results, errors with details, deadlines,
// clients that go away or stall, memory.
#include <algorithm>
#include <atomic>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "service/server/error.h"
#include "service/server/machine.h"
#include "tests/service/group_messages.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/raw_http2.h"
#include "tests/testing/sanitized.h"

namespace qs::testing {
namespace {

bool Idle(QuantizeContext& context) {
  return context.live_streams() == 0 && context.budget().reserved() == 0 &&
         context.pool().queued() + context.pool().running() == 0;
}

TEST_CASE("tensors come back as the quantizer makes them", "[stream]") {
  ServerOptions options = TestServerOptions();
  options.workers.partitions = GENERATE(1, 4);
  InProcessServer server(options);
  for (const std::string preset : {"NF4", "NF4-dq", "FP4", "W4A16", "W8A16"}) {
    INFO(preset);
    const std::vector<TestWeight> weights = {
        TestWeight(1, "a.weight", 8, 128, 1),
        TestWeight(2, "b.weight", 1500, 1024, 2),
        TestWeight(3, "c.weight", 700, 1024, 3)};
    Requests requests = {Config(preset, false, v1::BEST)};
    for (const TestWeight& weight : weights) {
      weight.AppendTo(&requests, 1 << 20);
    }
    const Answers answers = Exchange(server.NewChannel(), requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    for (const TestWeight& weight : weights) {
      RequireSameAsDirect(answers, PresetSpec(preset, Profile::kBest), weight);
    }
    REQUIRE(answers.summary->tensors() == 3);
    REQUIRE(answers.summary->digest().rfind("sha256:", 0) == 0);
  }
  REQUIRE(Eventually([&] { return Idle(server.context()); }));
}

TEST_CASE("an error arrives with its details", "[stream]") {
  InProcessServer server;
  const Answers answers = Exchange(
      server.NewChannel(), {Config("NF4"), Begin(1, "w", v1::BF16, {4, 0})});
  REQUIRE(answers.status.code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(answers.status.message() ==
          "tensor.shape: got a dimension of 0, allowed at least 1");
  REQUIRE(ErrorReason(answers.status) == "BAD_FIELD");
  REQUIRE(answers.accepted);
}

TEST_CASE("a message above 4 MiB is refused", "[stream]") {
  InProcessServer server;
  QuantizeCall call(server.NewChannel());
  REQUIRE(call.Write(Config("NF4")));
  REQUIRE(call.Write(Begin(1, "w", v1::BF16, {4 << 20})));
  call.Write(Data(1, 0, std::string((4 << 20) + 1, '\0'), false));
  const Answers& answers = call.Finish();
  INFO(answers.status);
  REQUIRE(answers.status.code() == absl::StatusCode::kResourceExhausted);
  REQUIRE(Eventually([&] { return Idle(server.context()); }));
}

TEST_CASE("headers above the limit are refused, and cost the others nothing",
          "[stream]") {
  InProcessServer server;
  const auto channel = server.NewChannel();
  const auto others = server.NewChannel();
  for (const size_t bytes : {size_t{16} << 10, size_t{1} << 20}) {
    INFO(bytes);
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(20)));
    context.AddMetadata("x-large", std::string(bytes, 'a'));
    const auto stub = v1::QuantizeService::NewStub(channel);
    v1::Capabilities response;
    const absl::Status status =
        FromGrpcStatus(stub->GetCapabilities(&context, {}, &response));
    INFO(status);
    REQUIRE(status.code() == absl::StatusCode::kResourceExhausted);
    const Answers answers = Exchange(others, {Config("NF4")});
    INFO(answers.status);
    REQUIRE(answers.status.ok());
  }
  REQUIRE(Eventually([&] { return Idle(server.context()); }));
}

TEST_CASE("a client that is gone frees worker and memory within a second",
          "[stream]") {
  InProcessServer server;
  const TestWeight weight(1, "a.weight", 20000, 1024, 4);
  Requests requests = {Config("NF4", false, v1::BEST)};
  weight.AppendTo(&requests, 1 << 20);
  for (const size_t sent : {size_t{2}, size_t{12}, requests.size()}) {
    INFO("after " << sent << " messages");
    {
      QuantizeCall call(server.NewChannel());
      for (size_t i = 0; i < sent; ++i) REQUIRE(call.Write(requests[i]));
      REQUIRE(
          Eventually([&] { return server.context().budget().reserved() > 0; }));
      call.context.TryCancel();
    }
    REQUIRE(
        Eventually([&] { return Idle(server.context()); }, absl::Seconds(1)));
  }
}

std::string OnWire(const v1::QuantizeRequest& request) {
  return MakeFrame(kData, 0, 1, GrpcMessage(request.SerializeAsString()));
}

TEST_CASE("a connection that is gone frees worker and memory within a second",
          "[stream]") {
  InProcessServer server;
  const TestWeight weight(1, "a.weight", 4096, 1024, 9);
  {
    RawHttp2 client(server.port());
    REQUIRE(client.Send(
        Http2Greeting() +
        MakeFrame(kHeaders, kEndHeaders, 1,
                  CallHeaders("/quant.v1.QuantizeService/Quantize")) +
        OnWire(Config("NF4")) + OnWire(weight.BeginRequest()) +
        OnWire(weight.ChunkAt(0, 8 << 10))));
    REQUIRE(
        Eventually([&] { return server.context().budget().reserved() > 0; }));
  }
  REQUIRE(Eventually([&] { return Idle(server.context()); }, absl::Seconds(1)));
}

TEST_CASE("a deadline ends the stream on both sides", "[stream]") {
  InProcessServer server;
  const TestWeight weight(1, "a.weight", 4096, 1024, 5);
  QuantizeCall call(server.NewChannel(), absl::Milliseconds(700));
  REQUIRE(call.Write(Config("NF4")));
  REQUIRE(call.Write(weight.BeginRequest()));
  REQUIRE(call.Write(weight.ChunkAt(0, 1 << 20)));
  REQUIRE(call.Finish().status.code() == absl::StatusCode::kDeadlineExceeded);
  REQUIRE(Eventually([&] { return Idle(server.context()); }, absl::Seconds(1)));
}

// A group that keeps one worker busy for seconds: a layer of 4096 columns, a
// quarter of that under a sanitizer, whose second moment is a diagonal and one
// direction.
Requests LongGroup() {
  const int64_t inputs = kSanitized ? 1024 : 4096;
  const int64_t repeats = kSanitized ? 4 : 16;
  Requests requests = {Config("W4A16-gptq", false, v1::BEST)};
  requests[0].mutable_config()->set_send_progress(true);
  TestWeight weight(3, "a.weight", 1024, inputs, 6);
  const std::vector<uint8_t> part = weight.bytes;
  for (int64_t i = 1; i < repeats; ++i) {
    weight.bytes.insert(weight.bytes.end(), part.begin(), part.end());
  }
  weight.info.shape[0] *= repeats;
  const TestSite site("in", inputs, 1, 7);
  requests.push_back(Group(1, site, {weight}));
  requests.push_back(SiteBegin(2, 1, site, v1::SiteBegin::SECOND_MOMENT));
  std::vector<float> moment;
  for (int64_t i = 0; i < inputs; ++i) {
    for (int64_t j = i; j < inputs; ++j) moment.push_back(i == j ? 64 : 1);
  }
  moment.resize(moment.size() + static_cast<size_t>(inputs), 1.0f);
  AppendBytes(&requests, 2, AsBytes(moment), 1 << 20);
  AppendTensor(&requests, 1, weight, 1 << 20);
  return requests;
}

ServerOptions OneWorker() {
  ServerOptions options = TestServerOptions();
  options.workers = {1, 1};
  options.memory_budget = int64_t{4} << 30;
  return options;
}

TEST_CASE("a worker that solves stops within a second of its client's end",
          "[stream]") {
  InProcessServer server(OneWorker());
  const Requests requests = LongGroup();
  SECTION("a cancellation") {
    QuantizeCall call(server.NewChannel());
    std::thread writer([&] { (void)call.WriteAll(requests); });
    while (call.answers.progress.empty() && call.ReadOne()) {
    }
    const int running = server.context().pool().running();
    call.context.TryCancel();
    const bool idle =
        Eventually([&] { return Idle(server.context()); }, absl::Seconds(1));
    writer.join();
    REQUIRE_FALSE(call.answers.progress.empty());
    REQUIRE(running == 1);
    REQUIRE(idle);
    REQUIRE_FALSE(call.Finish().summary);
  }
  SECTION("a deadline") {
    bool solving = false;  // the factor is there, rows follow
    for (int seconds = 1; !solving && seconds <= 16; seconds *= 2) {
      INFO("a deadline of " << seconds << " s");
      QuantizeCall call(server.NewChannel(), absl::Seconds(seconds));
      std::thread writer([&] { (void)call.WriteAll(requests); });
      const Answers& answers = call.Finish();
      writer.join();
      REQUIRE(answers.status.code() == absl::StatusCode::kDeadlineExceeded);
      solving = !answers.progress.empty();
      REQUIRE(
          Eventually([&] { return Idle(server.context()); }, absl::Seconds(1)));
    }
    REQUIRE(solving);
  }
}

TEST_CASE("a stream without progress is ended with its reason", "[stream]") {
  ServerOptions options = TestServerOptions();
  options.stream_idle_timeout = 0.2;
  InProcessServer server(options);
  QuantizeCall call(server.NewChannel());
  REQUIRE(call.Write(Config("NF4")));
  const Answers& answers = call.Finish();
  REQUIRE(answers.status.code() == absl::StatusCode::kDeadlineExceeded);
  REQUIRE(ErrorReason(answers.status) == "STREAM_STALLED");
}

// Sends tensors and reads nothing until `Finish`.
struct StalledReader {
  explicit StalledReader(const InProcessServer& server)
      : call(server.NewChannel()) {
    Requests requests = {Config("NF4")};
    const TestWeight weight(1, "a.weight", 4096, 1024, 6);
    for (int i = 0; i < 3; ++i) weight.AppendTo(&requests, 1 << 20);
    sent = call.WriteAll(requests);
    if (sent) call.stream->WritesDone();
  }
  QuantizeCall call;
  bool sent = false;  // false: the server has cut the stream off already
};

// As many as gRPC has callback threads.
TEST_CASE("stalled readers, and health still answers", "[stream]") {
  InProcessServer server;
  std::deque<StalledReader> readers;
  for (int i = 0; i < std::clamp(ConfiguredCpus() / 2, 2, 16); ++i) {
    REQUIRE(readers.emplace_back(server).sent);
  }
  REQUIRE(Eventually([&] {
    return server.context().pool().queued() +
               server.context().pool().running() ==
           0;
  }));
  REQUIRE(server.context().budget().reserved() > 0);  // results wait
  for (int i = 0; i < 20; ++i) {
    HealthStatus health;
    REQUIRE(
        CheckHealth(server.NewChannel(), "readiness", &health, absl::Seconds(1))
            .ok());
    REQUIRE(health.status() == HealthStatus::SERVING);
  }
  for (StalledReader& reader : readers) {
    REQUIRE(reader.call.Finish().status.ok());
    REQUIRE(reader.call.answers.reports.size() == 3);
  }
}

TEST_CASE("a thread of gRPC's rests while a stream sends, and no longer",
          "[stream]") {
  InProcessServer server;
  const PollerRest& rest = server.context().poller_rest();
  const TestWeight weight(1, "a.weight", 16384, 1024, 8);
  Requests requests = {Config("NF4")};
  weight.AppendTo(&requests, 1 << 20);
  QuantizeCall call(server.NewChannel());
  for (size_t i = 0; i + 1 < requests.size(); ++i) {
    REQUIRE(call.Write(requests[i]));
  }
  const int most = PollerRest::MostThatRest(UsableCpus(), ConfiguredCpus());
  // The client has paused.
  REQUIRE(Eventually(
      [&] { return (most == 0 || rest.rests() > 0) && rest.resting() == 0; }));
  REQUIRE(call.Write(requests.back()));
  REQUIRE(call.stream->WritesDone());
  const Answers& answers = call.Finish();
  INFO(answers.status << " " << answers.problem);
  REQUIRE(answers.status.ok());
  REQUIRE(Eventually([&] { return Idle(server.context()); }));
  REQUIRE(rest.resting() == 0);
  REQUIRE((rest.rests() > 0) == (most > 0));
}

TEST_CASE("a reader that stays stalled is cut off", "[stream]") {
  ServerOptions options = TestServerOptions();
  options.stream_idle_timeout = 0.3;
  InProcessServer server(options);
  StalledReader reader(server);
  REQUIRE(
      Eventually([&] { return Idle(server.context()); }, absl::Seconds(10)));
  REQUIRE_FALSE(reader.call.Finish().status.ok());
}

TEST_CASE("eight streams at once stay below the budget", "[stream]") {
  ServerOptions options = TestServerOptions();
  const TestWeight sample(1, "w.weight", 2048, 1024, 0);
  const int64_t need = *EstimateMemoryBytes(
      PresetSpec("NF4", Profile::kReference), sample.info);  // and more
  options.memory_budget = 3 * need;
  InProcessServer server(options);
  std::atomic<bool> done{false};
  std::atomic<int> succeeded{0};
  int64_t most = 0;
  std::thread watcher([&] {
    while (!done) {
      most = std::max(most, server.context().budget().reserved());
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&server, &succeeded, i] {
      const TestWeight weight(1, "w.weight", 2048, 1024,
                              static_cast<uint32_t>(i));
      Requests requests = {Config("NF4")};
      for (int round = 0; round < 3; ++round) {
        weight.AppendTo(&requests, 1 << 20);
      }
      const Answers answers = Exchange(server.NewChannel(), requests);
      if (answers.status.ok() && answers.reports.size() == 3) ++succeeded;
    });
  }
  for (std::thread& client : clients) client.join();
  done = true;
  watcher.join();
  REQUIRE(succeeded == 8);
  REQUIRE(most <= options.memory_budget);
  REQUIRE(most > need);
  REQUIRE(Eventually([&] { return Idle(server.context()); }));
}

TEST_CASE("one stream more than allowed is refused", "[stream]") {
  ServerOptions options = TestServerOptions();
  options.max_streams = 1;
  InProcessServer server(options);
  QuantizeCall first(server.NewChannel());
  REQUIRE(first.Write(Config("NF4")));
  REQUIRE(first.ReadOne());
  const Answers second = Exchange(server.NewChannel(), {Config("NF4")});
  REQUIRE(second.status.code() == absl::StatusCode::kResourceExhausted);
  REQUIRE(ErrorReason(second.status) == "TOO_MANY_STREAMS");
  first.stream->WritesDone();
  REQUIRE(first.Finish().status.ok());
  REQUIRE(Eventually([&] {
    return Exchange(server.NewChannel(), {Config("NF4")}).status.ok();
  }));
}

}  // namespace
}  // namespace qs::testing
