// Seeded inputs for tests: weights of every awkward kind, in every dtype, at
// any alignment.
#ifndef QS_TESTS_TESTING_GENERATORS_H_
#define QS_TESTS_TESTING_GENERATORS_H_

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/tensor_view.h"

namespace qs {

enum class Kind {
  kGauss,  // N(0, 0.02)
  kWide,   // exponents from 2^-140 to 2^120
  kZero,   // +0 and -0
  kConstant,
  kSubnormal,
  kOneSigned,
  kOutlier,  // one large element in 100
  kBlocks,   // runs of 32 of all the others
};
constexpr Kind kAllKinds[] = {
    Kind::kGauss,     Kind::kWide,      Kind::kZero,    Kind::kConstant,
    Kind::kSubnormal, Kind::kOneSigned, Kind::kOutlier, Kind::kBlocks};
constexpr DType kWeightTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// One finite value. `i` is its index.
inline float MakeValue(Kind kind, int64_t i, std::mt19937_64& random) {
  std::normal_distribution<float> gauss(0.0f, 0.02f);
  const float g = gauss(random);
  switch (kind) {
    case Kind::kGauss:
      return g;
    case Kind::kWide:
      return std::ldexp(g * 40, static_cast<int>(random() % 260) - 140);
    case Kind::kZero:
      return random() % 2 == 0 ? 0.0f : -0.0f;
    case Kind::kConstant:
      return 0.37f;
    case Kind::kSubnormal:
      return g * 1e-37f;
    case Kind::kOneSigned:
      return 0.5f + std::fabs(g);
    case Kind::kOutlier:
      return random() % 100 == 0 ? g * 1000 : g;
    case Kind::kBlocks:
      return MakeValue(kAllKinds[static_cast<size_t>(i / 32) % 7], i, random);
  }
  return 0;
}

// Owns a tensor of `count` elements, `misalign` elements off its alignment.
class TestTensor {
 public:
  TestTensor(DType dtype, int64_t count, int64_t misalign = 0)
      : dtype_(dtype),
        count_(count),
        offset_(misalign * DTypeBytes(dtype)),
        bytes_(static_cast<size_t>(count * DTypeBytes(dtype) + offset_ + 64)) {}

  static TestTensor Make(DType dtype, int64_t count, Kind kind, uint64_t seed,
                         int64_t misalign = 0) {
    TestTensor tensor(dtype, count, misalign);
    std::mt19937_64 random(seed);
    for (int64_t i = 0; i < count; ++i) {
      StoreFromFloat(tensor.data(), dtype, i, MakeValue(kind, i, random));
      if (!std::isfinite(tensor.at(i))) {  // beyond F16
        StoreFromFloat(tensor.data(), dtype, i, 1.0f);
      }
    }
    return tensor;
  }

  void* data() { return bytes_.data() + offset_; }
  const void* data() const { return bytes_.data() + offset_; }
  float at(int64_t i) const { return LoadAsFloat(data(), dtype_, i); }
  TensorView View(int64_t rows = 1) const {
    return {data(), dtype_, rows, count_ / rows};
  }
  MutableTensorView MutableView(int64_t rows = 1) {
    return {data(), dtype_, rows, count_ / rows};
  }
  int64_t count() const { return count_; }
  std::vector<uint8_t> Bytes() const {
    const auto* begin = static_cast<const uint8_t*>(data());
    return {begin, begin + count_ * DTypeBytes(dtype_)};
  }

 private:
  DType dtype_;
  int64_t count_;
  int64_t offset_;
  std::vector<uint8_t> bytes_;
};

}  // namespace qs

#endif  // QS_TESTS_TESTING_GENERATORS_H_
