// That the cases of device_small_test.cc leave no kernel out: compute-sanitizer
// sees no other, and a machine without it proves what tests/gpu/ runs alone.
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "kernels/cuda/emulation.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

// "file.cu:Kernel" of every entry that the sources define.
std::set<std::string> DefinedKernels() {
  const std::regex entry(R"(\nQS_DEFINE_(?:LARGE_)?ENTRY\((\w+),)");
  std::set<std::string> kernels;
  for (const auto& file : std::filesystem::directory_iterator(QS_KERNELS)) {
    std::stringstream text;
    text << std::ifstream(file.path()).rdbuf();
    const std::string source = text.str();
    for (std::sregex_iterator it(source.begin(), source.end(), entry), end;
         it != end; ++it) {
      kernels.insert(file.path().filename().string() + ":" + (*it)[1].str());
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
