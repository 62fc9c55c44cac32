// Solve on a device: the inverse-free form, right-looking. A block of columns
// is solved for all rows at once, then what it lost is multiplied into the sums
// of the columns behind it, one tile of rows after the other.
// Tested by tests/kernels/gptq_cuda_test.cc.
#include <algorithm>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/gptq_check.h"

namespace qs::cuda {
namespace {

using gptq::kBlock;

class Solver {
 public:
  Solver(const GptqSolveArgs& args, SolverCall& call)
      : args_(args),
        call_(call),
        shape_{args.weight.rows, args.weight.cols},
        cols_(args.weight.cols),
        groups_(CeilDiv(cols_, args.grid.group_size)),
        whole_row_(args.grid.group_size == cols_) {}

  absl::Status Run() {
    QS_RETURN_IF_ERROR(Allocate());
    QS_RETURN_IF_ERROR(Load());
    if (args_.weight.rows == 0) return absl::OkStatus();
    if (ranges_first()) QS_RETURN_IF_ERROR(FindStaticRanges());
    for (int64_t begin = 0; begin < cols_; begin += kBlock) {
      QS_RETURN_IF_ERROR(
          call_.Check(args_.checkpoint, static_cast<double>(begin) /
                                            static_cast<double>(cols_)));
      const int64_t end = std::min(begin + kBlock, cols_);
      if (!ranges_first()) QS_RETURN_IF_ERROR(FindDynamicRanges(begin, end));
      QS_RETURN_IF_ERROR(SolveBlock(begin, end));
    }
    return call_.Launch("Solve store", [&] {
      return LaunchSolveStore({shape_, plan_.position_of, codes_, args_.codes},
                              call_.stream());
    });
  }

 private:
  // Whether the ranges are those of the weights as they come.
  bool ranges_first() const { return args_.static_groups || whole_row_; }

  // The end of the runs that begin in [begin, end).
  int64_t WindowEnd(int64_t begin, int64_t end) const {
    const int64_t size = args_.grid.group_size;
    const int64_t last = (end - 1) / size * size;
    return last < begin ? end : std::max(end, std::min(last + size, cols_));
  }

  absl::Status Allocate() {
    QS_RETURN_IF_ERROR(call_.Take(cols_, &plan_.column_at));
    QS_RETURN_IF_ERROR(call_.Take(cols_, &plan_.position_of));
    QS_RETURN_IF_ERROR(call_.Take(cols_, &plan_.group_at));
    QS_RETURN_IF_ERROR(call_.Take(cols_, &plan_.curvature));
    QS_RETURN_IF_ERROR(call_.Take(shape_.elements(), &wd_));
    QS_RETURN_IF_ERROR(call_.Take(shape_.elements(), &sum_));
    QS_RETURN_IF_ERROR(call_.Take(shape_.elements(), &codes_));
    const int64_t grids = shape_.padded_rows() * groups_;
    QS_RETURN_IF_ERROR(call_.Take(grids, &grids_.scales));
    QS_RETURN_IF_ERROR(call_.Take(grids, &grids_.zero_points));
    if (ranges_first() || args_.factor == nullptr) return absl::OkStatus();
    int64_t widest = 0;
    for (int64_t begin = 0; begin < cols_; begin += kBlock) {
      const int64_t end = std::min(begin + kBlock, cols_);
      widest = std::max(widest, WindowEnd(begin, end) - begin);
    }
    return call_.Take(shape_.padded_rows() * widest, &window_);
  }

  absl::Status Load() {
    SolvePlanArgs plan;
    plan.plan = plan_;
    plan.cols = cols_;
    plan.group_size = args_.grid.group_size;
    plan.static_groups = args_.static_groups;
    plan.factor = args_.factor;
    plan.order = args_.order;
    plan.group_index = args_.group_index;
    QS_RETURN_IF_ERROR(call_.Launch(
        "Solve plan", [&] { return LaunchSolvePlan(plan, call_.stream()); }));
    return call_.Launch("Solve load", [&] {
      return LaunchSolveLoad({args_.weight, plan_.position_of, args_.zeroed,
                              wd_, sum_, args_.first_non_finite},
                             call_.stream());
    });
  }

  SolveRangeArgs RangeArgs() const {
    SolveRangeArgs range;
    range.weight = args_.weight;
    range.grid = args_.grid;
    range.range = args_.range;
    range.norm = static_cast<float>(args_.norm);
    range.groups = groups_;
    range.grids = grids_;
    range.scales = args_.scales;
    range.zero_points = args_.zero_points;
    return range;
  }

