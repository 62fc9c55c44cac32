// What a server tells of its calls: metrics that move, and log lines that name
// the caller's trace.
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "tests/service/jobs/job_client.h"
#include "tests/service/quantd_process.h"
#include "tests/service/quantize_client.h"
#include "tests/service/scrape.h"

namespace qs::testing {
namespace {

ServerOptions MetricsOptions() {
  ServerOptions options = TestServerOptions();
  options.metrics_listen = "127.0.0.1:0";
  return options;
}

std::string Duration(const std::string& method, const std::string& code) {
  return "quantd_rpc_server_duration_seconds_count{code=\"" + code +
         "\",method=\"" + method + "\"}";
}

// Metrics are the process's: other tests count, too, so differences are looked
// at. A call is counted after its client has the answer.
class Moved {
 public:
  explicit Moved(InProcessServer& server)
      : port_(server.server().metrics_port()), before_(port_) {}
  double By(const std::string& series) const {
    return Scrape(port_)[series] - before_[series];
  }
  bool Reaches(const std::string& series, double by) const {
    return Eventually([&] { return By(series) == by; });
  }

 private:
  const int port_;
  const Scrape before_;
};

Requests OneTensor(const std::string& preset, const std::string& name) {
  const TestWeight weight(1, name, 64, 128, 1);
  Requests requests = {Config(preset)};
  weight.AppendTo(&requests, 1 << 20);
  return requests;
}

TEST_CASE("a stream moves the metrics", "[metrics]") {
  InProcessServer server(MetricsOptions());
  const Moved moved(server);
  QuantizeCall call(server.NewChannel());
  REQUIRE(call.Write(Config("NF4")));
  REQUIRE(call.ReadOne());
  REQUIRE(moved.By("quantd_rpc_in_flight{method=\"Quantize\"}") == 1);
  REQUIRE(moved.By("quantd_streams") == 1);
  REQUIRE(moved.By("quantd_connections") == 1);
  Requests rest = OneTensor("NF4", "a.weight");
  rest.erase(rest.begin());
  REQUIRE(call.WriteAll(rest));
  call.stream->WritesDone();
  REQUIRE(call.Finish().status.ok());
  REQUIRE(moved.Reaches(Duration("Quantize", "OK"), 1));
  REQUIRE(moved.Reaches("quantd_rpc_in_flight{method=\"Quantize\"}", 0));
  REQUIRE(moved.Reaches("quantd_streams", 0));
  REQUIRE(moved.By("quantd_quantized_tensors_total{method=\"nf4\"}") == 1);
  REQUIRE(moved.By("quantd_quantized_input_bytes_total{method=\"nf4\"}") ==
          64 * 128 * 2);
  const double out =
      moved.By("quantd_quantized_output_bytes_total{method=\"nf4\"}");
  REQUIRE(out >= 64 * 128 / 2);
  REQUIRE(out < 64 * 128);
  REQUIRE(moved.By("quantd_worker_busy_seconds_total{worker=\"cpu:0\"}") +
              moved.By("quantd_worker_busy_seconds_total{worker=\"cpu:1\"}") >
          0);
}

TEST_CASE("what a server is scraped for without any call", "[metrics]") {
  InProcessServer server(MetricsOptions());
  const Scrape scrape(server.server().metrics_port());
  REQUIRE(scrape["quantd_memory_budget_bytes{kind=\"capacity\"}"] == 256 << 20);
  REQUIRE(scrape["quantd_memory_budget_bytes{kind=\"reserved\"}"] == 0);
  REQUIRE(scrape["quantd_memory_budget_waiting"] == 0);
  REQUIRE(scrape["quantd_open_fds"] > 3);
  REQUIRE(scrape["quantd_open_fds"] < scrape["quantd_max_fds"]);
  REQUIRE(scrape["process_resident_memory_bytes"] > 1 << 20);
  REQUIRE(scrape["process_cpu_seconds_total"] > 0);
  REQUIRE(scrape[std::string("quantd_build_info{api=\"") + kApiVersion +
                 "\",version=\"" + kServerVersion + "\"}"] == 1);
}

TEST_CASE("rejections and damaged chunks are counted", "[metrics]") {
  ServerOptions options = MetricsOptions();
  options.max_streams = 1;
  InProcessServer server(options);
  const Moved moved(server);
  const auto channel = server.NewChannel();
  {
    QuantizeCall holds(channel);
    REQUIRE(holds.Write(Config("NF4")));
    REQUIRE(holds.ReadOne());
    REQUIRE_FALSE(Exchange(channel, OneTensor("NF4", "w")).status.ok());
    REQUIRE(
        moved.Reaches("quantd_admission_rejections_total{reason=\"TOO_MANY_"
                      "STREAMS\"}",
                      1));
    holds.stream->WritesDone();
    REQUIRE(holds.Finish().status.ok());
  }
  REQUIRE(moved.Reaches("quantd_streams", 0));
  Requests damaged = OneTensor("NF4", "w");
  damaged.back().mutable_chunk()->set_crc32c(12345);
  REQUIRE(Exchange(channel, damaged).status.code() ==
          absl::StatusCode::kAborted);
  REQUIRE(moved.Reaches("quantd_chunk_crc_errors_total", 1));
  REQUIRE(moved.Reaches(Duration("Quantize", "ABORTED"), 1));
}

TEST_CASE("clients cannot make series", "[metrics]") {
  InProcessServer server(MetricsOptions());
  const auto run = [&server](int i) {
    QuantizeCall call(server.NewChannel());
    REQUIRE(call.WriteAll(OneTensor("NF4", "w" + std::to_string(i))));
    call.stream->WritesDone();
    REQUIRE(call.Finish().status.ok());
  };
  const auto series = [&server] {
    std::set<std::string> names;
    const Scrape scrape(server.server().metrics_port());
    for (const auto& [name, unused] : scrape.values()) {
      names.insert(name);
    }
    return names;
  };
  run(0);
  REQUIRE(Eventually([&] { return server.context().live_streams() == 0; }));
  const auto before = series();
  for (int i = 1; i < 10; ++i) run(i);
  REQUIRE(series() == before);
}

TEST_CASE("metrics are off unless they are asked for", "[metrics]") {
  InProcessServer server;
  REQUIRE(server.server().metrics_port() == 0);
  ServerOptions options = MetricsOptions();
  options.metrics_listen = "nowhere";
  REQUIRE(Server::Start(options).status().code() ==
          absl::StatusCode::kInvalidArgument);
  // Its port is taken: the server does not start, and leaves nothing behind.
  InProcessServer first(MetricsOptions());
  options.metrics_listen =
      "127.0.0.1:" + std::to_string(first.server().metrics_port());
  REQUIRE(Server::Start(options).status().code() ==
          absl::StatusCode::kUnavailable);
  REQUIRE(Exchange(first.NewChannel(), OneTensor("NF4", "w")).status.ok());
}

// The "rpc" lines of a log.
std::vector<nlohmann::json> LinesOf(const std::string& log,
                                    const std::string& event) {
  std::vector<nlohmann::json> lines;
  std::istringstream in(log);
  for (std::string line; std::getline(in, line);) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_object() && json.value("event", "") == event) {
      lines.push_back(std::move(json));
    }
  }
  return lines;
}

