// Solve on CPUs: the inverse-free form, left-looking. A tile of rows owns what
// it needs and waits for nobody: for each block of positions it multiplies what
// was lost so far with the block's columns of R, then solves inside the block.
// Tested by tests/kernels/gptq_differential_test.cc.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

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

// Rows of a tile: R passes through the caches once for each.
constexpr int64_t kTileRows = 512;

// What all tiles read.
struct Plan {
  explicit Plan(const GptqSolveArgs& a)
      : args(a),
        cols(a.weight.cols),
        groups(CeilDiv(cols, a.grid.group_size)),
        whole_row(a.grid.group_size == cols),
        column_at(static_cast<size_t>(cols)),
        position_of(static_cast<size_t>(cols)),
        group_at(static_cast<size_t>(cols)),
        diagonal(static_cast<size_t>(cols)),
        curvature(static_cast<size_t>(cols)) {
    for (int64_t p = 0; p < cols; ++p) {
      const auto at = static_cast<size_t>(p);
      const int32_t column =
          a.order == nullptr ? static_cast<int32_t>(p) : a.order[p];
      column_at[at] = column;
      position_of[static_cast<size_t>(column)] = static_cast<int32_t>(p);
      diagonal[at] = a.factor == nullptr ? 1.0f : a.factor[p * cols + p];
      curvature[static_cast<size_t>(column)] = diagonal[at] * diagonal[at];
      group_at[at] = GroupAt(p, column);
    }
  }

  int32_t GroupAt(int64_t position, int32_t column) const {
    if (args.static_groups) {
      return static_cast<int32_t>(column / args.grid.group_size);
    }
    return args.group_index == nullptr
               ? static_cast<int32_t>(position / args.grid.group_size)
               : args.group_index[column];
  }

  // Whether the ranges are those of the weights as they come.
  bool ranges_first() const { return args.static_groups || whole_row; }

  // The end of the positions that ranges found in the block [begin, end) see.
  int64_t WindowEnd(int64_t begin, int64_t end) const {
    if (ranges_first()) return end;
    const int64_t size = args.grid.group_size;
    const int64_t last = (end - 1) / size * size;  // the last run's begin
    return last < begin ? end : std::max(end, std::min(last + size, cols));
  }

  const GptqSolveArgs& args;
  const int64_t cols;
  const int64_t groups;
  const bool whole_row;
  std::vector<int32_t> column_at;
  std::vector<int32_t> position_of;
  std::vector<int32_t> group_at;
  std::vector<float> diagonal;   // by position
  std::vector<float> curvature;  // by column
};

// The rows that are solved side by side, and all that is theirs.
struct RowGroup {
  int64_t first = 0;
  int64_t rows = 0;
  float* wd = nullptr;           // [cols][kRowGroup]
  float* p = nullptr;            // [window][kRowGroup]
  float* scales = nullptr;       // [groups][kRowGroup]
  float* zero_points = nullptr;  // the same
  uint8_t* codes = nullptr;      // [cols][kRowGroup]
  double loss[kRowGroup] = {};
};

// out[r][c] = codes[c][r] for four columns and rows, four bytes at a time.
void TransposeSquare(const uint8_t* codes, uint8_t* out, int64_t stride) {
  constexpr uint32_t kEven = 0x00ff00ff;
  uint32_t c[4];
  for (int64_t i = 0; i < 4; ++i) std::memcpy(&c[i], codes + i * kRowGroup, 4);
  // Rows 0 and 2, and 1 and 3, of the first and of the last two columns.
  const uint32_t even01 = (c[0] & kEven) | (c[1] & kEven) << 8;
  const uint32_t even23 = (c[2] & kEven) | (c[3] & kEven) << 8;
  const uint32_t odd01 = (c[0] >> 8 & kEven) | (c[1] & ~kEven);
  const uint32_t odd23 = (c[2] >> 8 & kEven) | (c[3] & ~kEven);
  const uint32_t rows[4] = {
      (even01 & 0xffff) | even23 << 16, (odd01 & 0xffff) | odd23 << 16,
      even01 >> 16 | (even23 & 0xffff0000), odd01 >> 16 | (odd23 & 0xffff0000)};
  for (int64_t i = 0; i < 4; ++i) std::memcpy(out + i * stride, &rows[i], 4);
}

