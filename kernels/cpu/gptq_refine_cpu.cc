// Refine on CPUs. A block of columns is gone through by all rows of a tile in
// turn, each with nothing but its own part of the gradient and the block's part
// of H, which stay in the caches. What changed then reaches the other columns'
// gradients: few codes column by column, moved scales (all columns of a group)
// as products of all rows together.
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

// Rows that share a packed block of H: the more, the less packing costs; their
// gradients leave the second cache.
constexpr int64_t kTileRows = 128;
// Changed columns of a row's block from which products are cheaper than one
// column after the other. Of the row alone, so that its result does not depend
// on others.
constexpr int64_t kDenseColumns = 64;

// What all tiles read.
struct Plan {
  explicit Plan(const GptqRefineArgs& a)
      : args(a),
        cols(a.weight.cols),
        padded(CeilDiv(cols, int64_t{16}) * 16),
        groups(CeilDiv(cols, a.grid.group_size)),
        block(RefineBlock(a.grid.group_size)),
        diagonal(static_cast<size_t>(padded + kBlock)),
        reciprocal(static_cast<size_t>(padded + kBlock)) {
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
  const int64_t block;
  float damping = 0;
  std::vector<float> diagonal;
  std::vector<float> reciprocal;
};

struct Row {
  int64_t index = 0;
  float* gradient = nullptr;  // [padded]
  bool done = false;
  int64_t changed = 0;  // in this sweep
  int64_t moved = 0;    // columns of this block
};

// The columns of a block, or of all, of one row.
struct Window {
  int64_t begin = 0;
  int64_t end = 0;
  float* steps = nullptr;
  float* scales = nullptr;
  float* low = nullptr;
  float* high = nullptr;
  float* before = nullptr;  // decoded, when the window was opened
};

class TileRefiner {
 public:
  TileRefiner(const Plan& plan, SharedCheckpoint& checkpoint)
      : plan_(plan), args_(plan.args), checkpoint_(checkpoint) {}

  absl::Status Run(int64_t begin, int64_t end) {
    QS_RETURN_IF_ERROR(Allocate(begin, end));
    FindGradients();
    for (int sweep = 0; sweep < args_.sweeps; ++sweep) {
      if (!checkpoint_.Step()) return absl::OkStatus();
      if (!Sweep(args_.refit_scales && sweep < kScaleRefits)) break;
    }
    if (args_.row_error != nullptr) FindErrors();
    return absl::OkStatus();
  }

 private:
  absl::Status Allocate(int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    groups_ = CeilDiv(count, kRowGroup);
    // A vector may be read behind the last column.
    const int64_t stride = plan_.padded + 16;
    const int64_t each = std::max(plan_.cols, kBlock) * kRowGroup;
    const int64_t shared = groups_ * (each + kDepth * kRowGroup) +
                           2 * kDepth * kDepth + 6 * (plan_.padded + kBlock);
    QS_ASSIGN_OR_RETURN(memory_,
                        Buffer::Allocate((count * stride + shared) * 4));
    auto* next = memory_.As<float>();
    const auto take = [&](int64_t floats) {
      float* const taken = next;
      next += floats;
      return taken;
    };
    lost_ = take(groups_ * each);
    p_ = take(groups_ * kDepth * kRowGroup);
    panels_ = take(kDepth * kDepth);
    diagonal_block_ = take(kDepth * kDepth);
    for (float** array : {&window_.steps, &window_.scales, &window_.low,
                          &window_.high, &window_.before, &scratch_}) {
      *array = take(plan_.padded + kBlock);
    }
    rows_.resize(static_cast<size_t>(count));
    for (int64_t r = 0; r < count; ++r) {
      Row& row = rows_[static_cast<size_t>(r)];
      row.index = begin + r;
      row.gradient = take(stride);
      std::fill_n(row.gradient, stride, 0.0f);
    }
    return absl::OkStatus();
  }

  int64_t count() const { return static_cast<int64_t>(rows_.size()); }

