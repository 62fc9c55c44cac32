// The GPUs that this build finds on this machine: none without a driver, and
// then it says why.
#include <memory>
#include <string>

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

// By cuda_old_driver_test, which puts a driver of CUDA 11.8 in the loader's way
// (tests/testing/fake_driver.cc).
TEST_CASE("a driver that is too old is named with what is needed",
          "[.old_driver]") {
  const absl::Status status = Gpus().List().status();
  CHECK(absl::IsUnavailable(status));
  INFO(status.ToString());
  CHECK(status.message().find("the driver serves CUDA 11.8, this build needs "
                              "1") == 0);
  CHECK(status.message().find("(driver 580 or later for CUDA 13)") !=
        std::string::npos);
}

}  // namespace
}  // namespace qs
