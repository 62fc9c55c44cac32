// The definition of the refinement: coordinate descent on the codes and least
// squares on the scales, in F64, one row after the other.
// Tested by tests/kernels/gptq_reference_test.cc.
#include <algorithm>
#include <cmath>
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

class RowRefiner {
 public:
  explicit RowRefiner(const GptqRefineArgs& args)
      : args_(args),
        cols_(args.weight.cols),
        groups_(CeilDiv(cols_, args.grid.group_size)),
        h_(args.hessian, args.hessian + cols_ * cols_) {
    double mean = 0;
    for (int64_t i = 0; i < cols_; ++i) mean += H(i, i);
    damping_ = args.damping * mean / static_cast<double>(cols_);
    for (int64_t i = 0; i < cols_; ++i) {
      h_[static_cast<size_t>(i * (cols_ + 1))] += damping_;
    }
  }

  void Refine(int64_t row) {
    Load(row);
    for (int sweep = 0; sweep < args_.sweeps; ++sweep) {
      if (!Sweep(args_.refit_scales && sweep < kScaleRefits)) break;
    }
    Store(row);
    if (args_.row_error != nullptr) args_.row_error[row] = Error();
  }

 private:
  double H(int64_t i, int64_t j) const {
    return h_[static_cast<size_t>(i * cols_ + j)];
  }
  size_t Group(int64_t c) const {
    return static_cast<size_t>(c / args_.grid.group_size);
  }
  double Decoded(double steps, double scale) const {
    const auto value = static_cast<float>(steps * scale);
    return Rounded(args_.grid.decoded_dtype, value);
  }

