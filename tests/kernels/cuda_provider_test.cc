// The GPUs that this build finds on this machine: none without a driver, and
// then it says why.
#include <memory>

#include "kernels/backend.h"
#include "kernels/gpus.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

TEST_CASE("a machine without a GPU says why it has none", "[gpus]") {
  const GpuProvider& gpus = Gpus();
  const absl::StatusOr<std::vector<GpuInfo>> list = gpus.List();
  if (list.ok()) {
    CHECK_FALSE(list->empty());
    CHECK(absl::IsNotFound(
        gpus.Open(static_cast<int>(list->size()), NewCpuBackend(1), 1)
            .status()));
    return;
  }
  INFO(list.status().ToString());
  const bool known = absl::IsUnimplemented(list.status()) ||
                     absl::IsUnavailable(list.status());
  CHECK(known);
  CHECK_FALSE(list.status().message().empty());
  CHECK(gpus.Open(0, NewCpuBackend(1), 1).status() == list.status());
}

}  // namespace
}  // namespace qs
