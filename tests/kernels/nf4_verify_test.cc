// Every code that may be is accepted, every other one is found, wherever it
// stands: against the definition in doubles, on every SIMD target. That nothing
// which an encoder gives is refused, RunNf4 of the other tests checks too.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/nf4_verify_ops.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A tensor and its codes.
struct Coded {
  const TestTensor& weight;
  int64_t block_size;
  Codebook codebook;
  std::vector<uint8_t> packed;
  std::vector<float> absmax;
  std::optional<Nf4Rule> nested_rule = std::nullopt;

  int64_t FindWrong() const {
    return FindWrongNf4Code({weight.View(), block_size, codebook, packed.data(),
                             absmax.data(), nested_rule});
  }
  int Code(int64_t i) const {
    return packed[static_cast<size_t>(i / 2)] >> (i % 2 == 0 ? 4 : 0) & 15;
  }
  void SetCode(int64_t i, int code) {
    uint8_t& byte = packed[static_cast<size_t>(i / 2)];
    byte = static_cast<uint8_t>(i % 2 == 0 ? (byte & 15) | code << 4
                                           : (byte & 240) | code);
  }
};

Coded Encode(const TestTensor& weight, int64_t block_size, Codebook codebook,
             Nf4Rule rule = Nf4Rule::kCuda) {
  const auto backend = NewReferenceBackend();
  Coded c{weight, block_size, codebook, {}, {}};
  c.packed.resize(static_cast<size_t>((weight.count() + 1) / 2));
  c.absmax.resize(static_cast<size_t>(CeilDiv(weight.count(), block_size)));
  int64_t non_finite = -1;
  REQUIRE(
      backend->nf4()
          .Encode({weight.View(), block_size, codebook, rule, Nf4Search::kNone,
                   c.packed.data(), c.absmax.data(), &non_finite},
                  backend->stream())
          .ok());
  REQUIRE(non_finite < 0);
  return c;
}

// How much nearer, in units of absmax, another level lies than the code's.
double Nearer(Codebook codebook, int code, double w, double absmax) {
  const float* levels = CodebookLevels(codebook);
  double best = std::fabs(w - levels[0] * absmax);
  for (int k = 1; k < 16; ++k) {
    best = std::min(best, std::fabs(w - levels[k] * absmax));
  }
  return (std::fabs(w - levels[code] * absmax) - best) / absmax;
}

constexpr double kAllowed = 0x1p-17;

template <class Body>
void ForTargets(const Body& body) {
  for (const std::string& target : SimdTargets()) {
    INFO("target " << target);
    REQUIRE(ForceSimdTargetForTest(target).ok());
    body();
  }
  REQUIRE(ForceSimdTargetForTest("").ok());
}

// All sixteen codes of element `i`, which is left as it was.
void TryCodes(Coded& c, int64_t i) {
  const int right = c.Code(i);
  const double absmax = c.absmax[static_cast<size_t>(i / c.block_size)];
  for (int code = 0; code < 16; ++code) {
    c.SetCode(i, code);
    const double nearer = Nearer(c.codebook, code, c.weight.at(i), absmax);
    // Rounding may decide at the very border.
    if (std::fabs(nearer / kAllowed - 1) < 0.1) continue;
    const int64_t want = nearer < kAllowed ? -1 : i;
    if (c.FindWrong() != want) {
      INFO("code " << code << " at " << i << ", not " << right << ", block "
                   << c.block_size << ", " << DTypeName(c.weight.View().dtype));
      REQUIRE(c.FindWrong() == want);
    }
  }
  c.SetCode(i, right);
}

TEST_CASE("one wrong code is found wherever it stands, a right one is not") {
  ForTargets([] {
    uint64_t seed = 0;
    for (const DType dtype : kWeightTypes) {
      for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
        for (const int64_t block_size : {32, 64, 256}) {
          const int64_t misalign = static_cast<int64_t>(++seed % 3);
          const TestTensor weight = TestTensor::Make(
              dtype, 2 * block_size + 37, Kind::kGauss, seed, misalign);
          Coded c = Encode(weight, block_size, codebook);
          REQUIRE(c.FindWrong() == -1);
          for (int64_t i = 0; i < weight.count(); ++i) TryCodes(c, i);
        }
      }
    }
  });
}

