// What is checked before it is kept: NaN and infinity among values.
// Thread-safe.
#ifndef QS_KERNELS_FINITE_OPS_H_
#define QS_KERNELS_FINITE_OPS_H_

#include <cstdint>

#include "kernels/base/tensor_view.h"

namespace qs {

// The first flat index of a contiguous F32, F16 or BF16 view in host memory
// that is NaN or infinite, -1 when there is none. On the caller's thread, by
// the CPU's vectors whatever the backend: for data that are there once, which
// to copy to a device would take longer than to look at.
int64_t FirstNonFinite(const TensorView& view);

}  // namespace qs

#endif  // QS_KERNELS_FINITE_OPS_H_
