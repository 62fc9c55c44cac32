// GPTQ's factor on the host emulation against the reference and the CPU's, by
// each of its ways: blocks of a library, kernels of ours where there is none,
// and where one wants too much scratch. Within what the type rounds, with the
// same steps of the ladder.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/tiles.h"
#include "kernels/device_bytes.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_backend.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

using cuda::Blas;
using cuda::Cholesky;
using cuda::CholeskyArgs;
using cuda::EmulatedBackend;
using cuda::EmulatedDevice;

constexpr int64_t kBlock = cuda::kTiles.factor_columns;

// Counts what it is asked for, and knows the shapes.
struct Asked {
  std::vector<int64_t> columns;
  int in_f64 = 0;
};
class CountingCholesky final : public Cholesky {
 public:
  explicit CountingCholesky(Asked* asked) : asked_(*asked) {}
  std::string description() const override { return inner_->description(); }
  absl::StatusOr<int64_t> ScratchBytes(bool in_f64, int64_t n,
                                       int64_t lda) override {
    return inner_->ScratchBytes(in_f64, n, lda);
  }
  absl::Status Factor(const CholeskyArgs& args, cudaStream_t stream) override {
    asked_.columns.push_back(args.n);
    asked_.in_f64 += args.in_f64 ? 1 : 0;
    return inner_->Factor(args, stream);
  }

 private:
  const std::unique_ptr<Cholesky> inner_ = cuda::NewEmulatedCholesky();
  Asked& asked_;
};

std::unique_ptr<Blas> WithCounting(Asked* asked) {
  auto blas = cuda::NewEmulatedBlasAlone();
  blas->SetCholesky(std::make_unique<CountingCholesky>(asked));
  return blas;
}

std::unique_ptr<Blas> WithScratch(int64_t bytes) {
  auto blas = cuda::NewEmulatedBlasAlone();
  blas->SetCholesky(cuda::NewEmulatedCholesky(bytes));
  return blas;
}

struct Way {
  const char* name;
  std::function<std::unique_ptr<Blas>()> blas;
};
const Way kWays[] = {{"a library", cuda::NewEmulatedBlas},
                     {"our kernels", cuda::NewEmulatedBlasAlone}};

GptqResult Factored(std::unique_ptr<Blas> blas, const GptqCase& c,
                    uint64_t seed, bool in_place = false) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedBackend backend(std::move(blas));
  GptqResult result;
  FactorCase(backend, c, &result, in_place);
  return result;
}

// max |R R^T - P H P^T - damping| relative to the diagonal.
double FactorError(const GptqCase& c, const GptqResult& r) {
  const int64_t n = c.cols;
  double mean = 0;
  const auto h = [&](int64_t i, int64_t j) {
    return c.H(r.order[static_cast<size_t>(i)],
               r.order[static_cast<size_t>(j)]);
  };
  for (int64_t i = 0; i < n; ++i) {
    mean += (h(i, i) == 0 ? c.dead_diagonal : h(i, i)) / static_cast<double>(n);
  }
  const auto wanted = [&](int64_t i, int64_t j) {
    if (i != j) return h(i, j);
    const double d = h(i, i) == 0 ? c.dead_diagonal : h(i, i);
    return d + r.facts.damping * mean;
  };
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = 0;
      for (int64_t k = j; k < n; ++k) {
        sum += static_cast<double>(r.factor[static_cast<size_t>(i * n + k)]) *
               static_cast<double>(r.factor[static_cast<size_t>(j * n + k)]);
      }
      worst = std::max(worst, std::abs(sum - wanted(i, j)) /
                                  std::sqrt(wanted(i, i) * wanted(j, j)));
    }
  }
  return worst;
}

