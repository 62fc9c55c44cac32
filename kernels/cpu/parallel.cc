// Tested by tests/kernels/base_test.cc.
#include "kernels/cpu/parallel.h"

#include <algorithm>
#include <functional>

#if defined(__SANITIZE_THREAD__)
#include <atomic>
#include <thread>
#include <vector>
#else
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#endif

#include "kernels/base/checked_math.h"

namespace qs {
namespace {

// Calls run(t) for each t below `tiles` on `threads` threads, the caller's
// among them.
//
// ThreadSanitizer does not see how oneTBB, which is not instrumented, hands a
// task to a thread, and calls every tile a race. Its build uses threads that
// it knows, so that the races of the tiles themselves are found.
#if defined(__SANITIZE_THREAD__)
void RunTiles(int threads, int64_t tiles,
              const std::function<void(int64_t)>& run) {
  std::atomic<int64_t> next = 0;
  const auto pull = [&] {
    for (int64_t t = next++; t < tiles; t = next++) run(t);
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < threads && i < tiles; ++i) helpers.emplace_back(pull);
  pull();
}
#else
void RunTiles(int threads, int64_t tiles,
              const std::function<void(int64_t)>& run) {
  tbb::task_arena arena(threads);
  arena.execute([&] { tbb::parallel_for(int64_t{0}, tiles, run); });
}
#endif

}  // namespace

void ParallelTiles(int threads, int64_t n, int64_t tile,
                   const std::function<void(int64_t, int64_t)>& body) {
  const int64_t tiles = CeilDiv(n, tile);
  const auto run = [&](int64_t t) {
    body(t * tile, std::min(n, (t + 1) * tile));
  };
  if (threads <= 1 || tiles <= 1) {
    for (int64_t t = 0; t < tiles; ++t) run(t);
    return;
  }
  RunTiles(threads, tiles, run);
}

}  // namespace qs
