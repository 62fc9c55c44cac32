// TLS and mutual TLS with certificates that openssl makes for the test.
#include "service/server/tls.h"

#include <fstream>
#include <string>

#include "tests/service/certificates.h"
#include "tests/service/quantize_client.h"
#include "tests/service/scrape.h"
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

TEST_CASE("new connections get new certificates, old ones go on", "[tls]") {
  const Certificates files;
  files.MakeSigned("after", "subjectAltName=IP:127.0.0.1", "stranger");
  ServerOptions options = TlsOptions(files);
  options.metrics_listen = "127.0.0.1:0";
  InProcessServer server(options);
  const auto ends = [&server] {
    const Scrape scrape(server.server().metrics_port());
    return scrape["quantd_tls_certificate_not_after_timestamp_seconds"] -
           static_cast<double>(absl::ToUnixSeconds(absl::Now()));
  };
  REQUIRE(ends() > 1.9 * 86400);  // made for two days
  REQUIRE(ends() < 2.1 * 86400);
  const auto before = Client(files, "ca.pem", "");
  const auto after = Client(files, "stranger.pem", "");
  const auto open = Connect(server.port(), before);
  QuantizeCall running(open);
  REQUIRE(running.Write(Config("NF4")));
  REQUIRE(running.ReadOne());
  REQUIRE_FALSE(Serves(server, after));
  // Certificate and key that do not belong together are not taken.
  files.Replace("server.pem", "after.pem");
  absl::SleepFor(absl::Milliseconds(1500));
  REQUIRE(Serves(server, before));
  files.Replace("server.key", "after.key");
  REQUIRE(Eventually([&] { return Serves(server, after); }));
  REQUIRE_FALSE(Serves(server, before));
  const TestWeight weight(1, "a.weight", 1024, 1024, 1);
  Requests requests;
  weight.AppendTo(&requests, 1 << 20);
  REQUIRE(running.WriteAll(requests));
  running.stream->WritesDone();
  REQUIRE(running.Finish().status.ok());
}

TEST_CASE("a new client CA counts for new connections", "[tls]") {
  const Certificates files;
  files.MakeSigned("foreign", "extendedKeyUsage=clientAuth", "stranger");
  files.Replace("clients.pem", "ca.pem");
  ServerOptions options = TlsOptions(files);
  options.tls_client_ca = files.Path("clients.pem");
  InProcessServer server(options);
  const auto client = Client(files, "ca.pem", "client");
  const auto foreign = Client(files, "ca.pem", "foreign");
  REQUIRE(Serves(server, client));
  REQUIRE_FALSE(Serves(server, foreign));
  files.Replace("clients.pem", "stranger.pem");
  REQUIRE(Eventually([&] { return Serves(server, foreign); }));
  REQUIRE_FALSE(Serves(server, client));
}

TEST_CASE("--check-config takes what the server would take", "[tls]") {
  const Certificates files;
  const auto check = [&files](const std::string& key, const std::string& ca) {
    return ParseCommandLine(
        {"--check-config", "--tls-cert", files.Path("server.pem"), "--tls-key",
         files.Path(key), "--tls-client-ca", files.Path(ca)});
  };
  CHECK(check("server.key", "ca.pem").exit_code == 0);
  const CommandLine pair = check("client.key", "ca.pem");
  CHECK(pair.exit_code == 2);
  CHECK(pair.error.find("does not belong to the certificate") !=
        std::string::npos);
  const CommandLine ca = check("server.key", "ca.key");
  CHECK(ca.exit_code == 2);
  CHECK(ca.error.find("tls-client-ca: ") != std::string::npos);
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
  options = TlsOptions(files);
  std::ofstream(files.Path("server.pem"), std::ios::app)
      << "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n";
  REQUIRE(refused(options).find("holds a certificate that is damaged") !=
          std::string::npos);
}

}  // namespace
}  // namespace qs::testing