class TileSolver {
 public:
  TileSolver(const Plan& plan, SharedCheckpoint& checkpoint)
      : plan_(plan), args_(plan.args), checkpoint_(checkpoint) {}

  absl::Status Solve(int64_t begin, int64_t end) {
    QS_RETURN_IF_ERROR(Allocate(begin, end));
    for (RowGroup& group : groups_) Load(&group);
    for (int64_t c = 0; c < plan_.cols; c += kBlock) {
      if (!checkpoint_.Step()) return absl::OkStatus();
      SolveColumns(c, std::min(c + kBlock, plan_.cols));
    }
    for (const RowGroup& group : groups_) Store(group);
    return absl::OkStatus();
  }

 private:
  absl::Status Allocate(int64_t begin, int64_t end) {
    window_ = 0;
    for (int64_t c = 0; c < plan_.cols; c += kBlock) {
      const int64_t block_end = std::min(c + kBlock, plan_.cols);
      window_ = std::max(window_, plan_.WindowEnd(c, block_end) - c);
    }
    window_ = CeilDiv(window_, kPanel) * kPanel;
    const int64_t depth = std::max(kDepth, window_);
    const int64_t each =
        kRowGroup * (plan_.cols + window_ + 2 * plan_.groups) * 4 +
        kRowGroup * plan_.cols;
    const int64_t count = CeilDiv(end - begin, kRowGroup);
    // Ranges are searched in a row at a time, and after a copy of p.
    const int64_t shared = depth * window_ + window_ * kRowGroup + plan_.cols;
    QS_ASSIGN_OR_RETURN(memory_, Buffer::Allocate(count * each + shared * 4));
    auto* next = memory_.As<float>();
    const auto take = [&](int64_t floats) {
      float* const taken = next;
      next += floats;
      return taken;
    };
    panels_ = take(depth * window_);
    window_scratch_ = take(window_ * kRowGroup);
    row_scratch_ = take(plan_.cols);
    groups_.resize(static_cast<size_t>(count));
    for (int64_t g = 0; g < count; ++g) {
      RowGroup& group = groups_[static_cast<size_t>(g)];
      group.first = begin + g * kRowGroup;
      group.rows = std::min(kRowGroup, end - group.first);
      group.wd = take(plan_.cols * kRowGroup);
      group.p = take(window_ * kRowGroup);
      group.scales = take(plan_.groups * kRowGroup);
      group.zero_points = take(plan_.groups * kRowGroup);
      group.codes =
          reinterpret_cast<uint8_t*>(take(plan_.cols * kRowGroup / 4));
    }
    return absl::OkStatus();
  }

  // Weights to positions, and the grids that do not wait for the loop.
  void Load(RowGroup* group) {
    LoadRowGroup(args_.weight, group->first, group->rows,
                 plan_.position_of.data(), group->wd);
    std::fill_n(group->scales, plan_.groups * kRowGroup, 1.0f);
    std::fill_n(group->zero_points, plan_.groups * kRowGroup, 0.0f);
    // Whole rows are searched before columns are zeroed, groups after.
    if (!plan_.whole_row) ZeroColumns(group);
    if (plan_.ranges_first()) {
      for (int64_t r = 0; r < group->rows; ++r) FindRowGrids(group, r);
    }
    if (plan_.whole_row) ZeroColumns(group);
  }

  void ZeroColumns(RowGroup* group) const {
    if (args_.zeroed == nullptr) return;
    for (int64_t p = 0; p < plan_.cols; ++p) {
      if (args_.zeroed[plan_.column_at[static_cast<size_t>(p)]] == 0) continue;
      std::fill_n(group->wd + p * kRowGroup, kRowGroup, 0.0f);
    }
  }

