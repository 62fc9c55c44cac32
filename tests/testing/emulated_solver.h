// A worker's device on the emulation for operations that take scratch and
// matrix products: host memory in, host memory out. Every array, scratch too,
// is an allocation of its own that starts as NaN bytes, so that an access
// beyond it or a read of what nobody wrote is an error or shows.
#ifndef QS_TESTS_TESTING_EMULATED_SOLVER_H_
#define QS_TESTS_TESTING_EMULATED_SOLVER_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/emulation.h"
#include "kernels/cuda/staged_call.h"
#include "kernels/cuda/workspace.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"

namespace qs::cuda {

class EmulatedSolver {
 public:
  explicit EmulatedSolver(std::unique_ptr<Blas> blas = NewEmulatedBlas())
      : device_(Faults(), /*lazy=*/true),
        // Too little for a chunk that several arrays could share.
        ledger_(Workspace::kLeastChunk - 1),
        blas_(std::move(blas)) {
    auto workspace = Workspace::Create(device_, ledger_);
    REQUIRE(workspace.ok());
    workspace_ = *std::move(workspace);
  }

  Workspace& workspace() { return *workspace_; }
  Blas& blas() { return *blas_; }

  absl::Status Do(absl::FunctionRef<absl::Status(StagedCall&)> operation) {
    absl::Status status;
    {
      StagedCall call(*workspace_);
      status = operation(call);
    }
    INFO("emulation: " << status.ToString() << " seed "
                       << EmulatedDevice::Get().seed());
    CHECK(!device_.lost());
    CHECK(EmulatedDevice::Get().TakeError().empty());
    return status;
  }

 private:
  FakeDevice device_;
  MemoryLedger ledger_;
  const std::unique_ptr<Blas> blas_;
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_EMULATED_SOLVER_H_
