// gptq_bench [FILTER] [--runs N] [--size K]: second moments and GPTQ of a
// [K, K] BF16 weight, groups of 128, one JSON line a row. One thread is timed
// by its CPU time, more by the clock; each row beside the multiply-adds that
// this core can do.
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "tests/bench/fma_peak.h"

namespace qs {
namespace {

constexpr int64_t kTokens = 4096;

struct Settings {
  std::string filter;
  int runs = 5;
  int64_t size = 4096;
};

double Clock() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

class Table {
 public:
  explicit Table(const Settings& settings)
      : settings_(settings), peak_(FmaPeak()) {
    // The environment can choose slower ones (OPENBLAS_CORETYPE).
    std::printf(
        "{\"name\": \"fma_peak\", \"gflops_per_core\": %.1f, "
        "\"openblas_kernels\": \"%s\"}\n",
        peak_ * 1e-9, openblas_get_corename());
  }

  // Times `body`, which does `operations`. Returns the least seconds.
  double Row(const std::string& name, int threads, double operations,
             const std::function<void()>& body) const {
    if (name.find(settings_.filter) == std::string::npos) return 0;
    std::vector<double> seconds;
    for (int run = 0; run < settings_.runs; ++run) {
      const double start = threads == 1 ? ThreadSeconds() : Clock();
      body();
      seconds.push_back((threads == 1 ? ThreadSeconds() : Clock()) - start);
    }
    std::sort(seconds.begin(), seconds.end());
    const double least = seconds.front();
    std::printf(
        "{\"name\": \"%s\", \"threads\": %d, \"seconds\": %.4f, \"median\": "
        "%.4f, \"gflops\": %.1f, \"of_peak\": %.3f, \"runs\": %d}\n",
        name.c_str(), threads, least, seconds[seconds.size() / 2],
        operations / least * 1e-9, operations / least / (peak_ * threads),
        settings_.runs);
    std::fflush(stdout);
    return least;
  }

 private:
  const Settings& settings_;
  const double peak_;
};

struct Data {
  explicit Data(int64_t size)
      : n(size),
        activations(*Buffer::Allocate(kTokens * n * 2)),
        sum(*Buffer::Allocate(n * n * 8)),
        abs_sum(*Buffer::Allocate(n * 8)),
        hessian(*Buffer::Allocate(n * n * 4)),
        abs_f32(*Buffer::Allocate(n * 4)),
        factor(*Buffer::Allocate(n * n * 4)),
        weight(*Buffer::Allocate(n * n * 2)),
        codes(*Buffer::Allocate(n * n)),
        scales(*Buffer::Allocate(n * n / 128 * 2)) {
    std::mt19937 random(1);
    std::normal_distribution<float> gauss;
    for (int64_t i = 0; i < kTokens * n; ++i) {
      // Neighbours share half of what they are; some channels are loud.
      const float own = gauss(random);
      last_ = 0.7f * last_ + own;
      activations.As<uint16_t>()[i] =
          FloatToBf16((i % n) % 500 == 7 ? 10 * last_ : last_);
    }
    for (int64_t i = 0; i < n * n; ++i) {
      weight.As<uint16_t>()[i] = FloatToBf16(0.02f * gauss(random));
    }
    order.resize(static_cast<size_t>(n));
  }

  TensorView View() const { return {weight.data(), DType::kBF16, n, n}; }

