// Sha256: the running digest of a stream's frame data.
//
// About 2 GB/s on one core: for worker threads, never for a reaction.
// Thread: thread-compatible.
#ifndef QS_SERVICE_STREAM_DIGEST_H_
#define QS_SERVICE_STREAM_DIGEST_H_

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace qs {

class Sha256 {
 public:
  Sha256();

  void Update(std::span<const uint8_t> data);
  // "sha256:<hex>" of everything so far. Ends the digest: call it once.
  // Empty when OpenSSL refused (no memory, or SHA-256 is disabled in its
  // configuration).
  std::string Finish();

 private:
  struct Deleter {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Deleter> context_;
  bool ok_ = false;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_DIGEST_H_
