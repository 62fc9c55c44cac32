// Cases of the NF4 family and how to run one: shared by the differential tests
// of the CPU targets and of the emulated CUDA kernels.
#ifndef QS_TESTS_TESTING_NF4_CASES_H_
#define QS_TESTS_TESTING_NF4_CASES_H_

#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/nf4_ops.h"
#include "kernels/nf4_verify_ops.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs {

struct Nf4Case {
  const TestTensor& weight;
  int64_t block_size;
  Codebook codebook;
  Nf4Rule rule;
  Nf4Search search;
  uint64_t seed;

  std::string Describe() const {
    std::ostringstream text;
    text << DTypeName(weight.View().dtype) << " n " << weight.count()
         << " block " << block_size << " codebook "
         << static_cast<int>(codebook) << " rule " << static_cast<int>(rule)
         << " search " << static_cast<int>(search) << " seed " << seed;
    return text.str();
  }
};

// Everything that the family computes for a case.
struct Nf4Result {
  int64_t first_non_finite = -1;
  std::vector<uint8_t> packed;
  std::vector<float> absmax;
  std::vector<uint8_t> decoded;
  std::vector<uint8_t> nested_codes;
  std::vector<float> nested_absmax;
  float offset = 0;
  std::vector<float> decoded_absmax;
  DType dtype = DType::kF32;

  // Bytes, so that -0 and +0 differ and NaN equals itself.
  bool operator==(const Nf4Result& o) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() &&
             (a.empty() ||
              std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return first_non_finite == o.first_non_finite && same(packed, o.packed) &&
           same(absmax, o.absmax) && same(decoded, o.decoded) &&
           same(nested_codes, o.nested_codes) &&
           same(nested_absmax, o.nested_absmax) &&
           std::memcmp(&offset, &o.offset, 4) == 0 &&
           same(decoded_absmax, o.decoded_absmax);
  }
  float DecodedAt(int64_t i) const {
    return LoadAsFloat(decoded.data(), dtype, i);
  }
};

// No code that an operation gives may be taken for a wrong one.
inline void CheckReadsBack(const Nf4Case& c, const std::vector<uint8_t>& packed,
                           const std::vector<float>& absmax) {
  Nf4VerifyArgs args = {c.weight.View(), c.block_size, c.codebook,
                        packed.data(), absmax.data()};
  REQUIRE(FindWrongNf4Code(args) == -1);
  if (c.search != Nf4Search::kNone) return;
  args.nested_rule = c.rule;
  REQUIRE(FindWrongNf4Code(args) == -1);
}

inline Nf4Result RunNf4(Nf4Ops& ops, const Nf4Case& c) {
  Stream stream;
  const int64_t n = c.weight.count();
  const int64_t blocks = CeilDiv(n, c.block_size);
  Nf4Result r;
  r.dtype = c.weight.View().dtype;
  r.packed.assign(static_cast<size_t>((n + 1) / 2), 0xff);
  r.absmax.resize(static_cast<size_t>(blocks));
  REQUIRE(
      ops.Encode({c.weight.View(), c.block_size, c.codebook, c.rule, c.search,
                  r.packed.data(), r.absmax.data(), &r.first_non_finite},
                 stream)
          .ok());
  r.decoded.resize(static_cast<size_t>(n * DTypeBytes(r.dtype)));
  REQUIRE(ops.Decode({r.packed.data(),
                      r.absmax.data(),
                      c.block_size,
                      c.codebook,
                      {r.decoded.data(), r.dtype, 1, n}},
                     stream)
              .ok());
  if (r.first_non_finite >= 0) return r;
  CheckReadsBack(c, r.packed, r.absmax);
  r.nested_codes.resize(r.absmax.size());
  r.nested_absmax.resize(
      static_cast<size_t>(CeilDiv(blocks, kNestedBlockSize)));
  REQUIRE(
      ops.NestedEncode({r.absmax.data(), blocks, c.rule, r.nested_codes.data(),
                        r.nested_absmax.data(), &r.offset},
                       stream)
          .ok());
  r.decoded_absmax.resize(r.absmax.size());
  REQUIRE(ops.NestedDecode({r.nested_codes.data(), r.nested_absmax.data(),
                            &r.offset, blocks, r.decoded_absmax.data()},
                           stream)
              .ok());
  return r;
}

// Weights of which -T * absmax are some, where T is FP4's threshold beside its
// smallest level: kCuda gives it that level, the midpoints give it the next
// one. Equally far in F32, they are not in BF16; many are blocks that only one
// of the two errors leaves to the search.
inline TestTensor WeightsAtFp4Tie(int64_t count) {
  TestTensor weight(DType::kBF16, count);
  const float* levels = CodebookLevels(Codebook::kFp4);
  std::mt19937_64 random(11);
  for (int64_t i = 0; i < count; ++i) {
    float w = random() % 24 == 0 ? -0.0859375f : levels[random() % 16];
    if (i % 64 == 0) w = 1.0f;
    StoreFromFloat(weight.data(), DType::kBF16, i, w);
  }
  return weight;
}

// Calls `body` for a few hundred cases: every kind, dtype, codebook, rule and
// search, with counts around block and vector borders.
template <class Body>
void ForNf4Cases(const Body& body) {
  struct Shape {
    int64_t count, block_size;
  };
  const Shape shapes[] = {{1, 64},    {31, 32},    {32, 32},
                          {65, 64},   {127, 128},  {1027, 64},
                          {4096, 64}, {2080, 512}, {4096, 4096}};
  uint64_t seed = 100;
  for (const Shape& shape : shapes) {
    for (Kind kind : kAllKinds) {
      for (DType dtype : kWeightTypes) {
        ++seed;
        const TestTensor weight = TestTensor::Make(
            dtype, shape.count, kind, seed, static_cast<int64_t>(seed % 3));
        for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
          for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
            const Nf4Search search =
                seed % 2 == 0 ? Nf4Search::kNone : Nf4Search::kBestScale;
            body(Nf4Case{weight, shape.block_size, codebook, rule, search,
                         seed});
            body(Nf4Case{weight, shape.block_size, codebook, rule,
                         search == Nf4Search::kNone ? Nf4Search::kBestScale
                                                    : Nf4Search::kNone,
                         seed});
          }
        }
      }
    }
  }
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_NF4_CASES_H_
