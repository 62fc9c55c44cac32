// Cases of the packings that one file format each has and how to run one: for
// differential tests of any implementation against the reference.
#ifndef QS_TESTS_TESTING_PACK_CASES_H_
#define QS_TESTS_TESTING_PACK_CASES_H_

#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/affine_ops.h"
#include "tests/testing/catch_compat.h"

namespace qs {

template <class T>
std::vector<T> RandomBits(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = static_cast<T>(random());
  return values;
}

struct AwqPackCase {
  int64_t rows;
  int64_t cols;
  int64_t stride;

  int64_t words() const { return (cols - 1) * stride + rows / 8; }
  std::string Describe() const {
    std::ostringstream text;
    text << "[" << rows << ", " << cols << "] stride " << stride;
    return text.str();
  }
};

struct AwqPackResult {
  std::vector<uint32_t> words;    // of bytes of any value
  std::vector<uint8_t> unpacked;  // of words of any value
  bool operator==(const AwqPackResult&) const = default;
};

inline AwqPackResult RunAwqPacking(AffineOps& ops, const AwqPackCase& c) {
  Stream stream;
  AwqPackResult r;
  const auto codes = RandomBits<uint8_t>(c.rows * c.cols, 1);
  const auto words = RandomBits<uint32_t>(c.words(), 2);
  r.words.assign(words.size(), 0xdeadbeefu);
  REQUIRE(ops.PackAwq({codes.data(), c.rows, c.cols, r.words.data(), c.stride},
                      stream)
              .ok());
  r.unpacked.assign(codes.size(), 0xee);
  REQUIRE(
      ops.UnpackAwq({words.data(), c.rows, c.cols, c.stride, r.unpacked.data()},
                    stream)
          .ok());
  return r;
}

// Lengths around those of vectors, blocks and tiles.
template <class Body>
void ForAwqPackCases(const Body& body) {
  for (const int64_t rows : {8, 24, 32, 64, 128, 136, 256, 264}) {
    for (const int64_t cols : {1, 2, 3, 4, 7, 33, 64, 127, 128, 129, 260}) {
      body(AwqPackCase{rows, cols, rows / 8});
      body(AwqPackCase{rows, cols, rows / 8 + 3});
    }
  }
}

struct PartsCase {
  int bits;
  int64_t part;
  int64_t count;

  std::string Describe() const {
    std::ostringstream text;
    text << bits << " bits, " << count << " codes in parts of " << part;
    return text.str();
  }
};

struct PartsResult {
  std::vector<uint8_t> packed;    // of bytes of any value
  std::vector<uint8_t> unpacked;  // of elements of any value
  bool operator==(const PartsResult&) const = default;
};

inline PartsResult RunPartsPacking(AffineOps& ops, const PartsCase& c) {
  Stream stream;
  PartsResult r;
  const auto codes = RandomBits<uint8_t>(c.count, 3);
  // Words, so that they are aligned.
  std::vector<uint32_t> packed(static_cast<size_t>(c.part), 0xdeadbeefu);
  const auto bytes = static_cast<size_t>(c.part * PackedPartBytes(c.bits));
  REQUIRE(ops.PackParts({codes.data(), c.count, c.bits, c.part, packed.data()},
                        stream)
              .ok());
  const auto* begin = reinterpret_cast<const uint8_t*>(packed.data());
  r.packed.assign(begin, begin + bytes);
  const auto elements = RandomBits<uint32_t>(c.part, 4);
  r.unpacked.assign(codes.size(), 0xee);
  REQUIRE(ops.UnpackParts(
                 {elements.data(), c.count, c.bits, c.part, r.unpacked.data()},
                 stream)
              .ok());
  return r;
}

// Every width, whole and with codes that the last parts lack.
template <class Body>
void ForPartsCases(const Body& body) {
  for (const int bits : {8, 4, 3, 2, 1}) {
    for (const int64_t part :
         {1, 2, 3, 4, 5, 15, 16, 17, 48, 64, 65, 100, 144, 1000}) {
      const int64_t all = part * PackedParts(bits);
      for (const int64_t missing :
           {int64_t{0}, int64_t{1}, int64_t{4}, int64_t{16}, part,
            part + part / 2, 2 * part, all - 1, all}) {
        if (missing <= all) body(PartsCase{bits, part, all - missing});
      }
    }
  }
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_PACK_CASES_H_