  void Load(int64_t row) {
    scales_.clear();
    zeros_.clear();
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t at = row * groups_ + g;
      scales_.push_back(LoadAsFloat(args_.scales, args_.grid.scale_dtype, at));
      zeros_.push_back(args_.grid.symmetric ? 1 << (args_.grid.bits - 1)
                                            : args_.zero_points[at]);
    }
    steps_.clear();
    weight_.clear();
    for (int64_t c = 0; c < cols_; ++c) {
      const int64_t at = row * cols_ + c;
      weight_.push_back(LoadAsFloat(args_.weight.data, args_.weight.dtype, at));
      steps_.push_back(args_.codes[at] - zeros_[Group(c)]);
    }
    FindGradient();
  }

  void Store(int64_t row) const {
    for (int64_t g = 0; g < groups_; ++g) {
      StoreFromFloat(args_.scales, args_.grid.scale_dtype, row * groups_ + g,
                     static_cast<float>(scales_[static_cast<size_t>(g)]));
    }
    for (int64_t c = 0; c < cols_; ++c) {
      args_.codes[row * cols_ + c] = static_cast<uint8_t>(
          steps_[static_cast<size_t>(c)] + zeros_[Group(c)]);
    }
  }

  // (q - w) H.
  void FindGradient() {
    gradient_.assign(static_cast<size_t>(cols_), 0);
    for (int64_t c = 0; c < cols_; ++c) {
      const auto at = static_cast<size_t>(c);
      Move(c, Decoded(steps_[at], scales_[Group(c)]) - weight_[at]);
    }
  }
  void Move(int64_t c, double by) {
    for (int64_t j = 0; j < cols_; ++j) {
      gradient_[static_cast<size_t>(j)] += by * H(c, j);
    }
  }

  // Groups that lie in a block are refitted with it, others after all blocks.
  bool Sweep(bool refits) {
    const int64_t size = args_.grid.group_size;
    const int64_t step = RefineBlock(size);
    bool changed = false;
    for (int64_t begin = 0; begin < cols_; begin += step) {
      const int64_t end = std::min(begin + step, cols_);
      for (int pass = 0; pass < kBlockPasses; ++pass) {
        bool moved = SweepCodes(begin, end);
        if (refits && size <= kBlock && RefitScales(begin, end)) moved = true;
        if (!moved) break;
        changed = true;
      }
    }
    if (refits && size > kBlock && RefitScales(0, cols_)) changed = true;
    return changed;
  }

  // d H d^T without the damping.
  double Error() const {
    double sum = 0;
    for (int64_t c = 0; c < cols_; ++c) {
      const auto at = static_cast<size_t>(c);
      const double d = Decoded(steps_[at], scales_[Group(c)]) - weight_[at];
      sum += d * (gradient_[at] - damping_ * d);
    }
    return sum;
  }

  bool SweepCodes(int64_t begin, int64_t end) {
    bool changed = false;
    const double max_code = (1 << args_.grid.bits) - 1;
    for (int64_t c = begin; c < end; ++c) {
      const auto at = static_cast<size_t>(c);
      const double scale = scales_[Group(c)];
      const double zero = zeros_[Group(c)];
      const double wanted = steps_[at] - gradient_[at] / (H(c, c) * scale);
      const double steps =
          std::clamp(std::nearbyint(wanted), -zero, max_code - zero);
      if (steps == steps_[at]) continue;
      const double by = Decoded(steps, scale) - Decoded(steps_[at], scale);
      if (!(by * (2 * gradient_[at] + by * H(c, c)) < 0)) continue;
      steps_[at] = steps;
      Move(c, by);
      changed = true;
    }
    return changed;
  }

  // Of the groups that begin in [first, last).
  bool RefitScales(int64_t first, int64_t last) {
    bool changed = false;
    for (int64_t begin = first; begin < last; begin += args_.grid.group_size) {
      const int64_t g = begin / args_.grid.group_size;
      const int64_t end = std::min(begin + args_.grid.group_size, cols_);
      double slope = 0, curvature = 0;
      for (int64_t i = begin; i < end; ++i) {
        const double si = steps_[static_cast<size_t>(i)];
        slope += si * gradient_[static_cast<size_t>(i)];
        for (int64_t j = begin; j < end; ++j) {
          curvature += si * H(i, j) * steps_[static_cast<size_t>(j)];
        }
      }
      if (curvature > 0 && TryScale(g, begin, end, -slope / curvature)) {
        changed = true;
      }
    }
    return changed;
  }

  bool TryScale(int64_t g, int64_t begin, int64_t end, double change) {
    double& scale = scales_[static_cast<size_t>(g)];
    const float wanted =
        Rounded(args_.grid.scale_dtype, static_cast<float>(scale + change));
    if (!(wanted > 0) || wanted < args_.grid.min_scale || wanted == scale) {
      return false;
    }
    Doubles by;
    double gain = 0;
    for (int64_t i = begin; i < end; ++i) {
      const double steps = steps_[static_cast<size_t>(i)];
      by.push_back(Decoded(steps, wanted) - Decoded(steps, scale));
      gain += 2 * by.back() * gradient_[static_cast<size_t>(i)];
    }
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = begin; j < end; ++j) {
        gain += by[static_cast<size_t>(i - begin)] * H(i, j) *
                by[static_cast<size_t>(j - begin)];
      }
    }
    if (!(gain < 0)) return false;
    scale = wanted;
    for (int64_t i = begin; i < end; ++i) {
      Move(i, by[static_cast<size_t>(i - begin)]);
    }
    return true;
  }

  const GptqRefineArgs& args_;
  const int64_t cols_;
  const int64_t groups_;
  Doubles h_;  // damped
  double damping_ = 0;
  Doubles weight_, steps_, gradient_, scales_, zeros_;
};

}  // namespace

absl::Status RefineReference(const GptqRefineArgs& args) {
  QS_RETURN_IF_ERROR(CheckGptqRefine(args));
  RowRefiner refiner(args);
  for (int64_t row = 0; row < args.weight.rows; ++row) refiner.Refine(row);
  return args.checkpoint ? args.checkpoint(1) : absl::OkStatus();
}

}  // namespace qs::gptq
