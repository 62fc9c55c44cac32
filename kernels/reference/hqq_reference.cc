// The definition of the HQQ family: one element after the other. The solver is
// written out here; the order of its sums (hqq_sums.h) and BEST's choice of
// candidates (hqq_math.h) are shared with the fast versions.
// Tested by tests/kernels/hqq_golden_test.cc and
// tests/kernels/hqq_reference_test.cc.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/factories.h"
#include "kernels/hqq_check.h"
#include "kernels/hqq_math.h"
#include "kernels/hqq_sums.h"
#include "kernels/hqq_tables.h"

namespace qs {
namespace {

float Rounded(DType dtype, float x) {
  alignas(float) unsigned char storage[sizeof(float)];
  StoreFromFloat(storage, dtype, 0, x);
  return LoadAsFloat(storage, dtype, 0);
}

// a^-0.3 for a normal a, as hqq_tables.h says.
float ShrinkPowerOf(float a) {
  int exponent = 0;
  double m = std::frexp(a, &exponent);  // [1/2, 1)
  if (m < 0.75) {
    m *= 2;
    --exponent;
  }
  const double r = (m - 1) / (m + 1);
  const double square = r * r;
  double log = 0;
  for (int i = hqq::kLogTerms - 1; i >= 0; --i) {
    log = log * square + hqq::kTwoOverLn2 / (2 * i + 1);
  }
  const double y =
      static_cast<double>(hqq::kShrinkPower) * (log * r + exponent);
  const double whole = std::nearbyint(y);
  const double f = (y - whole) * hqq::kLn2;
  double power = 0;
  double factorial = 1;
  std::vector<double> terms;
  for (int i = 0; i < hqq::kExpTerms; ++i) {
    terms.push_back(1 / factorial);
    factorial *= i + 1;
  }
  for (int i = hqq::kExpTerms - 1; i >= 0; --i) power = power * f + terms[i];
  return static_cast<float>(std::ldexp(power, static_cast<int>(whole)));
}

// hqq's shrink_lp_op for lp_norm 0.7 and beta 10.
float Shrink(float e) {
  const float a = std::fabs(e);
  if (a <= hqq::kNoShrink) return 0;
  const float o = std::max(a - hqq::kShrinkFactor * ShrinkPowerOf(a), 0.0f);
  return e < 0 ? -o : o;
}

struct Scheme {
  const HqqEncodeArgs& args;
  hqq::Spec spec;
  float max_code;