  void FindRowGrids(RowGroup* group, int64_t r) {
    for (int64_t c = 0; c < plan_.cols; ++c) {
      row_scratch_[c] =
          group->wd[plan_.position_of[static_cast<size_t>(c)] * kRowGroup + r];
    }
    for (int64_t g = 0; g < plan_.groups; ++g) {
      const int64_t begin = g * args_.grid.group_size;
      const int64_t end = std::min(begin + args_.grid.group_size, plan_.cols);
      SetGrid(group, r, g,
              args_.range == GptqRange::kGiven
                  ? GivenGrid((group->first + r) * plan_.groups + g)
                  : FindGrid(args_.grid, args_.range, args_.norm,
                             row_scratch_ + begin,
                             plan_.curvature.data() + begin, end - begin));
    }
  }

  GroupGrid GivenGrid(int64_t at) const {
    return {LoadAsFloat(args_.scales, args_.grid.scale_dtype, at),
            args_.grid.symmetric
                ? static_cast<float>(1 << (args_.grid.bits - 1))
                : static_cast<float>(args_.zero_points[at])};
  }

  static void SetGrid(RowGroup* group, int64_t r, int64_t g,
                      const GroupGrid& grid) {
    group->scales[g * kRowGroup + r] = grid.scale;
    group->zero_points[g * kRowGroup + r] = grid.zero_point;
  }

  void SolveColumns(int64_t begin, int64_t end) {
    const int64_t window_end = plan_.WindowEnd(begin, end);
    const int64_t width = window_end - begin;
    const int64_t panels = CeilDiv(width, kPanel);
    for (RowGroup& group : groups_) {
      std::fill_n(group.p, panels * kPanel * kRowGroup, 0.0f);
    }
    MultiplyBefore(begin, width);
    for (RowGroup& group : groups_) {
      if (!plan_.ranges_first()) FindDynamicGrids(&group, begin, end, width);
      SolveGroup(&group, begin, end, width);
    }
  }

  // What the positions before `begin` have lost, times their rows of R; then
  // the panels of R's window itself.
  void MultiplyBefore(int64_t begin, int64_t width) {
    const int64_t panels = CeilDiv(width, kPanel);
    if (args_.factor == nullptr) {
      std::fill_n(panels_, panels * kPanel * width, 0.0f);
      return;
    }
    for (int64_t k = 0; k < begin; k += kDepth) {
      PackPanels(args_.factor, plan_.cols, k, kDepth, begin, width, panels_);
      for (size_t g = 0; g < groups_.size(); ++g) {
        const bool last = g + 1 == groups_.size();
        const float* const next = last
                                      ? groups_[0].wd + (k + kDepth) * kRowGroup
                                      : groups_[g + 1].wd + k * kRowGroup;
        AddProduct(groups_[g].wd + k * kRowGroup, panels_, kDepth, kDepth,
                   panels, groups_[g].p, next);
      }
    }
    PackPanels(args_.factor, plan_.cols, begin, width, begin, width, panels_);
  }

  void SolveGroup(RowGroup* group, int64_t begin, int64_t end, int64_t width) {
    BlockArgs block;
    block.begin = begin;
    block.end = end;
    block.panels = panels_;
    block.panel_rows = width;
    block.diagonal = plan_.diagonal.data();
    block.column_at = plan_.column_at.data();
    block.group_at = plan_.group_at.data();
    block.scales = group->scales;
    block.zero_points = group->zero_points;
    block.max_code = static_cast<float>((1 << args_.grid.bits) - 1);
    block.decoded_dtype = args_.grid.decoded_dtype;
    block.wd = group->wd;
    block.p = group->p;
    block.codes = group->codes;
    block.loss = group->loss;
    SolveBlock(block);
  }

