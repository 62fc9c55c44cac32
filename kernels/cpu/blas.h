// OpenBLAS as the CPU operations use it: on the caller's thread alone. What
// runs in parallel is cut into fixed tiles outside, so that results do not
// depend on the number of threads (those of OpenBLAS's own threads do).
#ifndef QS_KERNELS_CPU_BLAS_H_
#define QS_KERNELS_CPU_BLAS_H_

namespace qs {

// Call before any use of OpenBLAS; cheap, thread-safe.
void UseOneBlasThread();

}  // namespace qs

#endif  // QS_KERNELS_CPU_BLAS_H_
