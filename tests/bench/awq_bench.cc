// awq_bench [--rows N] [--cols N] [--group N] [--threads N] [--runs N]
//     [--input FILE]
//
// The parts of AWQ on one linear layer, F32 weights, 20 ratios, 10 limits. One
// JSON line a row: best of the runs in seconds of processor time of all threads
// and of the clock, the operations that the definition needs (a triangular
// factor halves them), and the rate of a large matrix product measured beside.
// FILE (safetensors) holds `weight` [rows, cols] and `x` [tokens, cols], both
// F32; rows for H and its factor are then added, and the output error that
// REFERENCE's scales and limits leave on these tokens.
#include <cblas.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "kernels/cpu/blas.h"
#include "quant/awq_scales.h"
#include "tests/bench/awq_layer.h"

namespace qs {
namespace {

struct Time {
  double processor = 0;
  double wall = 0;
};

double Now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

Time Best(int runs, const std::function<void()>& body) {
  Time best = {INFINITY, INFINITY};
  for (int i = 0; i < runs; ++i) {
    const double processor = Now(CLOCK_PROCESS_CPUTIME_ID);
    const double wall = Now(CLOCK_MONOTONIC);
    body();
    best.processor =
        std::min(best.processor, Now(CLOCK_PROCESS_CPUTIME_ID) - processor);
    best.wall = std::min(best.wall, Now(CLOCK_MONOTONIC) - wall);
  }
  return best;
}

double ProductRate(int runs) {
  constexpr int64_t n = 1024;
  std::vector<float> a(n * n, 0.5f), b(n * n, 0.25f), c(n * n);
  const Time time = Best(10 * runs, [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1.0f,
                a.data(), n, b.data(), n, 0.0f, c.data(), n);
  });
  return 2.0 * n * n * n / time.processor;
}

class Rows {
 public:
  explicit Rows(const AwqBenchOptions& options)
      : o_(options),
        data_(options.input.empty() ? MakeUpLayer(options) : ReadLayer(&o_)),
        backend_(NewCpuBackend(options.threads)),
        weight_{data_.weight.data(), DType::kF32, o_.rows, o_.cols} {}

  void Run() {
    if (!o_.input.empty()) {
      Moments();
      Factor();
    }
    std::vector<float> w_mean(static_cast<size_t>(o_.cols));
    Row("statistics", 0, [&] {
      return backend_->awq().Statistics(
          {{&weight_, 1}, o_.group, w_mean.data()}, backend_->stream());
    });
    Search(w_mean);
    Clip(AwqRule::kAutoAwq);
    Quantize();
    if (!o_.input.empty()) {
      OutputError();
      return;
    }
    Losses(w_mean, true);
    Losses(w_mean, false);
    Clip(AwqRule::kBest);
  }

 private:
  double Weights() const {
    return static_cast<double>(o_.rows) * static_cast<double>(o_.cols);
  }

  void Row(const std::string& name, double operations,
           const std::function<absl::Status()>& body) {
    absl::Status status;
    const Time time = Best(o_.runs, [&] { status = body(); });
    Require(status);
    std::printf(
        "{\"name\":\"awq/%s\",\"rows\":%lld,\"cols\":%lld,\"group\":%lld,"
        "\"threads\":%d,\"seconds\":%.4f,\"processor_seconds\":%.4f,"
        "\"gflops\":%.1f,\"product_gflops\":%.1f,\"runs\":%d}\n",
        name.c_str(), static_cast<long long>(o_.rows),
        static_cast<long long>(o_.cols), static_cast<long long>(o_.group),
        o_.threads, time.wall, time.processor,
        operations / time.processor * 1e-9, ProductRate(o_.runs) * 1e-9,
        o_.runs);
    std::fflush(stdout);
  }

  AwqGridSpec Grid(AwqRule rule) const {
    return {4, o_.group, false, rule, DType::kF32};
  }

