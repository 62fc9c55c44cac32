// What the kernels of nested absmax share: the nearest level of the 8-bit map,
// found by bisection among its 255 midpoints in shared memory.
// Tested by tests/kernels/nf4_cuda_test.cc.
#ifndef QS_KERNELS_CUDA_NESTED_DEVICE_H_
#define QS_KERNELS_CUDA_NESTED_DEVICE_H_

#include <cstdint>

#include "kernels/cuda/vocabulary.h"
#include "kernels/nf4_math.h"

namespace qs::cuda {

constexpr int kNestedLevels = 256;
constexpr int kNestedMidpoints = kNestedLevels - 1;

// Runs of 256 blocks that hold `blocks`.
QS_HD int64_t NestedRuns(int64_t blocks) {
  return (blocks + kNestedBlockSize - 1) / kNestedBlockSize;
}

// In shared memory.
struct NestedMidpointTable {
  float values[kNestedMidpoints];

  // By all threads of the block; a barrier follows.
  template <class Thread>
  QS_KERNEL void Fill(const Thread& t, const float (&from)[kNestedMidpoints]) {
    for (int i = t.ThreadIndex(); i < kNestedMidpoints; i += t.BlockSize()) {
      values[i] = from[i];
    }
  }
  // Midpoints strictly below x.
  QS_KERNEL int CountBelow(float x) const {
    int below = 0;
    QS_UNROLL
    for (int step = 128; step > 0; step /= 2) {
      if (values[below + step - 1] < x) below += step;
    }
    return below;
  }
  // kCuda: the nearest level to t; a tie goes to the even one.
  QS_KERNEL int Nearest(float t) const {
    const int below = CountBelow(t);
    const bool tie = below < kNestedMidpoints && values[below] == t;
    return tie ? below + below % 2 : below;
  }
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_NESTED_DEVICE_H_
