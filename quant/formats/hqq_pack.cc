// Tested by tests/formats/hqq_format_test.cc.
//
// hqq splits the code rows into as many parts as a byte holds codes and puts
// part after part into it, the first highest. Rows are contiguous, so a part is
// one run of codes, and packing is a few plain loops over runs.
#include <algorithm>
#include <cstring>

#include "kernels/base/checked_math.h"
#include "quant/formats/hqq_format.h"
#include "quant/formats/hqq_names.h"

namespace qs {
namespace {

// Elements at a time: the parts of a run stay in a core's cache.
constexpr int64_t kRun = 4096;

// One byte of `kParts` codes of `kBits`, `part` codes apart.
template <int kBits, int kParts>
void PackParts(const uint8_t* codes, int64_t part, uint8_t* packed) {
  for (int64_t i = 0; i < part; ++i) {
    uint32_t byte = 0;
    for (int j = 0; j < kParts; ++j) {
      byte = byte << kBits | codes[i + j * part];
    }
    packed[i] = static_cast<uint8_t>(byte);
  }
}

template <int kBits, int kParts>
void UnpackParts(const uint8_t* packed, int64_t part, uint8_t* codes) {
  constexpr int kMask = (1 << kBits) - 1;
  for (int j = 0; j < kParts; ++j) {
    const int shift = kBits * (kParts - 1 - j);
    uint8_t* to = codes + j * part;
    for (int64_t i = 0; i < part; ++i) {
      to[i] = static_cast<uint8_t>(packed[i] >> shift & kMask);
    }
  }
}

// Words of ten codes; the last parts may be missing, as zeros.
void PackThree(const uint8_t* codes, int64_t count, int64_t part,
               uint32_t* words) {
  for (int64_t begin = 0; begin < part; begin += kRun) {
    const int64_t size = std::min(kRun, part - begin);
    uint32_t* to = words + begin;
    std::fill_n(to, size, 0u);
    for (int64_t j = 0; j < hqq::kThreeBitRows; ++j) {
      const int64_t first = begin + j * part;
      const int64_t some = std::clamp<int64_t>(count - first, 0, size);
      const uint8_t* from = codes + first;
      const auto shift = static_cast<int>(27 - 3 * j);
      for (int64_t i = 0; i < some; ++i) to[i] |= uint32_t{from[i]} << shift;
    }
  }
}

void UnpackThree(const uint32_t* words, int64_t count, int64_t part,
                 uint8_t* codes) {
  for (int64_t j = 0; j < hqq::kThreeBitRows; ++j) {
    const int64_t some = std::clamp<int64_t>(count - j * part, 0, part);
    const auto shift = static_cast<int>(27 - 3 * j);
    uint8_t* to = codes + j * part;
    for (int64_t i = 0; i < some; ++i) {
      to[i] = static_cast<uint8_t>(words[i] >> shift & 7);
    }
  }
}

int64_t ThreePart(const HqqLayout& layout) {
  return CeilDiv(layout.code_rows(), hqq::kThreeBitRows) * layout.code_cols();
}

}  // namespace

void PackHqqCodes(const HqqLayout& layout, const uint8_t* codes,
                  uint8_t* packed) {
  const int64_t count = layout.rows * layout.cols;
  switch (layout.bits) {
    case 1:
      return PackParts<1, 8>(codes, count / 8, packed);
    case 2:
      return PackParts<2, 4>(codes, count / 4, packed);
    case 3:
      return PackThree(codes, count, ThreePart(layout),
                       reinterpret_cast<uint32_t*>(packed));
    case 4:
      return PackParts<4, 2>(codes, count / 2, packed);
    default:
      std::memcpy(packed, codes, static_cast<size_t>(count));
  }
}

void UnpackHqqCodes(const HqqLayout& layout, const uint8_t* packed,
                    uint8_t* codes) {
  const int64_t count = layout.rows * layout.cols;
  switch (layout.bits) {
    case 1:
      return UnpackParts<1, 8>(packed, count / 8, codes);
    case 2:
      return UnpackParts<2, 4>(packed, count / 4, codes);
    case 3:
      return UnpackThree(reinterpret_cast<const uint32_t*>(packed), count,
                         ThreePart(layout), codes);
    case 4:
      return UnpackParts<4, 2>(packed, count / 2, codes);
    default:
      std::memcpy(codes, packed, static_cast<size_t>(count));
  }
}

}  // namespace qs
