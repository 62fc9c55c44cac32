// The equations of kernels/nf4_nested_math.h, written out again: one block
// after the other, all its choices side by side. Tested by
// tests/kernels/nf4_nested_cuda_test.cc.
#include "kernels/reference/nf4_nested_reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/nested_absmax.h"
#include "kernels/nf4_check.h"
#include "kernels/nf4_tables.h"

namespace qs {
namespace {

constexpr float kLeast = 0x1p-100f;
constexpr float kMost = 0x1p100f;

// What a block may be stored as.
struct Choice {
  int nested_code = 0;
  float absmax = 0;       // decoded
  float coded_by = 0;     // what the 4-bit codes are for
  bool rewritten = true;  // not the codes that were there
  std::vector<uint8_t> codes;
  float error = 0;
};

float SumSixteen(std::array<float, 16> sums) {
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

class BlockRefiner {
 public:
  BlockRefiner(const NestedRefineArgs& args, int64_t b)
      : args_(args),
        midpoints_(MakeRankTable(args.codebook, Nf4Rule::kCpu)),
        levels_(CodebookLevels(args.codebook)),
        block_(b),
        begin_(b * args.block_size) {
    const int64_t end =
        std::min(args.weight.num_elements(), begin_ + args.block_size);
    for (int64_t i = begin_; i < end; ++i) {
      weight_.push_back(LoadAsFloat(args.weight.data, args.weight.dtype, i));
      const int byte = args.packed[i / 2];
      given_.push_back(
          static_cast<uint8_t>(i % 2 == 0 ? byte >> 4 : byte & 15));
    }
  }

  Choice Run() const {
    Choice chosen = None();
    const float bar = chosen.error * Slack() - 0x1p-126f;
    const std::vector<Choice> tries = Tries();
    if (chosen.rewritten && !tries.empty()) {
      chosen.nested_code = tries.front().nested_code;
      chosen.absmax = tries.front().absmax;
    }
    const auto best = std::min_element(
        tries.begin(), tries.end(),
        [](const Choice& a, const Choice& b) { return a.error < b.error; });
    if (best != tries.end() && best->error < bar && best->error < 0x1p127f) {
      chosen = *best;
    }
    return chosen;
  }

 private:
  static bool Ordinary(float x) { return x >= kLeast && x <= kMost; }

  float LevelOf(int nested_code) const {
    return nf4::NestedDecodeOne(static_cast<uint8_t>(nested_code), Scale(),
                                *args_.offset);
  }
  float Scale() const {
    return args_.nested_absmax[(args_.first_block + block_) / kNestedBlockSize];
  }

  // What is there.
  Choice None() const {
    const float absmax = args_.absmax[block_];
    Choice none;
    none.nested_code = args_.codes[block_];
    none.absmax = LevelOf(none.nested_code);
    const float size = std::fabs(none.absmax);
    none.rewritten =
        size == 0 ||
        (size >= kLeast && (none.absmax < 0 || none.absmax >= 64 * absmax));
    none.coded_by = none.rewritten ? -1.0f : absmax;
    none.codes = none.rewritten ? std::vector<uint8_t>(weight_.size(),
                                                       midpoints_.zero_code)
                                : given_;
    none.error = Error(none);
    return none;
  }

  std::vector<Choice> Tries() const {
    const float absmax = args_.absmax[block_];
    if (!Ordinary(absmax)) return {};
    const float wanted = Nf4FittedAbsmax(args_.codebook, weight_, absmax);
    const float d = wanted - *args_.offset;
    int nearest = nf4::NestedNearest(d == 0 ? 0.0f : d * (1.0f / Scale()));
    if (!(LevelOf(nearest) > 0) && nearest < 255) ++nearest;
    if (!Ordinary(LevelOf(nearest))) return {};
    std::vector<int> codes = {
        nearest, LevelOf(nearest) < wanted ? nearest + 1 : nearest - 1};
    if (nearest == 255 && wanted > LevelOf(255)) {
      for (int code = 252; code >= 207; code -= 3) {
        if (LevelOf(code) > 0.6f * absmax) codes.push_back(code);
      }
    }
    std::vector<Choice> tries;
    for (int code : codes) {
      if (code < 0 || code > 255 || !Ordinary(LevelOf(code))) continue;
      tries.push_back(Try(code));
    }
    return tries;
  }

  Choice Try(int nested_code) const {
    Choice t;
    t.nested_code = nested_code;
    t.absmax = t.coded_by = LevelOf(nested_code);
    for (float w : weight_) {
      const float on_unit = std::clamp(w * (1.0f / t.absmax), -1.0f, 1.0f);
      const auto rank = std::count_if(
          std::begin(midpoints_.bounds), std::end(midpoints_.bounds),
          [on_unit](float bound) { return bound < on_unit; });
      t.codes.push_back(midpoints_.codes[rank]);
    }
    t.error = Error(t);
    return t;
  }

  float Error(const Choice& choice) const {
    std::array<float, 16> sums{};
    for (size_t i = 0; i < weight_.size(); ++i) {
      float decoded = 0;
      StoreFromFloat(&decoded, args_.weight.dtype, 0,
                     levels_[choice.codes[i]] * choice.absmax);
      const float d = weight_[i] - LoadAsFloat(&decoded, args_.weight.dtype, 0);
      sums[i % 16] += d * d;
    }
    return SumSixteen(sums);
  }

  // Additions and roundings of a sum, in each of the two compared.
  float Slack() const {
    return 1.0f - static_cast<float>(weight_.size() / 16 + 16) * 0x1p-23f;
  }

  const NestedRefineArgs& args_;
  const RankTable midpoints_;
  const float* const levels_;  // by code
  const int64_t block_;
  const int64_t begin_;
  std::vector<float> weight_;
  std::vector<uint8_t> given_;
};

void SetNibble(uint8_t* packed, int64_t i, int code) {
  uint8_t& byte = packed[i / 2];
  byte = static_cast<uint8_t>(i % 2 == 0 ? code << 4 : (byte & 0xf0) | code);
}

}  // namespace

absl::Status NestedRefineReference(const NestedRefineArgs& args) {
  QS_RETURN_IF_ERROR(CheckNestedRefine(args));
  const int64_t n = args.weight.num_elements();
  for (int64_t b = 0; b < CeilDiv(n, args.block_size); ++b) {
    const Choice chosen = BlockRefiner(args, b).Run();
    args.codes[b] = static_cast<uint8_t>(chosen.nested_code);
    args.absmax[b] = chosen.absmax;
    args.coded_by[b] = chosen.coded_by;
    if (!chosen.rewritten) continue;
    int64_t i = b * args.block_size;
    for (uint8_t code : chosen.codes) SetNibble(args.packed, i++, code);
    if (i % 2 != 0) {
      SetNibble(args.packed, i,
                MakeRankTable(args.codebook, Nf4Rule::kCpu).zero_code);
    }
  }
  return absl::OkStatus();
}

}  // namespace qs
