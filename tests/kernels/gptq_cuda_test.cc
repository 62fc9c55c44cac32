// GPTQ on the host emulation against the reference: ranges of given weights
// with
// ==, codes but for ties; rows alone and together, and the same bytes in every
// order of threads. Factors: gptq_factor_cuda_test.cc.
#include "kernels/cuda/gptq_cuda.h"

#include <cmath>
#include <cstring>

#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_backend.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

using cuda::EmulatedBackend;
using cuda::EmulatedDevice;
using cuda::EmulatedGptq;

int64_t EqualRows(const GptqCase& c, const GptqResult& a, const GptqResult& b) {
  int64_t equal = 0;
  for (int64_t r = 0; r < c.rows; ++r) {
    equal +=
        std::memcmp(a.codes.data() + r * c.cols, b.codes.data() + r * c.cols,
                    static_cast<size_t>(c.cols)) == 0
            ? 1
            : 0;
  }
  return equal;
}

GptqResult RunEmulated(const GptqCase& c, uint64_t seed) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedBackend backend;
  return RunGptq(backend, c);
}

// Every order meets every width of codes and every size of groups with some of
// the others.
template <class Body>
void ForCases(const Body& body) {
  unsigned seed = 20;
  for (const std::string order :
       {"none", "desc_act", "desc_act_static", "gar"}) {
    for (int bits : {2, 3, 4, 8}) {
      for (int64_t group_size : {24, 32, 128, 160, 300}) {
        ++seed;
        if (order == "gar" && group_size == 300) continue;
        if (seed % 4 != 0) continue;
        GptqCase c = MakeGptqCase({.rows = 37,
                                   .cols = 300,
                                   .seed = seed,
                                   .dtype = seed % 3 == 0   ? DType::kBF16
                                            : seed % 3 == 1 ? DType::kF16
                                                            : DType::kF32});
        c.order = order;
        c.grid.bits = bits;
        c.grid.group_size = group_size;
        c.grid.symmetric = seed % 8 == 0;
        c.grid.scale_dtype = c.dtype;
        c.grid.decoded_dtype = seed % 5 == 0 ? c.dtype : DType::kF32;
        c.range = group_size == 32 ? GptqRange::kMse : GptqRange::kMinMax;
        if (order == "desc_act_static") c.range = GptqRange::kCurvature;
        INFO(order << " bits " << bits << " group_size " << group_size
                   << " seed " << seed);
        body(c, seed);
      }
    }
  }
}

TEST_CASE("the device gives the reference's rows, but for ties") {
  const auto reference = NewReferenceBackend();
  int64_t rows = 0, equal = 0;
  ForCases([&](const GptqCase& c, uint64_t seed) {
    const GptqResult want = RunGptq(*reference, c);
    const GptqResult got = RunEmulated(c, seed);
    const int64_t same = EqualRows(c, got, want);
    // With 8 bits a rounding is as likely to differ as F32 is coarse.
    if (c.grid.bits < 8) CHECK(same >= c.rows * 8 / 10);
    rows += c.rows;
    equal += same;
    CHECK(got.relative_error() == Approx(want.relative_error()).epsilon(0.02));
    CHECK(got.facts.damping_retries == 0);
    for (int64_t r = 0; r < c.rows; ++r) {
      const auto at = static_cast<size_t>(r);
      CHECK(got.signal[at] == Approx(want.signal[at]).epsilon(1e-5));
    }
  });
  INFO(equal << " of " << rows << " rows are equal");
  CHECK(equal * 100 >= rows * 97);
}

// Grids do not depend on what the loop rounds: all the bytes of static ones.
TEST_CASE("ranges of weights as they come are the reference's bytes") {
  const auto reference = NewReferenceBackend();
  uint64_t seed = 500;
  for (GptqRange range :
       {GptqRange::kMinMax, GptqRange::kCurvature, GptqRange::kMse}) {
    for (int bits : {2, 3, 4, 8}) {
      for (int64_t group_size : {7, 32, 130, 200}) {
        ++seed;
        GptqCase c = MakeGptqCase({.rows = 9,
                                   .cols = 200,
                                   .tokens = 300,
                                   .seed = static_cast<unsigned>(seed),
                                   .dtype = DType::kBF16});
        // A group of zeros, and one without negative weights.
        for (int64_t i = 0; i < group_size; ++i) {
          StoreFromFloat(c.weight.data(), c.dtype, i, 0.0f);
          StoreFromFloat(
              c.weight.data(), c.dtype, 200 + i,
              std::fabs(LoadAsFloat(c.weight.data(), c.dtype, 200 + i)));
        }
        c.order = "desc_act_static";
        c.range = range;
        c.grid.bits = bits;
        c.grid.group_size = group_size;
        c.grid.symmetric = seed % 2 == 0;
        c.grid.scale_dtype = seed % 3 == 0   ? DType::kF32
                             : seed % 3 == 1 ? DType::kF16
                                             : DType::kBF16;
        // The curvature is the factor's: one for both.
        GptqResult want;
        FactorCase(*reference, c, &want);
        GptqResult got = want;
        int64_t bad = 0;
        REQUIRE(reference->gptq()
                    .Solve(SolveArgs(c, &want, &bad), reference->stream())
                    .ok());
        EmulatedDevice::Get().Seed(seed);
        EmulatedGptq gptq;
        Stream stream;
        REQUIRE(gptq.Solve(SolveArgs(c, &got, &bad), stream).ok());
        REQUIRE(bad == -1);
        INFO("range " << static_cast<int>(range) << " bits " << bits
                      << " group_size " << group_size << " seed " << seed);
        REQUIRE(got.scales == want.scales);
        if (!c.grid.symmetric) REQUIRE(got.zero_points == want.zero_points);
      }
    }
  }
}

