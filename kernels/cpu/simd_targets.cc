// The instruction sets that the CPU implementation chooses from.
// Tested by tests/kernels/nf4_differential_test.cc.
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"

namespace qs {

namespace {

// Of this build and this machine, whatever a test forces: before it does, this
// has been called.
int64_t AllTargets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

}  // namespace

std::vector<std::string> SimdTargets() {
  std::vector<std::string> names;
  // Lower bits are better targets; the supported set was cut to what this
  // build compiled.
  for (int64_t targets = AllTargets(); targets != 0; targets &= targets - 1) {
    names.emplace_back(hwy::TargetName(targets & -targets));
  }
  return names;
}

absl::Status ForceSimdTargetForTest(std::string_view name) {
  const int64_t all = AllTargets();
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
  if (name.empty()) return absl::OkStatus();
  for (int64_t targets = all; targets != 0; targets &= targets - 1) {
    const int64_t target = targets & -targets;
    if (hwy::TargetName(target) == name) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().DeInit();  // the next dispatch chooses again
      return absl::OkStatus();
    }
  }
  return absl::NotFoundError(
      absl::StrCat("no SIMD target ", std::string(name), " on this machine"));
}

}  // namespace qs
