// Stream: the order in which a backend's operations take effect.
//
// Operations enqueued on one stream run in that order; on the CPU an operation
// has finished when its call returns. `native` is the device's own handle
// (cudaStream_t) and null on the CPU. Kernel code only passes it on.
#ifndef QS_KERNELS_STREAM_H_
#define QS_KERNELS_STREAM_H_

namespace qs {

struct Stream {
  void* native = nullptr;
};

}  // namespace qs

#endif  // QS_KERNELS_STREAM_H_