TEST_CASE("the log names the caller's trace, or a new one", "[trace]") {
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  QuantdProcess quantd;
  const auto stub = v1::QuantizeService::NewStub(quantd.NewChannel());
  const auto call = [&stub](const std::vector<std::string>& traceparents) {
    grpc::ClientContext context;
    context.set_deadline(In(absl::Seconds(20)));
    for (const std::string& text : traceparents) {
      context.AddMetadata("traceparent", text);
    }
    v1::Capabilities capabilities;
    REQUIRE(stub->GetCapabilities(&context, {}, &capabilities).ok());
  };
  const std::string good = "00-" + trace + "-00f067aa0ba902b7-01";
  call({good});
  call({});
  call({"00-" + trace + "-00f067aa0ba902b7"});
  call({good, good});
  // A stream, too, and one that is refused.
  grpc::ClientContext context;
  context.AddMetadata("traceparent", good);
  const auto stream = stub->Quantize(&context);
  stream->WritesDone();
  v1::QuantizeResponse response;
  REQUIRE_FALSE(stream->Read(&response));
  REQUIRE_FALSE(stream->Finish().ok());
  REQUIRE(Eventually([&] { return LinesOf(quantd.Log(), "rpc").size() == 5; }));
  const auto lines = LinesOf(quantd.Log(), "rpc");
  std::set<std::string> traces;
  std::set<std::string> spans;
  for (const nlohmann::json& line : lines) {
    const std::string id = line["trace_id"];
    REQUIRE(id.size() == 32);
    REQUIRE(line["project"] == "default");
    traces.insert(id);
    spans.insert(line["span_id"].get<std::string>());
  }
  REQUIRE(lines[0]["trace_id"] == trace);
  REQUIRE(lines[0]["rpc"] == "GetCapabilities");
  REQUIRE(lines[4]["trace_id"] == trace);
  REQUIRE(lines[4]["code"] == "INVALID_ARGUMENT");
  REQUIRE(traces.size() == 4);  // three new ones
  REQUIRE(spans.size() == 5);
}

// --- logs of jobs

constexpr char kJobTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";

// A server that may also read the folder itself.
std::vector<std::string> JobFlags(const JobFolders& folders) {
  std::filesystem::create_directories(folders.folder / "in");
  return {"--data-dir",   folders.folder / "data", "--read-root",
          QS_TEST_DATA,   "--read-root",           folders.folder / "in",
          "--write-root", folders.folder / "out",  "--log-level",
          "debug"};
}

// By a call of kJobTrace; returns the id.
std::string CreateTraced(const QuantdProcess& quantd,
                         const v1::CreateJobRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(20)));
  context.AddMetadata("traceparent",
                      std::string("00-") + kJobTrace + "-00f067aa0ba902b7-01");
  v1::Job job;
  const auto stub = v1::JobService::NewStub(quantd.NewChannel());
  REQUIRE(stub->CreateJob(&context, request, &job).ok());
  return job.name().substr(job.name().rfind('/') + 1);
}

