// Cases of nested absmax and how to run one: shared by the differential tests
// of the CPU targets and of the emulated CUDA kernels.
#ifndef QS_TESTS_TESTING_NESTED_CASES_H_
#define QS_TESTS_TESTING_NESTED_CASES_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/nf4_ops.h"
#include "kernels/nf4_tables.h"
#include "tests/testing/catch_compat.h"

namespace qs {

struct NestedResult {
  std::vector<uint8_t> codes;
  std::vector<float> nested_absmax;
  float offset = 0;
  std::vector<float> decoded;

  bool operator==(const NestedResult&) const = default;
};

// The nested coding alone, there and back, of absmax values of the caller's.
inline NestedResult RunNested(Nf4Ops& ops, const std::vector<float>& absmax,
                              Nf4Rule rule) {
  Stream stream;
  const auto blocks = static_cast<int64_t>(absmax.size());
  NestedResult r;
  r.codes.resize(absmax.size());
  r.nested_absmax.resize(
      static_cast<size_t>(CeilDiv(blocks, kNestedBlockSize)));
  r.decoded.resize(absmax.size());
  REQUIRE(ops.NestedEncode({absmax.data(), blocks, rule, r.codes.data(),
                            r.nested_absmax.data(), &r.offset},
                           stream)
              .ok());
  REQUIRE(ops.NestedDecode({r.codes.data(), r.nested_absmax.data(), &r.offset,
                            blocks, r.decoded.data()},
                           stream)
              .ok());
  return r;
}

// Absmax values as blocks of weights have them, and some odd ones.
inline std::vector<float> AbsmaxValues(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> gauss(0.05f, 0.01f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) {
    v = std::fabs(gauss(random));
    if (random() % 50 == 0) v *= 20;
    if (random() % 200 == 0) v = 0;
  }
  return values;
}

// Blocks of 256 in which every midpoint of the map, its neighbours, and their
// negatives are found: pairs +x, -x make the mean 0, and 1 is the largest, so
// that d / m2 is x itself.
inline std::vector<std::vector<float>> MidpointBlocks() {
  std::vector<float> values;
  for (float h : NestedMidpoints()) {
    for (float x : {std::nextafter(h, -2.0f), h, std::nextafter(h, 2.0f)}) {
      values.push_back(x);
      values.push_back(-x);
    }
  }
  std::vector<std::vector<float>> blocks;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 254 == 0) blocks.push_back({1.0f, -1.0f});
    blocks.back().push_back(values[i]);
  }
  return blocks;
}

// Calls body(absmax, rule) for counts around every border, special values and
// all midpoints.
template <class Body>
void ForNestedCases(const Body& body) {
  std::vector<int64_t> counts = {127, 128,  255,  256,  257,  511,       512,
                                 513, 8191, 8192, 8193, 8705, 16384 + 77};
  for (int64_t count = 1; count <= 66; ++count) counts.push_back(count);
  for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
    for (int64_t count : counts) {
      body(AbsmaxValues(count, static_cast<uint64_t>(count)), rule);
    }
    for (const std::vector<float>& values :
         {std::vector<float>(300, 0.25f), std::vector<float>(256, 0.0f),
          std::vector<float>{1e-38f, 2e-38f, 1e-39f, 0.0f, 3e-45f},
          std::vector<float>{1e-39f, 3e-39f, 2e-39f},  // d of 0, 1 / m2 of inf
          std::vector<float>{1e30f, 2e30f, 1e-30f, 0.0f},
          // 1 / m2 is not normal
          std::vector<float>{3e38f, 0.05f, 0.04f, 0.06f, 0.0f, 1e37f}}) {
      body(values, rule);
    }
    for (const std::vector<float>& block : MidpointBlocks()) body(block, rule);
  }
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_NESTED_CASES_H_
