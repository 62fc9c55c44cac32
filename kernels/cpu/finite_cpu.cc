// Tested by tests/kernels/gram_test.cc.
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/finite_ops.h"

namespace qs {

int64_t FirstNonFinite(const TensorView& view) {
  return gptq::FirstNonFinite(view, /*threads=*/1);
}

}  // namespace qs
