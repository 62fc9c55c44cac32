// The definition of the GPTQ loop, as its authors' code runs it: columns in
// order, errors spread by U = R^-1 (upper, H^-1 = U^T U), blocks of 128, ranges
// of dynamic groups from weights that miss what the columns of the same block
// before them have spread. F64, but ranges and quotients: they are F32.
// Tested by tests/kernels/gptq_golden_test.cc and
// tests/kernels/gptq_reference_test.cc.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"
#include "kernels/reference/gptq_reference.h"

namespace qs::gptq {
namespace {

using Doubles = std::vector<double>;

float Rounded(DType dtype, float x) {
  alignas(float) unsigned char storage[sizeof(float)];
  StoreFromFloat(storage, dtype, 0, x);
  return LoadAsFloat(storage, dtype, 0);
}

struct GroupGrid {
  float scale = 0;
  float zero_point = 0;
};

// A scale as it is stored.
float StoredScale(const GptqGrid& grid, float scale) {
  const float least = grid.scale_dtype == DType::kF16 ? 0x1p-14f : 0x1p-126f;
  const float greatest = grid.scale_dtype == DType::kF16 ? 65504.0f
                         : grid.scale_dtype == DType::kBF16
                             ? 0x1.fep127f
                             : std::numeric_limits<float>::max();
  return std::clamp(Rounded(grid.scale_dtype, scale),
                    grid.min_scale > 0 ? grid.min_scale : least, greatest);
}

class RangeFinder {
 public:
  RangeFinder(const GptqSolveArgs& args) : args_(args) {}

  // `curvature` is R[p,p]^2 of each value, for kCurvature.
  GroupGrid Find(const std::vector<float>& w,
                 const std::vector<float>& curvature) const {
    float low = 0, high = 0;
    for (float x : w) {
      low = std::min(low, x);
      high = std::max(high, x);
    }
    Stretch(&low, &high);
    switch (args_.range) {
      case GptqRange::kMse:
        return Search(kMseRanges, low, high,
                      [&](const GroupGrid& g) { return PowerError(w, g); });
      case GptqRange::kCurvature:
        return Search(kCurvatureRanges, low, high, [&](const GroupGrid& g) {
          return WeightedError(w, curvature, g);
        });
      default:
        return Grid(low, high, 0);
    }
  }

 private:
  float max_code() const {
    return static_cast<float>((1 << args_.grid.bits) - 1);
  }

  // The full range from the extremes of the weights and 0.
  void Stretch(float* low, float* high) const {
    if (args_.grid.symmetric) {
      // The libraries keep low = 0 in a group without negative weights, and so
      // clip its upper half; a search that is ours does not.
      const bool both = *low < 0 || args_.range == GptqRange::kCurvature;
      *high = std::max(-*low, *high);
      if (both) *low = -*high;
    }
    if (*low == 0 && *high == 0) {
      *low = -1;
      *high = 1;
    }
  }

  // `shift` is added to the zero point of an asymmetric grid.
  GroupGrid Grid(float low, float high, float shift) const {
    const float scale = (high - low) / max_code();
    GroupGrid grid;
    grid.scale = StoredScale(args_.grid, scale);
    grid.zero_point = args_.grid.symmetric
                          ? (max_code() + 1) / 2
                          : std::clamp(std::nearbyint(-low / scale) + shift,
                                       0.0f, max_code());
    return grid;
  }

  // The first of the least error over `count` ranges.
  template <class Error>
  GroupGrid Search(int count, float low, float high, const Error& error) const {
    GroupGrid best;
    float least = std::numeric_limits<float>::infinity();
    const auto offer = [&](const GroupGrid& grid) {
      const float e = error(grid);
      if (!(e < least)) return;
      least = e;
      best = grid;
    };
    for (int i = 0; i < count; ++i) {
      const auto p = static_cast<float>(1 - i / 100.0);
      const GroupGrid grid = Grid(p * low, p * high, 0);
      offer(grid);
      if (args_.grid.symmetric || args_.grid.bits != 2) continue;
      // With four codes the rounding of the zero point is half a range.
      const float exact = -(p * low) / ((p * high - p * low) / max_code());
      const float shift = exact > std::nearbyint(exact) ? 1.0f : -1.0f;
      offer(Grid(p * low, p * high, shift));
    }
    return best;
  }

  float Decoded(float w, const GroupGrid& g) const {
    const float q = std::clamp(std::nearbyint(w / g.scale) + g.zero_point, 0.0f,
                               max_code());
    return g.scale * (q - g.zero_point);
  }

