#include "tests/bench/bench.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

namespace qs {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(const std::function<void()>& body) {
  const Clock::time_point start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of all threads.
double ProcessorSeconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

std::vector<double> SortedRuns(int runs, const std::function<void()>& body) {
  body();  // first touch of memory, table set-up
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) seconds.push_back(Seconds(body));
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

// What one thread moves: bytes read plus bytes written by a large memcpy.
double CopyBytesPerSecond() {
  static const double rate = [] {
    constexpr size_t kBytes = size_t{128} << 20;
    std::vector<char> from(kBytes, 1);
    std::vector<char> to(kBytes, 2);
    const std::vector<double> runs = SortedRuns(5, [&] {
      std::memcpy(to.data(), from.data(), kBytes);
      from[0] = to[kBytes - 1];  // keeps the copy
    });
    return 2.0 * kBytes / runs.front();
  }();
  return rate;
}

}  // namespace

double Bench::Row(const std::string& name, int64_t weights, int64_t bytes,
                  const std::function<void()>& body) {
  if (name.find(filter_) == std::string::npos) return 0;
  double processor = INFINITY;
  const std::vector<double> runs = SortedRuns(runs_, [&] {
    const double start = ProcessorSeconds();
    body();
    processor = std::min(processor, ProcessorSeconds() - start);
  });
  const double median = runs[runs.size() / 2];
  const double n = static_cast<double>(weights);
  std::printf(
      "{\"name\":\"%s\",\"weights\":%lld,\"ns_per_weight\":%.4f,"
      "\"best_ns_per_weight\":%.4f,\"processor_ns_per_weight\":%.4f,"
      "\"gb_per_s\":%.2f,\"copy_gb_per_s\":%.2f,\"runs\":%d}\n",
      name.c_str(), static_cast<long long>(weights), median / n * 1e9,
      runs.front() / n * 1e9, processor / n * 1e9,
      static_cast<double>(bytes) / median / 1e9, CopyBytesPerSecond() / 1e9,
      runs_);
  std::fflush(stdout);
  return median;
}

void ForCpuBackends(
    const std::function<void(Backend&, const std::string&)>& rows) {
  for (const std::string& target : SimdTargets()) {
    if (!ForceSimdTargetForTest(target).ok()) continue;
    const auto backend = NewCpuBackend(1);
    rows(*backend, target + "x1");
  }
  (void)ForceSimdTargetForTest("");
  const int threads = static_cast<int>(std::thread::hardware_concurrency());
  const auto backend = NewCpuBackend(threads);
  rows(*backend, SimdTargets().front() + "x" + std::to_string(threads));
}

}  // namespace qs