  // Whole rows are searched before columns are zeroed, groups after.
  absl::Status FindStaticRanges() {
    SolveRangeArgs range = RangeArgs();
    range.zeroed = whole_row_ ? nullptr : args_.zeroed;
    range.curvature = plan_.curvature;
    return call_.Launch("Solve ranges", [&] {
      return args_.range == GptqRange::kGiven
                 ? LaunchGivenRanges(range, call_.stream())
                 : LaunchStaticRanges(range, call_.stream());
    });
  }

  // Grids of the runs that begin in [begin, end), from weights compensated for
  // what was lost before `begin`.
  absl::Status FindDynamicRanges(int64_t begin, int64_t end) {
    const int64_t size = args_.grid.group_size;
    SolveRangeArgs range = RangeArgs();
    range.first_run = CeilDiv(begin, size) * size;
    range.end = end;
    if (range.first_run >= end) return absl::OkStatus();
    range.wd = wd_;
    range.group_at = plan_.group_at;
    if (args_.factor != nullptr && begin > 0) {
      range.x = window_;
      range.window_begin = begin;
      range.window = WindowEnd(begin, end) - begin;
      QS_RETURN_IF_ERROR(Compensate(begin, range.window));
    }
    return call_.Launch("Solve ranges", [&] {
      return LaunchDynamicRanges(range, call_.stream());
    });
  }

  // window_ <- x with -x R = sum, R that of the window.
  absl::Status Compensate(int64_t begin, int64_t width) {
    const RowTiles window = {shape_.rows, width};
    QS_RETURN_IF_ERROR(call_.Launch("Solve window", [&] {
      return LaunchWindowCopy({shape_, sum_, begin, window, window_},
                              call_.stream());
    }));
    for (int64_t first = 0; first < width; first += kBlock) {
      const int64_t last = std::min(first + kBlock, width);
      QS_RETURN_IF_ERROR(call_.Launch("Solve upper", [&] {
        return LaunchSolveUpper({window, begin, first, last, args_.factor,
                                 cols_, window_},
                                call_.stream());
      }));
      QS_RETURN_IF_ERROR(AddProducts(window, window_, window_, begin, first,
                                     last));
    }
    return absl::OkStatus();
  }

  absl::Status SolveBlock(int64_t begin, int64_t end) {
    SolveBlockArgs block;
    block.shape = shape_;
    block.begin = begin;
    block.end = end;
    block.factor = args_.factor;
    block.group_at = plan_.group_at;
    block.groups = groups_;
    block.grids = grids_;
    block.max_code = static_cast<float>((1 << args_.grid.bits) - 1);
    block.decoded_dtype = args_.grid.decoded_dtype;
    block.wd = wd_;
    block.sum = sum_;
    block.codes = codes_;
    block.row_loss = args_.row_loss;
    QS_RETURN_IF_ERROR(call_.Launch("Solve block", [&] {
      return LaunchSolveBlock(block, call_.stream());
    }));
    if (args_.factor == nullptr) return absl::OkStatus();
    return AddProducts(shape_, wd_, sum_, 0, begin, end);
  }

  // to[:, end..] += d[:, begin..end] R[begin..end, end..], where `shape` begins
  // at position `first` of R.
  absl::Status AddProducts(const RowTiles& shape, const float* d, float* to,
                           int64_t first, int64_t begin, int64_t end) {
    if (end == shape.cols) return absl::OkStatus();
    GemmArgs gemm;
    gemm.transpose_b = true;
    gemm.m = kSolveTile;
    gemm.n = shape.cols - end;
    gemm.k = end - begin;
    gemm.lda = gemm.ldc = kSolveTile;
    gemm.b = args_.factor + (first + begin) * cols_ + first + end;
    gemm.ldb = cols_;
    gemm.beta = 1;
    for (int64_t tile = 0; tile < shape.tiles(); ++tile) {
      const int64_t at = tile * shape.cols * kSolveTile;
      gemm.a = d + at + begin * kSolveTile;
      gemm.c = to + at + end * kSolveTile;
      QS_RETURN_IF_ERROR(call_.Gemm(gemm));
    }
    return absl::OkStatus();
  }

  const GptqSolveArgs& args_;
  SolverCall& call_;
  const RowTiles shape_;
  const int64_t cols_;
  const int64_t groups_;
  const bool whole_row_;
  SolvePlan plan_;
  SolveGrids grids_;
  float* wd_ = nullptr;
  float* sum_ = nullptr;
  float* window_ = nullptr;
  uint8_t* codes_ = nullptr;
};

}  // namespace

absl::Status SolveCuda(const GptqSolveArgs& args, SolverCall& call) {
  GptqSolveArgs checked = args;
  checked.order = nullptr;  // is not the host's
  QS_RETURN_IF_ERROR(CheckGptqSolve(checked));
  return Solver(args, call).Run();
}

}  // namespace qs::cuda
