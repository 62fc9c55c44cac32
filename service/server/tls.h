// TLS from PEM files, checked before the first connection, and taken anew when
// they change while the server runs.
//
// gRPC 1.51's C++ credentials either never change (SslServerCredentials) or
// watch files themselves (experimental TlsServerCredentials), and then fail
// every handshake while a certificate is there without its key. Its C API asks
// a callback at each handshake instead: these credentials answer with the last
// files that were good together.
#ifndef QS_SERVICE_SERVER_TLS_H_
#define QS_SERVICE_SERVER_TLS_H_

#include <grpc/grpc_security.h>
#include <grpcpp/security/server_credentials.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/server/options.h"

namespace qs {

// The texts of the files. Errors of reading them: INVALID_ARGUMENT — a file
// cannot be read, is no PEM of its kind, or certificate and key do not belong
// together.
struct TlsPems {
  std::string cert;
  std::string key;
  std::string client_ca;  // empty: clients show no certificate
  int64_t not_after = 0;  // of the certificate, Unix seconds
  bool operator==(const TlsPems&) const = default;
};

// Thread: thread-safe.
class TlsFiles {
 public:
  // REQUIRES: options.tls(). Errors: those of TlsPems.
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Open(
      const ServerOptions& options);

  // For one listening port; this must outlive the gRPC server. New connections
  // get the files of the last Reload, those that are open go on.
  std::shared_ptr<grpc::ServerCredentials> NewCredentials();

  std::vector<std::string> paths() const;
  // When the certificate in use ends, Unix seconds.
  int64_t not_after() const;
  // Takes the files as they are now. On an error those before stay; both are
  // logged, an error that repeats once. False: they could not be taken.
  bool Reload();

 private:
  explicit TlsFiles(const ServerOptions& options) : options_(options) {}
  absl::StatusOr<TlsPems> Load() const;
  // What gRPC calls at each handshake.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* files, grpc_ssl_server_certificate_config** config);
  grpc_ssl_certificate_config_reload_status GiveConfig(
      grpc_ssl_server_certificate_config** config);

  const ServerOptions options_;
  mutable absl::Mutex mutex_;
  TlsPems pems_ ABSL_GUARDED_BY(mutex_);
  bool fetched_ ABSL_GUARDED_BY(mutex_) = false;  // gRPC has `pems_`
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_TLS_H_