// The states of the job's lines, each of which names all that it must.
std::vector<std::string> LoggedStates(const QuantdProcess& quantd,
                                      const std::string& id) {
  std::vector<std::string> states;
  for (const nlohmann::json& line : LinesOf(quantd.Log(), "job")) {
    if (line["job"] != id) continue;
    REQUIRE(line["project"] == "default");
    REQUIRE(line["trace_id"] == kJobTrace);
    REQUIRE(line["attempt"] >= 1);
    states.push_back(line["state"]);
  }
  return states;
}

bool EndsIn(const QuantdProcess& quantd, const std::string& id,
            const std::string& state) {
  return Eventually(
      [&] {
        const std::vector<std::string> states = LoggedStates(quantd, id);
        return !states.empty() && states.back() == state;
      },
      absl::Seconds(60));
}

TEST_CASE("lines of a job name project, job, attempt, tensor and trace",
          "[trace]") {
  const JobFolders folders;
  const QuantdProcess quantd(JobFlags(folders));
  const std::string id = CreateTraced(quantd, JobRequest(folders, "done"));
  REQUIRE(EndsIn(quantd, id, "SUCCEEDED"));
  REQUIRE(LoggedStates(quantd, id) ==
          std::vector<std::string>{"QUEUED", "RUNNING", "SUCCEEDED"});
  std::set<std::string> tensors;
  for (const nlohmann::json& line : LinesOf(quantd.Log(), "tensor")) {
    REQUIRE(line["project"] == "default");
    REQUIRE(line["job"] == id);
    REQUIRE(line["attempt"] == 1);
    REQUIRE(line["trace_id"] == kJobTrace);
    tensors.insert(line["tensor"].get<std::string>());
  }
  JobClient client(quantd.NewChannel());
  const auto job = client.Get("projects/-/jobs/" + id);
  REQUIRE(job.ok());
  REQUIRE(static_cast<int64_t>(tensors.size()) == job->plan().tensors());
  REQUIRE(tensors.count("model.layers.0.self_attn.q_proj.weight") == 1);
}

TEST_CASE("the line of a damaged result names its job and trace", "[trace]") {
  const JobFolders folders;
  const QuantdProcess quantd(JobFlags(folders));
  v1::CreateJobRequest request = JobRequest(folders, "unused");
  request.mutable_job()->clear_destination();
  const std::string id = CreateTraced(quantd, request);
  REQUIRE(EndsIn(quantd, id, "SUCCEEDED"));
  for (const auto& item :
       std::filesystem::recursive_directory_iterator(folders.folder / "data")) {
    if (item.path().filename() != "model-00001-of-00002.safetensors") continue;
    std::filesystem::resize_file(item.path(), item.file_size() - 1);
  }
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(20)));
  v1::ReadResultRequest read;
  read.set_name("projects/-/jobs/" + id);
  read.set_file("model-00001-of-00002.safetensors");
  const auto stub = v1::JobService::NewStub(quantd.NewChannel());
  const auto stream = stub->ReadResult(&context, read);
  v1::ReadResultResponse response;
  while (stream->Read(&response)) {
  }
  REQUIRE(stream->Finish().error_code() == grpc::StatusCode::DATA_LOSS);
  const auto lines = LinesOf(quantd.Log(), "job_result_corrupt");
  REQUIRE(lines.size() == 1);
  REQUIRE(lines[0]["project"] == "default");
  REQUIRE(lines[0]["job"] == id);
  REQUIRE(lines[0]["attempt"] == 1);
  REQUIRE(lines[0]["trace_id"] == kJobTrace);
}

TEST_CASE("the line of a job that fails says why, and of which tensor",
          "[trace]") {
  const JobFolders folders;
  const QuantdProcess quantd(JobFlags(folders));
  const std::string path = folders.folder / "in/nan.safetensors";
  const std::string header = R"({"a.weight":{"dtype":"F32","shape":[64,64],)"
                             R"("data_offsets":[0,16384]}})";
  std::ofstream file(path, std::ios::binary);
  const uint64_t bytes = header.size();
  file.write(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  file << header << std::string(16384, '\xff');
  file.close();
  v1::CreateJobRequest request = JobRequest(folders, "failed.safetensors");
  request.mutable_job()->mutable_source()->set_uri("file://" + path);
  const std::string id = CreateTraced(quantd, request);
  REQUIRE(EndsIn(quantd, id, "FAILED"));
  const nlohmann::json line = LinesOf(quantd.Log(), "job").back();
  REQUIRE(line["level"] == "warning");
  REQUIRE(line["reason"] == "NON_FINITE_INPUT");
  REQUIRE(line["tensor"] == "a.weight");
}

TEST_CASE("a job keeps its trace over a kill", "[trace]") {
  const JobFolders folders;
  std::string id;
  {
    const QuantdProcess quantd(JobFlags(folders));
    id = CreateTraced(quantd, CalibratedRequest(folders, "killed"));
  }  // killed
  const QuantdProcess quantd(JobFlags(folders));
  REQUIRE(EndsIn(quantd, id, "SUCCEEDED"));
}

}  // namespace
}  // namespace qs::testing
