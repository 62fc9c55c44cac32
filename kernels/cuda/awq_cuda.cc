// AwqOps on a device: cuts matrices into tiles of rows, differences by kernels,
// products by the library.
//
// The clip search's tiles all have one shape, the last one filled up: a row's
// limits do not depend on how many rows there are.
// Tested by tests/kernels/awq_cuda_test.cc.
#include "kernels/cuda/awq_cuda.h"

#include <algorithm>
#include <vector>

#include "kernels/awq_check.h"
#include "kernels/awq_math.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/awq_launch.h"
#include "kernels/cuda/solver_call.h"
#include "kernels/cuda/tiles.h"

namespace qs::cuda {
namespace {

// Differences of a tile of rows, and columns of a product. With a triangular
// factor a block of columns reads only the rows above its end: narrow ones save
// work, wide ones fill the device. The emulation has several of both.
constexpr int64_t kLossElements = kTiles.loss_elements;
constexpr int64_t kBlockColumns = kTiles.loss_columns;

int64_t TileRows(int64_t elements, int64_t per_row) {
  return std::max<int64_t>(1, elements / per_row);
}

class ScaleLoss {
 public:
  ScaleLoss(const AwqScaleLossArgs& args, SolverCall& call)
      : args_(args),
        call_(call),
        cols_(args.weights.front().cols),
        tile_rows_(TileRows(kLossElements, cols_)) {}

  absl::Status Run() {
    QS_RETURN_IF_ERROR(Allocate());
    for (int64_t c = 0; c < args_.candidates; ++c) {
      QS_RETURN_IF_ERROR(call_.Check(
          args_.checkpoint,
          static_cast<double>(c) / static_cast<double>(args_.candidates)));
      next_ = 0;
      const float* const scales = scales_ + c * cols_;
      for (const TensorView& weight : args_.weights) {
        QS_RETURN_IF_ERROR(args_.curvature != nullptr
                               ? AddExpected(weight, scales)
                               : AddWeight(weight, scales));
      }
      // Also bounds what is enqueued when somebody wants to stop it.
      QS_RETURN_IF_ERROR(Read(&args_.losses[c]));
    }
    return absl::OkStatus();
  }

 private:
  int64_t RowsOf(const TensorView& weight) const {
    return CeilDiv(weight.rows, args_.row_stride);
  }

  absl::Status Allocate() {
    QS_RETURN_IF_ERROR(
        call_.TakeCopy(args_.scales, args_.candidates * cols_, &scales_));
    const int64_t blocks = CeilDiv(cols_, kBlockColumns);
    int64_t sums = 0, most = 1;
    for (const TensorView& weight : args_.weights) {
      const int64_t rows = RowsOf(weight);
      most = std::max(most, std::min(rows, tile_rows_));
      sums += CeilDiv(std::max<int64_t>(rows, 1), tile_rows_) * blocks;
    }
    QS_RETURN_IF_ERROR(call_.Take(sums * kLossParts, &parts_));
    if (args_.curvature != nullptr) return call_.Take(cols_, &costs_);
    QS_RETURN_IF_ERROR(call_.Take(most * cols_, &delta_));
    QS_RETURN_IF_ERROR(
        call_.Take(most * std::min(cols_, kBlockColumns), &product_));
    QS_RETURN_IF_ERROR(call_.Take(cols_ * cols_, &matrix_));
    return call_.Launch("ScaleLosses", [&] {
      return LaunchTf32Copy(
          args_.factor != nullptr ? args_.factor : args_.second_moment,
          cols_ * cols_, matrix_, call_.stream());
    });
  }

  double* NextParts() { return parts_ + kLossParts * next_++; }

  absl::Status AddExpected(const TensorView& weight, const float* scales) {
    if (weight.rows == 0) return absl::OkStatus();
    return call_.Launch("ScaleLosses", [&] {
      return LaunchAwqSteps({weight, args_.grid, scales, args_.row_stride,
                             args_.curvature, costs_, NextParts()},
                            call_.stream());
    });
  }