  int64_t groups() const {
    return args.weight.num_elements() / args.group_size;
  }
  int64_t Index(int64_t g, int64_t k) const {
    return args.axis == 1 ? g * args.group_size + k : k * groups() + g;
  }
};

// One group and its state.
struct Group {
  std::vector<float> w;
  hqq::SumOrder order = hqq::SumOrder::kContiguous;
  hqq::Bounds bounds;
  float inverse = 1;
  float zero = 0;
};

float CodeOf(float w, float inverse, float zero, float max_code) {
  return std::clamp(std::nearbyint(w * inverse + zero), 0.0f, max_code);
}

float ErrorOf(float w, float inverse, float zero, float max_code) {
  const float code = CodeOf(w, inverse, zero, max_code);
  return w - (code - zero) / inverse;
}

float NextZero(const Group& group, float inverse, float zero, float max_code) {
  const auto n = static_cast<int64_t>(group.w.size());
  const float sum = hqq::GroupSum(group.order, n, [&](int64_t k) {
    const float w = group.w[static_cast<size_t>(k)];
    const float o = Shrink(ErrorOf(w, inverse, zero, max_code));
    return CodeOf(w, inverse, zero, max_code) - (w - o) * inverse;
  });
  return sum / static_cast<float>(n);
}

float FoldSixteen(std::vector<float> sums) {
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

// Sum of term(w) over a group.
template <class Term>
float Sixteenths(const std::vector<float>& w, const Term& term) {
  std::vector<float> sums(16);
  for (size_t i = 0; i < w.size(); ++i) sums[i % 16] += term(w[i]);
  return FoldSixteen(sums);
}

// What hqq_math.h asks of a group.
class Scorer {
 public:
  Scorer(const hqq::Spec& spec, const Group& group)
      : spec_(spec),
        group_(group),
        unit_(hqq::ErrorUnit(group.bounds.width())),
        count_(static_cast<int64_t>(group.w.size())) {}

  float NextZero(float inverse, float zero) const {
    return qs::NextZero(group_, inverse, zero, spec_.max_code());
  }

  float IterateError(float inverse, float zero, float scale,
                     float stored) const {
    return Sixteenths(group_.w, [&](float w) {
      return Squared(w - Decoded(CodeOf(w, inverse, zero, spec_.max_code()),
                                 scale, stored));
    });
  }

  void FitLines(const hqq::Lines& lines,
                hqq::Fit (&fits)[hqq::kLineBatch]) const {
    for (int k = 0; k < hqq::kLineBatch; ++k) {
      fits[k] = FitLine(lines.slope[k], lines.offset[k]);
    }
  }

  hqq::Fit FitLine(float slope, float offset) const {
    const float inverse_width = 1.0f / group_.bounds.width();
    const auto x = [&](float w) {
      return (w - group_.bounds.low) * inverse_width;
    };
    const auto code = [&](float w) {
      return std::nearbyint(
          std::clamp(x(w) * slope + offset, 0.0f, spec_.max_code()));
    };
    const std::vector<float>& w = group_.w;
    return hqq::FitLine(
        count_, Sixteenths(w, x), Sixteenths(w, code),
        Sixteenths(w, [&](float v) { return code(v) * code(v); }),
        Sixteenths(w, [&](float v) { return x(v) * code(v); }));
  }

  float StoredError(float scale, float zero) const {
    return Sixteenths(group_.w, [&](float w) {
      return Squared(w - Decoded(StoredCode(w, scale, zero), scale, zero));
    });
  }

  float FittedScale(float scale, float zero) const {
    const auto steps = [&](float w) {
      return StoredCode(w, scale, zero) - zero;
    };
    const float cross =
        Sixteenths(group_.w, [&](float w) { return w * unit_ * steps(w); });
    const float square =
        Sixteenths(group_.w, [&](float w) { return steps(w) * steps(w); });
    return cross / square / unit_;
  }

  template <int kCount>
  void Fit(const affine::Candidates<kCount>& candidates,
           float (&fitted)[kCount], float (&gain)[kCount]) const {
    for (int k = 0; k < kCount; ++k) {
      const float reciprocal = 1.0f / candidates.step[k];
      const auto steps = [&](float w) {
        return std::nearbyint(
            std::clamp(w * reciprocal, candidates.low[k], candidates.high[k]));
      };
      const float cross =
          Sixteenths(group_.w, [&](float w) { return w * steps(w); });
      const float square =
          Sixteenths(group_.w, [&](float w) { return steps(w) * steps(w); });
      fitted[k] = cross / square;
      gain[k] = cross * fitted[k];
    }
  }

  float GridError(const affine::Grid& grid) const {
    return Sixteenths(group_.w, [&](float w) {
      const float steps = GridCode(w, grid) - grid.zero_point;
      return Squared(w - Rounded(spec_.stored, steps * grid.scale));
    });
  }

  float StoredCode(float w, float scale, float zero) const {
    const float reciprocal = 1.0f / scale;
    return std::nearbyint(
        std::clamp(w * reciprocal + zero, 0.0f, spec_.max_code()));
  }

  // As AffineOps codes, with a grid of its own or a searched one.
  float GridCode(float w, const affine::Grid& grid) const {
    const float z = grid.zero_point;
    if (grid.searched) {
      const float reciprocal = 1.0f / grid.scale;
      return std::nearbyint(
                 std::clamp(w * reciprocal, -z, spec_.max_code() - z)) +
             z;
    }
    const float offset = (spec_.max_code() + 1) / 2;
    const float steps = Rounded(spec_.stored, w / grid.scale);
    const float t = Rounded(spec_.stored, steps + (z - offset));
    return std::nearbyint(std::clamp(t, -offset, offset - 1)) + offset;
  }

 private:
  float Decoded(float code, float scale, float zero) const {
    return Rounded(spec_.stored, Rounded(spec_.stored, code - zero) * scale);
  }
  float Squared(float d) const { return d * unit_ * (d * unit_); }

  const hqq::Spec& spec_;
  const Group& group_;
  const float unit_;
  const int64_t count_;
};

class HqqReference final : public HqqOps {
 public:
  absl::Status Encode(const HqqEncodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckHqqEncode(args));
    const hqq::Spec spec = {args.stored, args.bits, args.round_zero,
                            args.iterations};
    const Scheme scheme = {args, spec, spec.max_code()};
    HqqFacts facts;
    facts.groups = scheme.groups();
    *args.first_non_finite = FirstNonFinite(args.weight);
    if (*args.first_non_finite < 0) {
      std::vector<Group> groups = LoadGroups(scheme);
      if (args.solver == HqqSolver::kBest) {
        Search(scheme, groups, &facts);
      } else {
        Solve(scheme, &groups, &facts);
      }
    }
    if (args.facts != nullptr) *args.facts = facts;
    return absl::OkStatus();
  }

  absl::Status Decode(const HqqDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckHqqGroups(args.weight, args.group_size, args.axis));
    const DType dtype = args.weight.dtype;
    const int64_t n = args.weight.num_elements();
    for (int64_t i = 0; i < n; ++i) {
      const int64_t g =
          args.axis == 1 ? i / args.group_size : i % (n / args.group_size);
      const float steps = Rounded(dtype, static_cast<float>(args.codes[i]) -
                                             LoadAsFloat(args.zeros, dtype, g));
      StoreFromFloat(args.weight.data, dtype, i,
                     steps * LoadAsFloat(args.scales, dtype, g));
    }
    return absl::OkStatus();
  }

