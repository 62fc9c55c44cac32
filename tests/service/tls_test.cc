// TLS and mutual TLS with certificates that openssl makes for the test.
#include "service/server/tls.h"

#include <string>

#include "tests/service/certificates.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// Whether a health check succeeds with these client credentials.
bool Serves(const InProcessServer& server,
            const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  HealthStatus health;
  return CheckHealth(Connect(server.port(), credentials), "", &health,
                     absl::Seconds(5))
             .ok() &&
         health.status() == HealthStatus::SERVING;
}

TEST_CASE("TLS: who trusts the CA gets in, plaintext does not", "[tls]") {
  const Certificates files;
  InProcessServer server(TlsOptions(files));
  REQUIRE(Serves(server, Client(files, "ca.pem", "")));
  REQUIRE_FALSE(Serves(server, Client(files, "stranger.pem", "")));
  REQUIRE_FALSE(Serves(server, grpc::InsecureChannelCredentials()));
  // A whole stream.
  const TestWeight weight(1, "a.weight", 1024, 1024, 1);
  Requests requests = {Config("NF4")};
  weight.AppendTo(&requests, 1 << 20);
  const Answers answers =
      Exchange(Connect(server.port(), Client(files, "ca.pem", "")), requests);
  REQUIRE(answers.status.ok());
  RequireSameAsDirect(answers, PresetSpec("NF4", Profile::kReference), weight);
}

TEST_CASE("mutual TLS: only clients with a certificate of the CA", "[tls]") {
  const Certificates files;
  ServerOptions options = TlsOptions(files);
  options.tls_client_ca = files.Path("ca.pem");
  InProcessServer server(options);
  REQUIRE(Serves(server, Client(files, "ca.pem", "client")));
  REQUIRE_FALSE(Serves(server, Client(files, "ca.pem", "")));
  REQUIRE_FALSE(Serves(server, Client(files, "ca.pem", "stranger")));
}

TEST_CASE("wrong files are found before the first connection", "[tls]") {
  const Certificates files;
  const auto refused = [](const ServerOptions& options) {
    const absl::Status status = Server::Start(options).status();
    REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  ServerOptions options = TlsOptions(files);
  options.tls_cert = files.Path("missing.pem");
  REQUIRE(refused(options).find("tls-cert: cannot read") == 0);
  options = TlsOptions(files);
  options.tls_cert = files.Path("server.key");
  REQUIRE(refused(options).find("holds no PEM certificate") !=
          std::string::npos);
  options = TlsOptions(files);
  options.tls_key = files.Path("server.pem");
  REQUIRE(refused(options).find("holds no PEM private key") !=
          std::string::npos);
  options = TlsOptions(files);
  options.tls_key = files.Path("client.key");
  REQUIRE(refused(options).find("does not belong to the certificate") !=
          std::string::npos);
  options = TlsOptions(files);
  options.tls_client_ca = files.Path("client.csr");
  REQUIRE(refused(options).find("tls-client-ca") == 0);
}

}  // namespace
}  // namespace qs::testing
