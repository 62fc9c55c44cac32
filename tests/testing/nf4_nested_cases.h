// Cases of NestedRefine and how to run one: shared by the differential tests of
// the CPU targets, of the emulated CUDA kernels and of devices.
#ifndef QS_TESTS_TESTING_NF4_NESTED_CASES_H_
#define QS_TESTS_TESTING_NF4_NESTED_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/nf4_ops.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs::nf4_nested_cases {

// How the blocks of a tensor differ.
enum class Spread {
  kNone,    // as the kind has it
  kHeavy,   // sizes log-normal, and one in 300 a hundred times as large
  kZeros,   // the same, and every seventh block zero
  kTiny,    // around 2^-100, where the search ends, and below
  kHuge,    // around 2^100
  kNarrow,  // all blocks have one absmax
};
constexpr Spread kSpreads[] = {Spread::kNone, Spread::kHeavy, Spread::kZeros,
                               Spread::kTiny, Spread::kHuge,  Spread::kNarrow};

struct Case {
  DType dtype;
  int64_t count;
  int64_t block_size;
  Kind kind;
  Spread spread;
  Codebook codebook;
  Nf4Rule rule;
  uint64_t seed;

  std::string Describe() const {
    std::ostringstream text;
    text << DTypeName(dtype) << " n " << count << " block " << block_size
         << " kind " << static_cast<int>(kind) << " spread "
         << static_cast<int>(spread) << " codebook "
         << static_cast<int>(codebook) << " rule " << static_cast<int>(rule)
         << " seed " << seed;
    return text.str();
  }
};

inline float ScaleOf(Spread spread, int64_t block, std::mt19937_64& random) {
  std::normal_distribution<float> normal(0.0f, 1.5f);
  const float heavy =
      std::exp(normal(random)) * (block % 300 == 7 ? 100.0f : 1.0f);
  switch (spread) {
    case Spread::kNone:
    case Spread::kNarrow:
      return 1.0f;
    case Spread::kHeavy:
      return heavy;
    case Spread::kZeros:
      return block % 7 == 3 ? 0.0f : heavy;
    case Spread::kTiny:
      return std::ldexp(heavy, -85 - static_cast<int>(random() % 40));
    case Spread::kHuge:
      return std::ldexp(heavy, 100 + static_cast<int>(random() % 8));
  }
  return 1.0f;
}

inline TestTensor MakeWeight(const Case& c) {
  TestTensor weight = TestTensor::Make(c.dtype, c.count, c.kind, c.seed);
  std::mt19937_64 random(c.seed + 1);
  float scale = 1.0f;
  for (int64_t i = 0; i < c.count; ++i) {
    if (i % c.block_size == 0) {
      scale = ScaleOf(c.spread, i / c.block_size, random);
    }
    float w = weight.at(i) * scale;
    if (c.spread == Spread::kNarrow && i % c.block_size == 0) w = 0.125f;
    if (c.spread == Spread::kNarrow) w = std::clamp(w, -0.125f, 0.125f);
    const float before = weight.at(i);
    StoreFromFloat(weight.data(), c.dtype, i, w);
    if (!std::isfinite(weight.at(i))) {
      StoreFromFloat(weight.data(), c.dtype, i, before);
    }
  }
  return weight;
}

// REFERENCE with double quantization, or what NestedRefine makes of it.
struct Nested {
  std::vector<uint8_t> packed;
  std::vector<float> absmax;  // decoded, or kNone's before that
  std::vector<uint8_t> codes;
  std::vector<float> nested_absmax;
  float offset = 0;
  std::vector<float> coded_by;

  bool operator==(const Nested& o) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() &&
             (a.empty() ||
              std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(packed, o.packed) && same(absmax, o.absmax) &&
           same(codes, o.codes) && same(coded_by, o.coded_by);
  }
};

// kNone's codes and absmax, and the coding of that.
inline Nested EncodeNone(Nf4Ops& ops, const Case& c, const TestTensor& weight) {
  Stream stream;
  const int64_t blocks = CeilDiv(c.count, c.block_size);
  Nested r;
  r.packed.assign(static_cast<size_t>((c.count + 1) / 2), 0xff);
  r.absmax.resize(static_cast<size_t>(blocks));
  r.codes.resize(r.absmax.size());
  r.coded_by.resize(r.absmax.size());
  r.nested_absmax.resize(
      static_cast<size_t>(CeilDiv(blocks, kNestedBlockSize)));
  int64_t non_finite = -1;
  REQUIRE(ops.Encode({weight.View(), c.block_size, c.codebook, c.rule,
                      Nf4Search::kNone, r.packed.data(), r.absmax.data(),
                      &non_finite},
                     stream)
              .ok());
  REQUIRE(non_finite == -1);
  REQUIRE(ops.NestedEncode({r.absmax.data(), blocks, c.rule, r.codes.data(),
                            r.nested_absmax.data(), &r.offset},
                           stream)
              .ok());
  return r;
}

// Refines blocks [first, last), whose elements begin at a whole byte.
inline void Refine(Nf4Ops& ops, const Case& c, const TestTensor& weight,
                   int64_t first, int64_t last, Nested* r) {
  Stream stream;
  const int64_t begin = first * c.block_size;
  const int64_t end = std::min(c.count, last * c.block_size);
  NestedRefineArgs args;
  args.weight = {
      static_cast<const uint8_t*>(weight.data()) + begin * DTypeBytes(c.dtype),
      c.dtype, 1, end - begin};
  args.block_size = c.block_size;
  args.codebook = c.codebook;
  args.first_block = first % kNestedBlockSize;
  args.nested_absmax = r->nested_absmax.data() + first / kNestedBlockSize;
  args.offset = &r->offset;
  args.codes = r->codes.data() + first;
  args.absmax = r->absmax.data() + first;
  args.packed = r->packed.data() + begin / 2;
  args.coded_by = r->coded_by.data() + first;
  REQUIRE(ops.NestedRefine(args, stream).ok());
}

inline Nested RefineAll(Nf4Ops& ops, const Case& c, const TestTensor& weight,
                        const Nested& none) {
  Nested r = none;
  Refine(ops, c, weight, 0, CeilDiv(c.count, c.block_size), &r);
  return r;
}

// A few hundred: every kind, spread, dtype, codebook and rule, with counts
// around block, batch and run borders.
template <class Body>
void ForCases(const Body& body) {
  struct Shape {
    int64_t count, block_size;
  };
  const Shape shapes[] = {{1, 64},     {31, 32},     {1027, 64},  {9000, 32},
                          {2080, 512}, {4096, 4096}, {9001, 4096}};
  uint64_t seed = 300;
  for (const Shape& shape : shapes) {
    for (const Kind kind : {Kind::kGauss, Kind::kOutlier, Kind::kBlocks}) {
      for (const Spread spread : kSpreads) {
        for (const DType dtype : kWeightTypes) {
          ++seed;
          body(Case{dtype, shape.count, shape.block_size, kind, spread,
                    seed % 2 == 0 ? Codebook::kNf4 : Codebook::kFp4,
                    seed / 2 % 2 == 0 ? Nf4Rule::kCuda : Nf4Rule::kCpu, seed});
        }
      }
    }
  }
}

}  // namespace qs::nf4_nested_cases

#endif  // QS_TESTS_TESTING_NF4_NESTED_CASES_H_
