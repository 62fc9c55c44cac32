// What NF4's BEST promises: no block that is read is worse than REFERENCE's.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/nf4_math.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/nf4_cases.h"

namespace qs {
namespace {

// Squared errors of blocks as a reader gets them: decoded, in the weight's
// type. Sums in double.
std::vector<double> BlockErrors(const Nf4Case& c, const Nf4Result& result) {
  std::vector<double> errors(result.absmax.size());
  for (int64_t i = 0; i < c.weight.count(); ++i) {
    const double d = static_cast<double>(c.weight.at(i)) - result.DecodedAt(i);
    errors[static_cast<size_t>(i / c.block_size)] += d * d;
  }
  return errors;
}

struct Totals {
  double none = 0;
  double best = 0;
};

// Fails where BEST is above REFERENCE on a block.
Totals CompareBlocks(Nf4Case c) {
  const auto backend = NewCpuBackend(1);
  c.search = Nf4Search::kNone;
  const auto none = BlockErrors(c, RunNf4(backend->nf4(), c));
  c.search = Nf4Search::kBestScale;
  const Nf4Result result = RunNf4(backend->nf4(), c);
  const auto best = BlockErrors(c, result);
  Totals totals;
  for (size_t b = 0; b < none.size(); ++b) {
    totals.none += none[b];
    totals.best += best[b];
    if (!(best[b] <= none[b])) {
      FAIL(c.Describe() << ", block " << b << " of " << none.size() << ": "
                        << best[b] << " above " << none[b]);
    }
  }
  for (float a : result.absmax) REQUIRE(a >= 0);
  return totals;
}

// Normal weights, or Student-t ones of some degrees of freedom; `coded`: about
// the levels of NF4, as of weights that were coded before.
struct Draw {
  double scale;
  double freedom = 0;
  bool coded = false;
};

TestTensor DrawWeights(DType dtype, int64_t count, const Draw& draw,
                       uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> gauss;
  std::student_t_distribution<double> student(std::max(draw.freedom, 1.0));
  const float* levels = CodebookLevels(Codebook::kNf4);
  const double most = dtype == DType::kF16 ? 65504 : 1e30;
  TestTensor weight(dtype, count);
  for (int64_t i = 0; i < count; ++i) {
    double x =
        draw.scale * (draw.freedom > 0 ? student(random) : gauss(random));
    if (draw.coded) x += levels[random() % 16];
    StoreFromFloat(weight.data(), dtype, i,
                   static_cast<float>(std::clamp(x, -most, most)));
  }
  return weight;
}

template <class Body>
void ForCodebooksAndRules(const Body& body) {
  for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      body(codebook, rule);
    }
  }
}

TEST_CASE("BEST is never above REFERENCE on a block that is read") {
  // F16 is subnormal below 6.1e-5 and ends at 65504; F32's squares leave it at
  // the last three.
  const Draw draws[] = {
      {0.02},  {0.02, 5}, {0.02, 2},       {6e-5},          {3e-6},
      {6e-7},  {1e-7},    {2e4},           {1e4, 3},        {1e-20},
      {1e-21}, {3e18},    {1e-2, 0, true}, {1e-3, 0, true}, {1e-4, 0, true}};
  uint64_t seed = 300;
  for (const Draw& draw : draws) {
    for (const DType dtype : kWeightTypes) {
      ++seed;
      const TestTensor weight = DrawWeights(dtype, 40037, draw, seed);
      for (int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
        INFO("scale " << draw.scale << " freedom " << draw.freedom);
        ForCodebooksAndRules([&](Codebook codebook, Nf4Rule rule) {
          CompareBlocks({weight, block_size, codebook, rule, {}, seed});
        });
      }
    }
  }
}

TEST_CASE("BEST is never above REFERENCE on a short block that is read") {
  for (const DType dtype : kWeightTypes) {
    for (int64_t count = 1; count < 256; count += 2) {
      const auto seed = static_cast<uint64_t>(count);
      const TestTensor weight =
          DrawWeights(dtype, count, {count % 4 == 1 ? 0.02 : 6e-7}, seed);
      ForCodebooksAndRules([&](Codebook codebook, Nf4Rule rule) {
        CompareBlocks({weight, 256, codebook, rule, {}, seed});
      });
    }
  }
}

TEST_CASE("BEST is never worse on a block of any kind, and better on normal") {
  for (const Kind kind : kAllKinds) {
    INFO("kind " << static_cast<int>(kind));
    for (const DType dtype : kWeightTypes) {
      const TestTensor weight = TestTensor::Make(dtype, 1 << 16, kind, 17);
      ForCodebooksAndRules([&](Codebook codebook, Nf4Rule rule) {
        const Totals totals =
            CompareBlocks({weight, 64, codebook, rule, {}, 17});
        if (kind == Kind::kGauss) CHECK(totals.best <= 0.9 * totals.none);
      });
    }
  }
}

TEST_CASE("a sum that is surely below another one is below it") {
  // Errors so near to each other that sums in F32 may order them wrongly.
  std::mt19937_64 random(19);
  int64_t surely = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const auto count =
        static_cast<int64_t>(1 + random() % (16u << random() % 9));
    nf4::Partial16 sums[2];
    double exact[2] = {};
    const auto d = static_cast<float>(1 + random() % 4096) * 0x1p-12f;
    const float ratio = random() % 2 == 0 ? 0x1p-16f : 0x1p-19f;
    for (int64_t i = 0; i < count; ++i) {
      for (int k = 0; k < 2; ++k) {
        const float x = random() % 2 == 0 ? d + d * ratio : d;
        sums[k].Add(i, x * x);
        exact[k] += static_cast<double>(x) * x;
      }
    }
    if (!nf4::IsSurelyBelow(sums[0].Fold(), sums[1].Fold(), count)) continue;
    ++surely;
    REQUIRE(exact[0] < exact[1]);
  }
  CHECK(surely > 100);
}

TEST_CASE("the search is measured by the rule's own codes") {
  const auto reference = NewReferenceBackend();
  const auto backend = NewCpuBackend(1);
  // Whole blocks, and short ones alone.
  for (const int64_t count : {64 * 1024, 33, 41, 46, 50, 55, 57, 60, 62, 63}) {
    const TestTensor weight = WeightsAtFp4Tie(count);
    for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      const Nf4Case c{weight, 64, Codebook::kFp4, rule, Nf4Search::kBestScale,
                      0};
      const Nf4Result want = RunNf4(reference->nf4(), c);
      for (const std::string& target : SimdTargets()) {
        INFO("target " << target << ", " << c.Describe());
        REQUIRE(ForceSimdTargetForTest(target).ok());
        REQUIRE(RunNf4(backend->nf4(), c) == want);
      }
    }
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

}  // namespace
}  // namespace qs
