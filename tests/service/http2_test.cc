// Bytes that no HTTP/2 library would send: what the server answers, when it
// ends the connection, and that it serves the others all the time.
#include <string>
#include <vector>

#include "tests/service/quantd_process.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/raw_http2.h"
#include "tests/testing/sanitized.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

constexpr const char* kCheck = "/grpc.health.v1.Health/Check";
constexpr int64_t kMoreMemory = int64_t{64} << 20;

std::string Call(uint32_t stream, const std::string& path = kCheck) {
  return MakeFrame(kHeaders, kEndHeaders, stream, CallHeaders(path));
}
std::string Message(uint32_t stream, const std::string& bytes) {
  return MakeFrame(kData, kEndStream, stream, bytes);
}
std::string WholeCall(uint32_t stream) {
  return Call(stream) + Message(stream, GrpcMessage(""));
}

// A server with all its services, which must be there when it is gone.
class Server {
 public:
  explicit Server(std::vector<std::string> flags = {})
      : process_([&] {
          flags.insert(flags.end(), {"--data-dir", folder_ / "data"});
          return flags;
        }()) {}
  ~Server() { CHECK(Healthy()); }

  int port() const { return process_.port(); }
  const QuantdProcess& process() const { return process_; }
  // To another client, by gRPC.
  bool Healthy() const {
    HealthStatus health;
    return CheckHealth(process_.NewChannel(), "liveness", &health,
                       absl::Seconds(10))
        .ok();
  }

 private:
  TemporaryFolder folder_;
  QuantdProcess process_;
};

TEST_CASE("a call by hand is answered", "[http2]") {
  const Server server;
  RawHttp2 connection(server.port());
  REQUIRE(connection.Send(Http2Greeting() + WholeCall(1)));
  std::string data;
  int status = -1;
  while (status < 0) {
    const auto frame = connection.Next();
    REQUIRE(frame);
    if (frame->type == kData) data += frame->payload;
    if (frame->type == kHeaders) status = GrpcStatusOf(frame->payload);
  }
  REQUIRE(status == grpc::OK);
  REQUIRE(data == GrpcMessage("\x08\x01"));  // SERVING
}

TEST_CASE("a plan whose last message is none is refused", "[http2]") {
  const Server server;
  v1::PlanCheckpointRequest config;
  config.mutable_config()->mutable_quantization()->set_preset("NF4");
  v1::PlanCheckpointRequest tensor;
  v1::TensorHeader* header = tensor.mutable_tensors()->add_tensors();
  header->set_name("a.weight");
  header->set_dtype(v1::BF16);
  header->add_shape(64);
  header->add_shape(64);
  header->set_file("model.safetensors");
  header->set_end(2 * 64 * 64);
  const std::string begin =
      Http2Greeting() + Call(1, "/quant.v1.QuantizeService/PlanCheckpoint");
  const std::string messages = GrpcMessage(config.SerializeAsString()) +
                               GrpcMessage(tensor.SerializeAsString());
  RawHttp2 good(server.port());
  REQUIRE(good.Send(begin + Message(1, messages)));
  CHECK(good.Status(1) == grpc::OK);
  RawHttp2 bad(server.port());
  REQUIRE(bad.Send(
      begin + Message(1, messages + GrpcMessage("\xff\xff\xff\xff garbage"))));
  CHECK(bad.Status(1) == grpc::INVALID_ARGUMENT);
}

