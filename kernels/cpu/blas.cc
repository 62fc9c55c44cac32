// Tested by tests/kernels/gram_test.cc.
#include "kernels/cpu/blas.h"

#include <cblas.h>

namespace qs {

void UseOneBlasThread() {
  static const bool once = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  (void)once;
}

}  // namespace qs
