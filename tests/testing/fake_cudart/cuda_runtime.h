// The part of the CUDA runtime that kernels/cuda/runtime_device.cc uses, on
// host memory, with errors to order: for tests of what is made of them, without
// a toolkit. Enumerators and names as CUDA documents them.
#ifndef QS_TESTS_TESTING_FAKE_CUDART_CUDA_RUNTIME_H_
#define QS_TESTS_TESTING_FAKE_CUDART_CUDA_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorIllegalAddress = 700
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum { cudaStreamNonBlocking = 1 };
enum { cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaDeviceScheduleBlockingSync = 4, cudaInitDeviceFlagsAreValid = 1 };

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;

struct cudaDeviceProp {
  char name[256] = "fake";
  size_t totalGlobalMem = size_t{1} << 30;
  int major = 9;
  int minor = 0;
  int multiProcessorCount = 1;
};

// What the test orders and sees.
struct FakeCudart {
  int driver = 13000;
  std::vector<cudaDeviceProp> devices = std::vector<cudaDeviceProp>(2);
  // The next call of the name returns it, once; "launch" is a kernel's.
  std::map<std::string, cudaError_t> errors;

  int current = -1;  // of cudaSetDevice
  // Of each device that has a context: what it was made with.
  std::map<int, unsigned> contexts;
  unsigned event_flags = 0;  // of the last event
  // Memory that was not freed: its addresses' complements, so that a leak
  // checker takes them for no pointers.
  std::set<uintptr_t> allocated;
  cudaError_t last = cudaSuccess;
  cudaError_t sticky = cudaSuccess;  // every call returns it

  // What nobody may free once the device is lost, as the end of a process does.
  void FreeAll() {
    for (const uintptr_t address : allocated) {
      std::free(reinterpret_cast<void*>(~address));
    }
    allocated.clear();
  }

  cudaError_t Answer(const std::string& call) {
    if (sticky != cudaSuccess) return last = sticky;
    const auto found = errors.find(call);
    if (found == errors.end()) return cudaSuccess;
    last = found->second;
    errors.erase(found);
    if (last == cudaErrorIllegalAddress) sticky = last;
    return last;
  }
};

inline FakeCudart& Cudart() {
  static FakeCudart fake;
  return fake;
}

inline cudaError_t cudaPeekAtLastError() { return Cudart().last; }
inline cudaError_t cudaGetLastError() {
  const cudaError_t last = Cudart().last;
  Cudart().last = Cudart().sticky;
  return last;
}
inline const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorMemoryAllocation ? "out of memory"
         : code == cudaErrorNoDevice ? "no CUDA-capable device is detected"
                                     : "an error";
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = Cudart().driver;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(Cudart().devices.size());
  return Cudart().Answer("cudaGetDeviceCount");
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties,
                                           int index) {
  *properties = Cudart().devices[static_cast<size_t>(index)];
  return Cudart().Answer("cudaGetDeviceProperties");
}
inline cudaError_t cudaInitDevice(int index, unsigned device_flags,
                                  unsigned flags) {
  const bool valid = flags == cudaInitDeviceFlagsAreValid;
  Cudart().contexts.emplace(index, valid ? device_flags : 0);
  return Cudart().Answer("cudaInitDevice");
}
inline cudaError_t cudaSetDevice(int index) {
  Cudart().contexts.emplace(index, 0);
  Cudart().current = index;
  return Cudart().Answer("cudaSetDevice");
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = size_t{1} << 30;
  return Cudart().Answer("cudaMemGetInfo");
}

inline cudaError_t FakeAllocation(const char* call, void** memory,
                                  size_t bytes) {
  const cudaError_t code = Cudart().Answer(call);
  if (code != cudaSuccess) return code;
  *memory = std::malloc(bytes);
  Cudart().allocated.insert(~reinterpret_cast<uintptr_t>(*memory));
  return code;
}
inline cudaError_t FakeFree(const char* call, void* memory) {
  Cudart().allocated.erase(~reinterpret_cast<uintptr_t>(memory));
  std::free(memory);
  return Cudart().Answer(call);
}
inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return FakeAllocation("cudaMalloc", memory, bytes);
}
inline cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  return FakeAllocation("cudaMallocHost", memory, bytes);
}
inline cudaError_t cudaFree(void* memory) {
  return FakeFree("cudaFree", memory);
}
inline cudaError_t cudaFreeHost(void* memory) {
  return FakeFree("cudaFreeHost", memory);
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(8);
  return Cudart().Answer("cudaStreamCreate");
}
inline cudaError_t cudaStreamDestroy(cudaStream_t) {
  return Cudart().Answer("cudaStreamDestroy");
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event,
                                            unsigned flags) {
  Cudart().event_flags = flags;
  *event = reinterpret_cast<cudaEvent_t>(8);
  return Cudart().Answer("cudaEventCreate");
}
inline cudaError_t cudaEventDestroy(cudaEvent_t) {
  return Cudart().Answer("cudaEventDestroy");
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return Cudart().Answer("cudaEventRecord");
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return Cudart().Answer("cudaEventSynchronize");
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return Cudart().Answer("cudaStreamSynchronize");
}
inline cudaError_t cudaDeviceSynchronize() {
  return Cudart().Answer("cudaDeviceSynchronize");
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes,
                                   cudaMemcpyKind, cudaStream_t) {
  const cudaError_t code = Cudart().Answer("cudaMemcpyAsync");
  if (code == cudaSuccess) std::memcpy(to, from, bytes);
  return code;
}

#endif  // QS_TESTS_TESTING_FAKE_CUDART_CUDA_RUNTIME_H_