  const int64_t n;
  float last_ = 0;
  Buffer activations, sum, abs_sum, hessian, abs_f32, factor, weight, codes,
      scales;
  std::vector<int32_t> order;
};

void Accumulate(Backend& backend, Data& data) {
  int64_t bad = -1;
  (void)backend.gram().Accumulate(
      {{data.activations.data(), DType::kBF16, kTokens, data.n},
       data.sum.As<double>(),
       data.abs_sum.As<double>(),
       &bad},
      backend.stream());
}

void FinishMoment(Backend& backend, Data& data) {
  std::memset(data.sum.data(), 0, static_cast<size_t>(data.sum.size()));
  Accumulate(backend, data);
  (void)backend.gram().Finish(
      {data.sum.As<double>(), data.abs_sum.As<double>(), data.n,
       data.hessian.As<float>(), data.abs_f32.As<float>()},
      backend.stream());
  std::iota(data.order.begin(), data.order.end(), 0);
  const float* h = data.hessian.As<float>();
  std::stable_sort(data.order.begin(), data.order.end(),
                   [&](int32_t a, int32_t b) {
                     return h[a * (data.n + 1)] > h[b * (data.n + 1)];
                   });
}

// What the sums are held against: OpenBLAS on one thread, F32 in.
void Ssyrk(const Data& data, const std::vector<float>& x,
           std::vector<float>& out) {
  const int n = static_cast<int>(data.n);
  openblas_set_num_threads(1);
  cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, n,
              static_cast<int>(kTokens), 1.0f, x.data(), n, 0.0f, out.data(),
              n);
}

void Factor(Backend& backend, Data& data) {
  GptqFactorFacts facts;
  GptqFactorArgs args;
  args.hessian = data.hessian.As<float>();
  args.size = data.n;
  args.order = data.order.data();
  args.factor = data.factor.As<float>();
  args.facts = &facts;
  (void)backend.gptq().Factor(args, backend.stream());
}

GptqGrid Grid() {
  return {.scale_dtype = DType::kBF16, .decoded_dtype = DType::kBF16};
}

void Solve(Backend& backend, Data& data, GptqRange range) {
  int64_t bad = -1;
  GptqSolveArgs args;
  args.weight = data.View();
  args.factor = data.factor.As<float>();
  args.order = data.order.data();
  args.grid = Grid();
  args.range = range;
  args.codes = data.codes.data();
  args.scales = data.scales.data();
  args.first_non_finite = &bad;
  (void)backend.gptq().Solve(args, backend.stream());
}

void Refine(Backend& backend, Data& data, int sweeps) {
  GptqRefineArgs args;
  args.weight = data.View();
  args.hessian = data.hessian.As<float>();
  args.grid = Grid();
  args.sweeps = sweeps;
  args.codes = data.codes.data();
  args.scales = data.scales.data();
  (void)backend.gptq().Refine(args, backend.stream());
}

void Rows(const Settings& settings) {
  const Table table(settings);
  Data data(settings.size);
  const auto n = static_cast<double>(data.n);
  const double gram = static_cast<double>(kTokens) * n * n;
  const double factor = n * n * n / 3;
  const double solve = n * n * n;
  FinishMoment(*NewCpuBackend(2), data);
  Factor(*NewCpuBackend(2), data);
  Solve(*NewCpuBackend(2), data, GptqRange::kCurvature);
  {
    std::vector<float> x(static_cast<size_t>(kTokens * data.n), 0.5f);
    std::vector<float> out(static_cast<size_t>(data.n * data.n));
    table.Row("ssyrk", 1, gram, [&] { Ssyrk(data, x, out); });
  }
  for (int threads : {1, 2}) {
    const auto backend = NewCpuBackend(threads);
    table.Row("gram_bf16", threads, gram, [&] { Accumulate(*backend, data); });
    table.Row("factor", threads, factor, [&] { Factor(*backend, data); });
    table.Row("gptq", threads, factor + solve, [&] {
      Factor(*backend, data);
      Solve(*backend, data, GptqRange::kMinMax);
    });
    table.Row("gptq_best", threads, factor + solve, [&] {
      Factor(*backend, data);
      Solve(*backend, data, GptqRange::kCurvature);
      Refine(*backend, data, 10);
    });
    // Its parts, and what another start costs.
    table.Row("curvature_loop", threads, solve,
              [&] { Solve(*backend, data, GptqRange::kCurvature); });
    table.Row("given_loop", threads, solve,
              [&] { Solve(*backend, data, GptqRange::kGiven); });
    table.Row("descent", threads, 2 * solve, [&] {
      Solve(*backend, data, GptqRange::kGiven);
      Refine(*backend, data, 10);
    });
  }
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  qs::Settings settings;
  for (int i = 1; i < argc; ++i) {
    const bool more = i + 1 < argc;
    if (std::strcmp(argv[i], "--runs") == 0 && more) {
      settings.runs = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--size") == 0 && more) {
      settings.size = std::atoll(argv[++i]);
    } else if (argv[i][0] == '-') {
      std::fprintf(stderr,
                   "usage: gptq_bench [FILTER] [--runs N] [--size K]\n");
      return 2;
    } else {
      settings.filter = argv[i];
    }
  }
  if (settings.runs < 1 || settings.size < 128 || settings.size % 128 != 0) {
    std::fprintf(stderr,
                 "gptq_bench: --runs: 1 or more; --size: multiples of "
                 "128\n");
    return 2;
  }
  qs::Rows(settings);
  return 0;
}
