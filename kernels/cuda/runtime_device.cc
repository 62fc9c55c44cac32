// Tested by tests/kernels/runtime_device_test.cc on a fake runtime, by
// tests/kernels/cuda_provider_test.cc without a driver, and by tests/gpu/run.sh
// where there is a GPU.
#include "kernels/cuda/runtime_device.h"

#include <cuda_runtime.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs::cuda {
namespace {

// CUDA writes versions as 1000 * major + 10 * minor.
std::string VersionText(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

absl::Status NoDevice(cudaError_t code) {
  if (code == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0) return absl::UnavailableError("no NVIDIA driver");
    return absl::UnavailableError(absl::StrCat(
        "the driver serves CUDA ", VersionText(driver), ", this build needs ",
        VersionText(CUDART_VERSION), " (driver 580 or later for CUDA 13)"));
  }
  return absl::UnavailableError(
      absl::StrCat("no GPU: ", cudaGetErrorString(code)));
}

DeviceFacts FactsOf(int index, const cudaDeviceProp& properties) {
  return {.index = index,
          .name = properties.name,
          .compute_major = properties.major,
          .compute_minor = properties.minor,
          .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
          .multiprocessors = properties.multiProcessorCount};
}

class RuntimeDevice final : public Device {
 public:
  explicit RuntimeDevice(const DeviceFacts& facts) : facts_(facts) {
    const char* const sync = std::getenv("QS_CUDA_SYNC");
    synchronous_ = sync != nullptr && std::string_view(sync) == "1";
  }

  const DeviceFacts& facts() const override { return facts_; }

  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    void* memory = nullptr;
    QS_RETURN_IF_ERROR(Call("cudaMalloc", [&] {
      return cudaMalloc(&memory, static_cast<size_t>(bytes));
    }));
    return memory;
  }
  void Free(void* memory) override {
    Call("cudaFree", [&] { return cudaFree(memory); }).IgnoreError();
  }
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override {
    void* memory = nullptr;
    QS_RETURN_IF_ERROR(Call("cudaMallocHost", [&] {
      return cudaMallocHost(&memory, static_cast<size_t>(bytes));
    }));
    return memory;
  }
  void FreePinned(void* memory) override {
    Call("cudaFreeHost", [&] { return cudaFreeHost(memory); }).IgnoreError();
  }

  absl::StatusOr<cudaStream_t> NewStream() override {
    cudaStream_t stream = nullptr;
    QS_RETURN_IF_ERROR(Call("cudaStreamCreate", [&] {
      return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    }));
    return stream;
  }
  void DestroyStream(cudaStream_t stream) override {
    Call("cudaStreamDestroy", [&] {
      return cudaStreamDestroy(stream);
    }).IgnoreError();
  }
  absl::StatusOr<cudaEvent_t> NewEvent() override {
    cudaEvent_t event = nullptr;
    QS_RETURN_IF_ERROR(Call("cudaEventCreate", [&] {
      return cudaEventCreateWithFlags(
          &event, cudaEventDisableTiming | cudaEventBlockingSync);
    }));
    return event;
  }
  void DestroyEvent(cudaEvent_t event) override {
    Call("cudaEventDestroy", [&] {
      return cudaEventDestroy(event);
    }).IgnoreError();
  }

  absl::Status CopyIn(void* device, const void* pinned, int64_t bytes,
                      cudaStream_t stream) override {
    return Call("copy to the device", [&] {
      return cudaMemcpyAsync(device, pinned, static_cast<size_t>(bytes),
                             cudaMemcpyHostToDevice, stream);
    });
  }
  absl::Status CopyOut(void* pinned, const void* device, int64_t bytes,
                       cudaStream_t stream) override {
    return Call("copy from the device", [&] {
      return cudaMemcpyAsync(pinned, device, static_cast<size_t>(bytes),
                             cudaMemcpyDeviceToHost, stream);
    });
  }
  absl::Status Record(cudaEvent_t event, cudaStream_t stream) override {
    return Call("cudaEventRecord",
                [&] { return cudaEventRecord(event, stream); });
  }
  absl::Status Wait(cudaEvent_t event) override {
    return Call("cudaEventSynchronize",
                [&] { return cudaEventSynchronize(event); });
  }
  absl::Status Synchronize(cudaStream_t stream) override {
    return Call("cudaStreamSynchronize",
                [&] { return cudaStreamSynchronize(stream); });
  }

  absl::Status Launch(absl::FunctionRef<absl::Status()> enqueue) override {
    absl::Status status;
    QS_RETURN_IF_ERROR(Call("launch", [&] {
      status = enqueue();
      // Not only what the launchers returned: a sticky error stays.
      const cudaError_t left = cudaPeekAtLastError();
      if (left != cudaSuccess && left != cudaErrorInvalidValue) return left;
      return synchronous_ ? cudaDeviceSynchronize() : cudaSuccess;
    }));
    return status;
  }

 private:
  template <typename Function>
  absl::Status Call(const char* what, Function function) {
    const int lost = lost_;
    if (lost != 0) return Lost("an earlier call", lost);
    const cudaError_t set = cudaSetDevice(facts_.index);
    const cudaError_t code = set == cudaSuccess ? function() : set;
    if (code == cudaSuccess) return absl::OkStatus();
    cudaGetLastError();  // the next call does not see it, unless it is sticky
    if (code == cudaErrorMemoryAllocation) {
      return absl::ResourceExhaustedError(
          absl::StrCat("gpu:", facts_.index, ": ", what, ": no memory"));
    }
    if (code == cudaErrorInvalidValue) {
      return absl::InvalidArgumentError(
          absl::StrCat("gpu:", facts_.index, ": ", what, ": invalid value"));
    }
    lost_ = code;
    return Lost(what, code);
  }

  absl::Status Lost(const char* what, int code) const {
    const auto error = static_cast<cudaError_t>(code);
    return absl::InternalError(
        absl::StrCat("gpu:", facts_.index, " is lost: ", what, ": CUDA error ",
                     code, ", ", cudaGetErrorString(error)));
  }

  const DeviceFacts facts_;
  bool synchronous_ = false;
  std::atomic<int> lost_ = 0;  // the cudaError_t
};

}  // namespace

absl::StatusOr<std::vector<DeviceFacts>> ListRuntimeDevices() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) return NoDevice(code);
  std::vector<DeviceFacts> devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    const cudaError_t got = cudaGetDeviceProperties(&properties, i);
    if (got != cudaSuccess) return NoDevice(got);
    devices.push_back(FactsOf(i, properties));
  }
  if (devices.empty()) return NoDevice(cudaErrorNoDevice);
  return devices;
}

absl::StatusOr<std::shared_ptr<Device>> OpenRuntimeDevice(
    const DeviceFacts& facts) {
  // Not cudaSetDevice first: that would make a context that spins.
  const cudaError_t code = cudaInitDevice(
      facts.index, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid);
  if (code != cudaSuccess) return NoDevice(code);
  return std::make_shared<RuntimeDevice>(facts);
}

int RuntimeMajor() { return CUDART_VERSION / 1000; }

absl::StatusOr<int64_t> FreeMemoryBytes(const DeviceFacts& facts) {
  size_t free = 0;
  size_t total = 0;
  cudaError_t code = cudaSetDevice(facts.index);
  if (code == cudaSuccess) code = cudaMemGetInfo(&free, &total);
  if (code != cudaSuccess) return NoDevice(code);
  return static_cast<int64_t>(free);
}

}  // namespace qs::cuda
