// 10^5 streams that are opened and reset, as fast as a client can write them
// ("rapid reset"): the server ends the connections that do it, and is for
// everybody else what it was.
#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/service/quantd_process.h"
#include "tests/service/quantize_client.h"
#include "tests/service/scrape.h"
#include "tests/testing/raw_http2.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

constexpr auto kFloodTime = absl::Seconds(2);
constexpr int64_t kLeastStreams = 100'000;
constexpr int64_t kMostStreams = 4'000'000;
constexpr int kStreamsOfOne = 20'000;  // of a connection that is let live
constexpr int kClients = 4;
constexpr int kStreamsAtOnce = 500;
constexpr int64_t kMostMemory = int64_t{512} << 20;
constexpr int64_t kMoreMemory = int64_t{96} << 20;

struct FloodKind {
  std::string path;
  std::string message;  // of bytes on the wire; may be none
};

// Unary, streams of each kind, no method, no service.
std::vector<FloodKind> Kinds() {
  const std::string empty = GrpcMessage("");
  return {{"/grpc.health.v1.Health/Check", empty},
          {"/grpc.health.v1.Health/Watch", empty},
          {"/quant.v1.QuantizeService/GetCapabilities", ""},
          {"/quant.v1.QuantizeService/Quantize", ""},
          {"/quant.v1.QuantizeService/Quantize", empty},
          {"/quant.v1.TensorService/WriteTensor", empty},
          {"/quant.v1.TensorService/ListTensors", empty},
          {"/quant.v1.JobService/WatchJob", empty},
          {"/quant.v1.JobService/Other", empty},
          {"/x", ""}};
}

// Connections one after the other, each for all its streams or until the server
// ends it.
class FloodClient {
 public:
  explicit FloodClient(int port) : port_(port) {}

  // False: the server takes no connections any more.
  bool Run(const FloodKind& kind) {
    RawHttp2 connection(port_);
    if (!connection.open()) return false;
    ++connections;
    if (!SendStreams(connection, kind)) return true;
    // Until all of it was read.
    if (!connection.Send(MakeFrame(kPing, 0, 0, "the end?"))) return true;
    connection.Drop();
    while (const auto frame = connection.Next()) {
      if (frame->type == kPing && (frame->flags & kAck) != 0) ++survived;
      if (frame->type == kPing) break;
    }
    return true;
  }

  int64_t streams = 0;
  int connections = 0;
  int survived = 0;  // connections

 private:
  bool SendStreams(RawHttp2& connection, const FloodKind& kind) {
    std::string bytes = Http2Greeting();
    uint32_t id = 1;
    for (int sent = 0; sent < kStreamsOfOne; sent += kStreamsAtOnce) {
      for (int i = 0; i < kStreamsAtOnce; ++i, id += 2) {
        bytes += MakeFrame(
            kHeaders, kEndHeaders, id,
            id == 1 ? LearnedCallHeaders(kind.path) : ShortCallHeaders());
        if (!kind.message.empty()) {
          bytes += MakeFrame(kData, kEndStream, id, kind.message);
        }
        bytes += ResetFrame(id);
      }
      streams += kStreamsAtOnce;
      const bool taken = connection.Send(bytes);
      connection.Drop();
      if (!taken) return false;
      bytes.clear();
    }
    return true;
  }

  const int port_;
};

// What another client sees meanwhile.
class Bystander {
 public:
  explicit Bystander(const QuantdProcess& server)
      : channel_(server.NewChannel()),
        thread_([this](const std::stop_token& stop) { Work(stop); }) {}
  void End() {
    thread_.request_stop();
    thread_.join();
  }

  std::atomic<int> answers = 0;
  std::atomic<int> refused = 0;
  absl::Duration slowest;

 private:
  void Work(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const absl::Time begin = absl::Now();
      HealthStatus health;
      const bool ok =
          CheckHealth(channel_, "readiness", &health, absl::Seconds(20)).ok();
      ++(ok ? answers : refused);
      slowest = std::max(slowest, absl::Now() - begin);
      absl::SleepFor(absl::Milliseconds(5));
    }
  }

  const std::shared_ptr<grpc::Channel> channel_;
  std::jthread thread_;
};

struct FloodCounts {
  int64_t streams = 0;
  int connections = 0;
  int survived = 0;
};

class FloodedServer {
 public:
  FloodedServer()
      : metrics_port_(FreePort()),
        server_({"--data-dir", folder_ / "data", "--log-level", "warning",
                 "--metrics-listen",
                 absl::StrCat("127.0.0.1:", metrics_port_)}) {}

