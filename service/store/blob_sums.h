// BlobSums: the CRC32C of each MiB of a blob, so that a part of it can be read
// and checked without the rest.
//
// As a file: "QSUM", the version (u32 1), the blob's size (u64), the sums (u32
// each), the CRC32C of all that; little-endian.
// Thread: thread-compatible.
#ifndef QS_SERVICE_STORE_BLOB_SUMS_H_
#define QS_SERVICE_STORE_BLOB_SUMS_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qs {

class BlobSums {
 public:
  static constexpr int64_t kBlockBytes = int64_t{1} << 20;

  // Errors: DATA_LOSS — not what ToFile wrote.
  static absl::StatusOr<BlobSums> FromFile(std::string_view text);
  std::string ToFile() const;

  // The next bytes of the blob.
  void Append(std::span<const uint8_t> data);
  int64_t size() const { return size_; }
  // Whether `data` is block `index`, whole.
  bool Matches(int64_t index, std::span<const uint8_t> data) const;
  // Of block `index`.
  int64_t BlockBytes(int64_t index) const;

 private:
  int64_t size_ = 0;
  std::vector<uint32_t> sums_;  // the last one of what is there
};

}  // namespace qs

#endif  // QS_SERVICE_STORE_BLOB_SUMS_H_
