// Every SIMD target and thread count against the reference, with ==.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/nf4_tables.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"
#include "tests/testing/nested_cases.h"
#include "tests/testing/nf4_cases.h"

namespace qs {
namespace {

TEST_CASE("every SIMD target gives the reference's bytes") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  const auto two = NewCpuBackend(2);
  const std::vector<std::string> targets = SimdTargets();
  REQUIRE(targets.size() >= 2);
  for (const std::string& target : targets) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    REQUIRE(SimdTargets() == targets);
    ForNf4Cases([&](const Nf4Case& c) {
      INFO(c.Describe());
      const Nf4Result want = RunNf4(reference->nf4(), c);
      REQUIRE(RunNf4(one->nf4(), c) == want);
      REQUIRE(RunNf4(two->nf4(), c) == want);
    });
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
  CHECK_FALSE(ForceSimdTargetForTest("no such target").ok());
}

// A batch of the search has 8 blocks or fewer: whole batches, parts of one, and
// last blocks of every kind.
TEST_CASE("every block size on every SIMD target, with a short last block") {
  const auto reference = NewReferenceBackend();
  const auto cpu = NewCpuBackend(1);
  uint64_t seed = 5000;
  for (int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
    for (const int64_t count :
         {block_size + 1, 3 * block_size - 7, 9 * block_size + 19}) {
      for (const DType dtype : kWeightTypes) {
        ++seed;
        const TestTensor weight =
            TestTensor::Make(dtype, count, Kind::kBlocks, seed);
        const Codebook codebook =
            seed % 2 == 0 ? Codebook::kNf4 : Codebook::kFp4;
        const Nf4Rule rule = seed % 4 < 2 ? Nf4Rule::kCuda : Nf4Rule::kCpu;
        for (const Nf4Search search :
             {Nf4Search::kNone, Nf4Search::kBestScale}) {
          const Nf4Case c{weight, block_size, codebook, rule, search, seed};
          const Nf4Result want = RunNf4(reference->nf4(), c);
          for (const std::string& target : SimdTargets()) {
            INFO(c.Describe() << " on " << target);
            REQUIRE(ForceSimdTargetForTest(target).ok());
            REQUIRE(RunNf4(cpu->nf4(), c) == want);
          }
        }
      }
    }
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

// How large the elements of a block are. All but the first are odd: no search
// sees them, in the types that have them at all.
enum class Size { kOrdinary, kZero, kTiny, kSubnormal, kHuge, kGreatest };
constexpr int kSizes = 6;

float MakeOfSize(Size size, std::mt19937_64& random) {
  const float g =
      std::clamp(20 * MakeValue(Kind::kGauss, 0, random), -1.f, 1.f);
  switch (size) {
    case Size::kOrdinary:
      return g;
    case Size::kZero:
      return random() % 2 == 0 ? 0.0f : -0.0f;
    case Size::kTiny:  // some elements are subnormal
      return std::ldexp(g, random() % 2 == 0 ? -110 : -126);
    case Size::kSubnormal:
      return std::ldexp(g, -128);
    case Size::kHuge:
      return std::ldexp(g, random() % 2 == 0 ? 110 : -20);
    case Size::kGreatest:  // 1 / m is subnormal
      return std::ldexp(1.9f * g, 127);
  }
  return 0;
}

// An odd block of every size in every place of 16, which are a batch or whole
// batches, then mixtures, one batch of zeros and a short block.
std::vector<Size> MixedSizes(std::mt19937_64& random) {
  std::vector<Size> sizes;
  for (int odd = 1; odd < kSizes; ++odd) {
    for (int place = 0; place < 16; ++place) {
      for (int i = 0; i < 16; ++i) {
        sizes.push_back(i == place ? static_cast<Size>(odd) : Size::kOrdinary);
      }
    }
  }
  for (int i = 0; i < 16 * 16; ++i) {
    const bool odd = static_cast<int>(random() % 16) < i / 16;
    sizes.push_back(odd ? static_cast<Size>(random() % kSizes)
                        : Size::kOrdinary);
  }
  sizes.insert(sizes.end(), 16, Size::kZero);
  sizes.insert(sizes.end(), {Size::kTiny, Size::kOrdinary, Size::kZero});
  return sizes;
}

TestTensor MakeMixed(DType dtype, int64_t block_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  const std::vector<Size> sizes = MixedSizes(random);
  const int64_t blocks = static_cast<int64_t>(sizes.size());
  TestTensor weight(dtype, blocks * block_size - 3);
  for (int64_t i = 0; i < weight.count(); ++i) {
    const Size size = sizes[static_cast<size_t>(i / block_size)];
    StoreFromFloat(weight.data(), dtype, i, MakeOfSize(size, random));
    // F16 has no huge values.
    if (std::isinf(weight.at(i))) StoreFromFloat(weight.data(), dtype, i, 1.0f);
  }
  return weight;
}

void CheckMixed(Nf4Ops& reference, Nf4Ops& cpu, const Nf4Case& c) {
  const Nf4Result want = RunNf4(reference, c);
  REQUIRE(want.first_non_finite == -1);
  for (const std::string& target : SimdTargets()) {
    INFO(c.Describe() << " on " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    REQUIRE(RunNf4(cpu, c) == want);
  }
}

TEST_CASE("odd blocks leave their batch as it is, wherever they are") {
  const auto reference = NewReferenceBackend();
  const auto cpu = NewCpuBackend(1);
  uint64_t seed = 0;
  for (const int64_t block_size : {32, 64, 256}) {
    for (const DType dtype : kWeightTypes) {
      const TestTensor weight = MakeMixed(dtype, block_size, ++seed);
      for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
        for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
          for (const Nf4Search search :
               {Nf4Search::kNone, Nf4Search::kBestScale}) {
            CheckMixed(reference->nf4(), cpu->nf4(),
                       {weight, block_size, codebook, rule, search, seed});
          }
        }
      }
    }
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("codes on both sides of every threshold, and all along [-1, 1]") {
  // Blocks of 64 that begin with 1, so that the others are what is ranked.
  std::vector<float> values;
  const auto add = [&](float t) {
    if (values.size() % 64 == 0) values.push_back(1.0f);
    values.push_back(t);
  };
  for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      for (float bound : MakeRankTable(codebook, rule).bounds) {
        for (float end : {-2.0f, 2.0f}) {
          float t = bound;
          for (int i = 0; i < 4; ++i, t = std::nextafter(t, end)) add(t);
        }
      }
    }
  }
  for (int i = -(1 << 14); i <= 1 << 14; ++i) {
    add(static_cast<float>(i) * 0x1p-14f);
  }
  for (float tiny : {0x1p-126f, 0x1p-149f, 0x1p-30f, 0.0f}) {
    add(tiny);
    add(-tiny);
  }
  TestTensor weight(DType::kF32, static_cast<int64_t>(values.size()));
  std::memcpy(weight.data(), values.data(), values.size() * sizeof(float));
  const auto reference = NewReferenceBackend();
  const auto backend = NewCpuBackend(1);
  for (const std::string& target : SimdTargets()) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
        const Nf4Case c{weight, 64, codebook, rule, Nf4Search::kNone, 0};
        INFO(c.Describe());
        REQUIRE(RunNf4(backend->nf4(), c) == RunNf4(reference->nf4(), c));
      }
    }
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("the search's steps that end in a half are even") {
  // Blocks of whole numbers up to 254, which is twice the number of steps. The
  // shapes of their sums differ, so that some depend on how halves are rounded.
  TestTensor weight(DType::kF32, int64_t{64} * 4096);
  std::mt19937_64 random(7);
  for (int64_t i = 0; i < weight.count(); ++i) {
    const float draw = std::round(4500 * MakeValue(Kind::kGauss, i, random));
    StoreFromFloat(weight.data(), DType::kF32, i,
                   i % 64 == 0 ? 254.0f : std::clamp(draw, -253.0f, 253.0f));
  }
  const auto reference = NewReferenceBackend();
  const auto backend = NewCpuBackend(1);
  for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    const Nf4Case c{weight, 64, codebook, Nf4Rule::kCpu, Nf4Search::kBestScale,
                    0};
    const Nf4Result want = RunNf4(reference->nf4(), c);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target << ", " << c.Describe());
      REQUIRE(ForceSimdTargetForTest(target).ok());
      REQUIRE(RunNf4(backend->nf4(), c) == want);
    }
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("every SIMD target gives the reference's nested absmax") {
  const auto reference = NewReferenceBackend();
  const auto backend = NewCpuBackend(1);
  for (const std::string& target : SimdTargets()) {
    REQUIRE(ForceSimdTargetForTest(target).ok());
    ForNestedCases([&](const std::vector<float>& absmax, Nf4Rule rule) {
      INFO("target " << target << " blocks " << absmax.size() << " rule "
                     << static_cast<int>(rule));
      REQUIRE(RunNested(backend->nf4(), absmax, rule) ==
              RunNested(reference->nf4(), absmax, rule));
    });
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("weights are encoded at any address") {
  const auto reference = NewReferenceBackend();
  const auto backend = NewCpuBackend(1);
  for (const std::string& target : SimdTargets()) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    ForNf4Cases([&](const Nf4Case& c) {
      INFO(c.Describe());
      const TensorView weight = c.weight.View();
      const auto size = static_cast<size_t>(weight.num_bytes());
      std::vector<uint8_t> moved(size + 1);
      std::memcpy(moved.data() + 1, weight.data, size);
      const auto encode = [&](Nf4Ops& ops, const void* data) {
        Stream stream;
        Nf4Result r;
        r.packed.assign(static_cast<size_t>((c.weight.count() + 1) / 2), 0xff);
        r.absmax.resize(
            static_cast<size_t>(CeilDiv(c.weight.count(), c.block_size)));
        REQUIRE(ops.Encode({{data, weight.dtype, weight.rows, weight.cols},
                            c.block_size,
                            c.codebook,
                            c.rule,
                            c.search,
                            r.packed.data(),
                            r.absmax.data(),
                            &r.first_non_finite},
                           stream)
                    .ok());
        return r;
      };
      const Nf4Result want = encode(backend->nf4(), weight.data);
      REQUIRE(encode(backend->nf4(), moved.data() + 1) == want);
      REQUIRE(encode(reference->nf4(), moved.data() + 1) == want);
    });
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("a large tensor is the same on one and on two threads") {
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 3 * 262144 + 77, Kind::kGauss, 5);
  for (Nf4Search search : {Nf4Search::kNone, Nf4Search::kBestScale}) {
    const Nf4Case c{weight, 64, Codebook::kNf4, Nf4Rule::kCuda, search, 5};
    CHECK(RunNf4(NewCpuBackend(1)->nf4(), c) ==
          RunNf4(NewCpuBackend(2)->nf4(), c));
  }
}

void CheckFirstNonFinite(Backend& backend, int64_t block_size, DType dtype,
                         Nf4Search search) {
  for (const int64_t at : {0, 1, 31, 63, 64, 65, 127, 300, 321, 322}) {
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      TestTensor weight = TestTensor::Make(dtype, 323, Kind::kGauss, 9);
      StoreFromFloat(weight.data(), dtype, at, bad);
      StoreFromFloat(weight.data(), dtype, 322, NAN);
      INFO(DTypeName(dtype) << " at " << at << " in blocks of " << block_size);
      const Nf4Case c{weight,         block_size, Codebook::kNf4,
                      Nf4Rule::kCuda, search,     9};
      CHECK(RunNf4(backend.nf4(), c).first_non_finite == at);
    }
  }
}

TEST_CASE("non-finite elements are found wherever they are") {
  const auto check = [](Backend& backend) {
    for (const DType dtype : kWeightTypes) {
      for (const int64_t block_size : {32, 64, 256}) {
        CheckFirstNonFinite(backend, block_size, dtype, Nf4Search::kNone);
        CheckFirstNonFinite(backend, block_size, dtype, Nf4Search::kBestScale);
      }
    }
  };
  check(*NewReferenceBackend());
  const auto cpu = NewCpuBackend(1);
  for (const std::string& target : SimdTargets()) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    check(*cpu);
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("the first non-finite element is found among odd blocks") {
  const auto cpu = NewCpuBackend(1);
  for (const std::string& target : SimdTargets()) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    for (const int64_t at : {0, 64 * 7 + 5, 64 * 8, 64 * 40 + 63, 64 * 1500}) {
      TestTensor weight = MakeMixed(DType::kF32, 64, 1);
      StoreFromFloat(weight.data(), DType::kF32, at, NAN);
      StoreFromFloat(weight.data(), DType::kF32, at + 100, INFINITY);
      const Nf4Case c{
          weight, 64, Codebook::kNf4, Nf4Rule::kCuda, Nf4Search::kBestScale, 1};
      CHECK(RunNf4(cpu->nf4(), c).first_non_finite == at);
    }
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

TEST_CASE("wrong arguments are refused") {
  const TestTensor weight = TestTensor::Make(DType::kF32, 64, Kind::kGauss, 1);
  for (const auto& backend : AllBackends()) {
    for (int64_t block_size : {0, -64, 16, 48, 8192}) {
      Nf4DecodeArgs args;
      args.block_size = block_size;
      const absl::Status status =
          backend->nf4().Decode(args, backend->stream());
      CHECK(status.code() == absl::StatusCode::kInvalidArgument);
      CHECK(std::string(status.message()).find("block_size: got") == 0);
    }
  }
}

TEST_CASE("mean errors on normal weights are the library's published ones") {
  // bitsandbytes tests/test_functional.py: mean |x - x'| of N(0, 1), and its
  // standard deviation over runs.
  struct Row {
    int64_t block_size;
    double mean, deviation;
  };
  const Row rows[] = {{32, .067746, .000069},   {64, .072798, .000074},
                      {128, .076831, .000091},  {256, .080337, .000102},
                      {512, .083547, .000143},  {1024, .086610, .000187},
                      {2048, .089592, .000251}, {4096, .092547, .000360}};
  const int64_t n = 1 << 20;
  std::mt19937_64 random(3);
  std::normal_distribution<float> gauss;
  TestTensor weight(DType::kF32, n);
  for (int64_t i = 0; i < n; ++i) {
    StoreFromFloat(weight.data(), DType::kF32, i, gauss(random));
  }
  const auto backend = NewCpuBackend(1);
  for (const Row& row : rows) {
    const Nf4Case c{weight,         row.block_size,   Codebook::kNf4,
                    Nf4Rule::kCuda, Nf4Search::kNone, 3};
    const Nf4Result result = RunNf4(backend->nf4(), c);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += std::fabs(weight.at(i) - result.DecodedAt(i));
    }
    INFO("block size " << row.block_size);
    CHECK(std::fabs(sum / n - row.mean) < 7 * row.deviation);
  }
}

}  // namespace
}  // namespace qs