  absl::Status AddWeight(const TensorView& weight, const float* scales) {
    const int64_t rows = RowsOf(weight);
    for (int64_t first = 0; first < rows; first += tile_rows_) {
      const int64_t count = std::min(tile_rows_, rows - first);
      QS_RETURN_IF_ERROR(call_.Launch("ScaleLosses", [&] {
        return LaunchAwqDelta(
            {weight, args_.grid, scales, first * args_.row_stride,
             args_.row_stride, count, delta_},
            call_.stream());
      }));
      for (int64_t col = 0; col < cols_; col += kBlockColumns) {
        QS_RETURN_IF_ERROR(AddBlock(count, col));
      }
    }
    return absl::OkStatus();
  }

  // Columns [col, ...) of D M, and what they add to the loss.
  absl::Status AddBlock(int64_t rows, int64_t col) {
    const bool factored = args_.factor != nullptr;
    const int64_t width = std::min(kBlockColumns, cols_ - col);
    // Row-major D M is column-major M^T D^T.
    GemmArgs gemm;
    gemm.type = BlasType::kTf32;
    gemm.m = width;
    gemm.n = rows;
    gemm.k = factored ? col + width : cols_;
    gemm.a = matrix_ + col;
    gemm.b = delta_;
    gemm.lda = gemm.ldb = cols_;
    gemm.c = product_;
    gemm.ldc = width;
    QS_RETURN_IF_ERROR(call_.Gemm(gemm));
    AwqDotArgs dot;
    dot.product = product_;
    dot.product_stride = width;
    dot.with = factored ? product_ : delta_ + col;
    dot.with_stride = factored ? width : cols_;
    dot.rows = rows;
    dot.width = width;
    dot.parts = NextParts();
    return call_.Launch("ScaleLosses",
                        [&] { return LaunchAwqDot(dot, call_.stream()); });
  }

  // The sum of the parts, in order.
  absl::Status Read(double* loss) {
    std::vector<double> parts(static_cast<size_t>(next_ * kLossParts));
    *loss = 0;
    if (parts.empty()) return absl::OkStatus();
    QS_RETURN_IF_ERROR(call_.CopyOut(parts.data(), parts_, next_ * kLossParts));
    for (double part : parts) *loss += part;
    return absl::OkStatus();
  }

  const AwqScaleLossArgs& args_;
  SolverCall& call_;
  const int64_t cols_;
  const int64_t tile_rows_;
  float* scales_ = nullptr;   // [candidates, cols]
  float* delta_ = nullptr;    // [tile, cols]
  float* product_ = nullptr;  // [tile, a block's columns]
  float* matrix_ = nullptr;   // [cols, cols]
  double* costs_ = nullptr;   // [groups]
  double* parts_ = nullptr;   // [.., kLossParts]
  int64_t next_ = 0;          // of them
};

class ClipSearcher {
 public:
  ClipSearcher(const AwqClipArgs& args, SolverCall& call)
      : args_(args),
        call_(call),
        cols_(args.weight.cols),
        size_(args.grid.group_size) {}