  // Columns [begin, end) of a row, padded to whole vectors with steps of 0.
  void Open(const Row& row, int64_t begin, int64_t end) {
    Window& w = window_;
    w.begin = begin;
    w.end = end;
    const auto top = static_cast<float>((1 << args_.grid.bits) - 1);
    const int64_t padded = CeilDiv(end - begin, int64_t{16}) * 16;
    for (int64_t i = end - begin; i < padded; ++i) {
      w.steps[i] = w.low[i] = w.high[i] = 0;
      w.scales[i] = 1;
    }
    for (int64_t c = begin; c < end;) {
      const int64_t g = c / args_.grid.group_size;
      const int64_t last = std::min((g + 1) * args_.grid.group_size, end);
      const int64_t at = row.index * plan_.groups + g;
      const float zero = args_.grid.symmetric
                             ? static_cast<float>(1 << (args_.grid.bits - 1))
                             : static_cast<float>(args_.zero_points[at]);
      std::fill(w.scales + (c - begin), w.scales + (last - begin),
                LoadAsFloat(args_.scales, args_.grid.scale_dtype, at));
      std::fill(w.low + (c - begin), w.low + (last - begin), -zero);
      std::fill(w.high + (c - begin), w.high + (last - begin), top - zero);
      const uint8_t* const codes = args_.codes + row.index * plan_.cols;
      for (; c < last; ++c) {
        w.steps[c - begin] = static_cast<float>(codes[c]) - zero;
      }
    }
    Decode(w.before);
  }

  void Decode(float* to) const {
    DecodeSteps(window_.steps, window_.scales, window_.end - window_.begin,
                args_.grid.decoded_dtype, to);
  }

  void Close(const Row& row) const {
    const Window& w = window_;
    for (int64_t c = w.begin; c < w.end; ++c) {
      args_.codes[row.index * plan_.cols + c] =
          static_cast<uint8_t>(w.steps[c - w.begin] - w.low[c - w.begin]);
    }
    const int64_t size = args_.grid.group_size;
    for (int64_t g = CeilDiv(w.begin, size); g * size < w.end; ++g) {
      StoreFromFloat(args_.scales, args_.grid.scale_dtype,
                     row.index * plan_.groups + g,
                     w.scales[g * size - w.begin]);
    }
  }

  // (q - w) H_damped.
  void FindGradients() {
    FindLost();
    for (int64_t j = 0; j < plan_.cols; j += kDepth) {
      const int64_t width = std::min(kDepth, plan_.cols - j);
      std::fill_n(p_, groups_ * kDepth * kRowGroup, 0.0f);
      for (int64_t k = 0; k < plan_.cols; k += kDepth) {
        AddProducts(k, std::min(kDepth, plan_.cols - k), j, width,
                    plan_.cols * kRowGroup, k * kRowGroup);
      }
      for (Row& row : rows_) {
        AddColumn(PartOf(row), width, 1, row.gradient + j);
        AddColumn(Lost(row, plan_.cols) + j * kRowGroup, width, plan_.damping,
                  row.gradient + j);
      }
    }
  }

  // p_ += lost_ at `offset` of each row group, which are `stride` long, times
  // rows [k, k + depth), columns [j, j + width) of H.
  void AddProducts(int64_t k, int64_t depth, int64_t j, int64_t width,
                   int64_t stride, int64_t offset) {
    PackPanels(args_.hessian, plan_.cols, k, depth, j, width, panels_);
    for (int64_t g = 0; g < groups_; ++g) {
      AddProduct(lost_ + g * stride + offset, panels_, depth, depth,
                 CeilDiv(width, kPanel), p_ + g * kDepth * kRowGroup);
    }
  }

  int64_t Place(const Row& row) const { return row.index - rows_[0].index; }
  // A row's column in p_ and in lost_ [columns][kRowGroup] of its group.
  const float* PartOf(const Row& row) const {
    const int64_t at = Place(row);
    return p_ + at / kRowGroup * kDepth * kRowGroup + at % kRowGroup;
  }
  float* Lost(const Row& row, int64_t columns) const {
    const int64_t at = Place(row);
    return lost_ + at / kRowGroup * columns * kRowGroup + at % kRowGroup;
  }

