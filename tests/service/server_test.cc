// The server around its streams: capabilities, health, reflection, drain,
// addresses.
#include "service/server/server.h"

#include <grpc/grpc.h>
#include <grpc/support/alloc.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "service/server/error.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

// Also those that no option sets; so that none is forgotten.
bool EveryFieldIsSet(const google::protobuf::Message& limits) {
  std::vector<const google::protobuf::FieldDescriptor*> set;
  limits.GetReflection()->ListFields(limits, &set);
  return set.size() ==
         static_cast<size_t>(limits.GetDescriptor()->field_count());
}

TEST_CASE("capabilities show methods, presets and every limit", "[server]") {
  ServerOptions options = TestServerOptions();
  options.max_streams = 5;
  options.max_open_tensors = 6;
  options.max_tensor_bytes = 7 << 20;
  options.max_plan_tensors = 8;
  options.max_plans = 9;
  options.max_plan_bytes = 10 << 10;
  options.stream_idle_timeout = 11.5;
  options.max_connections = 12;
  options.connection_memory = 65 << 20;
  InProcessServer server(options);
  grpc::ClientContext context;
  v1::Capabilities got;
  REQUIRE(v1::QuantizeService::NewStub(server.NewChannel())
              ->GetCapabilities(&context, {}, &got)
              .ok());
  REQUIRE(got.version() == kServerVersion);
  REQUIRE(got.api_version() == "quant.v1");
  REQUIRE(got.methods_size() == 5);
  REQUIRE(got.methods(0).name() == "nf4");
  REQUIRE(got.methods(0).block_sizes_size() == 8);
  REQUIRE(got.methods(1).bits_size() == 7);
  REQUIRE_FALSE(got.methods(1).needs_calibration());
  REQUIRE(got.methods(2).name() == "gptq");
  REQUIRE(got.methods(2).needs_calibration());
  REQUIRE(got.methods(2).formats_size() == 3);
  std::set<std::string> presets;
  for (const v1::PresetInfo& preset : got.presets()) {
    presets.insert(preset.name());
  }
  REQUIRE(presets == std::set<std::string>{
                         "NF4", "NF4-dq", "FP4", "W4A16", "W8A16", "W4A16-gptq",
                         "W3A16-gptq", "W2A16-gptq", "W8A16-gptq", "W4A16-awq",
                         "W4A16-hqq", "HQQ-4", "HQQ-3", "HQQ-2"});
  REQUIRE(got.limits().max_message_bytes() == 4 << 20);
  REQUIRE(got.limits().recommended_chunk_bytes() == 1 << 20);
  REQUIRE(got.limits().max_chunk_bytes() == 2 << 20);
  REQUIRE(got.limits().max_streams() == 5);
  REQUIRE(got.limits().max_open_tensors() == 6);
  REQUIRE(got.limits().max_tensor_bytes() == 7 << 20);
  REQUIRE(got.limits().max_plan_tensors() == 8);
  REQUIRE(got.limits().memory_budget_bytes() == options.memory_budget);
  REQUIRE(got.limits().max_plans() == 9);
  REQUIRE(got.limits().max_plan_bytes() == 10 << 10);
  REQUIRE(got.limits().max_plan_name_bytes() == 1024);
  REQUIRE(got.limits().max_plan_dimensions() == 64);
  REQUIRE(got.limits().max_name_bytes() == 512);
  REQUIRE(got.limits().max_dimensions() == 8);
  REQUIRE(got.limits().stream_idle_timeout_seconds() == 11.5);
  REQUIRE(got.limits().max_connection_streams() == 100);
  REQUIRE(got.limits().max_connections() == 12);
  REQUIRE(got.limits().connection_memory_bytes() == 65 << 20);
  REQUIRE(EveryFieldIsSet(got.limits()));
  REQUIRE(got.devices_size() == 2);
  REQUIRE(got.devices(1).name() == "cpu:1");
  REQUIRE_FALSE(got.cuda().empty());
  REQUIRE(got.verified_on().empty());  // a program without GPU support
}

