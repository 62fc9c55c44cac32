// Timing and output for quant_bench: best and median of several runs, one JSON
// line a row, beside the machine's measured ceiling.
#ifndef QS_TESTS_BENCH_BENCH_H_
#define QS_TESTS_BENCH_BENCH_H_

#include <cstdint>
#include <functional>
#include <string>

#include "kernels/backend.h"

namespace qs {

class Bench {
 public:
  // Runs only rows whose name contains `filter`; `runs` per row.
  Bench(std::string filter, int runs) : filter_(filter), runs_(runs) {}

  // Times `body` (one call is warm-up) and prints
  //   {"name", "weights", "ns_per_weight" (median), "best_ns_per_weight",
  //    "processor_ns_per_weight" (least, of all threads: steadier on a busy
  //    machine), "gb_per_s" (bytes / median), "copy_gb_per_s" (the ceiling),
  //    "runs"}.
  // Returns the median seconds, 0 when filtered out.
  double Row(const std::string& name, int64_t weights, int64_t bytes,
             const std::function<void()>& body);

 private:
  std::string filter_;
  int runs_;
};

// Calls `rows(backend, where)` for a CPU backend of one thread on every SIMD
// target ("AVX3x1"), then for one of all threads on the best.
void ForCpuBackends(
    const std::function<void(Backend&, const std::string&)>& rows);

// Each family's rows.
void BenchNf4(Bench& bench);
void BenchAffine(Bench& bench);
void BenchFormats(Bench& bench);
void BenchStats(Bench& bench);
void BenchHqq(Bench& bench);

}  // namespace qs

#endif  // QS_TESTS_BENCH_BENCH_H_