TEST_CASE("what is no HTTP/2 is not talked to", "[http2]") {
  const Server server;
  const std::string preface = Http2Greeting().substr(0, 24);
  const std::vector<std::string> garbage = {
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
      std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),
      std::string(100'000, '\xff'),
      std::string(100'000, '\0'),
      preface.substr(0, 20) + "XXXX" + MakeFrame(kSettings, 0, 0, ""),
      preface + "no frame at all, but it is long enough for one"};
  for (const std::string& bytes : garbage) {
    INFO(bytes.substr(0, 40));
    RawHttp2 connection(server.port());
    connection.Send(bytes);
    CHECK(connection.Closed());
    CHECK(connection.count(kHeaders) == 0);
  }
}

struct WrongFrame {
  const char* what;
  std::string bytes;
};

// RFC 9113: connection errors, all of them.
std::vector<WrongFrame> WrongFrames() {
  return {
      {"SETTINGS of a stream", MakeFrame(kSettings, 0, 1, "")},
      {"SETTINGS of 5 bytes", MakeFrame(kSettings, 0, 0, "12345")},
      {"SETTINGS with an impossible window",
       MakeFrame(kSettings, 0, 0, std::string("\0\4\xff\xff\xff\xff", 6))},
      {"PING of 7 bytes", MakeFrame(kPing, 0, 0, "1234567")},
      {"RST_STREAM of 3 bytes", MakeFrame(kRstStream, 0, 1, "123")},
      {"WINDOW_UPDATE of 3 bytes", MakeFrame(kWindowUpdate, 0, 0, "123")},
      {"CONTINUATION of nothing",
       MakeFrame(kContinuation, kEndHeaders, 1, CallHeaders(kCheck))},
      {"a call amid headers",
       MakeFrame(kHeaders, 0, 1, CallHeaders(kCheck)) + Call(3)},
      {"a frame above the limit", FrameHead(0xffffff, kData, 0, 1)},
      {"an index of headers that nobody has",
       MakeFrame(kHeaders, kEndHeaders, 1, "\xff\xff\x7f")},
  };
}

TEST_CASE("frames against the protocol end the connection alone", "[http2]") {
  const Server server;
  RawHttp2 other(server.port());
  REQUIRE(other.Send(Http2Greeting()));
  for (const WrongFrame& frame : WrongFrames()) {
    INFO(frame.what);
    RawHttp2 connection(server.port());
    connection.Send(Http2Greeting() + frame.bytes);
    CHECK(connection.Closed(absl::Seconds(2)));
  }
  REQUIRE(other.Send(WholeCall(1)));
  REQUIRE(other.Status(1) == grpc::OK);
}

TEST_CASE("a connection that does not greet is closed in time", "[http2]") {
  const Server server({"--handshake-timeout", "1"});
  const std::string greeting = Http2Greeting();
  // Nothing; half of the preface; no SETTINGS; half of them.
  for (const size_t bytes : {size_t{0}, size_t{10}, size_t{24}, size_t{29}}) {
    INFO(bytes << " bytes of the greeting");
    RawHttp2 connection(server.port());
    connection.Send(greeting.substr(0, bytes));
    CHECK(connection.Closed(absl::Seconds(15)));
  }
  // Who has greeted may take its time.
  RawHttp2 connection(server.port());
  REQUIRE(connection.Send(greeting));
  REQUIRE_FALSE(connection.Closed(absl::Seconds(2)));
  REQUIRE(connection.Send(WholeCall(1)));
  REQUIRE(connection.Status(1) == grpc::OK);
}

// Half a frame keeps the call that it belongs to, and no other.
TEST_CASE("half a frame and then nothing", "[http2]") {
  const Server server({"--stream-idle-timeout", "1"});
  const std::string path = "/quant.v1.QuantizeService/Quantize";
  const std::string frame = MakeFrame(kData, 0, 1, GrpcMessage("not all"));
  // What it would answer would be the frame's rest.
  RawHttp2 connection(server.port(), /*silent=*/true);
  REQUIRE(connection.Send(Http2Greeting() + Call(1, path) +
                          frame.substr(0, frame.size() - 3)));
  REQUIRE(server.Healthy());
  // Ended as every stream whose client stalls.
  REQUIRE(connection.Status(1) == grpc::DEADLINE_EXCEEDED);
}

TEST_CASE("paths that nobody serves", "[http2]") {
  const Server server;
  for (const char* path :
       {"/", "x", "", "/x", "/quant.v1.QuantizeService/Other",
        "/grpc.health.v1.Health/", "/../../etc/passwd"}) {
    INFO(path);
    RawHttp2 connection(server.port());
    REQUIRE(connection.Send(Http2Greeting() + Call(1, path)));
    CHECK(connection.Status(1) == grpc::UNIMPLEMENTED);
  }
}

constexpr const char* kPaths[] = {kCheck, "/quant.v1.QuantizeService/Quantize",
                                  "/quant.v1.TensorService/WriteTensor",
                                  "/quant.v1.JobService/CreateJob"};

TEST_CASE("a message above the limit is refused", "[http2]") {
  const Server server;
  for (const char* path : kPaths) {
    INFO(path);
    RawHttp2 connection(server.port());
    REQUIRE(connection.Send(Http2Greeting() + Call(1, path)));
    constexpr int64_t kSize = kMaxMessageBytes + 1;
    REQUIRE(connection.SendData(1, GrpcMessage(0, kSize, ""), kSize,
                                absl::Seconds(20)) == kSize + 5);
    CHECK(connection.Status(1) == grpc::RESOURCE_EXHAUSTED);
    // The connection is as good as before.
    REQUIRE(connection.open());
    REQUIRE(connection.goaway() == -1);
  }
}

// gRPC 1.51 looks at the size of a message when it is complete, and takes what
// its prefix announces, 4 GiB at most.
TEST_CASE("a message that says it is huge takes bounded memory", "[http2]") {
  const Server server({"--connection-memory", "64MiB"});
  REQUIRE(server.Healthy());
  const int64_t before = server.process().Memory("VmRSS");
  for (const uint32_t size : {0x8000'0000, 0xffff'ffff}) {
    for (const char* path : kPaths) {
      INFO(path << ", " << size);
      RawHttp2 connection(server.port());
      REQUIRE(connection.Send(Http2Greeting() + Call(1, path)));
      const int64_t sent = connection.SendData(
          1, GrpcMessage(0, size, ""), int64_t{1} << 30, absl::Seconds(20));
      CHECK(sent < int64_t{256} << 20);
      CHECK(connection.reset() >= 0);
    }
  }
  const int64_t more = server.process().Memory("VmHWM") - before;
  INFO("memory +" << (more >> 20) << " MiB at most");
  if (kMemoryIsTheServers) CHECK(more < int64_t{160} << 20);
}

TEST_CASE("messages with a wrong prefix", "[http2]") {
  const Server server;
  // Compressed, of a call that has no compression.
  RawHttp2 connection(server.port());
  REQUIRE(connection.Send(Http2Greeting() + Call(1) +
                          Message(1, GrpcMessage(1, 3, "abc"))));
  CHECK(connection.Status(1) > 0);
  // Cut off.
  RawHttp2 cut(server.port());
  REQUIRE(cut.Send(Http2Greeting() + Call(1) + Message(1, "\x00\x00")));
  cut.Send(MakeFrame(kPing, 0, 0, "12345678"));
  CHECK(cut.Status(1, absl::Seconds(2)) != grpc::OK);
}

// Of one core, over half a second.
double CpuShare(const QuantdProcess& server) {
  const absl::Time begin = absl::Now();
  const absl::Duration before = server.CpuTime();
  absl::SleepFor(absl::Milliseconds(500));
  return absl::FDivDuration(server.CpuTime() - before, absl::Now() - begin);
}

// Headers that go on and on, for `most` bytes; true: the server closed.
bool FloodHeaders(int port, const std::string& begin, const std::string& frame,
                  size_t most) {
  RawHttp2 connection(port);
  connection.Send(Http2Greeting() +
                  MakeFrame(kHeaders, 0, 1, CallHeaders(kCheck) + begin));
  std::string many;
  while (many.size() < 64 << 10) many += frame;
  for (size_t sent = 0; sent < most && connection.open();) {
    if (!connection.Send(many)) break;
    sent += many.size();
  }
  return connection.Closed(absl::Milliseconds(200));
}

TEST_CASE("headers without an end", "[http2]") {
  const Server server;
  REQUIRE(server.Healthy());
  const int64_t before = server.process().Memory("VmRSS");
  const auto more = [](const std::string& bytes) {
    return MakeFrame(kContinuation, 0, 1, bytes);
  };
  CHECK(FloodHeaders(server.port(), "",
                     more(HeaderField("x", std::string(100, 'h'))),
                     /*most=*/64 << 20));
  // gRPC 1.51 waits for all of a value before it looks at its size: 1 GiB long,
  // and a length of endless digits. That costs the square of what has come, see
  // the README's limits, so it is little here.
  FloodHeaders(server.port(), std::string("\0\1x\x7f\x81\xff\xff\xff\x03", 9),
               more(std::string(16384, 'h')), /*most=*/1 << 20);
  CHECK(server.Healthy());
  FloodHeaders(server.port(), std::string("\0\1x\x7f", 4),
               more(std::string(1000, '\x80')), /*most=*/1 << 20);
  CHECK(server.Healthy());
  CHECK(Eventually([&] { return CpuShare(server.process()) < 0.2; }));
  const int64_t grown = server.process().Memory("VmHWM") - before;
  INFO("memory +" << (grown >> 20) << " MiB at most");
  if (kMemoryIsTheServers) CHECK(grown < 4 * kMoreMemory);
}

TEST_CASE("floods of small frames whose answers nobody reads", "[http2]") {
  const Server server;
  REQUIRE(server.Healthy());
  const int64_t before = server.process().Memory("VmRSS");
  for (const std::string& frame :
       {MakeFrame(kPing, 0, 0, "12345678"), MakeFrame(kSettings, 0, 0, ""),
        MakeFrame(kPriority, 0, 1, std::string(5, '\0')),
        MakeFrame(kWindowUpdate, 0, 0, Http2Number(1)),
        MakeFrame(kRstStream, 0, 1, Http2Number(kCancelStream)),
        MakeFrame(0x77, 0, 0, "unknown")}) {
    INFO("type " << static_cast<int>(frame[3]));
    RawHttp2 connection(server.port(), /*silent=*/true);
    connection.SendOnly(Http2Greeting());
    std::string many;
    for (int i = 0; i < 1000; ++i) many += frame;
    for (int i = 0; i < 200; ++i) {
      if (!connection.SendOnly(many, absl::Milliseconds(500))) break;
    }
    CHECK(server.Healthy());
  }
  const int64_t more = server.process().Memory("VmHWM") - before;
  INFO("memory +" << (more >> 20) << " MiB at most");
  if (kMemoryIsTheServers) CHECK(more < 2 * kMoreMemory);
}

}  // namespace
}  // namespace qs::testing