  const QuantdProcess& process() const { return server_; }
  Scrape Metrics() const { return Scrape(metrics_port_); }

  // For that long, but all of kMostStreams at most, of all kinds in turn.
  FloodCounts Flood(absl::Duration time) {
    const absl::Time end = absl::Now() + time;
    const std::vector<FloodKind> kinds = Kinds();
    std::atomic<size_t> next{0};
    std::atomic<int> refused{0};
    std::vector<FloodClient> clients(kClients, FloodClient(server_.port()));
    {
      std::vector<std::jthread> threads;
      for (FloodClient& client : clients) {
        threads.emplace_back([&] {
          while (absl::Now() < end &&
                 client.streams < kMostStreams / kClients) {
            if (!client.Run(kinds[next++ % kinds.size()])) ++refused;
          }
        });
      }
    }
    CHECK(refused == 0);
    FloodCounts counts;
    for (const FloodClient& client : clients) {
      counts.streams += client.streams;
      counts.connections += client.connections;
      counts.survived += client.survived;
    }
    return counts;
  }

 private:
  TemporaryFolder folder_;
  const int metrics_port_;
  QuantdProcess server_;
};

// No call, and no connection but the bystander's, is left.
bool IsIdle(const Scrape& scrape) {
  for (const auto& [series, value] : scrape.values()) {
    for (const char* gauge :
         {"quantd_rpc_in_flight", "quantd_streams",
          "quantd_memory_budget_waiting",
          "quantd_memory_budget_bytes{kind=\"reserved\"}"}) {
      if (series.rfind(gauge, 0) == 0 && value != 0) return false;
    }
  }
  return scrape["quantd_connections"] <= 1;
}

// Of one core, over a second.
double CpuShare(const QuantdProcess& server) {
  const absl::Time begin = absl::Now();
  const absl::Duration before = server.CpuTime();
  absl::SleepFor(absl::Seconds(1));
  return absl::FDivDuration(server.CpuTime() - before, absl::Now() - begin);
}

TEST_CASE("streams opened and reset, 100,000 a second", "[flood]") {
  // Fewer arenas of the allocator, each of which keeps what it once had.
  setenv("MALLOC_ARENA_MAX", "2", /*overwrite=*/1);
  FloodedServer flooded;
  const QuantdProcess& server = flooded.process();
  // So that what is made once is there.
  flooded.Flood(kFloodTime);
  REQUIRE(Eventually([&] { return IsIdle(flooded.Metrics()); }));
  const int64_t memory = server.Memory("VmRSS");
  const int64_t descriptors = server.Count("fd");
  const int64_t threads = server.Count("task");

  Bystander bystander(server);
  REQUIRE(Eventually([&] { return bystander.answers > 0; }));
  const absl::Time begin = absl::Now();
  const FloodCounts flood = flooded.Flood(kFloodTime);
  const absl::Duration took = absl::Now() - begin;
  bystander.End();
  INFO(flood.streams << " streams in " << absl::FormatDuration(took) << ", on "
                     << flood.connections << " connections of which "
                     << flood.survived << " were not ended; "
                     << bystander.answers << " health checks, the slowest "
                     << absl::FormatDuration(bystander.slowest));
  CHECK(flood.streams >= kLeastStreams);
  CHECK(bystander.refused == 0);

  REQUIRE(Eventually([&] { return IsIdle(flooded.Metrics()); }));
  CHECK(flooded.Metrics()
            ["quantd_admission_rejections_total{reason=\"STREAM_FLOOD\"}"] > 0);
  double cpu = 1;
  CHECK(Eventually([&] { return (cpu = CpuShare(server)) < 0.2; }));
  const int64_t more = server.Memory("VmRSS") - memory;
  const int64_t most = server.Memory("VmHWM");
  INFO("memory " << (memory >> 20) << " MiB, +" << (more >> 20) << ", most "
                 << (most >> 20) << "; descriptors " << descriptors << " -> "
                 << server.Count("fd") << ", threads " << threads << " -> "
                 << server.Count("task") << ", CPU " << cpu);
  if (kMemoryIsTheServers) {
    CHECK(more < kMoreMemory);
    CHECK(most < kMostMemory);
  }
  CHECK(server.Count("fd") <= descriptors + 16);
  CHECK(server.Count("task") <= threads + 4);
  REQUIRE(Exchange(server.NewChannel(), {Config("NF4")}).status.ok());
}

}  // namespace
}  // namespace qs::testing
