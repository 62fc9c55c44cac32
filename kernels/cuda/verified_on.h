// Where the kernels of this source were verified. Written by tests/gpu/run.sh
// after every test has passed on a device; not by hand.
#ifndef QS_KERNELS_CUDA_VERIFIED_ON_H_
#define QS_KERNELS_CUDA_VERIFIED_ON_H_

#include <string>

namespace qs::cuda {

// On what, when, with which driver, and what was proved: "NVIDIA H200,
// 2026-01-31, driver 580.65: differential, memcheck, racecheck, initcheck,
// synccheck, stream". Empty: nothing, nowhere.
constexpr char kVerifiedOn[] = "";
// Of which sources: what the programs that ran were linked with
// (kernels/cuda/sources_digest.sh --of).
constexpr char kVerifiedSources[] = "";

// `verified_on` as a build of `sources` may say it.
inline std::string VerifiedOnText(const std::string& verified_on,
                                  const std::string& verified_sources,
                                  const std::string& sources) {
  if (verified_on.empty() || verified_sources == sources) return verified_on;
  return verified_on + "; its sources have changed since";
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_VERIFIED_ON_H_