TEST_CASE("codes of given ranges, and rounding to nearest without a factor",
          "[race]") {
  const auto reference = NewReferenceBackend();
  uint64_t seed = 700;
  for (bool symmetric : {true, false}) {
    GptqCase c =
        MakeGptqCase({.rows = 70, .cols = 150, .tokens = 200, .seed = 5});
    c.order = "desc_act_static";
    c.grid = {.bits = 3,
              .group_size = 50,
              .symmetric = symmetric,
              .scale_dtype = DType::kF16};
    GptqResult want;
    FactorCase(*reference, c, &want);
    int64_t bad = 0;
    GptqSolveArgs args = SolveArgs(c, &want, &bad);
    REQUIRE(reference->gptq().Solve(args, reference->stream()).ok());
    const auto on_device = [&](const float* factor, GptqResult* got) {
      *got = want;
      std::fill(got->codes.begin(), got->codes.end(), uint8_t{0xee});
      GptqSolveArgs given = SolveArgs(c, got, &bad);
      given.factor = factor;
      given.range = GptqRange::kGiven;
      EmulatedDevice::Get().Seed(++seed);
      EmulatedGptq gptq;
      Stream stream;
      REQUIRE(gptq.Solve(given, stream).ok());
      CHECK(got->scales == want.scales);
    };
    GptqResult got;
    on_device(want.factor.data(), &got);
    CHECK(EqualRows(c, got, want) >= 66);
    // Nothing is compensated: elementwise, so the bytes are the reference's.
    on_device(nullptr, &got);
    args.factor = nullptr;
    args.range = GptqRange::kGiven;
    REQUIRE(reference->gptq().Solve(args, reference->stream()).ok());
    CHECK(got.codes == want.codes);
  }
}

TEST_CASE("no order of threads changes a byte, nor the partition of the rows") {
  for (const std::string order : {"desc_act", "desc_act_static"}) {
    GptqCase c =
        MakeGptqCase({.rows = 150, .cols = 290, .tokens = 600, .seed = 9});
    c.order = order;
    c.grid.group_size = 70;
    const GptqResult a = RunEmulated(c, 1);
    for (uint64_t seed = 2; seed <= 3; ++seed) {
      const GptqResult b = RunEmulated(c, seed);
      CHECK(a.factor == b.factor);
      CHECK(a.codes == b.codes);
      CHECK(a.scales == b.scales);
      CHECK(a.row_loss == b.row_loss);
      CHECK(a.error == b.error);
      CHECK(a.signal == b.signal);
    }
    // Rows 3 to 50 by themselves.
    GptqCase part = c;
    part.rows = 47;
    part.weight.assign(c.weight.begin() + 3 * 290 * 4,
                       c.weight.begin() + 50 * 290 * 4);
    const GptqResult p = RunEmulated(part, 4);
    CHECK(std::memcmp(p.codes.data(), a.codes.data() + 3 * 290, 47 * 290) == 0);
    CHECK(std::memcmp(p.scales.data(), a.scales.data() + 3 * 5 * 4,
                      47 * 5 * 4) == 0);
    for (size_t r = 0; r < 47; ++r) {
      CHECK(p.error[r] == a.error[r + 3]);
      CHECK(p.row_loss[r] == a.row_loss[r + 3]);
    }
  }
}

