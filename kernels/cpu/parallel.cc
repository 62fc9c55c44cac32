// Tested by tests/kernels/base_test.cc.
#include "kernels/cpu/parallel.h"

#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>

#include "kernels/base/checked_math.h"

namespace qs {

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
  tbb::task_arena arena(threads);
  arena.execute([&] { tbb::parallel_for(int64_t{0}, tiles, run); });
}

}  // namespace qs
