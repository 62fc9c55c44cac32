// quant_bench [FILTER] [--runs N]: times every kernel family on this CPU, one
// JSON line a row, each beside the rate of a plain copy.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/bench/bench.h"

int main(int argc, char** argv) {
  std::string filter;
  int runs = 7;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
      runs = std::atoi(argv[++i]);
    } else if (argv[i][0] == '-') {
      std::fprintf(stderr, "usage: quant_bench [FILTER] [--runs N]\n");
      return 2;
    } else {
      filter = argv[i];
    }
  }
  if (runs < 1) {
    std::fprintf(stderr, "quant_bench: --runs: got %d, allowed 1 or more\n",
                 runs);
    return 2;
  }
  qs::Bench bench(filter, runs);
  qs::BenchNf4(bench);
  qs::BenchAffine(bench);
  qs::BenchFormats(bench);
  qs::BenchStats(bench);
  qs::BenchHqq(bench);
  return 0;
}
