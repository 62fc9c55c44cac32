// MemoryPeak: the most memory that the process takes while something runs,
// above what it had before.
//
//   MemoryPeak peak;
//   if (!peak.measures()) return WARN("..."), void();
//   Run();
//   CHECK(peak.taken() <= bound);
//
// Measured in pages as the kernel counts them (VmHWM), so that nothing escapes;
// no use under a sanitizer (sanitized.h), nor with other threads at work.
#ifndef QS_TESTS_TESTING_MEMORY_PEAK_H_
#define QS_TESTS_TESTING_MEMORY_PEAK_H_

#include <cstdint>
#include <fstream>
#include <string>

#include "kernels/base/buffer.h"

namespace qs::testing {

class MemoryPeak {
 public:
  // The allocator's own, and what the kernel does not count at once.
  static constexpr int64_t kSlack = int64_t{4} << 20;

  MemoryPeak() {
    ReleaseCachedBuffers();
    std::ofstream("/proc/self/clear_refs") << "5";  // forgets the peak
    before_ = StatusBytes("VmRSS:");
    measures_ = StatusBytes("VmHWM:") <= before_ + kSlack;
  }
  // False: this system does not reset the peak.
  bool measures() const { return measures_; }
  int64_t taken() const { return StatusBytes("VmHWM:") - before_; }

 private:
  // A line of the process's status.
  static int64_t StatusBytes(const std::string& field) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      if (line.rfind(field, 0) == 0) {
        return std::stoll(line.substr(field.size())) * 1024;
      }
    }
    return 0;
  }

  int64_t before_ = 0;
  bool measures_ = false;
};

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_MEMORY_PEAK_H_
