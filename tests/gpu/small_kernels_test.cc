// That the cases of device_small_test.cc leave no kernel out: compute-sanitizer
// sees no other, and a machine without it proves what tests/gpu/ runs alone.
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "kernels/cuda/emulation.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

// "file.cu:Kernel" of every entry that the sources define.
std::set<std::string> DefinedKernels() {
  std::set<std::string> kernels;
  for (const auto& file : std::filesystem::directory_iterator(QS_KERNELS)) {
    std::ifstream source(file.path());
    for (std::string line; std::getline(source, line);) {
      for (const std::string define :
           {"QS_DEFINE_ENTRY(", "QS_DEFINE_LARGE_ENTRY("}) {
        if (!line.starts_with(define)) continue;
        const std::string name =
            line.substr(define.size(), line.find(',') - define.size());
        kernels.insert(file.path().filename().string() + ":" + name);
      }
    }
  }
  return kernels;
}

// By its place in the list of sources it is the last of all cases.
TEST_CASE("small: every kernel has run", "[small]") {
  const std::set<std::string> defined = DefinedKernels();
  CHECK(defined.size() > 60);
  const std::set<std::string>& run = cuda::EmulatedDevice::Get().kernels_run();
  for (const std::string& kernel : defined) {
    INFO(kernel);
    CHECK(run.count(kernel) == 1);
  }
}

}  // namespace
}  // namespace qs
