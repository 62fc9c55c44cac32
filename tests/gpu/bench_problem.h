// What the solvers are given: second moments of made-up activations.
#ifndef QS_TESTS_GPU_BENCH_PROBLEM_H_
#define QS_TESTS_GPU_BENCH_PROBLEM_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/gpu/bench_machine.h"

namespace qs::cuda {

struct BenchMoment {
  const float* device = nullptr;  // H [inputs, inputs], of `memory`
  std::vector<float> host;        // H
  std::vector<int32_t> order;     // by falling diagonal
  std::vector<float> x_mean;      // [inputs]
};

// Of twice as many tokens as inputs, added up on the device.
absl::StatusOr<BenchMoment> MakeBenchMoment(BenchMachine& machine,
                                            BenchMemory& memory,
                                            int64_t inputs);

// R of H = R R^T into device memory, nearly without damping, columns as stored.
absl::Status FactorBenchMoment(BenchMachine& machine, const BenchMoment& moment,
                               int64_t inputs, float* factor);

// AutoAWQ's candidates [ratios, inputs].
std::vector<float> BenchAwqCandidates(std::span<const float> x_mean,
                                      std::span<const float> w_mean,
                                      int ratios);

}  // namespace qs::cuda

#endif  // QS_TESTS_GPU_BENCH_PROBLEM_H_
