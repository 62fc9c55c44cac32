// What this process may use of its machine: affinity and cgroup (v2, v1)
// limits counted, since a container shows the whole machine's figures.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_MACHINE_H_
#define QS_SERVICE_SERVER_MACHINE_H_

#include <cstdint>
#include <string>

namespace qs {

int UsableCpus();             // at least 1
int ConfiguredCpus();         // of the machine, at least 1
int64_t UsableMemoryBytes();  // at least 256 MiB

// The parts that read a limit's text, for tests. "max" or nonsense: no limit,
// which is 0 CPUs and 0 bytes.
int CpusFromCgroup(const std::string& cpu_max);  // "150000 100000" gives 2
int64_t BytesFromCgroup(const std::string& memory_max);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_MACHINE_H_
