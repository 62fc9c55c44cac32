// Every SIMD target and thread count against the reference, with ==; and what
// the search promises.
#include <cmath>

#include "kernels/backend.h"
#include "tests/testing/hqq_cases.h"

namespace qs {
namespace {

// Body with some hundred cases: every kind, dtype, width, axis and solver, with
// groups that lie in a chunk and groups that do not.
template <class Body>
void ForHqqCases(const Body& body) {
  struct Shape {
    int64_t rows, cols, group_size;
  };
  const Shape shapes[] = {{1, 1, 1},     {3, 7, 7},    {6, 32, 16},
                          {24, 64, 64},  {5, 136, 8},  {2, 512, 128},
                          {9, 100, 100}, {16, 96, 48}, {1, 1024, 512},
                          {37, 72, 24},  {40, 40, 32}, {2, 340, 680}};
  constexpr int kBits[] = {8, 4, 3, 2, 1};
  uint64_t seed = 700;
  for (const Shape& shape : shapes) {
    for (Kind kind : kAllKinds) {
      for (DType dtype : kWeightTypes) {
        ++seed;
        const TestTensor weight =
            TestTensor::Make(dtype, shape.rows * shape.cols, kind, seed,
                             static_cast<int64_t>(seed % 3));
        for (int i = 0; i < 5; ++i) {
          HqqCase c{weight, shape.rows, shape.group_size,
                    kBits[(seed + i) % 5]};
          c.seed = seed;
          c.axis = i == 2 || i == 3 ? 0 : 1;
          c.solver = i % 2 == 0 ? HqqSolver::kReference : HqqSolver::kBest;
          c.stored = i == 0 ? DType::kF32 : dtype;
          c.integer = i == 4 && c.bits > 1;
          body(c);
          if (c.integer) {
            c.solver = HqqSolver::kBest;
            body(c);
          }
        }
      }
    }
  }
}

TEST_CASE("every SIMD target gives the reference's bytes") {
  const auto reference = NewReferenceBackend();
  const auto one = NewCpuBackend(1);
  const auto two = NewCpuBackend(2);
  REQUIRE(SimdTargets().size() >= 2);
  ForHqqCases([&](const HqqCase& c) {
    INFO(c.Describe());
    const HqqResult want = RunHqq(reference->hqq(), c);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      REQUIRE(RunHqq(one->hqq(), c) == want);
      REQUIRE(RunHqq(two->hqq(), c) == want);
      REQUIRE(ForceSimdTargetForTest("").ok());
    }
  });
}

// Several tiles of the error sum, and a rest of less than a row.
TEST_CASE("a large tensor: every implementation and thread count") {
  struct Size {
    int64_t rows, cols, group_size;
  };
  for (const Size& size : {Size{1003, 768, 64}, Size{517, 520, 8},
                           Size{320, 1000, 1000}, Size{130, 1024, 16}}) {
    for (float scale : {1.0f, 600.0f}) {  // without and with shrinking
      TestTensor weight =
          TestTensor::Make(DType::kF32, size.rows * size.cols, Kind::kGauss, 5);
      for (int64_t i = 0; i < weight.count(); ++i) {
        StoreFromFloat(weight.data(), DType::kF32, i, scale * weight.at(i));
      }
      HqqCase c{weight, size.rows, size.group_size, 3};
      INFO(c.Describe() << " times " << scale);
      const HqqResult want = RunHqq(NewReferenceBackend()->hqq(), c);
      for (int threads : {1, 2, 3}) {
        CHECK(RunHqq(NewCpuBackend(threads)->hqq(), c) == want);
      }
      c.solver = HqqSolver::kBest;
      const HqqResult best = RunHqq(NewCpuBackend(1)->hqq(), c);
      CHECK(RunHqq(NewCpuBackend(2)->hqq(), c) == best);
    }
  }
}

// Where the tensor stops before every group has come to rest.
TEST_CASE("an early stop solves the restless groups again") {
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 64 * 64, Kind::kGauss, 11);
  int early = 0;
  for (int64_t group_size : {8, 16, 32, 64, 128, 256, 512}) {
    for (int bits : {8, 3, 2, 1}) {
      const HqqCase c{weight, 64, group_size, bits};
      INFO(c.Describe());
      const HqqResult want = RunHqq(NewReferenceBackend()->hqq(), c);
      early += want.facts.iterations < 20;
      CHECK(RunHqq(NewCpuBackend(1)->hqq(), c) == want);
    }
  }
  CHECK(early >= 10);
}