  // H and the mean magnitudes from the tokens.
  void Moments() {
    const auto cols = static_cast<size_t>(o_.cols);
    std::vector<float> abs_sum(cols);
    Row("moments", static_cast<double>(data_.tokens) * o_.cols * o_.cols, [&] {
      std::vector<double> sum(cols * cols), magnitudes(cols);
      int64_t non_finite = 0;
      const absl::Status status = backend_->gram().Accumulate(
          {{data_.x.data(), DType::kF32, data_.tokens, o_.cols},
           sum.data(),
           magnitudes.data(),
           &non_finite},
          backend_->stream());
      if (!status.ok()) return status;
      return backend_->gram().Finish({sum.data(), magnitudes.data(), o_.cols,
                                      data_.moment.As<float>(), abs_sum.data()},
                                     backend_->stream());
    });
    for (size_t k = 0; k < cols; ++k) {
      data_.x_mean[k] = abs_sum[k] / static_cast<float>(data_.tokens);
    }
  }

  void Factor() {
    GptqFactorFacts facts;
    GptqFactorArgs args;
    args.hessian = data_.moment.As<float>();
    args.size = o_.cols;
    args.damping = 1e-7;  // as AwqGroup
    args.factor = data_.factor.As<float>();
    args.facts = &facts;
    Row("factor", Weights() * o_.cols / 3,
        [&] { return backend_->gptq().Factor(args, backend_->stream()); });
    std::printf("{\"name\":\"awq/factor\",\"damping\":%g}\n", facts.damping);
  }

  // tr(D H D^T) / tr(W H W^T) of the codes that Quantize made.
  void OutputError() {
    Buffer result = Floats(o_.rows * o_.cols);
    const TensorView decoded = {result.data(), DType::kF32, o_.rows, o_.cols};
    std::memcpy(result.data(), decoded_.data(),
                static_cast<size_t>(result.size()));
    for (int64_t i = 0; i < o_.rows * o_.cols; ++i) {
      result.As<float>()[i] /= scales_[static_cast<size_t>(i % o_.cols)];
    }
    std::vector<double> error(static_cast<size_t>(o_.rows));
    std::vector<double> signal(error.size());
    Require(backend_->gptq().OutputError(
        {weight_, decoded, data_.moment.As<float>(), error.data(),
         signal.data()},
        backend_->stream()));
    std::printf("{\"name\":\"awq/result\",\"output_error_rel\":%.6g}\n",
                std::accumulate(error.begin(), error.end(), 0.0) /
                    std::accumulate(signal.begin(), signal.end(), 0.0));
  }

  // REFERENCE's: the best of 20 ratios, exactly, without every loss.
  void Search(const std::vector<float>& w_mean) {
    std::vector<TensorView> pieces;
    const int64_t rows = std::min<int64_t>(o_.rows, 256);
    for (int64_t row = 0; row < o_.rows; row += rows) {
      pieces.push_back({data_.weight.As<float>() + row * o_.cols, DType::kF32,
                        std::min(rows, o_.rows - row), o_.cols});
    }
    Row("search_20", 0, [&] {
      AwqSearchArgs args;
      args.spec.group_size = o_.group;
      args.profile = Profile::kReference;
      args.grid = Grid(AwqRule::kAutoAwq);
      args.weights = pieces;
      args.x_mean = data_.x_mean;
      args.w_mean = w_mean;
      args.second_moment = data_.moment.As<float>();
      args.factor = *Buffer::Allocate(data_.factor.size());
      std::memcpy(args.factor.data(), data_.factor.data(),
                  static_cast<size_t>(data_.factor.size()));
      auto found = SearchAwqScales(std::move(args), *backend_);
      if (found.ok()) scales_ = found->values;
      return found.status();
    });
  }

