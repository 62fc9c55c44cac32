// Certificates that openssl makes for a test, and both ends' settings for them.
#ifndef QS_TESTS_SERVICE_CERTIFICATES_H_
#define QS_TESTS_SERVICE_CERTIFICATES_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "tests/testing/in_process_server.h"

namespace qs::testing {

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
    MakeSigned("client",
               "subjectAltName=DNS:client.example,URI:spiffe://example/client");
  }
  ~Certificates() { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& file) const {
    return folder_ + "/" + file;
  }
  // Puts a copy of one file in the place of another, at once.
  void Replace(const std::string& file, const std::string& with) const {
    std::filesystem::copy_file(Path(with), Path("new"));
    std::filesystem::rename(Path("new"), Path(file));
  }
  std::string Text(const std::string& file) const {
    std::ifstream in(Path(file));
    return {std::istreambuf_iterator<char>(in), {}};
  }

  // NAME.pem and NAME.key, signed by the CA.
  void MakeSigned(const std::string& name, const std::string& extension,
                  const std::string& ca = "ca") const {
    Run("openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "
        "/CN=" +
        name + " -keyout " + name + ".key -out " + name + ".csr");
    std::ofstream(Path(name + ".ext")) << extension << "\n";
    Run("openssl x509 -req -in " + name + ".csr -CA " + ca + ".pem -CAkey " +
        ca +
        ".key "
        "-CAcreateserial -days 2 -extfile " +
        name + ".ext -out " + name + ".pem");
  }

 private:
  void Run(const std::string& command) const {
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

  std::string folder_;
};

inline ServerOptions TlsOptions(const Certificates& files) {
  ServerOptions options = TestServerOptions();
  options.tls_cert = files.Path("server.pem");
  options.tls_key = files.Path("server.key");
  return options;
}

inline std::shared_ptr<grpc::ChannelCredentials> Client(
    const Certificates& files, const std::string& ca, const std::string& name) {
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = files.Text(ca);
  if (!name.empty()) {
    ssl.pem_private_key = files.Text(name + ".key");
    ssl.pem_cert_chain = files.Text(name + ".pem");
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_CERTIFICATES_H_