TEST_CASE("... in a long tensor, whose blocks are not all ordinary") {
  for (const DType dtype : kWeightTypes) {
    const TestTensor weight =
        TestTensor::Make(dtype, 3 * 4096 + 64 + 7, Kind::kBlocks, 77);
    Coded c = Encode(weight, 32, Codebook::kNf4);
    ForTargets([&] {
      REQUIRE(c.FindWrong() == -1);
      for (int64_t i = 0; i < weight.count(); i += 29) {
        const float absmax = c.absmax[static_cast<size_t>(i / 32)];
        if (absmax >= 0x1p-100f && absmax <= 0x1p100f) TryCodes(c, i);
      }
    });
  }
}

TEST_CASE("the first of several wrong codes is told") {
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 4 * 4096, Kind::kGauss, 5);
  Coded c = Encode(weight, 64, Codebook::kNf4);
  ForTargets([&] {
    Coded broken = c;
    for (int64_t i : {16383, 9000, 4097, 4096, 4095, 63, 0}) {
      broken.SetCode(i, 15 - broken.Code(i));
      CHECK(broken.FindWrong() == i);
    }
  });
}

TEST_CASE("an absmax of another block is found") {
  const TestTensor weight =
      TestTensor::Make(DType::kF16, 64 * 64, Kind::kGauss, 6);
  const Coded c = Encode(weight, 64, Codebook::kNf4);
  ForTargets([&] {
    for (size_t b = 0; b < c.absmax.size(); ++b) {
      for (const float factor : {0.5f, 0.9f, 1.1f, 2.0f}) {
        Coded broken = c;
        broken.absmax[b] *= factor;
        const int64_t at = broken.FindWrong();
        CHECK(at / 64 == static_cast<int64_t>(b));
      }
    }
  });
}

TEST_CASE("the nibble behind an odd number of weights is one of zero") {
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 129, Kind::kGauss, 8);
  ForTargets([&] {
    for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      Coded c = Encode(weight, 64, codebook);
      for (int code = 0; code < 16; ++code) {
        c.SetCode(129, code);
        const bool right = code == 0 || CodebookLevels(codebook)[code] == 0;
        CHECK(c.FindWrong() == (right ? -1 : 129));
      }
    }
  });
}

// Blocks of 32 equal weights, one code throughout.
int64_t FindWrongOf(float w, float absmax, int code) {
  TestTensor weight(DType::kF32, 32);
  for (int64_t i = 0; i < 32; ++i) {
    StoreFromFloat(weight.data(), DType::kF32, i, w);
  }
  const auto pair = static_cast<uint8_t>(code << 4 | code);
  return Coded{
      weight, 32, Codebook::kNf4, std::vector<uint8_t>(16, pair), {absmax}}
      .FindWrong();
}

TEST_CASE("an absmax that is not above 0, as nested ones may be read") {
  constexpr int kZero = 7;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  ForTargets([] {
    for (const float absmax : {0.0f, -0.0f, -0.3f, -kInfinity, kNan}) {
      for (const float w : {0.0f, 1.0f, -3e38f}) {
        CHECK(FindWrongOf(w, absmax, kZero) == -1);
        const bool nothing = w == 0 && absmax == 0;
        CHECK(FindWrongOf(w, absmax, 0) == (nothing ? -1 : 0));
        CHECK(FindWrongOf(w, absmax, 8) == (nothing ? -1 : 0));
      }
    }
    // CUDA's rule flushes what is not normal.
    CHECK(FindWrongOf(0x1.8p-127f, 0.0f, 0) == -1);
    CHECK(FindWrongOf(0x1p-126f, 0.0f, 0) == 0);
  });
}

TEST_CASE("a weight in a block whose absmax is 0, wherever it stands") {
  for (const DType dtype : kWeightTypes) {
    TestTensor weight(dtype, 4 * 64 + 20);
    for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
      const Coded c = Encode(weight, 64, codebook);
      ForTargets([&] {
        CHECK(c.FindWrong() == -1);
        for (int64_t i = 0; i < weight.count(); ++i) {
          StoreFromFloat(weight.data(), dtype, i, -0x1p-14f);
          // CUDA's rule fills such a block with the code 0, FP4's of zero.
          CHECK(c.FindWrong() == (codebook == Codebook::kFp4 ? -1 : i));
          StoreFromFloat(weight.data(), dtype, i, 0);
        }
      });
    }
  }
}

