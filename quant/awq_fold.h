// How the scales of a site get into the tensors of its group: which values of
// the producer they divide, and how to choose them so that the model computes
// the same as before.
#ifndef QS_QUANT_AWQ_FOLD_H_
#define QS_QUANT_AWQ_FOLD_H_

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "quant/awq_solution.h"
#include "quant/group_info.h"
#include "quant/quant_spec.h"

namespace qs {

// Errors: INVALID_ARGUMENT — a producer, bias or reader of other size than the
// site's inputs ask for. REQUIRES: ValidateGroup is OK.
absl::Status CheckAwqFolds(const GroupInfo& info);

class AwqFold {
 public:
  // Element values of a tensor of the group.
  using Values = std::function<std::vector<float>(size_t tensor)>;

  // `info` and `values` must outlive it.
  AwqFold(const GroupInfo& info, size_t site, Profile profile,
          const Values& values);

  // Whether the site may be scaled. REFERENCE leaves grouped attention alone.
  bool scales() const { return scales_; }

  // Inputs that come from one row of the producer get their mean.
  void Tie(std::vector<float>& values) const;

  // BEST: the nearest scales with which the fold loses nothing to rounding.
  // A producer's values g that are stored rounded become g' = R(g / s) with
  // s = g / g' exactly; where more than one value of an input is rounded,
  // scales become powers of two first.
  void Adjust(std::vector<float>& scales) const;

  // Adds to `transforms`, one a tensor of the group, what `scales` change.
  void Apply(std::span<const float> scales,
             std::vector<AwqTransform>* transforms) const;

 private:
  bool IsTied() const { return fold_.repeat > 1; }
  int64_t RowOf(int64_t input) const;
  // The stored value that `scale` makes of the producer's `value`.
  float Folded(float value, float scale, bool plus_one) const;
  float Rounded(size_t tensor, float value) const;
  void MakeExact(size_t tensor, std::span<const float> values, bool plus_one,
                 std::vector<float>& scales) const;
  void DivideValues(size_t tensor, std::span<const float> scales, bool plus_one,
                    std::vector<AwqTransform>* transforms) const;

  const GroupInfo& info_;
  const size_t site_;
  const Fold& fold_;
  const Profile profile_;
  bool scales_ = false;
  size_t producer_ = 0;
  int bias_ = -1;
  bool powers_of_two_ = false;
  std::vector<float> norm_values_;  // of a norm
  std::vector<float> bias_values_;
};

}  // namespace qs

#endif  // QS_QUANT_AWQ_FOLD_H_