  // lost_: q - w.
  void FindLost() {
    for (int64_t first = 0; first < count(); first += kRowGroup) {
      LoadRowGroup(args_.weight, rows_[static_cast<size_t>(first)].index,
                   std::min(kRowGroup, count() - first), nullptr,
                   lost_ + first * plan_.cols);
    }
    for (const Row& row : rows_) {
      Open(row, 0, plan_.cols);
      float* const lost = Lost(row, plan_.cols);
      for (int64_t c = 0; c < plan_.cols; ++c) {
        lost[c * kRowGroup] = window_.before[c] - lost[c * kRowGroup];
      }
    }
  }

  // (q - w) (gradient - damping (q - w)).
  void FindErrors() {
    FindLost();
    for (const Row& row : rows_) {
      const float* const lost = Lost(row, plan_.cols);
      double sum = 0;
      for (int64_t c = 0; c < plan_.cols; ++c) {
        const double d = lost[c * kRowGroup];
        sum += d * (row.gradient[c] - plan_.damping * d);
      }
      args_.row_error[row.index] = sum;
    }
  }

  // Of the open window, against H[.., stride] at its columns.
  SweepArgs Args(const Row& row, const float* hessian, int64_t cols) const {
    const Window& w = window_;
    SweepArgs sweep;
    sweep.cols = cols;
    sweep.hessian = hessian;
    sweep.damping = plan_.damping;
    sweep.diagonal = plan_.diagonal.data() + w.begin;
    sweep.reciprocal = plan_.reciprocal.data() + w.begin;
    sweep.decoded_dtype = args_.grid.decoded_dtype;
    sweep.scales = w.scales;
    sweep.low = w.low;
    sweep.high = w.high;
    sweep.steps = w.steps;
    sweep.gradient = row.gradient + w.begin;
    return sweep;
  }

  // Whether anything changed.
  bool Sweep(bool refit) {
    for (Row& row : rows_) row.changed = 0;
    const bool inside = args_.grid.group_size <= kBlock;
    for (int64_t begin = 0; begin < plan_.cols; begin += plan_.block) {
      SweepBlock(begin, std::min(begin + plan_.block, plan_.cols),
                 refit && inside);
    }
    if (refit && !inside) RefitWide();
    bool any = false;
    for (Row& row : rows_) {
      if (row.changed == 0) row.done = true;
      any |= !row.done;
    }
    return any;
  }

  void SweepBlock(int64_t begin, int64_t end, bool refit) {
    const int64_t width = end - begin;
    for (int64_t k = 0; k < width; ++k) {
      std::copy_n(args_.hessian + (begin + k) * plan_.cols + begin, width,
                  diagonal_block_ + k * width);
    }
    std::fill_n(lost_, groups_ * width * kRowGroup, 0.0f);
    bool dense = false;
    for (Row& row : rows_) {
      row.moved = row.done ? 0 : SweepRowBlock(row, begin, end, refit);
      row.changed += row.moved;
      dense |= row.moved >= kDenseColumns;
    }
    for (const Row& row : rows_) {
      if (row.moved < kDenseColumns) SpreadRow(row, begin, end);
    }
    if (!dense) return;
    SpreadDense(begin, end, 0, begin);
    SpreadDense(begin, end, end, plan_.cols);
  }

  // The passes of a row over a block; its moves go to lost_. How many columns
  // moved.
  int64_t SweepRowBlock(const Row& row, int64_t begin, int64_t end,
                        bool refit) {
    const int64_t width = end - begin;
    Open(row, begin, end);
    const SweepArgs args = Args(row, diagonal_block_, width);
    bool any = false;
    for (int pass = 0; pass < kBlockPasses; ++pass) {
      bool moved = SweepRow(args, 0, width) > 0;
      for (int64_t at = 0; refit && at < width; at += args_.grid.group_size) {
        moved |= RefitScale(args, at);
      }
      if (!moved) break;
      any = true;
    }
    if (!any) return 0;
    Close(row);
    Decode(scratch_);
    float* const lost = Lost(row, width);
    int64_t moved = 0;
    for (int64_t i = 0; i < width; ++i) {
      const float by = scratch_[i] - window_.before[i];
      lost[i * kRowGroup] = by;
      moved += by != 0 ? 1 : 0;
    }
    return moved;
  }

