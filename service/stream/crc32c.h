// CRC32C (Castagnoli) of chunk and frame data, at memory speed.
//
// The usual convention: initial value and final xor 0xffffffff, so that
// "123456789" gives 0xe3069283 and the empty string 0.
// Thread: pure functions.
#ifndef QS_SERVICE_STREAM_CRC32C_H_
#define QS_SERVICE_STREAM_CRC32C_H_

#include <cstdint>
#include <span>

namespace qs {

// The CRC of A followed by `data`, where `crc` is the CRC of A.
uint32_t ExtendCrc32c(uint32_t crc, std::span<const uint8_t> data);

inline uint32_t Crc32c(std::span<const uint8_t> data) {
  return ExtendCrc32c(0, data);
}

}  // namespace qs

#endif  // QS_SERVICE_STREAM_CRC32C_H_
