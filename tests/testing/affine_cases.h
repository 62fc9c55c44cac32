// Cases of the affine family and how to run one: for differential tests of any
// implementation against the reference.
#ifndef QS_TESTS_TESTING_AFFINE_CASES_H_
#define QS_TESTS_TESTING_AFFINE_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/affine_ops.h"
#include "kernels/base/checked_math.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs {

struct AffineCase {
  const TestTensor& weight;
  int64_t rows;
  int64_t group_size;
  int bits;
  bool symmetric;
  AffineSearch search;
  uint64_t seed;

  int64_t cols() const { return weight.count() / rows; }
  std::string Describe() const {
    std::ostringstream text;
    text << DTypeName(weight.View().dtype) << " [" << rows << ", " << cols()
         << "] group " << group_size << " bits " << bits
         << (symmetric ? " symmetric" : " asymmetric") << " search "
         << static_cast<int>(search) << " seed " << seed;
    return text.str();
  }
};

// Everything that the family computes for a case.
struct AffineResult {
  int64_t first_non_finite = -1;
  DType dtype = DType::kF32;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;  // bytes
  std::vector<uint8_t> zero_points;
  std::vector<uint8_t> decoded;  // bytes
  std::vector<uint32_t> words;
  std::vector<uint8_t> unpacked;
  std::vector<uint32_t> column_words;  // of the codes
  std::vector<uint8_t> column_unpacked;

  bool operator==(const AffineResult&) const = default;

  float ScaleAt(int64_t g) const {
    return LoadAsFloat(scales.data(), dtype, g);
  }
  float DecodedAt(int64_t i) const {
    return LoadAsFloat(decoded.data(), dtype, i);
  }
};

// Codes to words and back, along rows and along columns.
inline void RunPacking(AffineOps& ops, int64_t rows, int64_t cols, int bits,
                       AffineResult* r) {
  Stream stream;
  r->words.assign(static_cast<size_t>(rows * CeilDiv(cols * bits, 32)),
                  0xdeadbeefu);
  REQUIRE(
      ops.PackRows({r->codes.data(), rows, cols, bits, r->words.data()}, stream)
          .ok());
  r->unpacked.assign(r->codes.size(), 0xee);
  REQUIRE(
      ops.UnpackRows({r->words.data(), rows, cols, bits, r->unpacked.data()},
                     stream)
          .ok());
  r->column_words.assign(static_cast<size_t>(CeilDiv(rows * bits, 32) * cols),
                         0xdeadbeefu);
  REQUIRE(ops.PackColumns(
                 {r->codes.data(), rows, cols, bits, r->column_words.data()},
                 stream)
              .ok());
  r->column_unpacked.assign(r->codes.size(), 0xee);
  REQUIRE(ops.UnpackColumns({r->column_words.data(), rows, cols, bits,
                             r->column_unpacked.data()},
                            stream)
              .ok());
}

inline AffineResult RunAffine(AffineOps& ops, const AffineCase& c) {
  Stream stream;
  AffineResult r;
  r.dtype = c.weight.View().dtype;
  const auto n = static_cast<size_t>(c.weight.count());
  const auto groups = n / static_cast<size_t>(c.group_size);
  const auto element = static_cast<size_t>(DTypeBytes(r.dtype));
  r.codes.assign(n, 0xee);
  r.scales.assign(groups * element, 0xee);
  if (!c.symmetric) r.zero_points.assign(groups, 0xee);
  uint8_t* zero_points = c.symmetric ? nullptr : r.zero_points.data();
  REQUIRE(ops.Encode({c.weight.View(c.rows), c.bits, c.group_size, c.symmetric,
                      c.search, r.codes.data(), r.scales.data(), zero_points,
                      &r.first_non_finite},
                     stream)
              .ok());
  if (r.first_non_finite >= 0) return r;
  r.decoded.assign(n * element, 0xee);
  REQUIRE(ops.Decode({r.codes.data(),
                      r.scales.data(),
                      zero_points,
                      c.bits,
                      c.group_size,
                      {r.decoded.data(), r.dtype, c.rows, c.cols()}},
                     stream)
              .ok());
  RunPacking(ops, c.rows, c.cols(), c.bits, &r);
  return r;
}

// F16 weights of which every group has some so near the end of the type that a
// code beside the nearest may decode beyond it: spread, one alone, all of them,
// or a wide normal distribution, by turns of a group.
inline TestTensor NearTheEndOfF16(int64_t groups, int64_t group_size,
                                  uint64_t seed) {
  constexpr float kEnd = 65504.0f;
  TestTensor weight(DType::kF16, groups * group_size);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < weight.count(); ++i) {
    const int64_t group = i / group_size;
    const float u = uniform(random);
    const float w = group % 4 == 0   ? u * kEnd
                    : group % 4 == 1 ? normal(random)
                    : group % 4 == 2
                        ? std::copysign(kEnd - 12000 * std::fabs(u), u)
                        : normal(random) * 20000;
    const bool first = i % group_size == 0;
    const float end = kEnd - 32.0f * static_cast<float>(group / 4 % 100);
    StoreFromFloat(weight.data(), DType::kF16, i,
                   first ? std::copysign(end, u) : std::clamp(w, -kEnd, kEnd));
  }
  return weight;
}

// Calls `body` for some hundred cases: every kind, dtype, width, both grids and
// searches, with groups around vector borders and rows that end in a word.
template <class Body>
void ForAffineCases(const Body& body) {
  struct Shape {
    int64_t rows, cols, group_size;
  };
  const Shape shapes[] = {{1, 1, 1},     {3, 7, 7},       {2, 32, 16},
                          {33, 64, 32},  {5, 130, 65},    {2, 256, 128},
                          {9, 100, 100}, {1, 5000, 5000}, {31, 96, 48}};
  uint64_t seed = 300;
  for (const Shape& shape : shapes) {
    for (Kind kind : kAllKinds) {
      for (DType dtype : kWeightTypes) {
        ++seed;
        const TestTensor weight =
            TestTensor::Make(dtype, shape.rows * shape.cols, kind, seed,
                             static_cast<int64_t>(seed % 3));
        for (int i = 0; i < 4; ++i) {
          const int bits = 2 + static_cast<int>((seed + 2 * i) % 7);
          for (bool symmetric : {true, false}) {
            body(AffineCase{
                weight, shape.rows, shape.group_size, bits, symmetric,
                i % 2 == 0 ? AffineSearch::kMinMax : AffineSearch::kBestRange,
                seed});
          }
        }
      }
    }
  }
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_AFFINE_CASES_H_
