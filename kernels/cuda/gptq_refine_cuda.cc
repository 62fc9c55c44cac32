// Refine on a device: blocks of columns by a kernel for all rows at once, what
// changed to the other columns' gradients by products, one tile of rows after
// the other.
// Tested by tests/kernels/gptq_refine_cuda_test.cc.
#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"

namespace qs::cuda {
namespace {

class Refiner {
 public:
  Refiner(const GptqRefineArgs& args, SolverCall& call)
      : args_(args),
        call_(call),
        shape_{args.weight.rows, args.weight.cols},
        cols_(args.weight.cols),
        wide_groups_(args.grid.group_size > gptq::kBlock) {}

  absl::Status Run() {
    if (args_.weight.rows == 0) return absl::OkStatus();
    QS_RETURN_IF_ERROR(Allocate());
    QS_RETURN_IF_ERROR(FindDamping());
    QS_RETURN_IF_ERROR(FindGradient());
    for (sweep_ = 0; sweep_ < args_.sweeps; ++sweep_) {
      bool changed = false;
      QS_RETURN_IF_ERROR(Sweep(&changed));
      if (!changed) break;
    }
    return args_.row_error == nullptr ? absl::OkStatus() : MeasureErrors();
  }

 private:
  absl::Status Allocate() {
    const int64_t rows = args_.weight.rows;
    state_.weight = args_.weight;
    state_.grid = args_.grid;
    state_.groups = CeilDiv(cols_, args_.grid.group_size);
    state_.hessian = args_.hessian;
    state_.codes = args_.codes;
    state_.scales = args_.scales;
    state_.zero_points =
        args_.grid.symmetric ? nullptr : args_.zero_points;
    QS_RETURN_IF_ERROR(call_.Take(shape_.elements(), &state_.gradient));
    QS_RETURN_IF_ERROR(call_.Take(rows, &changed_before_));
    QS_RETURN_IF_ERROR(call_.Take(rows, &state_.changed));
    QS_RETURN_IF_ERROR(call_.Take(1, &state_.any_changed));
    QS_RETURN_IF_ERROR(
        call_.Take(shape_.padded_rows() * gptq::kBlock, &block_d_));
    QS_RETURN_IF_ERROR(call_.Take(kSolveTile * cols_, &tile_d_));
    // Rows that fill up the last tile are multiplied, too.
    const std::vector<float> zeros(static_cast<size_t>(
        (shape_.padded_rows() - rows) * gptq::kBlock));
    QS_RETURN_IF_ERROR(call_.CopyIn(block_d_ + rows * gptq::kBlock,
                                    zeros.data(),
                                    static_cast<int64_t>(zeros.size())));
    if (!wide_groups_ || !args_.refit_scales) return absl::OkStatus();
    QS_RETURN_IF_ERROR(call_.Take(kSolveTile * cols_, &scale_args_.steps));
    QS_RETURN_IF_ERROR(call_.Take(kSolveTile * cols_, &product_));
    return call_.Take(kSolveTile * state_.groups, &scale_args_.wanted);
  }

  absl::Status FindDamping() {
    HessianScanArgs scan;
    scan.hessian = args_.hessian;
    scan.size = cols_;
    QS_RETURN_IF_ERROR(call_.Take(2, &scan.first_bad));
    QS_RETURN_IF_ERROR(call_.Take(cols_, &scan.diagonal));
    QS_RETURN_IF_ERROR(call_.Launch("Refine scan", [&] {
      return LaunchHessianScan(scan, call_.stream());
    }));
    std::vector<float> diagonal(static_cast<size_t>(cols_));
    QS_RETURN_IF_ERROR(call_.CopyOut(diagonal.data(), scan.diagonal, cols_));
    double sum = 0;
    for (float value : diagonal) sum += static_cast<double>(value);
    state_.damping =
        static_cast<float>(args_.damping * sum / static_cast<double>(cols_));
    return absl::OkStatus();
  }

  absl::Status FindGradient() {
    for (int64_t first = 0; first < shape_.rows; first += kSolveTile) {
      QS_RETURN_IF_ERROR(call_.Launch("Refine start", [&] {
        return LaunchRefineStart({state_, first, tile_d_}, call_.stream());
      }));
      QS_RETURN_IF_ERROR(AddProduct(tile_d_, cols_, 0, cols_, first));
    }
    return absl::OkStatus();
  }

  // gradient[first..] += d H[begin.., :], d [kSolveTile, stride] of `depth`
  // columns. Row-major D H is column-major H D^T.
  absl::Status AddProduct(const float* d, int64_t stride, int64_t begin,
                          int64_t depth, int64_t first) {
    GemmArgs gemm;
    gemm.m = cols_;
    gemm.n = kSolveTile;
    gemm.k = depth;
    gemm.a = args_.hessian + begin * cols_;
    gemm.lda = cols_;
    gemm.b = d;
    gemm.ldb = stride;
    gemm.beta = 1;
    gemm.c = state_.gradient + first * cols_;
    gemm.ldc = cols_;
    return call_.Gemm(gemm);
  }