  void Losses(const std::vector<float>& w_mean, bool factored) {
    constexpr int kRatios = 20;
    std::vector<float> scales;
    for (int i = 0; i < kRatios; ++i) {
      const float ratio = static_cast<float>(i) / kRatios;
      for (size_t k = 0; k < w_mean.size(); ++k) {
        scales.push_back(std::pow(data_.x_mean[k], ratio) /
                         (std::pow(w_mean[k], 1 - ratio) + 1e-4f));
      }
    }
    std::vector<double> losses(kRatios);
    AwqScaleLossArgs args;
    args.weights = {&weight_, 1};
    args.grid = Grid(AwqRule::kAutoAwq);
    args.scales = scales.data();
    args.candidates = kRatios;
    args.losses = losses.data();
    if (factored) {
      args.factor = data_.factor.As<float>();
    } else {
      args.second_moment = data_.moment.As<float>();
    }
    const double work = Weights() * static_cast<double>(o_.cols) * kRatios;
    Row(factored ? "scales_20_factor" : "scales_20_moment",
        factored ? work : 2 * work,
        [&] { return backend_->awq().ScaleLosses(args, backend_->stream()); });
  }

  void Clip(AwqRule rule) {
    const auto groups = static_cast<size_t>(o_.rows * (o_.cols / o_.group));
    low_.resize(groups);
    high_.resize(groups);
    AwqClipArgs args;
    args.weight = weight_;
    args.grid = Grid(rule);
    args.scales = scales_.data();
    args.second_moment = data_.moment.As<float>();
    args.low = low_.data();
    args.high = high_.data();
    const int limits = rule == AwqRule::kBest ? 18 : 10;
    Row(rule == AwqRule::kBest ? "clip_best" : "clip_10",
        2 * Weights() * static_cast<double>(o_.group) * limits,
        [&] { return backend_->awq().ClipSearch(args, backend_->stream()); });
  }

  void Quantize() {
    const auto groups = static_cast<size_t>(o_.rows * (o_.cols / o_.group));
    std::vector<float> scales(groups);
    std::vector<uint8_t> zero_points(groups);
    std::vector<uint8_t> codes(static_cast<size_t>(o_.rows * o_.cols));
    decoded_ = Floats(o_.rows * o_.cols);
    AwqQuantizeArgs args;
    args.weight = weight_;
    args.grid = Grid(AwqRule::kAutoAwq);
    args.scales = scales_.data();
    args.low = low_.data();
    args.high = high_.data();
    args.decoded = decoded_.As<float>();
    args.codes = codes.data();
    args.group_scales = scales.data();
    args.zero_points = zero_points.data();
    Row("quantize", 0,
        [&] { return backend_->awq().Quantize(args, backend_->stream()); });
  }

  AwqBenchOptions o_;
  AwqLayer data_;
  const std::unique_ptr<Backend> backend_;
  const TensorView weight_;
  // Of the search and the clip search.
  std::vector<float> scales_, low_, high_;
  Buffer decoded_;
};

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  qs::AwqBenchOptions options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--input" && i + 1 < argc) {
      options.input = argv[i + 1];
      continue;
    }
    const int64_t value = i + 1 < argc ? std::atoll(argv[i + 1]) : 0;
    if (value < 1) {
      std::fprintf(stderr, "awq_bench: %s: needs a number of 1 or more\n",
                   name.c_str());
      return 2;
    }
    if (name == "--rows") {
      options.rows = value;
    } else if (name == "--cols") {
      options.cols = value;
    } else if (name == "--group") {
      options.group = value;
    } else if (name == "--threads") {
      options.threads = static_cast<int>(value);
    } else if (name == "--runs") {
      options.runs = static_cast<int>(value);
    } else {
      std::fprintf(stderr,
                   "usage: awq_bench [--rows N] [--cols N] [--group N] "
                   "[--threads N] [--runs N] [--input FILE]\n");
      return 2;
    }
  }
  qs::UseOneBlasThread();
  qs::Rows(options).Run();
  return 0;
}