 private:
  static int64_t FirstNonFinite(const TensorView& weight) {
    for (int64_t i = 0; i < weight.num_elements(); ++i) {
      if (!std::isfinite(LoadAsFloat(weight.data, weight.dtype, i))) return i;
    }
    return -1;
  }

  static std::vector<Group> LoadGroups(const Scheme& s) {
    std::vector<Group> groups(static_cast<size_t>(s.groups()));
    for (int64_t g = 0; g < s.groups(); ++g) {
      Group& group = groups[static_cast<size_t>(g)];
      group.order = hqq::GroupSumOrder(s.args.axis, g, s.groups());
      for (int64_t k = 0; k < s.args.group_size; ++k) {
        group.w.push_back(LoadAsFloat(s.args.weight.data, s.args.weight.dtype,
                                      s.Index(g, k)));
      }
      // Adding zero makes -0 a +0.
      group.bounds.low =
          *std::min_element(group.w.begin(), group.w.end()) + 0.0f;
      group.bounds.high =
          *std::max_element(group.w.begin(), group.w.end()) + 0.0f;
      const hqq::Start start = hqq::StartOf(s.spec, group.bounds);
      group.inverse = start.inverse;
      group.zero = start.zero;
    }
    return groups;
  }

  // Mean |e| of the whole tensor.
  static float MeanError(const Scheme& s, const std::vector<Group>& groups) {
    const int64_t n = s.args.weight.num_elements();
    const float sum = hqq::ContiguousSum(n, [&](int64_t i) {
      const bool rows = s.args.axis == 1;
      const int64_t g = rows ? i / s.args.group_size : i % s.groups();
      const int64_t k = rows ? i % s.args.group_size : i / s.groups();
      const Group& group = groups[static_cast<size_t>(g)];
      return std::fabs(ErrorOf(group.w[static_cast<size_t>(k)], group.inverse,
                               group.zero, s.max_code));
    });
    return sum / static_cast<float>(n);
  }