  absl::Status Sweep(bool* changed) {
    state_.changed_before = sweep_ == 0 ? nullptr : changed_before_;
    const std::vector<int32_t> none(static_cast<size_t>(shape_.rows));
    QS_RETURN_IF_ERROR(call_.CopyIn(state_.changed, none.data(), shape_.rows));
    QS_RETURN_IF_ERROR(call_.CopyIn(state_.any_changed, none.data(), 1));
    const bool refits = args_.refit_scales && sweep_ < gptq::kScaleRefits;
    const int64_t step = gptq::RefineBlock(args_.grid.group_size);
    for (int64_t begin = 0; begin < cols_; begin += step) {
      QS_RETURN_IF_ERROR(call_.Check(args_.checkpoint, Done(begin)));
      QS_RETURN_IF_ERROR(
          AddBlock(begin, std::min(begin + step, cols_), refits));
    }
    if (refits && wide_groups_) QS_RETURN_IF_ERROR(RefitWideGroups());
    int32_t any = 0;
    QS_RETURN_IF_ERROR(call_.CopyOut(&any, state_.any_changed, 1));
    *changed = any != 0;
    std::swap(changed_before_, state_.changed);
    return absl::OkStatus();
  }

  double Done(int64_t begin) const {
    return (sweep_ + static_cast<double>(begin) / static_cast<double>(cols_)) /
           args_.sweeps;
  }

  absl::Status AddBlock(int64_t begin, int64_t end, bool refits) {
    QS_RETURN_IF_ERROR(call_.Launch("Refine block", [&] {
      return LaunchRefineBlock(
          {state_, begin, end, refits && !wide_groups_, block_d_},
          call_.stream());
    }));
    for (int64_t first = 0; first < shape_.rows; first += kSolveTile) {
      QS_RETURN_IF_ERROR(AddProduct(block_d_ + first * gptq::kBlock,
                                    gptq::kBlock, begin, end - begin, first));
    }
    return call_.Launch("Refine damping", [&] {
      return LaunchRefineDamp(
          {state_, block_d_, gptq::kBlock, begin, end - begin},
          call_.stream());
    });
  }

  absl::Status RefitWideGroups() {
    scale_args_.state = state_;
    scale_args_.product = product_;
    scale_args_.d = tile_d_;
    for (int64_t first = 0; first < shape_.rows; first += kSolveTile) {
      scale_args_.first = first;
      QS_RETURN_IF_ERROR(call_.Launch("Refine scales", [&] {
        return LaunchRefineSteps(scale_args_, call_.stream());
      }));
      QS_RETURN_IF_ERROR(MultiplyGroups(scale_args_.steps));
      QS_RETURN_IF_ERROR(call_.Launch("Refine scales", [&] {
        return LaunchRefinePropose(scale_args_, call_.stream());
      }));
      QS_RETURN_IF_ERROR(MultiplyGroups(tile_d_));
      QS_RETURN_IF_ERROR(call_.Launch("Refine scales", [&] {
        return LaunchRefineAccept(scale_args_, call_.stream());
      }));
      QS_RETURN_IF_ERROR(AddProduct(tile_d_, cols_, 0, cols_, first));
    }
    return absl::OkStatus();
  }

  // product_ <- x times the diagonal blocks of H, x [kSolveTile, cols].
  absl::Status MultiplyGroups(const float* x) {
    GemmArgs gemm;
    gemm.n = kSolveTile;
    gemm.lda = gemm.ldb = gemm.ldc = cols_;
    for (int64_t begin = 0; begin < cols_; begin += args_.grid.group_size) {
      gemm.m = gemm.k = std::min(args_.grid.group_size, cols_ - begin);
      gemm.a = args_.hessian + begin * (cols_ + 1);
      gemm.b = x + begin;
      gemm.c = product_ + begin;
      QS_RETURN_IF_ERROR(call_.Gemm(gemm));
    }
    return absl::OkStatus();
  }

  // Of the weights as decoded, H undamped.
  absl::Status MeasureErrors() {
    uint8_t* decoded = nullptr;
    const DType dtype = args_.grid.decoded_dtype;
    QS_RETURN_IF_ERROR(call_.Take(
        args_.weight.num_elements() * DTypeBytes(dtype), &decoded));
    GptqDecodeArgs decode;
    decode.codes = args_.codes;
    decode.scales = args_.scales;
    decode.zero_points = state_.zero_points;
    decode.grid = args_.grid;
    decode.weight = {decoded, dtype, shape_.rows, cols_};
    QS_RETURN_IF_ERROR(call_.Launch("Refine decode", [&] {
      return LaunchGptqDecode(decode, call_.stream());
    }));
    GptqErrorArgs error;
    error.weight = args_.weight;
    error.decoded = decode.weight;
    error.hessian = args_.hessian;
    error.error = args_.row_error;
    return OutputErrorCuda(error, call_);
  }

  const GptqRefineArgs& args_;
  SolverCall& call_;
  const RowTiles shape_;
  const int64_t cols_;
  const bool wide_groups_;
  RefineState state_;
  RefineScaleArgs scale_args_;
  int32_t* changed_before_ = nullptr;
  float* block_d_ = nullptr;
  float* tile_d_ = nullptr;
  float* product_ = nullptr;
  int sweep_ = 0;
};

}  // namespace

absl::Status RefineCuda(const GptqRefineArgs& args, SolverCall& call) {
  QS_RETURN_IF_ERROR(CheckGptqRefine(args));
  return Refiner(args, call).Run();
}

}  // namespace qs::cuda
