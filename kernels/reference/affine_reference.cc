// The definition of the affine family: one element after the other, nothing
// shared with the fast versions but constants (affine_math.h states the same
// method as formulas). Tested by tests/kernels/affine_golden_test.cc and
// tests/kernels/affine_reference_test.cc.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/affine_check.h"
#include "kernels/affine_tables.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/factories.h"
#include "kernels/reference/pack_reference.h"

namespace qs {
namespace {

// Arithmetic in a dtype: every operation in F32, then rounded to it.
float Rounded(DType dtype, float x) {
  alignas(float) unsigned char storage[sizeof(float)];
  StoreFromFloat(storage, dtype, 0, x);
  return LoadAsFloat(storage, dtype, 0);
}

float Epsilon(DType dtype) {
  return dtype == DType::kF32   ? std::numeric_limits<float>::epsilon()
         : dtype == DType::kF16 ? std::ldexp(1.0f, -10)
                                : std::ldexp(1.0f, -7);
}

// NaN becomes `low`.
float Clamped(float x, float low, float high) {
  return std::isnan(x) ? low : std::clamp(x, low, high);
}

struct Scheme {
  DType dtype;
  bool symmetric;
  float code_count_less_one;  // 2^bits - 1
  float lowest;               // signed codes: -2^(bits-1) ..
  float highest;              // .. 2^(bits-1) - 1
  affine::ShrinkList shrink;
};

Scheme MakeScheme(const AffineEncodeArgs& args) {
  const float half = std::ldexp(1.0f, args.bits - 1);
  return {args.weight.dtype, args.symmetric,
          2 * half - 1,      -half,
          half - 1,          affine::kShrink[args.bits]};
}

// A group's grid; codes and zero point signed.
struct SignedGrid {
  float scale = 0;
  float zero = 0;
  bool searched = false;
};

SignedGrid MinMaxGrid(const Scheme& s, float low, float high) {
  SignedGrid grid;
  if (s.symmetric) {
    grid.scale =
        Rounded(s.dtype, std::max(-low, high) / (s.code_count_less_one / 2));
  } else {
    const float width = Rounded(s.dtype, high - low);
    grid.scale = Rounded(s.dtype, width / s.code_count_less_one);
    if (std::isinf(width)) {
      const float upper = Rounded(s.dtype, high / s.code_count_less_one);
      const float lower = Rounded(s.dtype, low / s.code_count_less_one);
      grid.scale = Rounded(s.dtype, upper - lower);
    }
  }
  if (!s.symmetric) {
    // A zero scale makes this 0 / 0, which the library casts to 0, or -inf.
    const float steps = Rounded(s.dtype, low / grid.scale);
    const float zero = Rounded(s.dtype, s.lowest - steps);
    grid.zero = std::isnan(zero)
                    ? 0
                    : std::nearbyint(std::clamp(zero, s.lowest, s.highest));
  }
  if (grid.scale == 0) grid.scale = Epsilon(s.dtype);
  return grid;
}

// The signed code of `w`.
float CodeOf(const Scheme& s, const SignedGrid& grid, float w) {
  if (grid.searched) {
    const float q = Clamped(w * (1.0f / grid.scale), s.lowest - grid.zero,
                            s.highest - grid.zero);
    return std::nearbyint(q) + grid.zero;
  }
  const float steps = Rounded(s.dtype, w / grid.scale);
  const float t = Rounded(s.dtype, steps + grid.zero);
  return std::nearbyint(Clamped(t, s.lowest, s.highest));
}

float FoldSixteen(std::vector<float> sums) {
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

// The search of affine_math.h, written out again.
class RangeSearch {
 public:
  RangeSearch(const Scheme& scheme, const std::vector<float>& group, float low,
              float high)
      : s_(scheme), group_(group), low_(low), high_(high) {}

  SignedGrid Run(const SignedGrid& min_max) {
    const float base =
        s_.symmetric ? std::max(-low_, high_) / (s_.code_count_less_one / 2)
                     : (high_ - low_) / s_.code_count_less_one;
    for (float factor : s_.shrink.coarse) {
      Try(base * factor, Centred(base * factor));
    }
    const Candidate first = best_;
    const std::vector<float> shifts =
        s_.symmetric ? std::vector<float>{0} : std::vector<float>{-1, 0, 1};
    for (float shift : shifts) {
      const float zero = std::clamp(first.zero + shift, s_.lowest, s_.highest);
      Try(first.step * s_.shrink.below, zero);
      Try(first.step * s_.shrink.above, zero);
    }
    Try(first.fitted, first.zero);
    const SignedGrid found = {Rounded(s_.dtype, best_.fitted), best_.zero,
                              true};
    if (!(found.scale > 0 && found.scale <= affine::kSearchMax)) return min_max;
    const float terms = static_cast<float>(group_.size() / 16 + 16);
    const float slack = 1.0f - terms * std::ldexp(1.0f, -23);
    return Error(found) < Error(min_max) * slack ? found : min_max;
  }

 private:
  struct Candidate {
    float gain = -1;
    float step = 0;
    float fitted = 0;
    float zero = 0;
  };

  float Centred(float step) const {
    if (s_.symmetric) return 0;
    const float c = s_.code_count_less_one;
    const float zero = (c - (low_ + high_) / step) * 0.5f;
    return std::nearbyint(std::clamp(zero, 0.0f, c)) + s_.lowest;
  }

  void Try(float step, float zero) {
    std::vector<float> weight_code(16), code_code(16);
    const float reciprocal = 1.0f / step;
    for (size_t i = 0; i < group_.size(); ++i) {
      const float q = std::nearbyint(std::clamp(
          group_[i] * reciprocal, s_.lowest - zero, s_.highest - zero));
      weight_code[i % 16] += group_[i] * q;
      code_code[i % 16] += q * q;
    }
    const float cross = FoldSixteen(weight_code);
    const float fitted = cross / FoldSixteen(code_code);
    if (cross * fitted > best_.gain) {
      best_ = {cross * fitted, step, fitted, zero};
    }
  }

  float Error(const SignedGrid& grid) const {
    std::vector<float> sums(16);
    for (size_t i = 0; i < group_.size(); ++i) {
      const float code = CodeOf(s_, grid, group_[i]);
      const float d =
          group_[i] - Rounded(s_.dtype, (code - grid.zero) * grid.scale);
      sums[i % 16] += d * d;
    }
    return FoldSixteen(sums);
  }

  const Scheme& s_;
  const std::vector<float>& group_;
  const float low_;
  const float high_;
  Candidate best_;
};

class AffineReference final : public AffineOps {
 public:
  absl::Status Encode(const AffineEncodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAffineEncode(args));
    const Scheme scheme = MakeScheme(args);
    *args.first_non_finite = -1;
    const int64_t groups = args.weight.num_elements() / args.group_size;
    for (int64_t g = 0; g < groups; ++g) EncodeGroup(args, scheme, g);
    return absl::OkStatus();
  }

  absl::Status Decode(const AffineDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(
        CheckAffineGroups(args.weight, args.bits, args.group_size));
    const DType dtype = args.weight.dtype;
    for (int64_t i = 0; i < args.weight.num_elements(); ++i) {
      const int64_t g = i / args.group_size;
      const int zero = args.zero_points == nullptr ? 1 << (args.bits - 1)
                                                   : args.zero_points[g];
      const auto steps = static_cast<float>(args.codes[i] - zero);
      StoreFromFloat(args.weight.data, dtype, i,
                     steps * LoadAsFloat(args.scales, dtype, g));
    }
    return absl::OkStatus();
  }

  absl::Status PackRows(const PackRowsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    const int64_t words = CeilDiv(args.cols * args.bits, 32);
    std::fill_n(args.words, args.rows * words, 0u);
    for (int64_t i = 0; i < args.rows; ++i) {
      for (int64_t j = 0; j < args.cols * args.bits; ++j) {
        SetBit(args.codes[i * args.cols + j / args.bits], j, args.bits,
               &args.words[i * words + j / 32]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status UnpackRows(const UnpackRowsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    const int64_t words = CeilDiv(args.cols * args.bits, 32);
    std::fill_n(args.codes, args.rows * args.cols, uint8_t{0});
    for (int64_t i = 0; i < args.rows; ++i) {
      for (int64_t j = 0; j < args.cols * args.bits; ++j) {
        GetBit(args.words[i * words + j / 32], j, args.bits,
               &args.codes[i * args.cols + j / args.bits]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status PackColumns(const PackColumnsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    const int64_t words = CeilDiv(args.rows * args.bits, 32);
    std::fill_n(args.words, words * args.cols, 0u);
    for (int64_t i = 0; i < args.rows * args.bits; ++i) {
      for (int64_t j = 0; j < args.cols; ++j) {
        SetBit(args.codes[i / args.bits * args.cols + j], i, args.bits,
               &args.words[i / 32 * args.cols + j]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status UnpackColumns(const UnpackColumnsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    std::fill_n(args.codes, args.rows * args.cols, uint8_t{0});
    for (int64_t i = 0; i < args.rows * args.bits; ++i) {
      for (int64_t j = 0; j < args.cols; ++j) {
        GetBit(args.words[i / 32 * args.cols + j], i, args.bits,
               &args.codes[i / args.bits * args.cols + j]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status PackAwq(const PackAwqArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(args.rows, args.cols, args.stride));
    reference::PackAwq(args);
    return absl::OkStatus();
  }

  absl::Status UnpackAwq(const UnpackAwqArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(args.rows, args.cols, args.stride));
    reference::UnpackAwq(args);
    return absl::OkStatus();
  }

  absl::Status PackParts(const PackPartsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackParts(args.count, args.part, args.bits));
    reference::PackParts(args);
    return absl::OkStatus();
  }

  absl::Status UnpackParts(const UnpackPartsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackParts(args.count, args.part, args.bits));
    reference::UnpackParts(args);
    return absl::OkStatus();
  }

 private:
  // Bit `position` of a stream of codes of `bits` bits.
  static void SetBit(uint8_t code, int64_t position, int bits, uint32_t* word) {
    const uint32_t bit = code >> (position % bits) & 1;
    *word |= bit << (position % 32);
  }
  static void GetBit(uint32_t word, int64_t position, int bits, uint8_t* code) {
    const uint32_t bit = word >> (position % 32) & 1;
    *code = static_cast<uint8_t>(*code | bit << (position % bits));
  }

  static void EncodeGroup(const AffineEncodeArgs& args, const Scheme& scheme,
                          int64_t g) {
    const int64_t begin = g * args.group_size;
    std::vector<float> group;
    float low = 0;
    float high = 0;
    bool finite = true;
    for (int64_t i = begin; i < begin + args.group_size; ++i) {
      const float w = LoadAsFloat(args.weight.data, scheme.dtype, i);
      if (!std::isfinite(w)) {
        finite = false;
        if (*args.first_non_finite < 0) *args.first_non_finite = i;
      }
      group.push_back(w);
      low = std::min(low, w);
      high = std::max(high, w);
    }
    SignedGrid grid = MinMaxGrid(scheme, low, high);
    const float max_abs = std::max(-low, high);
    if (args.search == AffineSearch::kBestRange && finite &&
        max_abs >= affine::kSearchMin && max_abs <= affine::kSearchMax) {
      grid = RangeSearch(scheme, group, low, high).Run(grid);
    }
    StoreFromFloat(args.scales, scheme.dtype, g, grid.scale);
    if (args.zero_points != nullptr) {
      args.zero_points[g] = static_cast<uint8_t>(grid.zero - scheme.lowest);
    }
    for (int64_t i = begin; i < begin + args.group_size; ++i) {
      const float w = group[static_cast<size_t>(i - begin)];
      const float code = CodeOf(scheme, grid, w);
      args.codes[i] = static_cast<uint8_t>(code - scheme.lowest);
    }
  }
};

}  // namespace

std::unique_ptr<AffineOps> NewAffineReference() {
  return std::make_unique<AffineReference>();
}

}  // namespace qs