  float PowerError(const std::vector<float>& w, const GroupGrid& g) const {
    float sum = 0;
    for (float x : w) {
      sum +=
          std::pow(std::abs(Decoded(x, g) - x), static_cast<float>(args_.norm));
    }
    return sum;
  }

  // Sixteen partial sums, folded.
  float WeightedError(const std::vector<float>& w,
                      const std::vector<float>& curvature,
                      const GroupGrid& g) const {
    std::array<float, 16> sums{};
    for (size_t i = 0; i < w.size(); ++i) {
      const float d = w[i] - Decoded(w[i], g);
      sums[i % 16] += d * d * curvature[i];
    }
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
    }
    return sums[0];
  }

  const GptqSolveArgs& args_;
};

// U = R^-1, upper.
Doubles Inverted(const float* r, int64_t n) {
  Doubles u(static_cast<size_t>(n * n));
  for (int64_t c = 0; c < n; ++c) {
    u[static_cast<size_t>(c * n + c)] =
        r == nullptr ? 1 : 1.0 / static_cast<double>(r[c * n + c]);
    if (r == nullptr) continue;
    for (int64_t i = c - 1; i >= 0; --i) {
      double sum = 0;
      for (int64_t k = i + 1; k <= c; ++k) {
        sum += static_cast<double>(r[i * n + k]) *
               u[static_cast<size_t>(k * n + c)];
      }
      u[static_cast<size_t>(i * n + c)] = -sum / r[i * n + i];
    }
  }
  return u;
}

class RowSolver {
 public:
  explicit RowSolver(const GptqSolveArgs& args)
      : args_(args),
        cols_(args.weight.cols),
        groups_(CeilDiv(cols_, args.grid.group_size)),
        finder_(args),
        u_(Inverted(args.factor, cols_)) {}

  void Solve(int64_t row) {
    Load(row);
    if (args_.static_groups) FindStaticGrids(row);
    loss_ = 0;
    for (int64_t begin = 0; begin < cols_; begin += kBlock) {
      SolveBlock(row, begin, std::min(begin + kBlock, cols_));
    }
    if (args_.row_loss != nullptr) args_.row_loss[row] = loss_;
  }

 private:
  int64_t ColumnAt(int64_t position) const {
    return args_.order == nullptr ? position : args_.order[position];
  }
  double U(int64_t i, int64_t j) const {
    return u_[static_cast<size_t>(i * cols_ + j)];
  }
  bool zeroed(int64_t column) const {
    return args_.zeroed != nullptr && args_.zeroed[column] != 0;
  }

  // The group of a position's column.
  int64_t GroupAt(int64_t position) const {
    if (args_.static_groups) return ColumnAt(position) / args_.grid.group_size;
    return args_.group_index == nullptr ? position / args_.grid.group_size
                                        : args_.group_index[ColumnAt(position)];
  }

  void Load(int64_t row) {
    original_.assign(static_cast<size_t>(cols_), 0);
    w_.assign(static_cast<size_t>(cols_), 0);
    for (int64_t c = 0; c < cols_; ++c) {
      original_[static_cast<size_t>(c)] =
          LoadAsFloat(args_.weight.data, args_.weight.dtype, row * cols_ + c);
    }
    for (int64_t p = 0; p < cols_; ++p) {
      const int64_t c = ColumnAt(p);
      if (!zeroed(c)) {
        w_[static_cast<size_t>(p)] = original_[static_cast<size_t>(c)];
      }
    }
    grids_.assign(static_cast<size_t>(groups_), {});
    // A whole row is one group, searched before columns are zeroed.
    if (!args_.static_groups && args_.grid.group_size == cols_) {
      SetGrid(row, 0, finder_.Find(original_, {}));
    }
  }

  void SetGrid(int64_t row, int64_t group, const GroupGrid& grid) {
    grids_[static_cast<size_t>(group)] = grid;
    const int64_t at = row * groups_ + group;
    StoreFromFloat(args_.scales, args_.grid.scale_dtype, at, grid.scale);
    if (!args_.grid.symmetric) {
      args_.zero_points[at] = static_cast<uint8_t>(grid.zero_point);
    }
  }

  GroupGrid GivenGrid(int64_t at) const {
    return {LoadAsFloat(args_.scales, args_.grid.scale_dtype, at),
            args_.grid.symmetric ? std::ldexp(1.0f, args_.grid.bits - 1)
                                 : static_cast<float>(args_.zero_points[at])};
  }

