// Tested by tests/service/tls_test.cc.
#include "service/server/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

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

absl::StatusOr<Certificate> ParseCertificate(const char* option,
                                             const std::string& path,
                                             const std::string& pem) {
  const Bio bio = OpenPem(pem);
  Certificate certificate(
      PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
  ERR_clear_error();
  if (certificate != nullptr) return certificate;
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": \"", path, "\" holds no PEM certificate"));
}

// gRPC itself reports a wrong pair only as failed handshakes.
absl::Status CheckPair(const ServerOptions& options, const std::string& cert,
                       const std::string& key_pem) {
  QS_ASSIGN_OR_RETURN(const Certificate certificate,
                      ParseCertificate("tls-cert", options.tls_cert, cert));
  const Bio bio = OpenPem(key_pem);
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

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const ServerOptions& options) {
  if (!options.tls()) return grpc::InsecureServerCredentials();
  QS_ASSIGN_OR_RETURN(const std::string cert,
                      ReadPem("tls-cert", options.tls_cert));
  QS_ASSIGN_OR_RETURN(const std::string key,
                      ReadPem("tls-key", options.tls_key));
  QS_RETURN_IF_ERROR(CheckPair(options, cert, key));
  grpc::SslServerCredentialsOptions ssl;
  if (!options.tls_client_ca.empty()) {
    QS_ASSIGN_OR_RETURN(ssl.pem_root_certs,
                        ReadPem("tls-client-ca", options.tls_client_ca));
    QS_RETURN_IF_ERROR(ParseCertificate("tls-client-ca", options.tls_client_ca,
                                        ssl.pem_root_certs)
                           .status());
    ssl.client_certificate_request =
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  }
  ssl.pem_key_cert_pairs.push_back({key, cert});
  return grpc::SslServerCredentials(ssl);
}

}  // namespace qs