  // The group at `at` of the open window.
  bool RefitScale(const SweepArgs& args, int64_t at) {
    const int64_t end =
        std::min(at + args_.grid.group_size, window_.end - window_.begin);
    const float old = window_.scales[at];
    const float scale = affine::RoundTo(args_.grid.scale_dtype,
                                        old + ScaleChange(args, at, end));
    if (!(scale > 0) || scale < args_.grid.min_scale || scale == old ||
        !(scale <= std::numeric_limits<float>::max()) ||
        !MoveScale(args, at, end, scale, scratch_)) {
      return false;
    }
    std::fill(window_.scales + at, window_.scales + end, scale);
    return true;
  }

  // Groups wider than a block: against all of H.
  void RefitWide() {
    for (Row& row : rows_) {
      if (row.done) continue;
      Open(row, 0, plan_.cols);
      const SweepArgs args = Args(row, args_.hessian, plan_.cols);
      for (int64_t at = 0; at < plan_.cols; at += args_.grid.group_size) {
        if (RefitScale(args, at)) ++row.changed;
      }
      Close(row);
    }
  }

  // A row's moves to its gradient outside the block, one after the other.
  void SpreadRow(const Row& row, int64_t begin, int64_t end) {
    const float* const lost = Lost(row, end - begin);
    for (int64_t c = begin; row.moved > 0 && c < end; ++c) {
      const float by = lost[(c - begin) * kRowGroup];
      if (by == 0) continue;
      const float* const h = args_.hessian + c * plan_.cols;
      AddScaled(by, h, begin, row.gradient);
      AddScaled(by, h + end, plan_.cols - end, row.gradient + end);
    }
  }

  // The same for the rows with many, as products, to columns [from, to).
  void SpreadDense(int64_t begin, int64_t end, int64_t from, int64_t to) {
    const int64_t depth = end - begin;
    for (int64_t j = from; j < to; j += kDepth) {
      const int64_t width = std::min(kDepth, to - j);
      std::fill_n(p_, groups_ * kDepth * kRowGroup, 0.0f);
      AddProducts(begin, depth, j, width, depth * kRowGroup, 0);
      for (Row& row : rows_) {
        if (row.moved < kDenseColumns) continue;
        AddColumn(PartOf(row), width, 1, row.gradient + j);
      }
    }
  }

  const Plan& plan_;
  const GptqRefineArgs& args_;
  SharedCheckpoint& checkpoint_;
  Buffer memory_;
  int64_t groups_ = 0;  // of rows
  // [row groups][columns][kRowGroup]: q - w, or moves of a block.
  float* lost_ = nullptr;
  float* panels_ = nullptr;
  float* diagonal_block_ = nullptr;
  float* p_ = nullptr;  // [row groups][kDepth][kRowGroup]
  float* scratch_ = nullptr;
  Window window_;
  std::vector<Row> rows_;
};

}  // namespace

absl::Status RefineCpu(const GptqRefineArgs& args, int threads) {
  QS_RETURN_IF_ERROR(CheckGptqRefine(args));
  const Plan plan(args);
  // Rows are independent: the partition changes no byte.
  const int64_t share = CeilDiv(args.weight.rows, std::max(threads, 1));
  const int64_t tile =
      std::clamp(CeilDiv(share, kRowGroup) * kRowGroup, kRowGroup, kTileRows);
  const int64_t tiles = CeilDiv(args.weight.rows, tile);
  SharedCheckpoint checkpoint(args.checkpoint, tiles * args.sweeps);
  ParallelTiles(
      threads, args.weight.rows, tile, [&](int64_t begin, int64_t end) {
        if (checkpoint.stopped()) return;
        checkpoint.Fail(TileRefiner(plan, checkpoint).Run(begin, end));
      });
  return checkpoint.status();
}

}  // namespace qs::gptq
