// Tested by tests/service/gpu_workers_test.cc.
#include "service/server/workers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/server/gpu_seconds.h"
#include "service/server/log.h"

namespace qs {

absl::StatusOr<std::vector<std::unique_ptr<Backend>>> OpenWorkers(
    const ServerOptions& options, const GpuProvider* gpus) {
  const WorkerLayout& layout = options.workers;
  std::vector<std::unique_ptr<Backend>> backends;
  const int solver_threads = layout.cores();
  for (const int index : layout.gpus) {
    absl::StatusOr<std::unique_ptr<Backend>> backend =
        absl::UnimplementedError("this program has no GPU support");
    if (gpus != nullptr) {
      backend = gpus->Open(index, NewCpuBackend(layout.threads, solver_threads),
                           options.gpu_lanes);
    }
    if (!backend.ok()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "workers: got gpu:", index, ": ", backend.status().message()));
    }
    // With its libraries, or why one is not there.
    Log(LogLevel::kInfo, "gpu_worker",
        {{"worker", (*backend)->name()},
         {"lanes", (*backend)->lanes()},
         {"description", (*backend)->description()}});
    AddGpuDescription((*backend)->description());
    backends.push_back(*std::move(backend));
  }
  for (std::unique_ptr<Backend>& backend :
       NewCpuBackends(layout.partitions, layout.threads)) {
    backends.push_back(std::move(backend));
  }
  return backends;
}

std::string DescribeGpus(const GpuProvider* gpus) {
  if (gpus == nullptr) return "this program has no GPU support";
  const absl::StatusOr<std::vector<GpuInfo>> list = gpus->List();
  if (!list.ok()) return std::string(list.status().message());
  const auto describe = [](std::string* out, const GpuInfo& gpu) {
    absl::StrAppend(out, "gpu:", gpu.index, " ", gpu.name,
                    ", compute capability ", gpu.compute_capability, ", ",
                    gpu.memory_bytes >> 20, " MiB");
  };
  return absl::StrJoin(*list, "; ", describe);
}

std::string GpusVerifiedOn(const GpuProvider* gpus) {
  return gpus == nullptr ? "" : gpus->VerifiedOn();
}

std::vector<std::string> WorkerNames(
    const std::vector<const Backend*>& backends) {
  std::vector<std::string> names;
  int cpu = 0;
  for (const Backend* backend : backends) {
    const bool host = backend->name() == "cpu";
    names.push_back(host ? absl::StrCat("cpu:", cpu++) : backend->name());
  }
  return names;
}

quant::v1::DeviceInfo DescribeWorker(const Backend& backend,
                                     const WorkerPool::DeviceClaims& claims,
                                     int index, int threads) {
  quant::v1::DeviceInfo info;
  const bool host = backend.name() == "cpu";
  info.set_name(host ? absl::StrCat("cpu:", index) : backend.name());
  info.set_description(backend.description());
  info.set_threads(threads);
  if (!host) info.set_lanes(backend.lanes());
  info.set_lost(std::string(backend.health().message()));
  const DeviceMemoryUse memory = backend.memory();
  info.set_memory_cap_bytes(memory.cap);
  info.set_memory_used_bytes(memory.used);
  info.set_memory_high_water_bytes(memory.high_water);
  info.set_host_calls(memory.host_calls);
  if (memory.cap > 0) info.set_memory_estimate_bytes(claims.most.total());
  return info;
}

}  // namespace qs