  absl::Status Run() {
    const int64_t rows = args_.weight.rows;
    QS_RETURN_IF_ERROR(Allocate());
    for (int64_t first = 0; first < rows; first += kClipRows) {
      QS_RETURN_IF_ERROR(
          call_.Check(args_.checkpoint,
                      static_cast<double>(first) / static_cast<double>(rows)));
      round_.first = first;
      round_.count = std::min(kClipRows, rows - first);
      QS_RETURN_IF_ERROR(Round(0, awq::kClipSteps));
      if (args_.grid.rule != AwqRule::kBest) continue;
      for (int round = 1; round < awq::kClipRounds; ++round) {
        QS_RETURN_IF_ERROR(Round(round, awq::kClipMoves));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Allocate() {
    float* scales = nullptr;
    if (args_.scales != nullptr) {
      QS_RETURN_IF_ERROR(call_.TakeCopy(args_.scales, cols_, &scales));
    }
    QS_RETURN_IF_ERROR(call_.Take(cols_ * size_, &blocks_));
    const int64_t tests = kClipRows * awq::kClipSteps * cols_;
    QS_RETURN_IF_ERROR(call_.Take(tests, &round_.deltas));
    QS_RETURN_IF_ERROR(call_.Take(tests, &products_));
    QS_RETURN_IF_ERROR(
        call_.Take(args_.weight.rows * (cols_ / size_), &round_.errors));
    round_.products = products_;
    round_.weight = args_.weight;
    round_.grid = args_.grid;
    round_.scales = scales;
    round_.low = args_.low;
    round_.high = args_.high;
    return call_.Launch("ClipSearch", [&] {
      return LaunchAwqBlocks(
          {args_.second_moment, scales, cols_, size_, blocks_}, call_.stream());
    });
  }

  absl::Status Round(int round, int candidates) {
    round_.round = round;
    round_.candidates = candidates;
    QS_RETURN_IF_ERROR(call_.Launch("ClipSearch", [&] {
      return LaunchAwqClipDeltas(round_, call_.stream());
    }));
    // Row-major D B is column-major B^T D^T, for each group.
    GemmArgs gemm;
    gemm.m = gemm.k = size_;
    gemm.n = kClipRows * candidates;
    gemm.lda = gemm.ldb = gemm.ldc = size_;
    gemm.a = blocks_;
    gemm.b = round_.deltas;
    gemm.c = products_;
    gemm.batch = cols_ / size_;
    gemm.stride_a = size_ * size_;
    gemm.stride_b = gemm.stride_c = gemm.n * size_;
    QS_RETURN_IF_ERROR(call_.Gemm(gemm));
    return call_.Launch("ClipSearch", [&] {
      return LaunchAwqClipPick(round_, call_.stream());
    });
  }

  const AwqClipArgs& args_;
  SolverCall& call_;
  const int64_t cols_;
  const int64_t size_;
  float* blocks_ = nullptr;
  float* products_ = nullptr;
  AwqClipRound round_;
};

class AwqCuda final : public AwqOps {
 public:
  AwqCuda(Workspace& workspace, Blas& blas)
      : workspace_(workspace), blas_(blas) {}

  absl::Status Statistics(const AwqStatisticsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(
        CheckAwqWeights(args.weights, {.group_size = args.group_size}));
    SolverCall call(workspace_, blas_);
    const int64_t cols = args.weights.front().cols;
    std::vector<double> sums(static_cast<size_t>(cols));
    double* device_sums = nullptr;
    QS_RETURN_IF_ERROR(call.TakeCopy(sums.data(), cols, &device_sums));
    int64_t rows = 0;
    for (const TensorView& weight : args.weights) {
      rows += weight.rows;
      QS_RETURN_IF_ERROR(AddMeans(weight, args.group_size, device_sums, call));
    }
    QS_RETURN_IF_ERROR(call.CopyOut(sums.data(), device_sums, cols));
    for (int64_t col = 0; col < cols; ++col) {
      args.w_mean[col] =
          affine::RoundTo(args.weights.front().dtype,
                          static_cast<float>(sums[static_cast<size_t>(col)] /
                                             static_cast<double>(rows)));
    }
    return absl::OkStatus();
  }

  absl::Status ScaleLosses(const AwqScaleLossArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqScaleLosses(args));
    SolverCall call(workspace_, blas_);
    return ScaleLoss(args, call).Run();
  }

  absl::Status ClipSearch(const AwqClipArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(args.weight, args.grid));
    SolverCall call(workspace_, blas_);
    return ClipSearcher(args, call).Run();
  }

  absl::Status Quantize(const AwqQuantizeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(args.weight, args.grid));
    SolverCall call(workspace_, blas_);
    AwqQuantizeArgs device = args;
    if (args.scales != nullptr) {
      float* scales = nullptr;
      QS_RETURN_IF_ERROR(call.TakeCopy(args.scales, args.weight.cols, &scales));
      device.scales = scales;
    }
    return call.Launch(
        "Quantize", [&] { return LaunchAwqQuantize(device, call.stream()); });
  }

 private:
  static absl::Status AddMeans(const TensorView& weight, int64_t group_size,
                               double* sums, SolverCall& call) {
    float* divisors = nullptr;
    QS_RETURN_IF_ERROR(
        call.Take(weight.num_elements() / group_size, &divisors));
    QS_RETURN_IF_ERROR(call.Launch("Statistics", [&] {
      return LaunchAwqDivisors({weight, group_size, divisors}, call.stream());
    }));
    return call.Launch("Statistics", [&] {
      return LaunchAwqMeans({weight, group_size, divisors, sums},
                            call.stream());
    });
  }

  Workspace& workspace_;
  Blas& blas_;
};

}  // namespace

std::unique_ptr<AwqOps> NewAwqCuda(Workspace& workspace, Blas& blas) {
  return std::make_unique<AwqCuda>(workspace, blas);
}

}  // namespace qs::cuda
