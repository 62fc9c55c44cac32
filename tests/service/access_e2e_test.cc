// Who may call what, over real connections: tokens, roles, certificates, and
// rules that change while the server runs.
#include <fstream>
#include <string>
#include <thread>

#include "service/access/access_file.h"
#include "service/server/error.h"
#include "tests/service/certificates.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

using Channel = std::shared_ptr<grpc::Channel>;

// Sends a fixed authorization header.
class Header final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit Header(std::string value) : value_(std::move(value)) {}
  grpc::Status GetMetadata(
      grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
      std::multimap<grpc::string, grpc::string>* metadata) override {
    metadata->emplace("authorization", value_);
    return grpc::Status::OK;
  }

 private:
  const std::string value_;
};

Channel WithHeader(int port, const std::string& value,
                   const std::shared_ptr<grpc::ChannelCredentials>& connection =
                       grpc::experimental::LocalCredentials(LOCAL_TCP)) {
  return Connect(port,
                 grpc::CompositeChannelCredentials(
                     connection,
                     grpc::experimental::MetadataCredentialsFromPlugin(
                         std::make_unique<Header>(value), GRPC_SECURITY_NONE)));
}

absl::Status GetCapabilities(const Channel& channel) {
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(10)));
  v1::Capabilities capabilities;
  return FromGrpcStatus(v1::QuantizeService::NewStub(channel)->GetCapabilities(
      &context, v1::GetCapabilitiesRequest(), &capabilities));
}

absl::Status Plan(const Channel& channel) {
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(10)));
  const auto stub = v1::QuantizeService::NewStub(channel);
  const auto stream = stub->PlanCheckpoint(&context);
  v1::PlanCheckpointRequest request;
  request.mutable_config()->mutable_quantization()->set_preset("NF4");
  request.mutable_config()->set_config_json("{}");
  stream->Write(request);
  stream->WritesDone();
  v1::PlanCheckpointResponse response;
  while (stream->Read(&response)) {
  }
  return FromGrpcStatus(stream->Finish());
}

absl::Status Quantize(const Channel& channel) {
  const TestWeight weight(1, "a.weight", 64, 64, 1);
  Requests requests = {Config("NF4")};
  weight.AppendTo(&requests, 1 << 20);
  return Exchange(channel, requests).status;
}

void RequireRefused(const absl::Status& status, absl::StatusCode code,
                    const std::string& reason) {
  INFO(status.ToString());
  REQUIRE(status.code() == code);
  REQUIRE(ErrorReason(status) == reason);
}

bool IsHealthy(const Channel& channel) {
  HealthStatus health;
  return CheckHealth(channel, "readiness", &health).ok() &&
         health.status() == HealthStatus::SERVING;
}

// An access file with a token for each role, and what else a test wants.
class AccessFile {
 public:
  AccessFile() { Write(""); }
  const std::string& path() const { return path_; }
  void Write(const std::string& more) const {
    WriteText(R"({"tokens": [)" + Entry("tok-reader", "reader") + "," +
              Entry("tok-user", "user") + "]" + more + "}");
  }
  // Aside and renamed, as tools that change such files do.
  void WriteText(const std::string& text) const {
    std::ofstream(path_ + ".new") << text;
    std::filesystem::rename(path_ + ".new", path_);
  }
  static std::string Entry(const std::string& token, const std::string& role) {
    const auto hash = HashToken(token);
    REQUIRE(hash);
    std::string hex;
    for (const uint8_t byte : *hash) {
      hex += "0123456789abcdef"[byte >> 4];
      hex += "0123456789abcdef"[byte & 15];
    }
    return R"({"sha256": ")" + hex + R"(", "project": "team-a", "role": ")" +
           role + R"("})";
  }

 private:
  const TemporaryFolder folder_;
  const std::string path_ = folder_ / "access.json";
};

ServerOptions AccessOptions(const AccessFile& file) {
  ServerOptions options = TestServerOptions();
  options.access_file = file.path();
  return options;
}

