// Tested by tests/service/tls_test.cc.
#include "service/server/tls.h"

#include <grpc/grpc.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/server/log.h"

namespace qs {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

absl::StatusOr<std::string> ReadPem(const char* option,
                                    const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(in)), {});
  if (in && !text.empty()) return text;
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": cannot read \"", path, "\""));
}

Bio OpenPem(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())),
             BIO_free);
}

// Whether what follows the first certificate are certificates, up to the end.
bool RestIsGood(BIO* bio) {
  while (Certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr),
                     X509_free) != nullptr) {
  }
  const bool ended =
      ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  return ended;
}

// The first certificate of the chain.
absl::StatusOr<Certificate> ParseCertificate(const char* option,
                                             const std::string& path,
                                             const std::string& pem) {
  const Bio bio = OpenPem(pem);
  Certificate certificate(
      PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  ERR_clear_error();
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": \"", path, "\" holds no PEM certificate"));
  }
  if (RestIsGood(bio.get())) return certificate;
  return absl::InvalidArgumentError(absl::StrCat(
      option, ": \"", path, "\" holds a certificate that is damaged"));
}

int64_t NotAfter(const X509* certificate) {
  tm time{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) != 1) return 0;
  return timegm(&time);
}

// Also sets not_after. gRPC itself reports a wrong pair only as failed
// handshakes.
absl::Status CheckPair(const ServerOptions& options, TlsPems* pems) {
  QS_ASSIGN_OR_RETURN(
      const Certificate certificate,
      ParseCertificate("tls-cert", options.tls_cert, pems->cert));
  pems->not_after = NotAfter(certificate.get());
  const Bio bio = OpenPem(pems->key);
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr),
                EVP_PKEY_free);
  const bool pair =
      key != nullptr && X509_check_private_key(certificate.get(), key.get());
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tls-key: \"", options.tls_key, "\" holds no PEM private key"));
  }
  if (pair) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tls-key: \"", options.tls_key,
      "\" does not belong to the certificate in \"", options.tls_cert, "\""));
}

// C credentials for the C++ server builder.
class CCredentials final : public grpc::ServerCredentials {
 public:
  // Owns `credentials`.
  explicit CCredentials(grpc_server_credentials* credentials)
      : credentials_(credentials) {}
  ~CCredentials() override { grpc_server_credentials_release(credentials_); }
  // Callers are identified by the services (service/access).
  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address,
                      grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TlsFiles>> TlsFiles::Open(
    const ServerOptions& options) {
  std::unique_ptr<TlsFiles> files(new TlsFiles(options));
  QS_ASSIGN_OR_RETURN(TlsPems pems, files->Load());
  absl::MutexLock lock(&files->mutex_);
  files->pems_ = std::move(pems);
  return files;
}

absl::StatusOr<TlsPems> TlsFiles::Load() const {
  TlsPems pems;
  QS_ASSIGN_OR_RETURN(pems.cert, ReadPem("tls-cert", options_.tls_cert));
  QS_ASSIGN_OR_RETURN(pems.key, ReadPem("tls-key", options_.tls_key));
  QS_RETURN_IF_ERROR(CheckPair(options_, &pems));
  if (options_.tls_client_ca.empty()) return pems;
  QS_ASSIGN_OR_RETURN(pems.client_ca,
                      ReadPem("tls-client-ca", options_.tls_client_ca));
  QS_RETURN_IF_ERROR(
      ParseCertificate("tls-client-ca", options_.tls_client_ca, pems.client_ca)
          .status());
  return pems;
}

std::shared_ptr<grpc::ServerCredentials> TlsFiles::NewCredentials() {
  grpc_ssl_server_credentials_options* const options =
      grpc_ssl_server_credentials_create_options_using_config_fetcher(
          options_.tls_client_ca.empty()
              ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
              : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
          &TlsFiles::Fetch, this);
  return std::make_shared<CCredentials>(
      grpc_ssl_server_credentials_create_with_options(options));
}

std::vector<std::string> TlsFiles::paths() const {
  std::vector<std::string> paths = {options_.tls_cert, options_.tls_key};
  if (!options_.tls_client_ca.empty()) paths.push_back(options_.tls_client_ca);
  return paths;
}

int64_t TlsFiles::not_after() const {
  absl::MutexLock lock(&mutex_);
  return pems_.not_after;
}

bool TlsFiles::Reload() {
  absl::StatusOr<TlsPems> pems = Load();
  const std::string error(pems.status().message());
  absl::MutexLock lock(&mutex_);
  const bool repeats = error == last_error_;
  last_error_ = error;
  if (!pems.ok()) {
    if (!repeats) {
      Log(LogLevel::kError, "certificate_refused", {{"error", error}});
    }
    return false;
  }
  if (repeats && *pems == pems_) return true;
  Log(LogLevel::kInfo, "certificate_taken", {{"file", options_.tls_cert}});
  pems_ = *std::move(pems);
  fetched_ = false;
  return true;
}

grpc_ssl_certificate_config_reload_status TlsFiles::Fetch(
    void* files, grpc_ssl_server_certificate_config** config) {
  return static_cast<TlsFiles*>(files)->GiveConfig(config);
}

grpc_ssl_certificate_config_reload_status TlsFiles::GiveConfig(
    grpc_ssl_server_certificate_config** config) {
  absl::MutexLock lock(&mutex_);
  if (fetched_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair pair{pems_.key.c_str(), pems_.cert.c_str()};
  // gRPC 1.51 insists on a CA here, even where no client is asked for a
  // certificate and so none is ever looked at.
  *config = grpc_ssl_server_certificate_config_create(
      pems_.client_ca.empty() ? pems_.cert.c_str() : pems_.client_ca.c_str(),
      &pair, 1);
  fetched_ = true;
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

}  // namespace qs
