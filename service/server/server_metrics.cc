// Tested by tests/service/metrics_test.cc.
#include "service/server/server_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "service/server/options.h"
#include "service/server/workers.h"

namespace qs {
namespace {

MetricValues One(double value) { return {{{}, value}}; }

double OpenDescriptors() {
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int entries = 0;
  while (readdir(folder) != nullptr) ++entries;
  closedir(folder);
  return entries - 3;  // ".", ".." and the folder itself
}

double MaxDescriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) +
           1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double ResidentBytes() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return static_cast<double>(pages * sysconf(_SC_PAGESIZE));
}

MetricValues BusySeconds(const WorkerPool& pool) {
  MetricValues values;
  const std::vector<double> busy = pool.busy_seconds();
  const std::vector<std::string> names = WorkerNames(pool.backends());
  for (size_t i = 0; i < busy.size(); ++i) {
    values.push_back({{{"worker", names[i]}}, busy[i]});
  }
  return values;
}

MetricValues DeviceMemory(const WorkerPool& pool) {
  MetricValues values;
  const std::vector<const Backend*> backends = pool.backends();
  const std::vector<WorkerPool::DeviceClaims> claims = pool.device_claims();
  for (size_t i = 0; i < backends.size(); ++i) {
    const DeviceMemoryUse memory = backends[i]->memory();
    if (memory.cap == 0) continue;  // a host
    const auto add = [&](const char* kind, int64_t bytes) {
      values.push_back({{{"worker", backends[i]->name()}, {"kind", kind}},
                        static_cast<double>(bytes)});
    };
    add("capacity", memory.cap);
    add("used", memory.used);
    add("high_water", memory.high_water);
    add("reserved", claims[i].now);
    add("estimate", claims[i].most.total());
  }
  return values;
}

MetricValues Budget(const ByteBudget& budget) {
  return {{{{"kind", "capacity"}}, static_cast<double>(budget.capacity())},
          {{{"kind", "reserved"}}, static_cast<double>(budget.reserved())}};
}

void AddProcess(std::list<MetricSource>* out) {
  const auto add = [out](MetricKind kind, const char* name, const char* help,
                         double (*read)()) {
    out->emplace_back(kind, name, help, [read] { return One(read()); });
  };
  add(MetricKind::kGauge, "quantd_open_fds", "File descriptors that are open",
      OpenDescriptors);
  add(MetricKind::kGauge, "quantd_max_fds", "File descriptors allowed",
      MaxDescriptors);
  add(MetricKind::kCounter, "process_cpu_seconds_total",
      "CPU time of the process", CpuSeconds);
  add(MetricKind::kGauge, "process_resident_memory_bytes",
      "Memory of the process", ResidentBytes);
  out->emplace_back(
      MetricKind::kGauge, "quantd_build_info", "Always 1; what runs", [] {
        return MetricValues{
            {{{"version", kServerVersion}, {"api", kApiVersion}}, 1}};
      });
}

}  // namespace

std::list<MetricSource> ServerMetrics(QuantizeContext& context,
                                      Acceptor& acceptor, const TlsFiles* tls) {
  std::list<MetricSource> out;
  const WorkerPool& pool = context.pool();
  const ByteBudget& budget = context.budget();
  const auto gauge = [&out](const char* name, const char* help,
                            MetricSource::Read read) {
    out.emplace_back(MetricKind::kGauge, name, help, std::move(read));
  };
  gauge("quantd_streams", "Quantize streams that are open", [&context] {
    return One(static_cast<double>(context.live_streams()));
  });
  gauge("quantd_worker_queue_tasks", "Tasks that wait for a worker",
        [&pool] { return One(static_cast<double>(pool.queued())); });
  gauge("quantd_memory_budget_bytes",
        "Bytes for tensors in flight: capacity, and reserved of it",
        [&budget] { return Budget(budget); });
  gauge("quantd_memory_budget_waiting", "Streams that wait for memory",
        [&budget] { return One(static_cast<double>(budget.waiting())); });
  gauge(
      "quantd_gpu_memory_bytes",
      "Device memory of each GPU worker: capacity; used of it, and at most so "
      "far; estimated for the tasks that run, and for the largest so far",
      [&pool] { return DeviceMemory(pool); });
  gauge("quantd_connections", "Connections that are open", [&acceptor] {
    return One(static_cast<double>(acceptor.open_connections()));
  });
  out.emplace_back(MetricKind::kCounter, "quantd_worker_busy_seconds_total",
                   "Time that each worker has had a task",
                   [&pool] { return BusySeconds(pool); });
  if (tls != nullptr) {
    gauge("quantd_tls_certificate_not_after_timestamp_seconds",
          "When the certificate in use ends, Unix time",
          [tls] { return One(static_cast<double>(tls->not_after())); });
  }
  AddProcess(&out);
  return out;
}

}  // namespace qs
