// TLS and mutual TLS with certificates that openssl makes for the test.
#include "service/server/tls.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// A folder with a CA, a server's and a client's certificate signed by it, and
// a certificate of somebody else.
class Certificates {
 public:
  Certificates() {
    char name[] = "/tmp/tls_test.XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    folder_ = name;
    MakeCa("ca");
    MakeCa("stranger");
    MakeSigned("server", "subjectAltName=IP:127.0.0.1,DNS:localhost");
    MakeSigned("client", "extendedKeyUsage=clientAuth");
  }
  ~Certificates() { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& file) const {
    return folder_ + "/" + file;
  }
  std::string Text(const std::string& file) const {
    std::ifstream in(Path(file));
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  void Run(const std::string& command) {
    const std::string all = "cd " + folder_ + " && " + command + " >log 2>&1";
    const int code = std::system(all.c_str());
    INFO(command << "\n" << Text("log"));
    REQUIRE(code == 0);
  }
  void MakeCa(const std::string& name) {
    Run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "
        "-days 2 -subj /CN=" +
        name + " -keyout " + name + ".key -out " + name + ".pem");
  }
  void MakeSigned(const std::string& name, const std::string& extension) {
    Run("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "
        "/CN=" +
        name + " -keyout " + name + ".key -out " + name + ".csr");
    std::ofstream(Path(name + ".ext")) << extension << "\n";
    Run("openssl x509 -req -in " + name +
        ".csr -CA ca.pem -CAkey ca.key "
        "-CAcreateserial -days 2 -extfile " +
        name + ".ext -out " + name + ".pem");
  }

  std::string folder_;
};

ServerOptions TlsOptions(const Certificates& files) {
  ServerOptions options = TestServerOptions();
  options.tls_cert = files.Path("server.pem");
  options.tls_key = files.Path("server.key");
  return options;
}

// Whether a health check succeeds with these client credentials.
bool Serves(const InProcessServer& server,
            const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  HealthStatus health;
  return CheckHealth(Connect(server.port(), credentials), "", &health,
                     absl::Seconds(5))
             .ok() &&
         health.status() == HealthStatus::SERVING;
}

std::shared_ptr<grpc::ChannelCredentials> Client(const Certificates& files,
                                                 const std::string& ca,
                                                 const std::string& name) {
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = files.Text(ca);
  if (!name.empty()) {
    ssl.pem_private_key = files.Text(name + ".key");
    ssl.pem_cert_chain = files.Text(name + ".pem");
  }
  return grpc::SslCredentials(ssl);
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
