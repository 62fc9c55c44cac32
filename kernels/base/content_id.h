// ContentId: a number for bytes that do not change, so that a device keeps its
// copy of them from call to call. 0: the bytes have none, and are copied each
// time. Never used again, whatever lies at their address later.
#ifndef QS_KERNELS_BASE_CONTENT_ID_H_
#define QS_KERNELS_BASE_CONTENT_ID_H_

#include <atomic>
#include <cstdint>

namespace qs {

using ContentId = uint64_t;

// Thread-safe.
inline ContentId NewContentId() {
  static std::atomic<ContentId> last = 0;
  return ++last;
}

}  // namespace qs

#endif  // QS_KERNELS_BASE_CONTENT_ID_H_
