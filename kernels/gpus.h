// The GPUs of a program that links the library qs_gpus.
#ifndef QS_KERNELS_GPUS_H_
#define QS_KERNELS_GPUS_H_

#include "kernels/backend.h"

namespace qs {

// Lives as long as the program.
const GpuProvider& Gpus();

}  // namespace qs

#endif  // QS_KERNELS_GPUS_H_
