// Tested by tests/service/tensors/tensor_store_test.cc.
#include "service/base/random_id.h"

#include <openssl/rand.h>

#include <array>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace qs {

std::string RandomId() {
  std::array<unsigned char, 16> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    // OpenSSL was configured without a source; the kernel's own is as good.
    std::random_device device;
    for (unsigned char& byte : bytes) {
      byte = static_cast<unsigned char>(device());
    }
  }
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

}  // namespace qs
