// Where the kernels of this source were verified. Written by tests/gpu/run.sh
// after every test has passed on a device; not by hand.
#ifndef QS_KERNELS_CUDA_VERIFIED_ON_H_
#define QS_KERNELS_CUDA_VERIFIED_ON_H_

namespace qs::cuda {

// On what, when, with which driver, and what was proved: "NVIDIA H200,
// 2026-01-31, driver 580.65: differential, memcheck, racecheck, initcheck,
// synccheck, stream". Empty: nothing, nowhere.
constexpr char kVerifiedOn[] = "";

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_VERIFIED_ON_H_
