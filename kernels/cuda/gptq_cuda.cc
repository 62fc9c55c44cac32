// Tested by tests/kernels/gptq_cuda_test.cc.
#include "kernels/cuda/gptq_cuda.h"

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/gptq_check.h"

namespace qs::cuda {
namespace {

// d H d^T of tiles of rows that all have one shape, so that no row's bytes
// depend on how many there are.
class RowErrors {
 public:
  RowErrors(const GptqErrorArgs& args, SolverCall& call)
      : args_(args), call_(call) {}

  absl::Status Run() {
    const int64_t cols = args_.weight.cols;
    QS_RETURN_IF_ERROR(call_.Take(kSolveTile * cols, &d_));
    QS_RETURN_IF_ERROR(call_.Take(kSolveTile * cols, &product_));
    for (int64_t first = 0; first < args_.weight.rows; first += kSolveTile) {
      QS_RETURN_IF_ERROR(AddTile(first, args_.decoded, args_.error));
      if (args_.signal == nullptr) continue;
      QS_RETURN_IF_ERROR(
          AddTile(first, {nullptr, args_.weight.dtype, 0, 0}, args_.signal));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status AddTile(int64_t first, const TensorView& decoded, double* out) {
    const int64_t cols = args_.weight.cols;
    const int64_t count = std::min(kSolveTile, args_.weight.rows - first);
    QS_RETURN_IF_ERROR(call_.Check(nullptr, 0));
    QS_RETURN_IF_ERROR(call_.Launch("OutputError", [&] {
      return LaunchDifference({args_.weight, decoded, first, count, d_},
                              call_.stream());
    }));
    // Row-major D and D H are column-major D^T and H D^T.
    GemmArgs gemm;
    gemm.m = cols;
    gemm.n = kSolveTile;
    gemm.k = cols;
    gemm.a = args_.hessian;
    gemm.b = d_;
    gemm.c = product_;
    gemm.lda = gemm.ldb = gemm.ldc = cols;
    QS_RETURN_IF_ERROR(call_.Gemm(gemm));
    return call_.Launch("OutputError", [&] {
      return LaunchRowDot({d_, product_, count, cols, out + first},
                          call_.stream());
    });
  }

  const GptqErrorArgs& args_;
  SolverCall& call_;
  float* d_ = nullptr;
  float* product_ = nullptr;
};

class GptqCuda final : public GptqOps {
 public:
  GptqCuda(Workspace& workspace, Blas& blas)
      : workspace_(workspace), blas_(blas) {}

  absl::Status Factor(const GptqFactorArgs& args, Stream&) override {
    SolverCall call(workspace_, blas_);
    return FactorCuda(args, call);
  }
  absl::Status Solve(const GptqSolveArgs& args, Stream&) override {
    SolverCall call(workspace_, blas_);
    return SolveCuda(args, call);
  }
  absl::Status Refine(const GptqRefineArgs& args, Stream&) override {
    SolverCall call(workspace_, blas_);
    return RefineCuda(args, call);
  }
  absl::Status Decode(const GptqDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGptqDecode(args));
    SolverCall call(workspace_, blas_);
    return call.Launch("Decode", [&] {
      return LaunchGptqDecode(args, call.stream());
    });
  }
  absl::Status OutputError(const GptqErrorArgs& args, Stream&) override {
    SolverCall call(workspace_, blas_);
    return OutputErrorCuda(args, call);
  }

 private:
  Workspace& workspace_;
  Blas& blas_;
};

}  // namespace

absl::Status OutputErrorCuda(const GptqErrorArgs& args, SolverCall& call) {
  QS_RETURN_IF_ERROR(CheckGptqError(args));
  return RowErrors(args, call).Run();
}

std::unique_ptr<GptqOps> NewGptqCuda(Workspace& workspace, Blas& blas) {
  return std::make_unique<GptqCuda>(workspace, blas);
}

}  // namespace qs::cuda