TEST_CASE("capabilities show every limit of what is kept", "[server]") {
  TemporaryFolder folder;
  ServerOptions options = TestServerOptions();
  const auto kept_of = [&options] {
    InProcessServer server(options);
    grpc::ClientContext context;
    v1::Capabilities got;
    REQUIRE(v1::QuantizeService::NewStub(server.NewChannel())
                ->GetCapabilities(&context, {}, &got)
                .ok());
    REQUIRE(got.has_kept() == !options.data_dir.empty());
    return got.kept();
  };
  kept_of();
  options.data_dir = folder / "data";
  options.max_running_jobs = 3;
  v1::KeptLimits kept = kept_of();
  REQUIRE(kept.max_store_bytes() == int64_t{1} << 40);
  REQUIRE(kept.max_project_bytes() == 0);
  REQUIRE(kept.max_project_running_jobs() == 3);
  REQUIRE(kept.max_project_waiting_jobs() == 3);
  options.max_store_bytes = 11 << 20;
  options.max_project_bytes = 12 << 20;
  options.max_tensor_streams = 13;
  options.upload_expiry = 14.5;
  options.max_running_jobs = 16;
  options.max_running_jobs_per_project = 15;
  options.max_waiting_jobs_per_project = 19;
  options.max_queued_jobs = 17;
  options.job_history = 18;
  kept = kept_of();
  REQUIRE(kept.max_store_bytes() == 11 << 20);
  REQUIRE(kept.max_project_bytes() == 12 << 20);
  REQUIRE(kept.max_tensor_streams() == 13);
  REQUIRE(kept.max_calibration_streams() == 13);
  REQUIRE(kept.max_result_streams() == 13);
  REQUIRE(kept.upload_expiry_seconds() == 14.5);
  REQUIRE(kept.max_running_jobs() == 16);
  REQUIRE(kept.max_project_running_jobs() == 15);
  REQUIRE(kept.max_project_waiting_jobs() == 19);
  REQUIRE(kept.max_project_queued_jobs() == 17);
  REQUIRE(kept.max_job_history() == 18);
  REQUIRE(EveryFieldIsSet(kept));
}

TEST_CASE("health knows its three services", "[server]") {
  InProcessServer server;
  for (const char* service : {"", "liveness", "readiness"}) {
    INFO(service);
    HealthStatus health;
    REQUIRE(CheckHealth(server.NewChannel(), service, &health).ok());
    REQUIRE(health.status() == HealthStatus::SERVING);
  }
  HealthStatus health;
  REQUIRE(CheckHealth(server.NewChannel(), "other", &health).error_code() ==
          grpc::StatusCode::NOT_FOUND);
}

// Calls that the servers of this process have been sent, over whatever channel,
// by gRPC's own count.
int CallsStarted() {
  char* const text = grpc_channelz_get_servers(0);
  const nlohmann::json json = nlohmann::json::parse(text);
  gpr_free(text);
  int calls = 0;
  for (const nlohmann::json& server : json.at("server")) {
    const auto started = server.at("data").value("callsStarted", "0");
    calls += std::stoi(started);
  }
  return calls;
}

TEST_CASE("a server pings itself more than once a second", "[server]") {
  InProcessServer server;
  const int before = CallsStarted();
  absl::SleepFor(absl::Milliseconds(4000));
  // Ten are meant; four would leave gRPC's threads asleep.
  const int pings = CallsStarted() - before;
  INFO(pings);
  REQUIRE(pings >= 5);
  REQUIRE(pings <= 11);
}

TEST_CASE("the first call after a pause is not late", "[server]") {
  InProcessServer server;
  const auto channel = server.NewChannel();
  HealthStatus health;
  REQUIRE(CheckHealth(channel, "", &health).ok());
  // Without the self-ping about half of these take more than 20 ms: what they
  // prove is that its interval is short enough, not that there is one.
  int late = 0;
  for (int i = 0; i < 4; ++i) {
    absl::SleepFor(absl::Milliseconds(1100));
    const absl::Time start = absl::Now();
    REQUIRE(CheckHealth(channel, "", &health).ok());
    late += absl::Now() - start > absl::Milliseconds(20);
  }
  REQUIRE(late <= 1);
}

