// Second moments on a device: for each run of tokens, block columns of the
// upper triangle as products of the library (F32 sums on tensor cores), each
// added to the F64 sum while it is in the cache.
// Tested by tests/kernels/gram_cuda_test.cc.
#include "kernels/cuda/gram_cuda.h"

#include <algorithm>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/gram_launch.h"
#include "kernels/cuda/solver_call.h"
#include "kernels/cuda/tiles.h"
#include "kernels/gptq_check.h"

namespace qs::cuda {
namespace {

// Columns of a block: wide enough to fill a device with tiles, narrow enough
// that little below the diagonal is computed and that the product stays in the
// second-level cache (16 MB for 4096 inputs). The emulation has several blocks.
constexpr int64_t kBlockColumns = kTiles.gram_columns;

BlasType TypeOf(DType dtype) {
  if (dtype == DType::kF16) return BlasType::kF16;
  return dtype == DType::kBF16 ? BlasType::kBF16 : BlasType::kF32;
}

class GramCuda final : public GramOps {
 public:
  GramCuda(Workspace& workspace, Blas& blas)
      : workspace_(workspace), blas_(blas) {}

  absl::Status Accumulate(const GramAccumulateArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGramAccumulate(args));
    const TensorView& x = args.activations;
    SolverCall call(workspace_, blas_);
    const int64_t slices = CeilDiv(x.rows, kGramSlice);
    double* partial = nullptr;
    float* product = nullptr;
    QS_RETURN_IF_ERROR(call.Take(slices * x.cols, &partial));
    QS_RETURN_IF_ERROR(
        call.Take(x.cols * std::min(x.cols, kBlockColumns), &product));
    QS_RETURN_IF_ERROR(call.Launch("Gram columns", [&] {
      return LaunchGramColumns({x, partial, args.first_non_finite},
                               call.stream());
    }));
    QS_RETURN_IF_ERROR(call.Launch("Gram magnitudes", [&] {
      return LaunchGramAbs(
          {partial, slices, x.cols, args.first_non_finite, args.abs_sum},
          call.stream());
    }));
    for (int64_t begin = 0; begin < x.rows; begin += kGramRunTokens) {
      QS_RETURN_IF_ERROR(AddRun(args, begin, product, call));
    }
    return absl::OkStatus();
  }

  absl::Status Finish(const GramFinishArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGramFinish(args));
    SolverCall call(workspace_, blas_);
    return call.Launch("Gram finish",
                       [&] { return LaunchGramFinish(args, call.stream()); });
  }

 private:
  // x^T x of one run, in block columns down to the diagonal.
  absl::Status AddRun(const GramAccumulateArgs& args, int64_t begin,
                      float* product, SolverCall& call) const {
    const TensorView& x = args.activations;
    const auto* const run = static_cast<const uint8_t*>(x.data) +
                            begin * x.cols * DTypeBytes(x.dtype);
    for (int64_t first = 0; first < x.cols; first += kBlockColumns) {
      const int64_t width = std::min(kBlockColumns, x.cols - first);
      // Row-major [first + width, width] is column-major [width, ...].
      GemmArgs gemm;
      gemm.type = TypeOf(x.dtype);
      gemm.transpose_b = true;
      gemm.m = width;
      gemm.n = first + width;
      gemm.k = std::min(kGramRunTokens, x.rows - begin);
      gemm.a = run + first * DTypeBytes(x.dtype);
      gemm.lda = x.cols;
      gemm.b = run;
      gemm.ldb = x.cols;
      gemm.c = product;
      gemm.ldc = width;
      QS_RETURN_IF_ERROR(call.Gemm(gemm));
      QS_RETURN_IF_ERROR(call.Launch("Gram flush", [&] {
        return LaunchGramFlush(
            {product, first, width, x.cols, args.first_non_finite, args.sum},
            call.stream());
      }));
    }
    return absl::OkStatus();
  }

  Workspace& workspace_;
  Blas& blas_;
};

}  // namespace

std::unique_ptr<GramOps> NewGramCuda(Workspace& workspace, Blas& blas) {
  return std::make_unique<GramCuda>(workspace, blas);
}

}  // namespace qs::cuda
