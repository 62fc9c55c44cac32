// Refine on CPUs: rows are swept alone, but a block of columns by all rows of a
// tile in turn, so that the rows of H that they need stay in the caches.
// Tested by tests/kernels/gptq_differential_test.cc.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/affine_math.h"
#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/cpu/gptq_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"

namespace qs::gptq {
namespace {

constexpr int64_t kTileRows = 64;
constexpr int64_t kSweepColumns = 64;

// What all tiles read.
struct Plan {
  explicit Plan(const GptqRefineArgs& a)
      : args(a),
        cols(a.weight.cols),
        padded(CeilDiv(cols, int64_t{16}) * 16),
        groups(CeilDiv(cols, a.grid.group_size)),
        diagonal(static_cast<size_t>(padded)),
        reciprocal(static_cast<size_t>(padded)) {
    double mean = 0;
    for (int64_t c = 0; c < cols; ++c) mean += a.hessian[c * (cols + 1)];
    damping = static_cast<float>(a.damping * mean / static_cast<double>(cols));
    for (int64_t c = 0; c < cols; ++c) {
      const auto at = static_cast<size_t>(c);
      diagonal[at] = a.hessian[c * (cols + 1)] + damping;
      reciprocal[at] = diagonal[at] > 0 ? 1.0f / diagonal[at] : 0.0f;
    }
  }

  const GptqRefineArgs& args;
  const int64_t cols;
  const int64_t padded;
  const int64_t groups;
  float damping = 0;
  std::vector<float> diagonal;
  std::vector<float> reciprocal;
};

struct Row {
  int64_t index = 0;
  float* steps = nullptr;
  float* gradient = nullptr;
  float* scales = nullptr;
  float* low = nullptr;
  float* high = nullptr;
  bool done = false;
};

class TileRefiner {
 public:
  TileRefiner(const Plan& plan, SharedCheckpoint& checkpoint)
      : plan_(plan), args_(plan.args), checkpoint_(checkpoint) {}

  absl::Status Run(int64_t begin, int64_t end) {
    QS_RETURN_IF_ERROR(Allocate(begin, end));
    for (Row& row : rows_) LoadGrid(&row);
    FindGradients();
    for (int sweep = 0; sweep < args_.sweeps; ++sweep) {
      if (!checkpoint_.Step()) return absl::OkStatus();
      if (!Sweep(args_.refit_scales && sweep < kScaleRefits)) break;
    }
    for (const Row& row : rows_) Store(row);
    return absl::OkStatus();
  }

 private:
  absl::Status Allocate(int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    const int64_t shared =
        plan_.cols * kRowGroup + kDepth * (kDepth + kRowGroup) + plan_.padded;
    QS_ASSIGN_OR_RETURN(
        memory_, Buffer::Allocate((count * 5 * plan_.padded + shared) * 4));
    auto* next = memory_.As<float>();
    const auto take = [&](int64_t floats) {
      float* const taken = next;
      next += floats;
      return taken;
    };
    lost_ = take(plan_.cols * kRowGroup);
    panels_ = take(kDepth * kDepth);
    p_ = take(kDepth * kRowGroup);
    scratch_ = take(plan_.padded);
    rows_.resize(static_cast<size_t>(count));
    for (int64_t r = 0; r < count; ++r) {
      Row& row = rows_[static_cast<size_t>(r)];
      row.index = begin + r;
      for (float** array :
           {&row.steps, &row.gradient, &row.scales, &row.low, &row.high}) {
        *array = take(plan_.padded);
        std::fill_n(*array, plan_.padded, 0.0f);
      }
    }
    return absl::OkStatus();
  }

  void LoadGrid(Row* row) const {
    const auto top = static_cast<float>((1 << args_.grid.bits) - 1);
    std::fill_n(row->scales, plan_.padded, 1.0f);
    for (int64_t c = 0; c < plan_.cols; ++c) {
      const int64_t at = row->index * plan_.groups + c / args_.grid.group_size;
      const float zero = args_.grid.symmetric
                             ? static_cast<float>(1 << (args_.grid.bits - 1))
                             : static_cast<float>(args_.zero_points[at]);
      row->scales[c] = LoadAsFloat(args_.scales, args_.grid.scale_dtype, at);
      row->low[c] = -zero;
      row->high[c] = top - zero;
      row->steps[c] =
          static_cast<float>(args_.codes[row->index * plan_.cols + c]) - zero;
    }
  }

  void Store(const Row& row) const {
    for (int64_t g = 0; g < plan_.groups; ++g) {
      StoreFromFloat(args_.scales, args_.grid.scale_dtype,
                     row.index * plan_.groups + g,
                     row.scales[g * args_.grid.group_size]);
    }
    for (int64_t c = 0; c < plan_.cols; ++c) {
      args_.codes[row.index * plan_.cols + c] =
          static_cast<uint8_t>(row.steps[c] - row.low[c]);
    }
  }