TEST_CASE("dead columns, zeroed or not", "[race]") {
  const auto reference = NewReferenceBackend();
  for (double dead_diagonal : {0.0, 1.0}) {
    for (int64_t group_size : {30, 120}) {
      GptqCase c =
          MakeGptqCase({.rows = 20, .cols = 120, .tokens = 500, .seed = 3});
      for (int64_t dead : {0, 17, 64, 119}) {
        for (int64_t i = 0; i < c.cols; ++i) {
          c.hessian[static_cast<size_t>(dead * c.cols + i)] = 0;
          c.hessian[static_cast<size_t>(i * c.cols + dead)] = 0;
        }
      }
      c.grid.group_size = group_size;
      c.grid.symmetric = false;
      c.dead_diagonal = dead_diagonal;
      const GptqResult want = RunGptq(*reference, c);
      const GptqResult got = RunEmulated(c, 800);
      CHECK(got.facts.dead_columns == 4);
      CHECK(EqualRows(c, got, want) >= 18);
      if (group_size == 120) CHECK(got.scales == want.scales);
    }
  }
}

TEST_CASE("weights that are not finite are found", "[race]") {
  uint64_t seed = 980;
  for (int64_t at : {0, 777, 65 * 90 - 1}) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      GptqCase c = MakeGptqCase(
          {.rows = 65, .cols = 90, .tokens = 100, .seed = 4, .dtype = dtype});
      StoreFromFloat(c.weight.data(), dtype, at, INFINITY);
      StoreFromFloat(c.weight.data(), dtype, 65 * 90 - 1, NAN);
      EmulatedDevice::Get().Seed(++seed);
      EmulatedBackend backend;
      GptqResult got;
      FactorCase(backend, c, &got);
      int64_t bad = 0;
      got.group_index.resize(90);
      REQUIRE(backend.gptq()
                  .Solve(SolveArgs(c, &got, &bad), backend.stream())
                  .ok());
      CHECK(bad == at);
    }
  }
}

TEST_CASE("checkpoints see the work advance and stop it") {
  GptqCase c = MakeGptqCase({.rows = 5, .cols = 260, .tokens = 300, .seed = 4});
  EmulatedBackend backend;
  GptqResult result;
  FactorCase(backend, c, &result);
  int64_t bad = 0;
  GptqSolveArgs solve = SolveArgs(c, &result, &bad);
  std::vector<double> done;
  int left = 0;
  solve.checkpoint = [&](double share) {
    done.push_back(share);
    return --left > 0 ? absl::OkStatus() : absl::CancelledError("stop");
  };
  const size_t blocks = 3;
  for (int calls : {1, 3, 100}) {
    done.clear();
    left = calls;
    const absl::Status status = backend.gptq().Solve(solve, backend.stream());
    if (calls <= static_cast<int>(blocks)) {
      CHECK(status.code() == absl::StatusCode::kCancelled);
      CHECK(done.size() == static_cast<size_t>(calls));
    } else {
      CHECK(status.ok());
      CHECK(done.size() == blocks);
    }
    CHECK(std::is_sorted(done.begin(), done.end()));
    CHECK(done.front() == 0);
    CHECK(done.back() <= 1);
  }
}

TEST_CASE("every code decodes to the reference's value") {
  const auto reference = NewReferenceBackend();
  uint64_t seed = 990;
  for (int bits : {2, 4, 8}) {
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (DType scale_dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        ++seed;
        const int64_t rows = 3, cols = 256, groups = 6;
        std::vector<uint8_t> codes(rows * cols), zero_points(rows * groups);
        std::vector<int32_t> index(cols);
        for (size_t i = 0; i < codes.size(); ++i) {
          codes[i] = static_cast<uint8_t>(i % (1u << bits));
        }
        for (size_t i = 0; i < zero_points.size(); ++i) {
          zero_points[i] = static_cast<uint8_t>(i * 3 % (1u << bits));
        }
        for (size_t i = 0; i < index.size(); ++i) {
          index[i] = static_cast<int32_t>(i * 7 % groups);
        }
        std::vector<uint8_t> scales(rows * groups * 4);
        for (int64_t i = 0; i < rows * groups; ++i) {
          StoreFromFloat(scales.data(), scale_dtype, i,
                         std::ldexp(1.1f, static_cast<int>(i) - 12));
        }
        GptqDecodeArgs args;
        args.codes = codes.data();
        args.scales = scales.data();
        args.zero_points = seed % 2 == 0 ? nullptr : zero_points.data();
        args.grid = {
            .bits = bits, .group_size = 48, .scale_dtype = scale_dtype};
        args.group_index = seed % 3 == 0 ? nullptr : index.data();
        std::vector<uint8_t> want(rows * cols * 4), got(rows * cols * 4);
        args.weight = {want.data(), dtype, rows, cols};
        REQUIRE(reference->gptq().Decode(args, reference->stream()).ok());
        args.weight.data = got.data();
        EmulatedDevice::Get().Seed(seed);
        EmulatedGptq gptq;
        Stream stream;
        REQUIRE(gptq.Decode(args, stream).ok());
        CHECK(got == want);
      }
    }
  }
}

}  // namespace
}  // namespace qs
