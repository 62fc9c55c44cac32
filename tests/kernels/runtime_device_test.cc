// What is made of the CUDA runtime's errors, by a runtime that returns those
// which the test orders, and which of its devices is opened.
#include "kernels/cuda/runtime_device.h"

#include <cuda_runtime.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/solver_call.h"
#include "kernels/cuda/workspace.h"
#include "kernels/gpus.h"
#include "tests/testing/catch_compat.h"

namespace qs::cuda {
namespace {

// The runtime as it is at the start of a process.
void Restart() { Cudart() = FakeCudart(); }

std::shared_ptr<Device> OpenSecond() {
  const auto devices = ListRuntimeDevices();
  REQUIRE(devices.ok());
  return *OpenRuntimeDevice(devices->at(1));
}

absl::Status NoGpu(cudaError_t code) {
  Cudart().errors["cudaGetDeviceCount"] = code;
  return ListRuntimeDevices().status();
}

TEST_CASE("why there is no device", "[runtime_device]") {
  Restart();
  CHECK(NoGpu(cudaErrorNoDevice) ==
        absl::UnavailableError("no GPU: no CUDA-capable device is detected"));
  CHECK(NoGpu(cudaErrorMemoryAllocation) ==
        absl::UnavailableError("no GPU: out of memory"));
  Cudart().driver = 12040;
  CHECK(NoGpu(cudaErrorInsufficientDriver) ==
        absl::UnavailableError(
            "the driver serves CUDA 12.4, this build needs 13.0 (driver 580 or "
            "later for CUDA 13)"));
  Cudart().driver = 0;
  CHECK(NoGpu(cudaErrorInsufficientDriver) ==
        absl::UnavailableError("no NVIDIA driver"));
  Cudart().devices.clear();
  CHECK(ListRuntimeDevices().status() ==
        absl::UnavailableError("no GPU: no CUDA-capable device is detected"));
}

struct Call {
  const char* name;  // of the runtime's function
  const char* told;  // in messages
  std::function<absl::Status(Device&)> make;
};

std::vector<Call> Calls() {
  static int from = 1, to = 0;
  return {{"cudaMalloc", "cudaMalloc",
           [](Device& d) {
             const auto memory = d.Allocate(1);
             if (memory.ok()) d.Free(*memory);
             return memory.status();
           }},
          {"cudaMallocHost", "cudaMallocHost",
           [](Device& d) {
             const auto memory = d.AllocatePinned(1);
             if (memory.ok()) d.FreePinned(*memory);
             return memory.status();
           }},
          {"cudaStreamCreate", "cudaStreamCreate",
           [](Device& d) { return d.NewStream().status(); }},
          {"cudaEventCreate", "cudaEventCreate",
           [](Device& d) { return d.NewEvent().status(); }},
          {"cudaMemcpyAsync", "copy to the device",
           [](Device& d) { return d.CopyIn(&to, &from, 4, nullptr); }},
          {"cudaMemcpyAsync", "copy from the device",
           [](Device& d) { return d.CopyOut(&to, &from, 4, nullptr); }},
          {"cudaEventRecord", "cudaEventRecord",
           [](Device& d) { return d.Record(nullptr, nullptr); }},
          {"cudaEventSynchronize", "cudaEventSynchronize",
           [](Device& d) { return d.Wait(nullptr); }},
          {"cudaStreamSynchronize", "cudaStreamSynchronize",
           [](Device& d) { return d.Synchronize(nullptr); }},
          {"cudaSetDevice", "cudaStreamSynchronize",
           [](Device& d) { return d.Synchronize(nullptr); }}};
}

TEST_CASE("errors of every call: survived, or the device is lost",
          "[runtime_device]") {
  for (const Call& call : Calls()) {
    INFO(call.name << ", " << call.told);
    const std::string told = call.told;
    Restart();
    const auto device = OpenSecond();
    CHECK(call.make(*device).ok());
    CHECK(Cudart().current == 1);
    Cudart().errors[call.name] = cudaErrorMemoryAllocation;
    CHECK(call.make(*device) ==
          absl::ResourceExhaustedError("gpu:1: " + told + ": no memory"));
    CHECK(cudaPeekAtLastError() == cudaSuccess);  // not the next call's
    CHECK(call.make(*device).ok());
    Cudart().errors[call.name] = cudaErrorInvalidValue;
    CHECK(call.make(*device) ==
          absl::InvalidArgumentError("gpu:1: " + told + ": invalid value"));
    CHECK(call.make(*device).ok());
    Cudart().errors[call.name] = cudaErrorIllegalAddress;
    CHECK(call.make(*device) ==
          absl::InternalError("gpu:1 is lost: " + told +
                              ": CUDA error 700, an error"));
    Restart();  // whatever the runtime says then
    for (const Call& later : Calls()) {
      CHECK(later.make(*device) ==
            absl::InternalError("gpu:1 is lost: an earlier call: CUDA error "
                                "700, an error"));
    }
  }
}

// As QS_LAUNCH does.
absl::Status Launch(Device& device) {
  return device.Launch([] {
    Cudart().Answer("launch");
    return FromCuda(cudaGetLastError(), "Encode");
  });
}

TEST_CASE("errors of launches", "[runtime_device]") {
  Restart();
  const auto device = OpenSecond();
  CHECK(Launch(*device).ok());
  Cudart().errors["launch"] = cudaErrorMemoryAllocation;
  CHECK(Launch(*device) == absl::ResourceExhaustedError("Encode: no memory"));
  CHECK(Launch(*device).ok());
  // One that the operation says nothing of.
  Cudart().errors["launch"] = cudaErrorMemoryAllocation;
  CHECK(device->Launch([] {
    Cudart().Answer("launch");
    return absl::OkStatus();
  }) == absl::ResourceExhaustedError("gpu:1: launch: no memory"));
  CHECK(Launch(*device).ok());
  Cudart().errors["launch"] = cudaErrorIllegalAddress;
  CHECK(Launch(*device) ==
        absl::InternalError("gpu:1 is lost: launch: CUDA error 700, an error"));
  CHECK(absl::IsInternal(device->Synchronize(nullptr)));
}

// What it says of a product; nothing of it is seen in our runtime.
class SayingBlas final : public Blas {
 public:
  std::string description() const override { return "saying"; }
  absl::Status Gemm(const GemmArgs&, cudaStream_t) override { return says; }
  absl::Status Syrk(const SyrkArgs&, cudaStream_t) override { return says; }
  absl::Status Trsm(const TrsmArgs&, cudaStream_t) override { return says; }

