// What gRPC and protobuf log of a client's bytes is in the log's own form.
#include "service/server/library_logs.h"

#include <grpcpp/generic/generic_stub.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "quant/v1/quantization.pb.h"
#include "tests/service/certificates.h"
#include "tests/service/quantd_process.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/raw_http2.h"

namespace qs::testing {
namespace {

// A plan of a tensor whose name is no UTF-8.
void SendBadName(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(10)));
  grpc::CompletionQueue queue;
  quant::v1::PlanCheckpointRequest request;
  request.mutable_tensors()->add_tensors()->set_name("X");
  std::string bad = request.SerializeAsString();
  bad[bad.find('X')] = '\xff';
  const grpc::Slice slice(bad);
  auto call = stub.PrepareUnaryCall(&context,
                                    "/quant.v1.QuantizeService/PlanCheckpoint",
                                    grpc::ByteBuffer(&slice, 1), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&tag, &ok));
}

// How many lines of the log have an event; every line is JSON.
std::map<std::string, int> Events(const std::string& log) {
  std::map<std::string, int> events;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    INFO(line);
    const auto json = nlohmann::json::parse(line, nullptr, false);
    REQUIRE(json.is_object());
    REQUIRE(json.contains("time"));
    REQUIRE(json.contains("level"));
    ++events[json["event"].get<std::string>()];
  }
  return events;
}

TEST_CASE("plaintext on a TLS port and bad UTF-8 are lines of the log",
          "[library_logs]") {
  const Certificates files;
  const QuantdProcess server({"--tls-cert", files.Path("server.pem"),
                              "--tls-key", files.Path("server.key")});
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 200; ++i) {
    RawHttp2 plain(server.port());
    plain.Send(Http2Greeting());
    REQUIRE(plain.Closed());
  }
  const auto channel = Connect(server.port(), Client(files, "ca.pem", ""));
  for (int i = 0; i < 200; ++i) SendBadName(channel);
  std::map<std::string, int> events;
  REQUIRE(Eventually([&] {
    events = Events(server.Log());
    return events["grpc"] > 0 && events["protobuf"] > 0;
  }));
  // A client floods nobody's disk.
  const int most = kLibraryLogBurst + 2 +
                   static_cast<int>(absl::ToInt64Seconds(absl::Now() - begin));
  CHECK(events["grpc"] <= most);
  CHECK(events["protobuf"] <= most);
  CHECK(events["serving"] == 1);
}

}  // namespace
}  // namespace qs::testing
