// The reference itself: hqq's published vectors, groups that leave nothing to
// scale, the correctly rounded power, and sums in torch's order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/backend.h"
#include "kernels/hqq_sums.h"
#include "tests/testing/hqq_cases.h"

namespace qs {
namespace {

// W[r][c] = (((8 r + c) * 29) mod 127 - 63) / 1024, 4 x 8, groups of 8.
TestTensor SmallWeight() {
  TestTensor tensor(DType::kF32, 32);
  for (int64_t i = 0; i < 32; ++i) {
    StoreFromFloat(tensor.data(), DType::kF32, i,
                   static_cast<float>(i * 29 % 127 - 63) / 1024);
  }
  return tensor;
}

HqqResult Solve(const TestTensor& weight, int bits, int64_t group_size,
                int iterations = 20) {
  HqqCase c{weight, 1, group_size, bits};
  c.iterations = iterations;
  return RunHqq(NewReferenceBackend()->hqq(), c);
}

std::vector<uint32_t> Patterns(const HqqResult& r,
                               const std::vector<uint8_t>& bytes) {
  std::vector<uint32_t> out(bytes.size() / 4);
  REQUIRE(r.stored == DType::kF32);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

TEST_CASE("4 bits on a small weight") {
  const TestTensor weight = SmallWeight();
  const HqqResult r = Solve(weight, 4, 8);
  CHECK(Patterns(r, r.zeros) ==
        std::vector<uint32_t>{0x4100e11a, 0x40e169ed, 0x41001c2e, 0x40e148ce});
  CHECK(Patterns(r, r.scales) ==
        std::vector<uint32_t>{0x3bf77778, 0x3bf77778, 0x3be8888a, 0x3be8888a});
  CHECK(r.codes == std::vector<uint8_t>{0,  4,  7,  11, 15, 2,  6,  10,
                                        12, 0,  4,  7,  11, 15, 2,  6,
                                        11, 15, 1,  5,  9,  13, 0,  4,
                                        7,  11, 15, 1,  5,  9,  13, 0});
  CHECK(r.facts.iterations == 3);
}

TEST_CASE("2 bits: the zero of the iteration that failed is kept") {
  const TestTensor weight = SmallWeight();
  const HqqResult r = Solve(weight, 2, 8);
  CHECK(Patterns(r, r.zeros) ==
        std::vector<uint32_t>{0x3fbe34f8, 0x3fcdee57, 0x3fd3604a, 0x3fb1070c});
  CHECK(r.facts.iterations == 2);
}

TEST_CASE("one bad group does not stop the others in BEST") {
  // REFERENCE stops all groups at once; BEST never is worse than any iterate.
  const TestTensor weight = SmallWeight();
  for (int iterations = 0; iterations <= 5; ++iterations) {
    const HqqResult reference = Solve(weight, 2, 8, iterations);
    HqqCase c{weight, 1, 8, 2};
    c.solver = HqqSolver::kBest;
    const HqqResult best = RunHqq(NewReferenceBackend()->hqq(), c);
    const auto worse = GroupErrors(c, reference);
    const auto better = GroupErrors(c, best);
    for (size_t g = 0; g < better.size(); ++g) CHECK(better[g] <= worse[g]);
  }
}

TEST_CASE("degenerate groups") {
  const auto group = [](const std::vector<float>& values) {
    TestTensor tensor(DType::kF32, 8);
    for (int64_t i = 0; i < 8; ++i) {
      StoreFromFloat(tensor.data(), DType::kF32, i,
                     values[static_cast<size_t>(i) % values.size()]);
    }
    return tensor;
  };
  SECTION("constant: scale 1, codes 0, the value in the zero") {
    for (float value : {0.375f, -2.5f, 0.0f}) {
      const TestTensor weight = group({value});
      for (int bits : {8, 4, 3, 2, 1}) {
        const HqqResult r = Solve(weight, bits, 8);
        CHECK(r.ScaleAt(0) == 1.0f);
        CHECK(r.ZeroAt(0) == -value);
        CHECK(r.codes == std::vector<uint8_t>(8, 0));
        for (int64_t i = 0; i < 8; ++i) CHECK(r.DecodedAt(i) == value);
      }
    }
  }
  SECTION("a range of at most 1e-4 falls onto its mean") {
    const TestTensor weight = group({0.5f, 0.50005f});
    const HqqResult r = Solve(weight, 4, 8);
    CHECK(r.ScaleAt(0) == 1.0f);
    CHECK(r.DecodedAt(0) == r.DecodedAt(1));
    CHECK(std::fabs(r.DecodedAt(0) - 0.500025f) < 1e-6f);
    // BEST has no such rule.
    HqqCase c{weight, 1, 8, 4};
    c.solver = HqqSolver::kBest;
    const HqqResult best = RunHqq(NewReferenceBackend()->hqq(), c);
    CHECK(std::fabs(best.DecodedAt(0) - 0.5f) < 1e-6f);
    CHECK(std::fabs(best.DecodedAt(1) - 0.50005f) < 1e-6f);
  }
  SECTION("the inverse scale is at most 20000") {
    const TestTensor weight = group({0.0f, 0.001f});
    CHECK(Solve(weight, 8, 8).ScaleAt(0) == 1.0f / 20000.0f);
    CHECK(Solve(weight, 4, 8).ScaleAt(0) == 1.0f / (1.0f / 0.001f * 15));
  }
  SECTION("a range beyond F32 stays finite") {
    const TestTensor weight = group({3.4e38f, -3.4e38f, 1e38f});
    for (int bits : {8, 4, 2, 1}) {
      const HqqResult r = Solve(weight, bits, 8);
      CHECK(std::isfinite(r.ScaleAt(0)));
      CHECK(std::isfinite(r.ZeroAt(0)));
    }
  }
}

TEST_CASE("integer zero points stay in range") {
  for (Kind kind : kAllKinds) {
    const TestTensor weight = TestTensor::Make(DType::kBF16, 640, kind, 3);
    for (int bits : {8, 4, 3, 2}) {
      for (HqqSolver solver : {HqqSolver::kReference, HqqSolver::kBest}) {
        HqqCase c{weight, 1, 64, bits};
        c.solver = solver;
        c.stored = DType::kBF16;
        c.integer = true;
        const HqqResult r = RunHqq(NewReferenceBackend()->hqq(), c);
        for (uint8_t zero : r.zero_points) CHECK(zero < 1 << bits);
      }
    }
  }
}

// |e|^-0.3 through the zero of a group of two codes: hard to reach otherwise.
TEST_CASE("the shrink term is that of an exact power") {
  for (float scale : {1.0f, 7.0f, 1e3f, 1e6f, 1e12f}) {
    TestTensor weight(DType::kF32, 8);
    for (int64_t i = 0; i < 8; ++i) {
      StoreFromFloat(weight.data(), DType::kF32, i,
                     scale * static_cast<float>((i * 5 + 3) % 8) / 7);
    }
    const HqqResult r = Solve(weight, 1, 8, 1);
    const float inverse = 1.0f / (scale - 0.0f);
    std::vector<float> terms;
    for (int64_t i = 0; i < 8; ++i) {
      const float w = weight.at(i);
      const float code = std::clamp(std::nearbyint(w * inverse), 0.0f, 1.0f);
      const float e = w - code / inverse;
      const long double power = std::pow(static_cast<long double>(std::fabs(e)),
                                         static_cast<long double>(-0.3f));
      const float o =
          std::max(std::fabs(e) - 0.1f * static_cast<float>(power), 0.0f);
      terms.push_back(code - (w - std::copysign(e == 0 ? 0 : o, e)) * inverse);
    }
    const float sum = hqq::ContiguousSum(
        8, [&](int64_t i) { return terms[static_cast<size_t>(i)]; });
    INFO("scale " << scale);
    CHECK(r.ZeroAt(0) == sum / 8);
  }
}

TEST_CASE("sums in torch's order") {
  const auto get = [](int64_t i) {
    return static_cast<float>((i * 7919) % 1000) * 1e-3f + 1e-7f;
  };
  // By hand: one run of 16 rows goes through level 1.
  std::vector<float> level(16);
  float first = 0;
  for (int64_t i = 0; i < 16; ++i) first += get(i);
  float second = 0;
  for (int64_t i = 16; i < 20; ++i) second += get(i);
  CHECK(hqq::CascadeSum(20, get) == second + first);
  // Lanes of eight, four vectors apart.
  float lanes[8];
  for (int64_t l = 0; l < 8; ++l) {
    float parts[4];
    for (int64_t k = 0; k < 4; ++k) {
      parts[k] = get(8 * k + l) + get(8 * (k + 4) + l);
    }
    lanes[l] = parts[0] + parts[1] + parts[2] + parts[3];
  }
  float sum = 0;
  for (float lane : lanes) sum += lane;
  CHECK(hqq::ContiguousSum(64, get) == sum);
  CHECK(hqq::CascadePower(int64_t{1} << 20) == 5);
  CHECK(hqq::CascadePower(524288) == 4);
}

}  // namespace
}  // namespace qs