TEST_CASE("with double quantization blocks of zeros have their rule's codes") {
  for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      const TestTensor weight(DType::kBF16, 4 * 64 + 21);
      Coded c = Encode(weight, 64, codebook, rule);
      c.nested_rule = rule;
      ForTargets([&] {
        CHECK(c.FindWrong() == -1);
        for (int64_t i = 0; i < weight.count(); ++i) {
          const int before = c.Code(i);
          for (int code = 0; code < 16; ++code) {
            const bool right = rule == Nf4Rule::kCuda
                                   ? code == 0
                                   : CodebookLevels(codebook)[code] == 0;
            c.SetCode(i, code);
            CHECK(c.FindWrong() == (right ? -1 : i));
          }
          c.SetCode(i, before);
        }
      });
    }
  }
}

TEST_CASE("... and so have blocks of next to nothing") {
  for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
    for (const float size : {0x1p-102f, 0x1p-123f, 0x1p-126f, 0x1p-128f}) {
      TestTensor weight = TestTensor::Make(
          DType::kF32, 2 * 64 + 9, Kind::kGauss, rule == Nf4Rule::kCuda);
      for (int64_t i = 0; i < weight.count(); ++i) {
        StoreFromFloat(weight.data(), DType::kF32, i, weight.at(i) * size);
      }
      Coded c = Encode(weight, 64, Codebook::kNf4, rule);
      c.nested_rule = rule;
      INFO("size " << size);
      ForTargets([&] { CHECK(c.FindWrong() == -1); });
      for (int64_t i = 0; i < weight.count(); ++i) {
        const float absmax = c.absmax[static_cast<size_t>(i / 64)];
        if (absmax < 0x1p-126f && rule == Nf4Rule::kCuda) continue;
        const bool flushed =
            rule == Nf4Rule::kCuda && std::fabs(weight.at(i)) < 0x1p-126f;
        const double w = flushed ? 0 : weight.at(i);
        const double unit =
            rule == Nf4Rule::kCpu ? std::max(absmax, 1e-38f) : absmax;
        const int right = c.Code(i);
        for (int code = 0; code < 16; ++code) {
          const double nearer = Nearer(c.codebook, code, w, unit);
          if (std::fabs(nearer / kAllowed - 1) < 0.1) continue;
          c.SetCode(i, code);
          CHECK(c.FindWrong() == (nearer < kAllowed ? -1 : i));
        }
        c.SetCode(i, right);
      }
    }
  }
}

TEST_CASE("a code that is not of zero in a block of zeros, whatever it is of") {
  for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    const TestTensor weight =
        TestTensor::Make(DType::kF16, 4 * 64 + 20, Kind::kGauss, 9);
    Coded c = Encode(weight, 64, codebook);
    const int zero = codebook == Codebook::kNf4 ? 7 : 0;
    std::fill(c.packed.begin(), c.packed.end(), zero * 0x11);
    std::fill(c.absmax.begin(), c.absmax.end(), -1.0f);
    ForTargets([&] {
      CHECK(c.FindWrong() == -1);
      for (int64_t i = 0; i < weight.count(); ++i) {
        c.SetCode(i, 15);
        CHECK(c.FindWrong() == i);
        c.SetCode(i, zero);
      }
    });
  }
}

TEST_CASE("an absmax without a reciprocal, and one below the weights") {
  constexpr int kZero = 7;
  ForTargets([] {
    // CUDA's rule codes everything as zero there, the CPU's does not.
    CHECK(FindWrongOf(0x1.8p126f, 0x1.8p126f, kZero) == -1);
    CHECK(FindWrongOf(0x1.8p126f, 0x1.8p126f, 15) == -1);
    CHECK(FindWrongOf(0x1.8p126f, 0x1.8p126f, 14) == 0);
    CHECK(FindWrongOf(0x1p126f, 0x1p126f, kZero) == 0);
    CHECK(FindWrongOf(1.0f, kInfinity, kZero) == -1);
    CHECK(FindWrongOf(1.0f, kInfinity, 15) == 0);
    for (const float absmax : {1.0f, 0x1p-90f, 0x1p-110f, 0x1p-149f}) {
      CHECK(FindWrongOf(4 * absmax, absmax, 15) == -1);
      CHECK(FindWrongOf(-1e30f, absmax, 0) == -1);
      CHECK(FindWrongOf(-1e30f, absmax, 1) == 0);
      CHECK(FindWrongOf(1e30f, absmax, 0) == 0);
    }
    // Below 2^-125 nothing is told apart.
    CHECK(FindWrongOf(0x1p-127f, 0x1p-127f, 0) == -1);
  });
}

}  // namespace
}  // namespace qs