  static void Solve(const Scheme& s, std::vector<Group>* groups,
                    HqqFacts* facts) {
    float best = std::numeric_limits<float>::infinity();
    std::vector<int> still(groups->size(), s.spec.iterations);
    for (int k = 0; k < s.spec.iterations; ++k) {
      const float error = MeanError(s, *groups);
      for (size_t g = 0; g < groups->size(); ++g) {
        Group& group = (*groups)[g];
        const float next = hqq::NextOr(
            group.zero, NextZero(group, group.inverse, group.zero, s.max_code));
        if (next == group.zero) still[g] = std::min(still[g], k);
        group.zero = next;
      }
      facts->iterations = k + 1;
      facts->error = error;
      if (!(error < best)) break;
      best = error;
    }
    for (int k : still) {
      facts->group_iterations += std::min(k, facts->iterations);
    }
    for (size_t g = 0; g < groups->size(); ++g) {
      Store(s, (*groups)[g], static_cast<int64_t>(g));
    }
  }

  static void Store(const Scheme& s, const Group& group, int64_t g) {
    if (s.args.zero_points != nullptr) {
      affine::Grid grid;
      if (!hqq::RoundedGrid(s.spec, group.bounds, group.inverse, group.zero,
                            &grid)) {
        grid = affine::MinMaxGrid(hqq::AffineSpec(s.spec),
                                  hqq::WithZero(group.bounds));
      }
      return StoreGrid(s, group, grid, g);
    }
    StoreFromFloat(s.args.scales, s.args.stored, g,
                   hqq::Storable(s.args.stored, 1.0f / group.inverse));
    StoreFromFloat(s.args.zeros, s.args.stored, g,
                   hqq::Storable(s.args.stored, group.zero));
    StoreCodes(s, group, g, [&](float w) {
      return CodeOf(w, group.inverse, group.zero, s.max_code);
    });
  }

  template <class Code>
  static void StoreCodes(const Scheme& s, const Group& group, int64_t g,
                         const Code& code) {
    for (int64_t k = 0; k < s.args.group_size; ++k) {
      s.args.codes[s.Index(g, k)] =
          static_cast<uint8_t>(code(group.w[static_cast<size_t>(k)]));
    }
  }

  static void StoreGrid(const Scheme& s, const Group& group,
                        const affine::Grid& grid, int64_t g) {
    StoreFromFloat(s.args.scales, s.args.stored, g, grid.scale);
    s.args.zero_points[g] = static_cast<uint8_t>(grid.zero_point);
    const Scorer scorer(s.spec, group);
    StoreCodes(s, group, g, [&](float w) { return scorer.GridCode(w, grid); });
  }

  static void Search(const Scheme& s, const std::vector<Group>& groups,
                     HqqFacts* facts) {
    for (int64_t g = 0; g < s.groups(); ++g) {
      const Group& group = groups[static_cast<size_t>(g)];
      const Scorer scorer(s.spec, group);
      int iterations = 0;
      if (s.args.zero_points != nullptr) {
        StoreGrid(s, group,
                  hqq::SolveIntegerGroup(s.spec, hqq::kStepList[s.spec.bits],
                                         group.bounds, scorer, &iterations),
                  g);
      } else {
        const hqq::Choice best =
            hqq::SolveGroup(s.spec, hqq::kShrink[s.spec.bits], group.bounds,
                            scorer, &iterations);
        StoreFromFloat(s.args.scales, s.args.stored, g, best.stored_scale);
        StoreFromFloat(s.args.zeros, s.args.stored, g, best.stored_zero);
        StoreCodes(s, group, g, [&](float w) {
          return best.iterate ? CodeOf(w, best.inverse, best.zero, s.max_code)
                              : scorer.StoredCode(w, best.stored_scale,
                                                  best.stored_zero);
        });
      }
      facts->group_iterations += iterations;
    }
  }
};

}  // namespace

std::unique_ptr<HqqOps> NewHqqReference() {
  return std::make_unique<HqqReference>();
}

}  // namespace qs
