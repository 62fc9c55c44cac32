// The narrow vocabulary that every kernel here is written in: who am I, shared
// memory, barriers, warp shuffles, integer atomics, checked global memory. Two
// meanings: the CUDA one below, and the host emulation (emulation.h) when
// QS_CUDA_EMULATION is defined, which runs the same kernel source on a CPU.
//
// A kernel is a function template over the thread type:
//
//   struct FooShared { float sums[32]; };            // or NoShared
//   template <class Thread>
//   QS_KERNEL void FooKernel(Thread& t, FooShared& shared, const FooArgs& a) {
//     auto in = t.Global(a.in, a.count);             // checked when emulated
//     ... t.ThreadIndex(), t.Barrier(), t.ShuffleXor(v, mask) ...
//   }
//   QS_DEFINE_ENTRY(FooKernel, FooShared)            // in the same namespace
//   QS_LAUNCH(FooKernel, FooShared, args, grid, block, stream)
//
// QS_LAUNCH is an expression: the cudaError_t of the launch as an int. A block
// has at most kMaxBlockThreads threads. QS_UNROLL before a loop whose trip
// count is constant keeps what it indexes in registers; QS_NO_UNROLL before one
// that is not worth registers.
#ifndef QS_KERNELS_CUDA_VOCABULARY_H_
#define QS_KERNELS_CUDA_VOCABULARY_H_

#include <cstdint>

namespace qs::cuda {

struct NoShared {};
constexpr int kWarpSize = 32;
constexpr int kMaxBlockThreads = 256;

}  // namespace qs::cuda

#if defined(QS_CUDA_EMULATION)
#include "kernels/cuda/emulation.h"
#else

#include <cuda_runtime.h>

#define QS_KERNEL __device__ __forceinline__
#define QS_UNROLL _Pragma("unroll")
#define QS_NO_UNROLL _Pragma("unroll 1")

namespace qs::cuda {

// Global memory as the kernel sees it; the emulation checks what this trusts.
template <class T>
struct GlobalPointer {
  T* __restrict__ data;

  QS_KERNEL T Get(int64_t i) const { return data[i]; }
  template <class V>
  QS_KERNEL void Set(int64_t i, V value) const {
    data[i] = value;
  }
  // `Vector` at element i; the address is a multiple of sizeof(Vector).
  template <class Vector>
  QS_KERNEL Vector GetVector(int64_t i) const {
    return *reinterpret_cast<const Vector*>(data + i);
  }
  template <class Vector>
  QS_KERNEL void SetVector(int64_t i, Vector value) const {
    *reinterpret_cast<Vector*>(data + i) = value;
  }
  QS_KERNEL void AtomicMin(int64_t i, T value) const {
    atomicMin(data + i, value);
  }
  QS_KERNEL void AtomicMax(int64_t i, T value) const {
    atomicMax(data + i, value);
  }
  QS_KERNEL void AtomicAdd(int64_t i, T value) const {
    atomicAdd(data + i, value);
  }
};

template <class T>
using GlobalMemory = GlobalPointer<T>;

struct DeviceThread {
  QS_KERNEL int ThreadIndex() const { return static_cast<int>(threadIdx.x); }
  QS_KERNEL int64_t BlockIndex() const { return blockIdx.x; }
  QS_KERNEL int BlockSize() const { return static_cast<int>(blockDim.x); }
  QS_KERNEL int64_t GridSize() const { return gridDim.x; }
  QS_KERNEL void Barrier() const { __syncthreads(); }
  // All 32 lanes of the warp take part.
  template <class T>
  QS_KERNEL T ShuffleXor(T value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }
  // The value of one lane, the same for the whole warp.
  template <class T>
  QS_KERNEL T ShuffleFrom(T value, int lane) const {
    return __shfl_sync(0xffffffffu, value, lane);
  }
  // Of lane `index` mod 32, which each lane chooses for itself.
  template <class T>
  QS_KERNEL T Lookup(T value, uint32_t index) const {
    return __shfl_sync(0xffffffffu, value, static_cast<int>(index));
  }
  QS_KERNEL bool AnyInWarp(bool value) const {
    return __any_sync(0xffffffffu, value) != 0;
  }
  // What a lane wrote before, the warp reads after.
  QS_KERNEL void WarpBarrier() const { __syncwarp(); }
  template <class T>
  QS_KERNEL GlobalMemory<T> Global(T* data, int64_t) const {
    return {data};
  }
};

}  // namespace qs::cuda

// One __global__ entry a kernel, for every argument type that it is launched
// with: shared memory is a static block of it. `bounds` are those of a launch.
#define QS_DEFINE_BOUNDED_ENTRY(kernel, Shared, bounds)                     \
  template <class Args>                                                     \
  __global__ void bounds kernel##Entry(const __grid_constant__ Args args) { \
    __shared__ Shared shared;                                               \
    ::qs::cuda::DeviceThread thread;                                        \
    kernel(thread, shared, args);                                           \
  }
#define QS_DEFINE_ENTRY(kernel, Shared) \
  QS_DEFINE_BOUNDED_ENTRY(kernel, Shared, __launch_bounds__(256))
// For a kernel that would spill where the compiler saves registers.
#define QS_DEFINE_LARGE_ENTRY(kernel, Shared) \
  QS_DEFINE_BOUNDED_ENTRY(kernel, Shared, __launch_bounds__(256, 1))

#define QS_LAUNCH(kernel, Shared, args, grid, block, stream)                  \
  (kernel##Entry<<<static_cast<unsigned>(grid), static_cast<unsigned>(block), \
                   0, stream>>>(args),                                        \
   static_cast<int>(cudaGetLastError()))

#endif  // QS_CUDA_EMULATION

#endif  // QS_KERNELS_CUDA_VOCABULARY_H_
