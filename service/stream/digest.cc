// Tested by tests/service/crc32c_test.cc.
#include "service/stream/digest.h"

#include <array>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace qs {

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  ok_ = context_ != nullptr &&
        EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
}

void Sha256::Update(std::span<const uint8_t> data) {
  ok_ = ok_ && EVP_DigestUpdate(context_.get(), data.data(), data.size()) == 1;
}

std::string Sha256::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  ok_ = ok_ && EVP_DigestFinal_ex(context_.get(), digest.data(), &size) == 1;
  if (!ok_) return "";
  ok_ = false;
  return absl::StrCat("sha256:",
                      absl::BytesToHexString(absl::string_view(
                          reinterpret_cast<const char*>(digest.data()), size)));
}

}  // namespace qs