  // (q - w) H_damped, kRowGroup rows at a time.
  void FindGradients() {
    const auto count = static_cast<int64_t>(rows_.size());
    for (int64_t first = 0; first < count; first += kRowGroup) {
      const int64_t rows = std::min(kRowGroup, count - first);
      LoadRowGroup(args_.weight, rows_[static_cast<size_t>(first)].index, rows,
                   nullptr, lost_);
      for (int64_t r = 0; r < rows; ++r) {
        const Row& row = rows_[static_cast<size_t>(first + r)];
        for (int64_t c = 0; c < plan_.cols; ++c) {
          float& lost = lost_[c * kRowGroup + r];
          lost = affine::RoundTo(args_.grid.decoded_dtype,
                                 row.steps[c] * row.scales[c]) -
                 lost;
        }
      }
      for (int64_t j = 0; j < plan_.cols; j += kDepth) {
        FindGradientBlock(first, rows, j);
      }
    }
  }

  void FindGradientBlock(int64_t first, int64_t rows, int64_t j) {
    const int64_t width = std::min(kDepth, plan_.cols - j);
    const int64_t panels = CeilDiv(width, kPanel);
    std::fill_n(p_, panels * kPanel * kRowGroup, 0.0f);
    for (int64_t k = 0; k < plan_.cols; k += kDepth) {
      const int64_t depth = std::min(kDepth, plan_.cols - k);
      PackPanels(args_.hessian, plan_.cols, k, depth, j, width, panels_);
      AddProduct(lost_ + k * kRowGroup, panels_, depth, depth, panels, p_);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* const gradient =
          rows_[static_cast<size_t>(first + r)].gradient + j;
      for (int64_t c = 0; c < width; ++c) {
        gradient[c] = p_[c * kRowGroup + r] +
                      plan_.damping * lost_[(j + c) * kRowGroup + r];
      }
    }
  }

  SweepArgs Args(const Row& row) const {
    SweepArgs sweep;
    sweep.cols = plan_.cols;
    sweep.hessian = args_.hessian;
    sweep.damping = plan_.damping;
    sweep.diagonal = plan_.diagonal.data();
    sweep.reciprocal = plan_.reciprocal.data();
    sweep.decoded_dtype = args_.grid.decoded_dtype;
    sweep.scales = row.scales;
    sweep.low = row.low;
    sweep.high = row.high;
    sweep.steps = row.steps;
    sweep.gradient = row.gradient;
    return sweep;
  }

  // Whether anything changed.
  bool Sweep(bool refit_scales) {
    std::vector<int64_t> changed(rows_.size());
    for (int64_t c = 0; c < plan_.cols; c += kSweepColumns) {
      const int64_t end = std::min(c + kSweepColumns, plan_.cols);
      for (size_t r = 0; r < rows_.size(); ++r) {
        if (rows_[r].done) continue;
        changed[r] += SweepRow(Args(rows_[r]), c, end);
      }
    }
    for (int64_t g = 0; refit_scales && g < plan_.groups; ++g) {
      for (size_t r = 0; r < rows_.size(); ++r) {
        if (!rows_[r].done && RefitScale(&rows_[r], g)) ++changed[r];
      }
    }
    bool any = false;
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (changed[r] == 0) rows_[r].done = true;
      any |= !rows_[r].done;
    }
    return any;
  }

  bool RefitScale(Row* row, int64_t g) {
    const int64_t begin = g * args_.grid.group_size;
    const int64_t end = std::min(begin + args_.grid.group_size, plan_.cols);
    const SweepArgs args = Args(*row);
    const float old = row->scales[begin];
    const float scale = affine::RoundTo(args_.grid.scale_dtype,
                                        old + ScaleChange(args, begin, end));
    if (!(scale > 0) || scale < args_.grid.min_scale || scale == old ||
        !(scale <= std::numeric_limits<float>::max()) ||
        !MoveScale(args, begin, end, scale, scratch_)) {
      return false;
    }
    std::fill(row->scales + begin, row->scales + end, scale);
    return true;
  }

  const Plan& plan_;
  const GptqRefineArgs& args_;
  SharedCheckpoint& checkpoint_;
  Buffer memory_;
  float* lost_ = nullptr;  // [cols][kRowGroup]: q - w
  float* panels_ = nullptr;
  float* p_ = nullptr;
  float* scratch_ = nullptr;
  std::vector<Row> rows_;
};

}  // namespace

absl::Status RefineCpu(const GptqRefineArgs& args, int threads) {
  QS_RETURN_IF_ERROR(CheckGptqRefine(args));
  const Plan plan(args);
  const int64_t tiles = CeilDiv(args.weight.rows, kTileRows);
  SharedCheckpoint checkpoint(args.checkpoint, tiles * args.sweeps);
  ParallelTiles(
      threads, args.weight.rows, kTileRows, [&](int64_t begin, int64_t end) {
        if (checkpoint.stopped()) return;
        checkpoint.Fail(TileRefiner(plan, checkpoint).Run(begin, end));
      });
  return checkpoint.status();
}

}  // namespace qs::gptq