  void FindStaticGrids(int64_t row) {
    std::vector<float> diagonal(static_cast<size_t>(cols_));
    for (int64_t p = 0; p < cols_; ++p) {
      const float r =
          args_.factor == nullptr ? 1.0f : args_.factor[p * cols_ + p];
      diagonal[static_cast<size_t>(ColumnAt(p))] = r * r;
    }
    for (int64_t g = 0; g < groups_; ++g) {
      if (args_.range == GptqRange::kGiven) {
        grids_[static_cast<size_t>(g)] = GivenGrid(row * groups_ + g);
        continue;
      }
      const int64_t begin = g * args_.grid.group_size;
      const int64_t end = std::min(begin + args_.grid.group_size, cols_);
      std::vector<float> values, curvature;
      for (int64_t c = begin; c < end; ++c) {
        const bool keeps = args_.grid.group_size == cols_ || !zeroed(c);
        values.push_back(keeps ? original_[static_cast<size_t>(c)] : 0.0f);
        curvature.push_back(diagonal[static_cast<size_t>(c)]);
      }
      SetGrid(row, g, finder_.Find(values, curvature));
    }
  }

  void FindDynamicGrid(int64_t row, int64_t position) {
    if (args_.grid.group_size == cols_) return;
    const int64_t end = std::min(position + args_.grid.group_size, cols_);
    std::vector<float> values;
    for (int64_t p = position; p < end; ++p) {
      values.push_back(static_cast<float>(w_[static_cast<size_t>(p)]));
    }
    SetGrid(row, GroupAt(position), finder_.Find(values, {}));
  }

  double Decoded(double code, const GroupGrid& grid) const {
    const double value = (code - grid.zero_point) * grid.scale;
    return args_.grid.decoded_dtype == DType::kF32
               ? value
               : Rounded(args_.grid.decoded_dtype, static_cast<float>(value));
  }

  void SolveBlock(int64_t row, int64_t begin, int64_t end) {
    Doubles v(w_.begin() + begin, w_.begin() + end);
    Doubles errors;
    for (int64_t c = begin; c < end; ++c) {
      if (!args_.static_groups && c % args_.grid.group_size == 0) {
        FindDynamicGrid(row, c);
      }
      const GroupGrid& grid = grids_[static_cast<size_t>(GroupAt(c))];
      const double max_code = (1 << args_.grid.bits) - 1;
      const double w = v[static_cast<size_t>(c - begin)];
      // The quotient in F32, as the ranges: the extreme weight of a symmetric
      // group lies on the border of two codes, where the last bit decides.
      const double code = std::clamp(std::nearbyint(static_cast<double>(
                                         static_cast<float>(w) / grid.scale)) +
                                         grid.zero_point,
                                     0.0, max_code);
      args_.codes[row * cols_ + ColumnAt(c)] = static_cast<uint8_t>(code);
      const double e = (w - Decoded(code, grid)) / U(c, c);
      loss_ += e * e;
      for (int64_t j = c; j < end; ++j) {
        v[static_cast<size_t>(j - begin)] -= e * U(c, j);
      }
      errors.push_back(e);
    }
    for (int64_t j = end; j < cols_; ++j) {
      for (int64_t c = begin; c < end; ++c) {
        w_[static_cast<size_t>(j)] -=
            errors[static_cast<size_t>(c - begin)] * U(c, j);
      }
    }
  }

  const GptqSolveArgs& args_;
  const int64_t cols_;
  const int64_t groups_;
  const RangeFinder finder_;
  const Doubles u_;
  std::vector<float> original_;  // as stored
  Doubles w_;                    // in processing order, as updated
  std::vector<GroupGrid> grids_;
  double loss_ = 0;
};

}  // namespace

absl::Status SolveReference(const GptqSolveArgs& args) {
  QS_RETURN_IF_ERROR(CheckGptqSolve(args));
  *args.first_non_finite = -1;
  for (int64_t i = 0; i < args.weight.num_elements(); ++i) {
    if (std::isfinite(LoadAsFloat(args.weight.data, args.weight.dtype, i))) {
      continue;
    }
    *args.first_non_finite = i;
    return absl::OkStatus();
  }
  RowSolver solver(args);
  for (int64_t row = 0; row < args.weight.rows; ++row) solver.Solve(row);
  return args.checkpoint ? args.checkpoint(1) : absl::OkStatus();
}

}  // namespace qs::gptq