TEST_CASE("nobody without a known token calls anything", "[access]") {
  const AccessFile file;
  InProcessServer server(AccessOptions(file));
  const auto kUnknown = absl::StatusCode::kUnauthenticated;
  const std::pair<Channel, std::string> callers[] = {
      {server.NewChannel(), "NO_CREDENTIAL"},
      {WithHeader(server.port(), "Bearer tok-nobody"), "UNKNOWN_CREDENTIAL"},
      {WithHeader(server.port(), "Basic dG9rLXVzZXI="), "BAD_CREDENTIAL"}};
  for (const auto& [channel, reason] : callers) {
    RequireRefused(GetCapabilities(channel), kUnknown, reason);
    RequireRefused(Plan(channel), kUnknown, reason);
    RequireRefused(Quantize(channel), kUnknown, reason);
    REQUIRE(IsHealthy(channel));
  }
  REQUIRE(server.context().live_streams() == 0);
}

TEST_CASE("a reader plans, a user quantizes", "[access]") {
  const AccessFile file;
  InProcessServer server(AccessOptions(file));
  const Channel reader = WithHeader(server.port(), "Bearer tok-reader");
  REQUIRE(GetCapabilities(reader).ok());
  REQUIRE(Plan(reader).ok());
  RequireRefused(Quantize(reader), absl::StatusCode::kPermissionDenied,
                 "ROLE_TOO_LOW");
  const Channel user = WithHeader(server.port(), "Bearer tok-user");
  REQUIRE(GetCapabilities(user).ok());
  REQUIRE(Plan(user).ok());
  REQUIRE(Quantize(user).ok());
}

TEST_CASE("without an access file everybody may everything", "[access]") {
  InProcessServer server;
  REQUIRE(GetCapabilities(server.NewChannel()).ok());
  REQUIRE(Quantize(server.NewChannel()).ok());
  // A token that nobody asked for does no harm.
  REQUIRE(Quantize(WithHeader(server.port(), "Bearer tok-nobody")).ok());
}

TEST_CASE("a changed access file counts while the server runs", "[access]") {
  const AccessFile file;
  InProcessServer server(AccessOptions(file));
  const Channel user = WithHeader(server.port(), "Bearer tok-user");
  const Channel other = WithHeader(server.port(), "Bearer tok-new");
  QuantizeCall running(user);
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  REQUIRE_FALSE(GetCapabilities(other).ok());
  file.WriteText(R"({"tokens": [)" + AccessFile::Entry("tok-new", "user") +
                 "]}");
  REQUIRE(Eventually([&] { return GetCapabilities(other).ok(); }));
  RequireRefused(GetCapabilities(user), absl::StatusCode::kUnauthenticated,
                 "UNKNOWN_CREDENTIAL");
  // What was let in goes on.
  running.stream->WritesDone();
  REQUIRE(running.Finish().status.ok());
  // A broken file changes nothing; the next good one does.
  file.WriteText("{");
  absl::SleepFor(absl::Milliseconds(1500));
  REQUIRE(GetCapabilities(other).ok());
  file.Write("");
  REQUIRE(Eventually([&] { return GetCapabilities(user).ok(); }));
  REQUIRE_FALSE(GetCapabilities(other).ok());
}

TEST_CASE("a client certificate's name is a project and a role", "[access]") {
  const Certificates certificates;
  certificates.MakeSigned("stray", "subjectAltName=DNS:stray.example");
  const AccessFile file;
  file.Write(R"(, "certificates": [{"name": "uri:spiffe://example/client",
                 "project": "team-b", "role": "reader"}])");
  ServerOptions options = TlsOptions(certificates);
  options.tls_client_ca = certificates.Path("ca.pem");
  options.access_file = file.path();
  InProcessServer server(options);
  const auto as = [&](const std::string& name) {
    return Client(certificates, "ca.pem", name);
  };
  const Channel client = Connect(server.port(), as("client"));
  REQUIRE(GetCapabilities(client).ok());
  RequireRefused(Quantize(client), absl::StatusCode::kPermissionDenied,
                 "ROLE_TOO_LOW");
  // The token counts more than the certificate.
  REQUIRE(Quantize(WithHeader(server.port(), "Bearer tok-user", as("client")))
              .ok());
  RequireRefused(GetCapabilities(Connect(server.port(), as("stray"))),
                 absl::StatusCode::kUnauthenticated, "UNKNOWN_CREDENTIAL");
}

TEST_CASE("a server does not start with a broken access file", "[access]") {
  const AccessFile file;
  file.WriteText("{}");
  const absl::Status status = Server::Start(AccessOptions(file)).status();
  REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  REQUIRE(status.message() ==
          "access-file: file: got no entry, allowed one or more");
}

}  // namespace
}  // namespace qs::testing