  // Grids of the runs that begin in [begin, end), from weights compensated for
  // what was lost before `begin`.
  void FindDynamicGrids(RowGroup* group, int64_t begin, int64_t end,
                        int64_t width) {
    const int64_t size = args_.grid.group_size;
    int64_t run = CeilDiv(begin, size) * size;
    if (run >= end) return;
    float* const x = window_scratch_;
    std::memcpy(
        x, group->p,
        static_cast<size_t>(CeilDiv(width, kPanel) * kPanel * kRowGroup) *
            sizeof(float));
    SolveUpper(panels_, width, plan_.diagonal.data() + begin, width, x);
    for (; run < end; run += size) {
      const int64_t count = std::min(size, plan_.cols - run);
      const int64_t g = plan_.group_at[static_cast<size_t>(run)];
      for (int64_t r = 0; r < group->rows; ++r) {
        for (int64_t i = 0; i < count; ++i) {
          row_scratch_[i] = group->wd[(run + i) * kRowGroup + r] -
                            x[(run - begin + i) * kRowGroup + r];
        }
        SetGrid(group, r, g,
                FindGrid(args_.grid, args_.range, args_.norm, row_scratch_,
                         nullptr, count));
      }
    }
  }

  void Store(const RowGroup& group) const {
    for (int64_t r = 0; r < group.rows; ++r) {
      const int64_t row = group.first + r;
      if (args_.row_loss != nullptr) args_.row_loss[row] = group.loss[r];
      for (int64_t g = 0; g < plan_.groups; ++g) {
        const int64_t at = row * plan_.groups + g;
        StoreFromFloat(args_.scales, args_.grid.scale_dtype, at,
                       group.scales[g * kRowGroup + r]);
        if (!args_.grid.symmetric) {
          args_.zero_points[at] =
              static_cast<uint8_t>(group.zero_points[g * kRowGroup + r]);
        }
      }
    }
    // A line of each row at a time: rows push each other out of the first
    // cache.
    constexpr int64_t kColumns = 64;
    for (int64_t c = 0; c < plan_.cols; c += kColumns) {
      StoreCodes(group, c, std::min(c + kColumns, plan_.cols));
    }
  }

  // Columns [begin, end) of the codes to rows.
  void StoreCodes(const RowGroup& group, int64_t begin, int64_t end) const {
    const int64_t cols = plan_.cols;
    uint8_t* const out = args_.codes + group.first * cols;
    const int64_t squares = begin + (end - begin) / 4 * 4;
    const int64_t whole_rows = group.rows / 4 * 4;
    for (int64_t r = 0; r < whole_rows; r += 4) {
      for (int64_t c = begin; c < squares; c += 4) {
        TransposeSquare(group.codes + c * kRowGroup + r, out + r * cols + c,
                        cols);
      }
    }
    for (int64_t r = 0; r < group.rows; ++r) {
      for (int64_t c = r < whole_rows ? squares : begin; c < end; ++c) {
        out[r * cols + c] = group.codes[c * kRowGroup + r];
      }
    }
  }

  const Plan& plan_;
  const GptqSolveArgs& args_;
  SharedCheckpoint& checkpoint_;
  int64_t window_ = 0;
  Buffer memory_;
  float* panels_ = nullptr;
  float* window_scratch_ = nullptr;
  float* row_scratch_ = nullptr;
  std::vector<RowGroup> groups_;
};

}  // namespace

absl::Status SolveCpu(const GptqSolveArgs& args, int threads) {
  QS_RETURN_IF_ERROR(CheckGptqSolve(args));
  *args.first_non_finite = FirstNonFinite(args.weight, threads);
  if (*args.first_non_finite >= 0) return absl::OkStatus();
  const Plan plan(args);
  // Rows are independent: the partition changes no byte.
  const int64_t share = CeilDiv(args.weight.rows, std::max(threads, 1));
  const int64_t tile =
      std::clamp(CeilDiv(share, kRowGroup) * kRowGroup, kRowGroup, kTileRows);
  SharedCheckpoint checkpoint(args.checkpoint, CeilDiv(args.weight.rows, tile) *
                                                   CeilDiv(plan.cols, kBlock));
  ParallelTiles(
      threads, args.weight.rows, tile, [&](int64_t begin, int64_t end) {
        if (checkpoint.stopped()) return;
        checkpoint.Fail(TileSolver(plan, checkpoint).Solve(begin, end));
      });
  return checkpoint.status();
}

}  // namespace qs::gptq
