// The reference itself against values worked by hand, and the corners where it
// says more than compressed-tensors does.
#include <bit>
#include <cmath>

#include "kernels/backend.h"
#include "tests/testing/affine_cases.h"

namespace qs {
namespace {

TestTensor Tensor(DType dtype, const std::vector<float>& values) {
  TestTensor tensor(dtype, static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    StoreFromFloat(tensor.data(), dtype, static_cast<int64_t>(i), values[i]);
  }
  return tensor;
}

// One group of all values.
AffineResult Encode(const TestTensor& weight, int bits, bool symmetric,
                    AffineSearch search = AffineSearch::kMinMax) {
  const auto backend = NewReferenceBackend();
  return RunAffine(backend->affine(),
                   {weight, 1, weight.count(), bits, symmetric, search, 0});
}

TEST_CASE("symmetric codes and every tie of 2 bits") {
  // absmax 1.5, scale 1.5 / 1.5 = 1; ties go to the even signed code.
  const AffineResult r =
      Encode(Tensor(DType::kF32, {-1.5f, -1, -0.5f, -0.0f, 0, 0.5f, 1, 1.5f}),
             2, true);
  CHECK(r.ScaleAt(0) == 1.0f);
  CHECK(r.codes == std::vector<uint8_t>{0, 1, 2, 2, 2, 2, 3, 3});
  CHECK(r.DecodedAt(0) == -2.0f);
  CHECK(r.DecodedAt(7) == 1.0f);
}

TEST_CASE("asymmetric codes") {
  // Range [-1, 14], scale 1, signed zero point -8 + 1 = -7, unsigned 1.
  const AffineResult r =
      Encode(Tensor(DType::kF32, {-1, 0, 0.5f, 1.5f, 13.5f, 14}), 4, false);
  CHECK(r.ScaleAt(0) == 1.0f);
  CHECK(r.zero_points == std::vector<uint8_t>{1});
  // 0.5 - 7 = -6.5 rounds to -6, 1.5 - 7 = -5.5 to -6, 13.5 - 7 = 6.5 to 6.
  CHECK(r.codes == std::vector<uint8_t>{0, 1, 2, 2, 14, 15});
  CHECK(r.DecodedAt(5) == 14.0f);
}

TEST_CASE("BF16 arithmetic rounds after every operation") {
  // absmax 1: 1 / 7.5 = 0.13333 rounds to 0x3e09 = 0.1337890625 in BF16;
  // 0.3359375 / 0.1337890625 = 2.51095 rounds to 2.515625, code 3; and
  // 0.333984375 / 0.1337890625 = 2.49635 rounds to 2.5, a tie: code 2.
  const AffineResult r =
      Encode(Tensor(DType::kBF16, {1.0f, 0.3359375f, 0.333984375f}), 4, true);
  CHECK(r.ScaleAt(0) == 0.1337890625f);
  CHECK(r.codes == std::vector<uint8_t>{15, 11, 10});
}

TEST_CASE("a scale of zero becomes the dtype's epsilon") {
  for (const auto& [dtype, epsilon] :
       {std::pair{DType::kF32, 0x1p-23f}, std::pair{DType::kF16, 0x1p-10f},
        std::pair{DType::kBF16, 0x1p-7f}}) {
    for (AffineSearch search :
         {AffineSearch::kMinMax, AffineSearch::kBestRange}) {
      AffineResult r = Encode(Tensor(dtype, {0, -0.0f, 0}), 4, true, search);
      CHECK(r.ScaleAt(0) == epsilon);
      CHECK(r.codes == std::vector<uint8_t>{8, 8, 8});
      CHECK(std::signbit(r.DecodedAt(1)) == false);
      r = Encode(Tensor(dtype, {0, -0.0f, 0}), 4, false, search);
      CHECK(r.ScaleAt(0) == epsilon);
      CHECK(r.zero_points[0] == 8);
      CHECK(r.codes == std::vector<uint8_t>{8, 8, 8});
    }
  }
  // The smallest subnormals: 2^-24 / 7.5 is zero in F16.
  CHECK(Encode(Tensor(DType::kF16, {0x1p-24f}), 4, true).ScaleAt(0) ==
        0x1p-10f);
  const AffineResult tiny =
      Encode(Tensor(DType::kF16, {0, -0x1p-24f}), 4, false);
  CHECK(tiny.ScaleAt(0) == 0x1p-10f);
  CHECK(tiny.zero_points[0] == 15);
  CHECK(tiny.codes == std::vector<uint8_t>{15, 15});
}

TEST_CASE("groups of one sign have a zero point at the border") {
  CHECK(Encode(Tensor(DType::kF32, {3, 15}), 4, false).zero_points[0] == 0);
  CHECK(Encode(Tensor(DType::kF32, {-3, -15}), 4, false).zero_points[0] == 15);
}

TEST_CASE("a range that overflows keeps a finite scale") {
  // 120000 is infinite in F16; 60000 / 15 + 60000 / 15 is not.
  const AffineResult half =
      Encode(Tensor(DType::kF16, {-60000, 60000}), 4, false);
  CHECK(half.ScaleAt(0) == 8000.0f);
  const AffineResult wide =
      Encode(Tensor(DType::kF32, {-3e38f, 3e38f}), 4, false);
  CHECK(wide.ScaleAt(0) == 3e38f / 15.0f + 3e38f / 15.0f);
  CHECK(std::isfinite(wide.DecodedAt(1)));
}

TEST_CASE("the decoded value of every code") {
  const auto backend = NewReferenceBackend();
  for (int bits = 2; bits <= 8; ++bits) {
    for (int zero : {0, 1, (1 << bits) - 1}) {
      const int64_t count = 1 << bits;
      std::vector<uint8_t> codes(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        codes[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
      }
      const float scale = 0.25f;
      const auto zero_point = static_cast<uint8_t>(zero);
      TestTensor out(DType::kF32, count);
      REQUIRE(backend->affine()
                  .Decode({codes.data(), &scale, &zero_point, bits, count,
                           out.MutableView()},
                          backend->stream())
                  .ok());
      for (int64_t i = 0; i < count; ++i) {
        REQUIRE(out.at(i) == static_cast<float>(i - zero) * 0.25f);
      }
    }
  }
}

TEST_CASE("min-max errors stay within half a step of what is not clamped") {
  for (uint64_t seed : {1, 2, 3}) {
    const TestTensor weight =
        TestTensor::Make(DType::kF32, 4096, Kind::kGauss, seed);
    for (int bits = 2; bits <= 8; ++bits) {
      const AffineResult r = Encode(weight, bits, false);
      // A zero point off by half a step can clamp half a step at an end.
      const float limit = r.ScaleAt(0) * (1.0f + 0x1p-10f);
      for (int64_t i = 0; i < weight.count(); ++i) {
        REQUIRE(std::fabs(weight.at(i) - r.DecodedAt(i)) <= limit);
      }
    }
  }
}

}  // namespace
}  // namespace qs
