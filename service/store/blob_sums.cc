// Tested by tests/service/store/blob_store_test.cc.
#include "service/store/blob_sums.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "kernels/base/checked_math.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

constexpr std::string_view kMagic = "QSUM";
constexpr uint32_t kVersion = 1;
constexpr size_t kHead = 16;  // magic, version, size

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <typename T>
T Get(std::string_view text, size_t at) {
  T value;
  std::memcpy(&value, text.data() + at, sizeof(T));
  return value;
}

uint32_t CrcOf(std::string_view text) {
  return Crc32c({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

}  // namespace

absl::StatusOr<BlobSums> BlobSums::FromFile(std::string_view text) {
  const absl::Status damaged = absl::DataLossError("the sums are damaged");
  if (text.size() < kHead + 4 || text.substr(0, 4) != kMagic ||
      Get<uint32_t>(text, 4) != kVersion ||
      Get<uint32_t>(text, text.size() - 4) !=
          CrcOf(text.substr(0, text.size() - 4))) {
    return damaged;
  }
  BlobSums sums;
  sums.size_ = static_cast<int64_t>(Get<uint64_t>(text, 8));
  const size_t count = (text.size() - kHead - 4) / 4;
  if (sums.size_ < 0 || text.size() != kHead + 4 * count + 4 ||
      static_cast<int64_t>(count) != CeilDiv(sums.size_, kBlockBytes)) {
    return damaged;
  }
  for (size_t i = 0; i < count; ++i) {
    sums.sums_.push_back(Get<uint32_t>(text, kHead + 4 * i));
  }
  return sums;
}

std::string BlobSums::ToFile() const {
  std::string text(kMagic);
  Put(&text, kVersion);
  Put(&text, static_cast<uint64_t>(size_));
  for (const uint32_t sum : sums_) Put(&text, sum);
  Put(&text, CrcOf(text));
  return text;
}

void BlobSums::Append(std::span<const uint8_t> data) {
  while (!data.empty()) {
    const int64_t in_block = size_ % kBlockBytes;
    if (in_block == 0) sums_.push_back(0);
    const auto count =
        std::min(static_cast<size_t>(kBlockBytes - in_block), data.size());
    sums_.back() = ExtendCrc32c(sums_.back(), data.first(count));
    size_ += static_cast<int64_t>(count);
    data = data.subspan(count);
  }
}

int64_t BlobSums::BlockBytes(int64_t index) const {
  return std::min(kBlockBytes, size_ - index * kBlockBytes);
}

bool BlobSums::Matches(int64_t index, std::span<const uint8_t> data) const {
  return static_cast<int64_t>(data.size()) == BlockBytes(index) &&
         Crc32c(data) == sums_[static_cast<size_t>(index)];
}

}  // namespace qs
