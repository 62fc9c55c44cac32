// Tested by tests/service/options_test.cc.
#include "service/server/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

namespace qs {
namespace {

constexpr int64_t kLeastMemory = int64_t{256} << 20;

std::string ReadLine(const char* path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

int64_t LeastPositive(int64_t a, int64_t b) {
  if (a <= 0) return b;
  if (b <= 0) return a;
  return std::min(a, b);
}

}  // namespace

int CpusFromCgroup(const std::string& cpu_max) {
  std::istringstream in(cpu_max);
  int64_t quota = 0;
  int64_t period = 0;
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return static_cast<int>((quota + period - 1) / period);
}

int64_t BytesFromCgroup(const std::string& memory_max) {
  std::istringstream in(memory_max);
  int64_t bytes = 0;
  // cgroup v1 shows "no limit" as a number near 2^63.
  if (!(in >> bytes) || bytes <= 0 || bytes > (int64_t{1} << 60)) return 0;
  return bytes;
}

int UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof set, &set) == 0
                 ? CPU_COUNT(&set)
                 : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const int v2 = CpusFromCgroup(ReadLine("/sys/fs/cgroup/cpu.max"));
  const int v1 =
      CpusFromCgroup(ReadLine("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") + " " +
                     ReadLine("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  cpus = static_cast<int>(LeastPositive(cpus, LeastPositive(v2, v1)));
  return std::max(cpus, 1);
}

int ConfiguredCpus() {
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_CONF)));
}

int64_t UsableMemoryBytes() {
  const int64_t physical =
      static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const int64_t limit = LeastPositive(
      BytesFromCgroup(ReadLine("/sys/fs/cgroup/memory.max")),
      BytesFromCgroup(ReadLine("/sys/fs/cgroup/memory/memory.limit_in_bytes")));
  return std::max(LeastPositive(physical, limit), kLeastMemory);
}

}  // namespace qs
