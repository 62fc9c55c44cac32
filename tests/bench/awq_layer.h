// The linear layer that awq_bench measures on.
#ifndef QS_TESTS_BENCH_AWQ_LAYER_H_
#define QS_TESTS_BENCH_AWQ_LAYER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/buffer.h"

namespace qs {

struct AwqBenchOptions {
  int64_t rows = 4096;
  int64_t cols = 4096;
  int64_t group = 128;
  int threads = 1;
  int runs = 3;
  std::string input;
};

// Ends the program on an error.
void Require(const absl::Status& status);
Buffer Floats(int64_t count);

struct AwqLayer {
  Buffer weight;  // F32 [rows, cols]
  Buffer x;       // F32 [tokens, cols]; empty when made up
  Buffer moment;  // H, F32 [cols, cols]
  Buffer factor;  // of H
  std::vector<float> x_mean;
  int64_t tokens = 0;
};

// Normal weights; a factor R whose columns differ in size, H = R R^T.
AwqLayer MakeUpLayer(const AwqBenchOptions& options);

// Weight and x of options->input, whose shape it sets in `options`. H, its
// factor and x_mean are only allocated.
AwqLayer ReadLayer(AwqBenchOptions* options);

}  // namespace qs

#endif  // QS_TESTS_BENCH_AWQ_LAYER_H_