// One request and answer of server reflection, as bytes: Debian ships no
// headers for it.
std::string Reflect(const InProcessServer& server, const std::string& request) {
  grpc::GenericStub stub(server.NewChannel());
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(10)));
  grpc::CompletionQueue queue;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer sent(&slice, 1);
  const auto call = stub.PrepareUnaryCall(
      &context,
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", sent,
      &queue);
  call->StartCall();
  grpc::ByteBuffer received;
  grpc::Status status;
  call->Finish(&received, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&tag, &ok));
  INFO(status.error_message());
  REQUIRE(status.ok());
  std::vector<grpc::Slice> slices;
  REQUIRE(received.Dump(&slices).ok());
  std::string text;
  for (const grpc::Slice& piece : slices) {
    text.append(reinterpret_cast<const char*>(piece.begin()), piece.size());
  }
  return text;
}

TEST_CASE("reflection lists the services and finds error details", "[server]") {
  InProcessServer server;
  // ServerReflectionRequest: list_services = 7, file_containing_symbol = 4.
  const std::string list = Reflect(server, std::string("\x3a\x00", 2));
  for (const char* service :
       {"quant.v1.QuantizeService", "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection"}) {
    INFO(service);
    REQUIRE(list.find(service) != std::string::npos);
  }
  const std::vector<std::pair<std::string, std::string>> files = {
      {"quant.v1.QuantizeRequest", "quant/v1/quantization.proto"},
      {"google.rpc.ErrorInfo", "google/rpc/error_details.proto"}};
  for (const auto& [symbol, file] : files) {
    INFO(symbol);
    const std::string answer = Reflect(
        server,
        "\x22" + std::string(1, static_cast<char>(symbol.size())) + symbol);
    REQUIRE(answer.find(file) != std::string::npos);
  }
}

// Health/Watch of one service.
struct Watch {
  Watch(const InProcessServer& server, const std::string& service)
      : stub(grpc::health::v1::Health::NewStub(server.NewChannel())) {
    context.set_deadline(In(absl::Seconds(20)));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    reader = stub->Watch(&context, request);
  }
  HealthStatus::ServingStatus Next() {
    HealthStatus response;
    REQUIRE(reader->Read(&response));
    return response.status();
  }
  grpc::ClientContext context;
  std::unique_ptr<HealthStub> stub;
  std::unique_ptr<grpc::ClientReader<HealthStatus>> reader;
};

TEST_CASE("the drain: running streams finish, new ones are refused",
          "[server]") {
  InProcessServer server;
  Watch watch(server, "readiness");
  REQUIRE(watch.Next() == HealthStatus::SERVING);
  Watch unknown(server, "other");
  REQUIRE(unknown.Next() == HealthStatus::SERVICE_UNKNOWN);
  const TestWeight weight(1, "a.weight", 2048, 1024, 7);
  QuantizeCall running(server.NewChannel());
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  std::thread drain([&] { server.server().Drain(); });
  REQUIRE(watch.Next() == HealthStatus::NOT_SERVING);

  HealthStatus health;
  REQUIRE(CheckHealth(server.NewChannel(), "liveness", &health).ok());
  REQUIRE(health.status() == HealthStatus::SERVING);
  REQUIRE(CheckHealth(server.NewChannel(), "", &health).ok());
  REQUIRE(health.status() == HealthStatus::NOT_SERVING);
  REQUIRE(Eventually([&] { return server.context().draining(); }));
  const Answers late = Exchange(server.NewChannel(), {Config("NF4")});
  REQUIRE(late.status.code() == absl::StatusCode::kUnavailable);
  REQUIRE(ErrorReason(late.status) == "DRAINING");

  Requests requests;
  weight.AppendTo(&requests, 1 << 20);
  REQUIRE(running.WriteAll(requests));
  running.stream->WritesDone();
  const Answers& answers = running.Finish();
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  RequireSameAsDirect(answers, PresetSpec("NF4", Profile::kReference), weight);
  drain.join();
}