// What all ways must agree in.
void RequireSameSteps(const GptqFactorFacts& got, const GptqFactorFacts& want) {
  CHECK(got.in_f64 == want.in_f64);
  CHECK(got.damping == want.damping);
  CHECK(got.damping_retries == want.damping_retries);
  CHECK(got.diagonal_only == want.diagonal_only);
  CHECK(got.dead_columns == want.dead_columns);
  // Which of nearly equal pivots are lost is rounding.
  CHECK((got.dropped_pivots > 0) == (want.dropped_pivots > 0));
}

TEST_CASE("factors of every size around a panel and a block", "[race]") {
  uint64_t seed = 900;
  for (const Way& way : kWays) {
    for (int64_t size : {1, 2, 31, 33, 63, 64, 65, 71, 72, 73, 128, 200}) {
      for (bool in_f64 : {false, true}) {
        if (in_f64 && size > 100) continue;
        GptqCase c = MakeGptqCase({.rows = 1,
                                   .cols = size,
                                   .tokens = 3 * size + 5,
                                   .seed = static_cast<unsigned>(size)});
        c.order = "desc_act";
        c.in_f64 = in_f64;
        const GptqResult got = Factored(way.blas(), c, ++seed);
        INFO(way.name << " size " << size << " F64 " << in_f64 << " seed "
                      << seed);
        CHECK(got.facts.in_f64 == in_f64);
        CHECK(got.facts.damping_retries == 0);
        // sqrt(size) roundings of F32 in each element, times 8; of F64 the
        // result's alone.
        const double roundings =
            in_f64 ? 0 : 8 * 0x1p-24 * std::sqrt(static_cast<double>(size));
        CHECK(FactorError(c, got) <= roundings + 0x1p-22);
        for (int64_t i = 0; i < size; ++i) {
          for (int64_t j = 0; j < i; ++j) {
            REQUIRE(got.factor[static_cast<size_t>(i * size + j)] == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("a library's factor is our kernels' but for rounding") {
  for (bool in_f64 : {false, true}) {
    GptqCase c = MakeGptqCase({.rows = 1, .cols = 230, .seed = 12});
    c.order = "desc_act";
    c.in_f64 = in_f64;
    const GptqResult ours = Factored(kWays[1].blas(), c, 3);
    const GptqResult library = Factored(kWays[0].blas(), c, 4);
    GptqResult cpu;
    FactorCase(*NewCpuBackend(1), c, &cpu);
    // F64 leaves the rounding of the result.
    const double tolerance = in_f64 ? 0x1p-22 : 0x1p-13;
    for (size_t i = 0; i < ours.factor.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % c.cols;
      const double size =
          ours.factor[static_cast<size_t>(column * (c.cols + 1))];
      REQUIRE(std::abs(library.factor[i] - ours.factor[i]) <= tolerance * size);
      REQUIRE(std::abs(library.factor[i] - cpu.factor[i]) <= tolerance * size);
    }
    // The same bytes whatever the order of threads, and in H's own memory.
    CHECK(Factored(kWays[0].blas(), c, 5).factor == library.factor);
    CHECK(Factored(kWays[0].blas(), c, 6, /*in_place=*/true).factor ==
          library.factor);
  }
}

TEST_CASE("the ladder takes the steps that the CPU's takes", "[race]") {
  const auto cpu = NewCpuBackend(1);
  struct Step {
    const char* name;
    double damping;
    std::function<void(GptqCase&)> change;
  };
  const auto at = [](GptqCase& c, int64_t i, int64_t j) -> float& {
    return c.hessian[static_cast<size_t>(i * c.cols + j)];
  };
  const Step steps[] = {
      {"well conditioned", 0.01, [](GptqCase&) {}},
      {"F64", 1e-7, [](GptqCase&) {}},  // fewer tokens than columns
      {"more damping", 0.001,
       [&](GptqCase& c) {
         at(c, 10, 90) = at(c, 90, 10) =
             1.02f * std::sqrt(at(c, 10, 10) * at(c, 90, 90));
       }},
      {"replaced pivots", 0, [](GptqCase&) {}},
      {"only the diagonal", 0.01,
       [](GptqCase& c) { std::fill(c.hessian.begin(), c.hessian.end(), 0); }},
  };
  uint64_t seed = 950;
  for (const Way& way : kWays) {
    for (const Step& step : steps) {
      GptqCase c =
          MakeGptqCase({.rows = 1, .cols = 100, .tokens = 60, .seed = 4});
      c.damping = step.damping;
      step.change(c);
      const GptqResult got = Factored(way.blas(), c, ++seed);
      GptqResult want;
      FactorCase(*cpu, c, &want);
      INFO(way.name << ": " << step.name);
      const GptqResult in_place = Factored(way.blas(), c, seed, true);
      CHECK(in_place.factor == got.factor);
      RequireSameSteps(got.facts, want.facts);
      if (step.name == std::string("replaced pivots")) {
        CHECK(got.facts.dropped_pivots >= 30);
      } else if (!got.facts.diagonal_only) {
        CHECK(FactorError(c, got) <= 1e-5);
      } else {
        CHECK(got.factor == want.factor);
      }
    }
  }
}

TEST_CASE("a pivot that is not positive, or too small, wherever it is") {
  const auto cpu = NewCpuBackend(1);
  constexpr int64_t kSize = 2 * kBlock + 10;
  struct Lost {
    const char* name;
    float off;
    double damping;
    bool in_f64;
    int retries;
  };
  // What is left of the pivot: 1 - off^2.
  const Lost losts[] = {{"negative", 1.02f, 0.01, true, 1},
                        {"small for F32", 1 - 0x1p-20f, 0, true, 0},
                        {"large enough for F32", 1 - 0x1p-18f, 0, false, 0}};
  // In the block that is factored first, in one later, and found by what an
  // earlier block leaves.
  const std::pair<int64_t, int64_t> pairs[] = {
      {kSize - 2, kSize - 1}, {2 * kBlock, kSize - 1}, {0, 1},
      {kBlock, kBlock + 40},  {3, kSize - 1},          {kBlock - 1, kBlock}};
  uint64_t seed = 960;
  for (const Way& way : kWays) {
    for (const Lost& lost : losts) {
      for (const auto& [p, q] : pairs) {
        GptqCase c = OnePairCase(kSize, p, q, lost.off);
        c.damping = lost.damping;
        INFO(way.name << ": " << lost.name << " at " << p << ", " << q);
        const GptqResult got = Factored(way.blas(), c, ++seed);
        GptqResult want;
        FactorCase(*cpu, c, &want);
        RequireSameSteps(got.facts, want.facts);
        CHECK(got.facts.in_f64 == lost.in_f64);
        CHECK(got.facts.damping_retries == lost.retries);
        CHECK(got.facts.dropped_pivots == 0);
        for (size_t i = 0; i < want.factor.size(); ++i) {
          REQUIRE(got.factor[i] == Approx(want.factor[i]).epsilon(1e-6));
        }
      }
    }
  }
}

TEST_CASE("which blocks a library is given, and that it is left in time") {
  constexpr int64_t kSize = 2 * kBlock + 10;
  Asked asked;
  CHECK(Factored(WithCounting(&asked), OnePairCase(kSize, 0, 1, 0.5f), 1)
            .facts.in_f64 == false);
  CHECK(asked.columns == std::vector<int64_t>{10, kBlock, kBlock});
  CHECK(asked.in_f64 == 0);
  // Lost in the first block: nobody asks for the others of that attempt.
  asked = {};
  GptqCase c = OnePairCase(kSize, kSize - 2, kSize - 1, 1.02f);
  CHECK(Factored(WithCounting(&asked), c, 2).facts.damping_retries == 1);
  CHECK(asked.columns == std::vector<int64_t>{10, 10, 10, kBlock, kBlock});
  CHECK(asked.in_f64 == 4);
  // Pivots are replaced by our kernels: their bytes.
  asked = {};
  c.damping = 0;
  const GptqResult replaced = Factored(WithCounting(&asked), c, 3);
  CHECK(replaced.facts.dropped_pivots == 1);
  CHECK(asked.columns == std::vector<int64_t>{10, 10});
  CHECK(replaced.factor == Factored(kWays[1].blas(), c, 3).factor);
}

TEST_CASE("a library that wants more scratch than estimated is not asked") {
  const GptqCase c = MakeGptqCase({.rows = 1, .cols = 150, .seed = 7});
  const int64_t most = MostFactorScratch(c.cols, cuda::kTiles);
  CHECK(most == MostFactorScratch(kBlock, cuda::kTiles));
  CHECK(MostFactorScratch(1, kGpuTiles) >= 160);
  const GptqResult ours = Factored(kWays[1].blas(), c, 1);
  const GptqResult library = Factored(kWays[0].blas(), c, 1);
  CHECK(ours.factor != library.factor);
  CHECK(Factored(WithScratch(most), c, 1).factor == library.factor);
  CHECK(Factored(WithScratch(0), c, 1).factor == library.factor);
  CHECK(Factored(WithScratch(most + 1), c, 1).factor == ours.factor);
}

TEST_CASE("checkpoints between blocks and panels stop a factor") {
  const GptqCase c =
      MakeGptqCase({.rows = 1, .cols = 260, .tokens = 300, .seed = 4});
  for (const Way& way : kWays) {
    const int64_t width = way.name == std::string(kWays[0].name) ? kBlock : 64;
    const auto all = static_cast<int>(CeilDiv(c.cols, width));
    CHECK(all == (width == 64 ? 5 : 4));
    for (int calls : {1, 3, all, 100}) {
      std::vector<double> done;
      std::vector<float> factor(c.hessian.size());
      GptqFactorFacts facts;
      GptqFactorArgs args;
      args.hessian = c.hessian.data();
      args.size = c.cols;
      args.factor = factor.data();
      args.facts = &facts;
      args.checkpoint = [&](double share) {
        done.push_back(share);
        return static_cast<int>(done.size()) < calls
                   ? absl::OkStatus()
                   : absl::CancelledError("stop");
      };
      EmulatedBackend backend(way.blas());
      const absl::Status status = backend.gptq().Factor(args, backend.stream());
      INFO(way.name << " " << calls << " calls");
      CHECK(status.code() == (calls <= all ? absl::StatusCode::kCancelled
                                           : absl::StatusCode::kOk));
      CHECK(static_cast<int>(done.size()) == std::min(calls, all));
      CHECK(std::is_sorted(done.begin(), done.end()));
      CHECK(done.front() == 0);
      CHECK(done.back() < 1);
    }
  }
}

TEST_CASE("moments that are no moments are refused as by the reference") {
  const auto reference = NewReferenceBackend();
  uint64_t seed = 970;
  for (int64_t index : {0, 7, 505, 9999}) {
    for (float bad : {NAN, INFINITY, -INFINITY, -1.0f}) {
      if (bad == -1.0f && index % 101 != 0) continue;  // on the diagonal
      GptqCase c =
          MakeGptqCase({.rows = 1, .cols = 100, .tokens = 60, .seed = 4});
      c.hessian[static_cast<size_t>(index)] = bad;
      std::vector<float> factor(10000);
      GptqFactorFacts facts;
      GptqFactorArgs args;
      args.hessian = c.hessian.data();
      args.size = c.cols;
      args.factor = factor.data();
      args.facts = &facts;
      EmulatedDevice::Get().Seed(++seed);
      cuda::EmulatedGptq gptq;
      Stream stream;
      CHECK(gptq.Factor(args, stream) ==
            reference->gptq().Factor(args, reference->stream()));
    }
  }
}

}  // namespace
}  // namespace qs
