// Tested by tests/service/crc32c_test.cc.
#include "service/stream/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace qs {

uint32_t ExtendCrc32c(uint32_t crc, std::span<const uint8_t> data) {
  // ISA-L applies neither the initial value nor the final xor itself, counts
  // in int, and takes a pointer to non-const that it only reads.
  constexpr size_t kMaxPiece = size_t{1} << 30;
  uint32_t state = ~crc;
  while (!data.empty()) {
    const size_t n = std::min(data.size(), kMaxPiece);
    state = crc32_iscsi(const_cast<uint8_t*>(data.data()), static_cast<int>(n),
                        state);
    data = data.subspan(n);
  }
  return ~state;
}

}  // namespace qs
