// NestedRefine: every SIMD target and the emulated CUDA kernels against the
// reference, with ==; and that no block is worse than REFERENCE's.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/factories.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_nf4.h"
#include "tests/testing/generators.h"

namespace qs {
namespace {

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

float ScaleOf(Spread spread, int64_t block, std::mt19937_64& random) {
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

TestTensor MakeWeight(const Case& c) {
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
Nested EncodeNone(Nf4Ops& ops, const Case& c, const TestTensor& weight) {
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
void Refine(Nf4Ops& ops, const Case& c, const TestTensor& weight, int64_t first,
            int64_t last, Nested* r) {
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

Nested RefineAll(Nf4Ops& ops, const Case& c, const TestTensor& weight,
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

TEST_CASE("every SIMD target refines to the reference's bytes") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  const auto two = NewCpuBackend(2);
  ForCases([&](const Case& c) {
    INFO(c.Describe());
    const TestTensor weight = MakeWeight(c);
    const Nested none = EncodeNone(reference->nf4(), c, weight);
    const Nested want = RefineAll(reference->nf4(), c, weight, none);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      REQUIRE(RefineAll(one->nf4(), c, weight, none) == want);
      REQUIRE(RefineAll(two->nf4(), c, weight, none) == want);
    }
  });
  REQUIRE(ForceSimdTargetForTest("").ok());
}

void CheckEmulated(const Case& c) {
  const auto reference = NewNf4Reference();
  cuda::EmulatedDevice::Get().Seed(c.seed);
  EmulatedNf4 emulated(Alignment::FromSeed(c.seed, c.dtype));
  INFO(c.Describe() << " alignment " << emulated.alignment().Describe());
  const TestTensor weight = MakeWeight(c);
  const Nested none = EncodeNone(*reference, c, weight);
  REQUIRE(RefineAll(emulated, c, weight, none) ==
          RefineAll(*reference, c, weight, none));
}

TEST_CASE("the kernels refine to the reference's bytes") {
  int number = 0;
  ForCases([&](const Case& c) {
    if (++number % 3 == 0) CheckEmulated(c);
  });
}

TEST_CASE("lanes without a block, and blocks with wide tries", "[race]") {
  for (const int64_t count : {40, 64 * 5, 64 * 40 + 3}) {
    for (const DType dtype : kWeightTypes) {
      CheckEmulated({dtype, count, 64, Kind::kGauss, Spread::kZeros,
                     Codebook::kNf4, Nf4Rule::kCuda,
                     static_cast<uint64_t>(count)});
    }
  }
}

TEST_CASE("a tensor may be refined in pieces") {
  const auto cpu = NewCpuBackend(2);
  const Case c{DType::kBF16,   64 * 1000 + 17, 64, Kind::kGauss, Spread::kHeavy,
               Codebook::kNf4, Nf4Rule::kCuda, 7};
  const TestTensor weight = MakeWeight(c);
  const Nested none = EncodeNone(cpu->nf4(), c, weight);
  Nested pieces = none;
  int64_t first = 0;
  for (const int64_t last : {100, 256, 300, 900, 1001}) {
    Refine(cpu->nf4(), c, weight, first, last, &pieces);
    first = last;
  }
  CHECK(pieces == RefineAll(cpu->nf4(), c, weight, none));
}

// As a reader has it, in double.
std::vector<double> BlockErrors(const Case& c, const TestTensor& weight,
                                const Nested& r,
                                const std::vector<float>& absmax) {
  Stream stream;
  TestTensor decoded(c.dtype, c.count);
  REQUIRE(NewReferenceBackend()
              ->nf4()
              .Decode({r.packed.data(), absmax.data(), c.block_size, c.codebook,
                       decoded.MutableView()},
                      stream)
              .ok());
  std::vector<double> errors(absmax.size());
  for (int64_t i = 0; i < c.count; ++i) {
    const double d = static_cast<double>(weight.at(i)) - decoded.at(i);
    errors[static_cast<size_t>(i / c.block_size)] += d * d;
  }
  return errors;
}

std::vector<float> Decoded(const Nested& r) {
  Stream stream;
  std::vector<float> absmax(r.codes.size());
  REQUIRE(
      NewReferenceBackend()
          ->nf4()
          .NestedDecode({r.codes.data(), r.nested_absmax.data(), &r.offset,
                         static_cast<int64_t>(r.codes.size()), absmax.data()},
                        stream)
          .ok());
  return absmax;
}

struct Totals {
  double none = 0;
  double best = 0;
};

// Fails on the first block that is worse than REFERENCE's.
Totals CheckNeverWorse(Backend& backend, const Case& c) {
  INFO(c.Describe());
  const TestTensor weight = MakeWeight(c);
  const Nested none = EncodeNone(backend.nf4(), c, weight);
  const Nested best = RefineAll(backend.nf4(), c, weight, none);
  REQUIRE(Decoded(best) == best.absmax);
  const auto before = BlockErrors(c, weight, none, Decoded(none));
  const auto after = BlockErrors(c, weight, best, best.absmax);
  Totals totals;
  for (size_t b = 0; b < before.size(); ++b) {
    if (!(after[b] <= before[b])) {
      FAIL("block " << b << ": " << after[b] << " above " << before[b]);
    }
    totals.none += before[b];
    totals.best += after[b];
  }
  return totals;
}

TEST_CASE("no block is worse than REFERENCE's with double quantization") {
  const auto cpu = NewCpuBackend(2);
  uint64_t seed = 600;
  for (int64_t block_size = 32; block_size <= 4096; block_size *= 2) {
    for (const DType dtype : kWeightTypes) {
      for (const Spread spread : kSpreads) {
        for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
          ++seed;
          const Nf4Rule rule =
              seed / 2 % 2 == 0 ? Nf4Rule::kCuda : Nf4Rule::kCpu;
          const Kind kind = seed % 3 == 0 ? Kind::kOutlier : Kind::kGauss;
          CheckNeverWorse(*cpu, {dtype, 40 * 4096 + 33, block_size, kind,
                                 spread, codebook, rule, seed});
        }
      }
      for (const Kind kind : kAllKinds) {
        CheckNeverWorse(*cpu, {dtype, 20001, block_size, kind, Spread::kNone,
                               Codebook::kNf4, Nf4Rule::kCuda, ++seed});
      }
    }
  }
}

TEST_CASE("double quantization leaves BEST its gain") {
  const auto cpu = NewCpuBackend(2);
  // Few blocks have most of the heavy tensor's error, and their absmax is the
  // greatest of its run: none above it can be expressed.
  for (const auto& [spread, bound] :
       {std::pair{Spread::kNone, 0.87}, std::pair{Spread::kHeavy, 0.95}}) {
    for (const DType dtype : kWeightTypes) {
      const Totals totals =
          CheckNeverWorse(*cpu, {dtype, 1 << 19, 64, Kind::kGauss, spread,
                                 Codebook::kNf4, Nf4Rule::kCuda, 11});
      INFO("ratio " << totals.best / totals.none);
      CHECK(totals.best <= bound * totals.none);
    }
  }
}

TEST_CASE("wrong arguments of NestedRefine are refused") {
  Stream stream;
  const auto cuda = NewNf4Cuda();
  const auto reference = NewNf4Reference();
  const auto cpu = NewNf4Cpu(1);
  for (Nf4Ops* ops : {cuda.get(), reference.get(), cpu.get()}) {
    NestedRefineArgs args;
    args.first_block = 256;
    CHECK(std::string(ops->NestedRefine(args, stream).message()) ==
          "first_block: got 256, allowed 0 to 255");
    args.first_block = 0;
    args.block_size = 48;
    CHECK(absl::IsInvalidArgument(ops->NestedRefine(args, stream)));
  }
  CHECK(cuda::LaunchNestedRefine({}, nullptr) == 0);  // no elements
  NestedRefineArgs args;
  float weight = 0;
  args.weight = {&weight, DType::kF32, 1, 1};
  CHECK(cuda::LaunchNestedRefine(args, nullptr) == cuda::kCudaInvalidValue);
}

}  // namespace
}  // namespace qs
