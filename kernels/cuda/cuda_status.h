// What the families' classes on the launchers share.
#ifndef QS_KERNELS_CUDA_CUDA_STATUS_H_
#define QS_KERNELS_CUDA_CUDA_STATUS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/stream.h"

namespace qs::cuda {

// Of a launcher's result. A launch may want memory, too, when its kernel's code
// is only now loaded: the device goes on without it, as Device has it.
inline absl::Status FromCuda(int code, const char* operation) {
  if (code == 0) return absl::OkStatus();
  if (code == kCudaNoMemory) {
    return absl::ResourceExhaustedError(absl::StrCat(operation, ": no memory"));
  }
  const std::string text = absl::StrCat(operation, ": CUDA error ", code);
  return code == kCudaInvalidValue ? absl::InvalidArgumentError(text)
                                   : absl::InternalError(text);
}

inline cudaStream_t Native(Stream& stream) {
  return static_cast<cudaStream_t>(stream.native);
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_CUDA_STATUS_H_
