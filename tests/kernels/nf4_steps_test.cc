// Ranks by multiplication against ranks by comparison, with ==.
#include "kernels/cuda/nf4_steps.h"

#include <cfenv>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/nf4_step_table.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using cuda::BitsFloat;
using cuda::FloatBits;

// As Steps computes it, with the rank at `shift`.
int RankAt(const cuda::StepTable& table, float t, int shift) {
  const uint32_t bin =
      FloatBits(cuda::FmaDown(t, table.scale, cuda::BinOrigin())) % 32;
  const float sum = cuda::FmaDown(t, table.gain[bin],
                                  table.base[bin] + cuda::FieldOrigin(shift));
  return static_cast<int>(FloatBits(sum) >> shift & 15u);
}

// What decides: bounds, borders of bins, zeros, and what is between them.
std::vector<float> Arguments(const RankTable& ranks, float scale) {
  std::vector<float> all;
  const auto add = [&](float t) {
    for (float x : {std::nextafter(t, -2.0f), t, std::nextafter(t, 2.0f)}) {
      if (std::fabs(x) <= cuda::kStepLimit) all.push_back(x);
    }
  };
  for (float bound : ranks.bounds) add(bound);
  for (int bin = -16; bin <= 16; ++bin) {
    add(static_cast<float>(bin) / scale);
  }
  for (int exponent = -149; exponent <= 0; ++exponent) {
    add(std::ldexp(1.0f, exponent));
    add(-std::ldexp(1.0f, exponent));
  }
  for (float t : {0.0f, -0.0f, cuda::kStepLimit, -cuda::kStepLimit}) add(t);
  for (int i = -500000; i <= 500000; ++i) {
    all.push_back(static_cast<float>(i) * 2e-6f);
  }
  return all;
}

TEST_CASE("ranks by steps are the ranks by comparisons") {
  for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      const RankTable ranks = MakeRankTable(codebook, rule);
      const cuda::StepTable& table = cuda::StepTableFor(codebook, rule);
      const bool flushed = codebook == Codebook::kFp4 && rule == Nf4Rule::kCuda;
      int64_t wrong = 0;
      for (float t : Arguments(ranks, table.scale)) {
        if (flushed && std::fpclassify(t) == FP_SUBNORMAL) continue;
        for (int shift : {7, 11, 15, 19}) {
          wrong += RankAt(table, t, shift) != nf4::Rank(ranks, t);
        }
      }
      INFO("codebook " << static_cast<int>(codebook) << " rule "
                       << static_cast<int>(rule));
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("every bin has a line") {
  for (float scale : {15.75f, -15.75f}) {
    cuda::StepTable table{};
    const RankTable nf4 = MakeRankTable(Codebook::kNf4, Nf4Rule::kCpu);
    CHECK(cuda::StepTableBuilder(nf4, false, scale, false).Build(table));
    const RankTable cpu = MakeRankTable(Codebook::kFp4, Nf4Rule::kCpu);
    const RankTable gpu = MakeRankTable(Codebook::kFp4, Nf4Rule::kCuda);
    // Its bound at 0 is the end of a bin on one side alone.
    CHECK(cuda::StepTableBuilder(cpu, true, scale, false).Build(table) ==
          (scale < 0));
    CHECK(cuda::StepTableBuilder(gpu, true, scale, true).Build(table) ==
          (scale > 0));
  }
}

TEST_CASE("the emulated sum is rounded down as the device's") {
  std::mt19937_64 random(5);
  const auto pick = [&](int from, int to) {
    std::uniform_int_distribution<int> exponent(from, to);
    std::uniform_real_distribution<float> mantissa(-2.0f, 2.0f);
    return std::ldexp(mantissa(random), exponent(random));
  };
  for (int i = 0; i < 100000; ++i) {
    const volatile float a = pick(-60, 2), b = pick(-60, 9), c = pick(-3, 23);
    const float got = cuda::FmaDown(a, b, c);
    std::fesetround(FE_DOWNWARD);
    const volatile float want = std::fma(a, b, c);
    std::fesetround(FE_TONEAREST);
    REQUIRE(got == want);
  }
}

}  // namespace
}  // namespace qs
