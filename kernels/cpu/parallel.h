// ParallelTiles: the one way in which CPU operations use more than one thread.
#ifndef QS_KERNELS_CPU_PARALLEL_H_
#define QS_KERNELS_CPU_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace qs {

// Calls `body(begin, end)` for consecutive ranges of `tile` (the last shorter)
// that cover [0, n). With threads <= 1 or a single tile everything runs on the
// caller's thread. The partition does not depend on `threads`.
void ParallelTiles(int threads, int64_t n, int64_t tile,
                   const std::function<void(int64_t, int64_t)>& body);

}  // namespace qs

#endif  // QS_KERNELS_CPU_PARALLEL_H_