  absl::Status says;
};

TEST_CASE("a library's error: the device is asked whether it goes on",
          "[runtime_device]") {
  Restart();
  const auto device = OpenSecond();
  MemoryLedger ledger(1 << 30);
  auto workspace = *Workspace::Create(*device, ledger);
  SayingBlas blas;
  SolverCall call(*workspace, blas);
  CHECK(call.Gemm({}).ok());
  // Execution failed, internal error: a kernel that could not be loaded, say.
  // Invalid value, not supported.
  for (const int code : {13, 14, 7, 15}) {
    const std::string text = absl::StrCat("cublasGemmEx: cuBLAS status ", code);
    blas.says = absl::InternalError(text);
    CHECK(call.Gemm({}) == absl::UnavailableError(text));
    CHECK(call.Syrk({}) == absl::UnavailableError(text));
    CHECK(call.Trsm({}) == absl::UnavailableError(text));
    CHECK(workspace->Synchronize().ok());
  }
  blas.says = absl::InvalidArgumentError("cuBLAS: size 2147483648");
  CHECK(call.Gemm({}) == blas.says);
  // Our kernels' own are not the library's.
  CHECK(absl::IsInternal(call.Launch("Encode", [] { return 98; })));

  blas.says = absl::InternalError("cublasGemmEx: cuBLAS status 13");
  Cudart().errors["cudaStreamSynchronize"] = cudaErrorIllegalAddress;
  CHECK(call.Gemm({}) ==
        absl::InternalError("gpu:1 is lost: cudaStreamSynchronize: CUDA error "
                            "700, an error"));
  CHECK(absl::IsInternal(call.Gemm({})));
  workspace = nullptr;
  Cudart().FreeAll();
}

TEST_CASE("a kernel's error shows at who waits, or with QS_CUDA_SYNC at it",
          "[runtime_device]") {
  for (const bool synchronous : {false, true}) {
    Restart();
    if (synchronous) setenv("QS_CUDA_SYNC", "1", 1);
    const auto device = OpenSecond();
    unsetenv("QS_CUDA_SYNC");
    Cudart().errors["cudaDeviceSynchronize"] = cudaErrorIllegalAddress;
    Cudart().errors["cudaStreamSynchronize"] = cudaErrorIllegalAddress;
    CHECK(Launch(*device).ok() == !synchronous);
    CHECK(absl::IsInternal(device->Synchronize(nullptr)));
  }
}

TEST_CASE("which GPU is opened, and why one is not", "[runtime_device]") {
  Restart();
  Cudart().devices[0].major = 7;
  const auto open = [](int index) {
    return Gpus().Open(index, NewCpuBackend(1), 2);
  };
  const auto second = open(1);
  REQUIRE(second.ok());
  CHECK((*second)->name() == "gpu:1");
  CHECK((*second)->lanes() == 2);
  CHECK(Cudart().current == 1);
  // Lanes that wait leave the cores to others.
  CHECK(Cudart().contexts ==
        std::map<int, unsigned>{{1, cudaDeviceScheduleBlockingSync}});
  CHECK(Cudart().event_flags ==
        (cudaEventDisableTiming | cudaEventBlockingSync));
  CHECK(open(0).status() ==
        absl::FailedPreconditionError(
            "fake: compute capability: got 7.0, allowed 8.0 and up"));
  CHECK(open(2).status() ==
        absl::NotFoundError("gpu:2: got 2, allowed 0 to 1"));
  Cudart().errors["cudaInitDevice"] = cudaErrorMemoryAllocation;
  CHECK(open(1).status() == absl::UnavailableError("no GPU: out of memory"));
  Cudart().errors["cudaMemGetInfo"] = cudaErrorMemoryAllocation;
  CHECK(open(1).status() == absl::UnavailableError("no GPU: out of memory"));
  Cudart().errors["cudaMallocHost"] = cudaErrorMemoryAllocation;
  CHECK(open(1).status() ==
        absl::ResourceExhaustedError("gpu:1: cudaMallocHost: no memory"));
}

}  // namespace
}  // namespace qs::cuda