TEST_CASE("non-finite elements are found wherever they are") {
  for (DType dtype : kWeightTypes) {
    for (int64_t at : {0, 1, 31, 63, 64, 65, 127, 300, 319}) {
      for (float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
        TestTensor weight = TestTensor::Make(dtype, 320, Kind::kGauss, 9);
        StoreFromFloat(weight.data(), dtype, at, bad);
        StoreFromFloat(weight.data(), dtype, 319, NAN);
        for (const auto& backend : AllBackends()) {
          for (int axis : {0, 1}) {
            for (HqqSolver solver : {HqqSolver::kReference, HqqSolver::kBest}) {
              HqqCase c{weight, 2, 32, 4};
              c.axis = axis;
              c.solver = solver;
              INFO(backend->name() << " " << c.Describe() << " at " << at);
              CHECK(RunHqq(backend->hqq(), c).first_non_finite == at);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("wrong arguments are refused") {
  const TestTensor weight = TestTensor::Make(DType::kF32, 96, Kind::kGauss, 1);
  std::vector<uint8_t> bytes(96 * 4);
  int64_t bad = 0;
  for (const auto& backend : AllBackends()) {
    const auto message = [&](const HqqEncodeArgs& args) {
      const absl::Status status =
          backend->hqq().Encode(args, backend->stream());
      CHECK(status.code() == absl::StatusCode::kInvalidArgument);
      return std::string(status.message());
    };
    HqqEncodeArgs good;
    good.weight = weight.View();
    good.group_size = 32;
    good.codes = bytes.data();
    good.scales = good.zeros = bytes.data();
    good.first_non_finite = &bad;
    for (int64_t group_size : {0, -1, 64, 97}) {
      HqqEncodeArgs args = good;
      args.group_size = group_size;
      CHECK(message(args).find("group_size: got") == 0);
    }
    for (int bits : {-1, 0, 5, 6, 7, 9}) {
      HqqEncodeArgs args = good;
      args.bits = bits;
      CHECK(message(args).find("bits: got") == 0);
    }
    HqqEncodeArgs args = good;
    args.axis = 2;
    CHECK(message(args) == "axis: got 2, allowed 0, 1");
    args = good;
    args.iterations = -1;
    CHECK(message(args) == "iterations: got -1, allowed 0..1000");
    args = good;
    args.zero_points = bytes.data();
    CHECK(message(args).find("zeros, zero_points") == 0);
    args.zeros = nullptr;
    args.stored = DType::kBF16;
    CHECK(message(args) == "stored: got BF16, allowed F32 (the weight's)");
    args.stored = DType::kF32;
    args.bits = 1;
    CHECK(message(args).find("bits: got 1") == 0);
    args.bits = 4;
    args.axis = 0;
    CHECK(message(args).find("axis: got 0") == 0);
    args = good;
    args.weight.dtype = DType::kI32;
    CHECK(message(args) == "dtype: got I32, allowed F32, F16, BF16");
    args = good;
    args.first_non_finite = nullptr;
    CHECK(message(args).find("first_non_finite") == 0);
  }
}

// What F32 sums of squares, in units of the range, cannot tell from `other`.
std::vector<double> Allowed(const HqqCase& c, std::vector<double> other) {
  for (double& error : other) error *= 1 + 0x1p-18;
  for (int64_t i = 0; i < c.weight.count(); ++i) {
    const double w = c.weight.at(i);
    other[static_cast<size_t>(c.GroupOf(i))] += w * w * 1e-36;
  }
  return other;
}

TEST_CASE("BEST is above neither rounding nor REFERENCE on any group") {
  const auto backend = NewCpuBackend(1);
  for (Kind kind : kAllKinds) {
    for (DType dtype : kWeightTypes) {
      const TestTensor weight = TestTensor::Make(dtype, 32 * 192, kind, 40);
      for (int bits : {8, 4, 3, 2, 1}) {
        for (bool integer : {false, true}) {
          if (integer && bits == 1) continue;
          HqqCase c{weight, 32, 64, bits};
          c.stored = dtype;
          c.integer = integer;
          c.solver = HqqSolver::kBest;
          const auto best = GroupErrors(c, RunHqq(backend->hqq(), c));
          c.solver = HqqSolver::kReference;
          for (int iterations : {0, 1, 2, 20}) {
            c.iterations = iterations;
            const auto other =
                Allowed(c, GroupErrors(c, RunHqq(backend->hqq(), c)));
            INFO(c.Describe() << " iterations " << iterations);
            for (size_t g = 0; g < best.size(); ++g) {
              INFO("group " << g);
              REQUIRE((best[g] <= other[g] || !std::isfinite(other[g])));
            }
          }
        }
      }
    }
  }
}

// Against the min-max grid of AffineOps, same file format.
TEST_CASE("BEST with integer zero points is never above round to nearest") {
  const auto backend = NewCpuBackend(1);
  for (Kind kind : kAllKinds) {
    const TestTensor weight =
        TestTensor::Make(DType::kBF16, 32 * 192, kind, 41);
    for (int bits : {8, 4, 3, 2}) {
      HqqCase c{weight, 32, 64, bits};
      c.stored = DType::kBF16;
      c.integer = true;
      c.solver = HqqSolver::kBest;
      const auto best = GroupErrors(c, RunHqq(backend->hqq(), c));
      HqqResult rtn = RunHqq(backend->hqq(), c);
      REQUIRE(
          backend->affine()
              .Encode({weight.View(32), bits, 64, false, AffineSearch::kMinMax,
                       rtn.codes.data(), rtn.scales.data(),
                       rtn.zero_points.data(), &rtn.first_non_finite},
                      backend->stream())
              .ok());
      REQUIRE(backend->affine()
                  .Decode({rtn.codes.data(),
                           rtn.scales.data(),
                           rtn.zero_points.data(),
                           bits,
                           64,
                           {rtn.decoded.data(), DType::kBF16, 32, 192}},
                          backend->stream())
                  .ok());
      const auto other = Allowed(c, GroupErrors(c, rtn));
      for (size_t g = 0; g < best.size(); ++g) {
        INFO(c.Describe() << " group " << g);
        REQUIRE(best[g] <= other[g]);
      }
    }
  }
}

}  // namespace
}  // namespace qs
