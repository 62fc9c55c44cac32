// gpu_bench [--gpu N] [--runs N]: what every CUDA kernel family takes on a
// device, beside the device's own ceilings and the numbers that are asked for;
// a table, then one JSON line a row. Built and run by tests/gpu/run.sh. Ends
// with 1 where there is no GPU, and says why; never for a time.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cuda_sources.h"  // generated: what it is of, for run.sh
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/runtime_device.h"
#include "tests/gpu/bench_rows.h"

namespace qs::cuda {
namespace {

// Of what is free; the libraries take the rest.
constexpr double kMemoryShare = 0.9;

absl::StatusOr<BenchParts> OpenGpu(int index) {
  QS_ASSIGN_OR_RETURN(const std::vector<DeviceFacts> devices,
                      ListRuntimeDevices());
  if (index < 0 || index >= static_cast<int>(devices.size())) {
    return absl::NotFoundError(absl::StrCat(
        "--gpu: got ", index, ", allowed 0 to ", devices.size() - 1));
  }
  const DeviceFacts& facts = devices[static_cast<size_t>(index)];
  BenchParts parts;
  QS_ASSIGN_OR_RETURN(parts.device, OpenRuntimeDevice(facts));
  QS_ASSIGN_OR_RETURN(const int64_t free, FreeMemoryBytes(facts));
  parts.new_blas = [] {
    const char* const directory = std::getenv("QS_CUBLAS_DIR");
    return LoadLibraries(RuntimeMajor(), directory == nullptr ? "" : directory);
  };
  parts.copy = [](void* to, const void* from, int64_t bytes,
                  cudaStream_t stream) {
    return FromCuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes),
                                    cudaMemcpyDeviceToDevice, stream),
                    "copy");
  };
  parts.memory_bytes =
      static_cast<int64_t>(static_cast<double>(free) * kMemoryShare);
  return parts;
}

absl::Status Run(int index, int runs) {
  QS_ASSIGN_OR_RETURN(BenchParts parts, OpenGpu(index));
  QS_ASSIGN_OR_RETURN(const auto machine, BenchMachine::Open(std::move(parts)));
  return RunGpuBench(BenchShapes(), *machine, runs, stdout);
}

}  // namespace
}  // namespace qs::cuda

int main(int argc, char** argv) {
  int index = 0;
  int runs = 5;
  for (int i = 1; i < argc; i += 2) {
    const bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--gpu") == 0 && has_value) {
      index = std::atoi(argv[i + 1]);
    } else if (std::strcmp(argv[i], "--runs") == 0 && has_value &&
               std::atoi(argv[i + 1]) > 0) {
      runs = std::atoi(argv[i + 1]);
    } else {
      std::fprintf(stderr, "usage: gpu_bench [--gpu N] [--runs N]\n");
      return 2;
    }
  }
  const absl::Status status = qs::cuda::Run(index, runs);
  if (status.ok()) return 0;
  std::fprintf(stderr, "gpu_bench: %s\n",
               std::string(status.message()).c_str());
  return 1;
}
