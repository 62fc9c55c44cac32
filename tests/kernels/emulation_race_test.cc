// That a race in a kernel on the host emulation is reported in a build with
// ThreadSanitizer, and nothing else: each case is a run of racy_kernels.
#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "tests/testing/catch_compat.h"
#include "tests/testing/shell_word.h"

namespace qs {
namespace {

constexpr int kRaceExitCode = 66;  // ThreadSanitizer's

struct Output {
  int status;
  std::string text;

  bool races() const {
    return WEXITSTATUS(status) == kRaceExitCode &&
           text.find("ThreadSanitizer: data race") != std::string::npos;
  }
};

Output RunRacyKernel(const std::string& name) {
  const std::string command =
      testing::ShellWord(QS_RACY_KERNELS) + " " + name + " 2>&1";
  FILE* const pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Output output;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) {
    output.text.append(buffer, n);
  }
  output.status = pclose(pipe);
  return output;
}

TEST_CASE("a correct kernel is not reported") {
  for (const char* name : {"barrier", "warp_barrier", "uneven_warps",
                           "block_atomic", "diverged"}) {
    const Output output = RunRacyKernel(name);
    INFO(name << ": " << output.text);
    CHECK(output.status == 0);
    CHECK(output.text == "done\n");
  }
}

TEST_CASE("threads of a block without a barrier between them are reported") {
  for (const char* name : {"no_barrier", "shuffle"}) {
    const Output output = RunRacyKernel(name);
    INFO(name << ": " << output.text);
    CHECK(output.races());
  }
}

TEST_CASE("blocks that share a word without atomics are reported") {
  for (const char* name : {"block_word", "other_block"}) {
    const Output output = RunRacyKernel(name);
    INFO(name << ": " << output.text);
    CHECK(output.races());
  }
}

}  // namespace
}  // namespace qs