TEST_CASE("the drain's delay: readiness is off, calls are taken", "[server]") {
  ServerOptions options = TestServerOptions();
  options.drain_delay = options.drain_timeout = 1000;
  InProcessServer server(options);
  Watch watch(server, "readiness");
  REQUIRE(watch.Next() == HealthStatus::SERVING);
  std::atomic<bool> hurry = false;
  std::thread drain(
      [&] { server.server().Drain([&] { return hurry.load(); }); });
  REQUIRE(watch.Next() == HealthStatus::NOT_SERVING);
  CHECK(Exchange(server.NewChannel(), {Config("NF4")}).status.ok());
  CHECK_FALSE(server.context().draining());
  // A second signal ends all of the drain, not its delay alone.
  QuantizeCall running(server.NewChannel());
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  hurry = true;
  CHECK(ErrorReason(running.Finish().status) == "DRAINING");
  drain.join();
}

TEST_CASE("new calls are refused when the drain's delay is over", "[server]") {
  ServerOptions options = TestServerOptions();
  options.drain_delay = 0.3;
  InProcessServer server(options);
  QuantizeCall running(server.NewChannel());
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  const absl::Time start = absl::Now();
  std::thread drain([&] { server.server().Drain(); });
  CHECK(Eventually([&] { return server.context().draining(); }));
  CHECK(absl::Now() - start >= absl::Milliseconds(300));
  CHECK(ErrorReason(Exchange(server.NewChannel(), {Config("NF4")}).status) ==
        "DRAINING");
  running.stream->WritesDone();
  CHECK(running.Finish().status.ok());
  drain.join();
}

TEST_CASE("the drain's time ends what is left", "[server]") {
  ServerOptions options = TestServerOptions();
  options.drain_timeout = 0.3;
  InProcessServer server(options);
  QuantizeCall call(server.NewChannel());
  REQUIRE(call.Write(Config("NF4")));
  REQUIRE(call.ReadOne());
  const absl::Time start = absl::Now();
  std::thread drain([&] { server.server().Drain(); });
  const Answers& answers = call.Finish();
  drain.join();
  REQUIRE(ErrorReason(answers.status) == "DRAINING");
  REQUIRE(absl::Now() - start < absl::Seconds(5));
}

TEST_CASE("a second signal ends the drain", "[server]") {
  ServerOptions options = TestServerOptions();
  options.drain_timeout = 1000;
  InProcessServer server(options);
  QuantizeCall call(server.NewChannel());
  REQUIRE(call.Write(Config("NF4")));
  REQUIRE(call.ReadOne());
  server.server().Drain([] { return true; });
  REQUIRE(ErrorReason(call.Finish().status) == "DRAINING");
}

TEST_CASE("a port in use is an error, as is a port file nobody can write",
          "[server]") {
  InProcessServer server;
  ServerOptions options = TestServerOptions();
  options.listen = "127.0.0.1:" + std::to_string(server.port());
  REQUIRE(Server::Start(options).status().code() ==
          absl::StatusCode::kUnavailable);
  options = TestServerOptions();
  options.port_file = "/nonexistent/port";
  const absl::Status status = Server::Start(options).status();
  REQUIRE(status.code() == absl::StatusCode::kInternal);
  REQUIRE(std::string(status.message()).find("/nonexistent/port") !=
          std::string::npos);
}

TEST_CASE("a port file replaces files only", "[server]") {
  const TemporaryFolder folder;
  ServerOptions options = TestServerOptions();
  options.port_file = folder / "port";
  const bool link = GENERATE(false, true);
  if (link) {
    REQUIRE(symlink("elsewhere", options.port_file.c_str()) == 0);
  } else {
    REQUIRE(mkfifo(options.port_file.c_str(), 0600) == 0);
  }
  const absl::Status status = Server::Start(options).status();
  REQUIRE(status.code() == absl::StatusCode::kInternal);
  REQUIRE(std::string(status.message()).find("is no regular file") !=
          std::string::npos);
  struct stat info = {};
  REQUIRE(lstat(options.port_file.c_str(), &info) == 0);
  REQUIRE((link ? S_ISLNK(info.st_mode) : S_ISFIFO(info.st_mode)));
}

TEST_CASE("both families of localhost are served", "[server]") {
  ServerOptions options = TestServerOptions();
  options.listen = "localhost:0";
  InProcessServer server(options);
  HealthStatus health;
  REQUIRE(CheckHealth(server.NewChannel(), "", &health).ok());
}

}  // namespace
}  // namespace qs::testing
