// The rows of gpu_bench, a function a family.
#ifndef QS_TESTS_GPU_BENCH_ROWS_H_
#define QS_TESTS_GPU_BENCH_ROWS_H_

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "tests/gpu/bench_machine.h"
#include "tests/gpu/bench_table.h"

namespace qs::cuda {

// Those of the numbers that are asked for; the test has small ones.
struct BenchShapes {
  int64_t rows = 4096;
  int64_t cols = 4096;
  int64_t wide = 11008;  // columns of the larger matrix
  int64_t group = 128;
  int64_t tokens = 262144;
  int64_t tokens_a_call = 8192;
  int64_t product = 8192;  // side of the matrices whose products are ceilings
  int64_t copy_bytes = int64_t{1} << 30;
  int64_t bus_bytes = int64_t{256} << 20;
};

std::string ShapeText(int64_t rows, int64_t cols);

// Copies and products: before all others.
absl::Status BenchCeilings(const BenchShapes& shapes, BenchMachine& machine,
                           BenchTable& table);
absl::Status BenchNf4(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table);
absl::Status BenchAffine(const BenchShapes& shapes, BenchMachine& machine,
                         BenchTable& table);
absl::Status BenchPacking(const BenchShapes& shapes, BenchMachine& machine,
                          BenchTable& table);
absl::Status BenchErrorSums(const BenchShapes& shapes, BenchMachine& machine,
                            BenchTable& table);
absl::Status BenchHqq(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table);
absl::Status BenchGram(const BenchShapes& shapes, BenchMachine& machine,
                       BenchTable& table);
absl::Status BenchGptq(const BenchShapes& shapes, BenchMachine& machine,
                       BenchTable& table);
absl::Status BenchAwq(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table);
// One of each family through a worker's backend, host memory in and out.
// Errors: INTERNAL also where the host did what the device should.
absl::Status BenchStaged(const BenchShapes& shapes, BenchMachine& machine,
                         BenchTable& table);

// All of them, then the JSON lines. A family that fails is named in `out` and
// the others still run. Returns the first error.
absl::Status RunGpuBench(const BenchShapes& shapes, BenchMachine& machine,
                         int runs, std::FILE* out);

}  // namespace qs::cuda

#endif  // QS_TESTS_GPU_BENCH_ROWS_H_
