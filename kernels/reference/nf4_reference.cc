// The definition of the NF4 family: one element after the other, nothing
// vectorized, nothing shared with the fast versions but constant tables and the
// nested coding. Tested by tests/kernels/nf4_golden_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/factories.h"
#include "kernels/nested_absmax.h"
#include "kernels/nf4_check.h"
#include "kernels/nf4_tables.h"
#include "kernels/reference/nf4_nested_reference.h"

namespace qs {
namespace {

constexpr float kSmallest = 1.17549435e-38f;  // smallest normal

float FlushSubnormal(float x) { return std::fabs(x) < kSmallest ? 0.0f : x; }

int CountBelow(const RankTable& table, float t) {
  int rank = 0;
  for (float bound : table.bounds) {
    if (bound < t) ++rank;
  }
  return rank;
}

// Codes of one block as the library's CUDA kernels give them.
float EncodeBlockCuda(const RankTable& table, const std::vector<float>& block,
                      uint8_t* codes) {
  float absmax = 0.0f;
  for (float w : block) absmax = std::max(absmax, std::fabs(FlushSubnormal(w)));
  const float reciprocal = FlushSubnormal(1.0f / absmax);
  for (size_t i = 0; i < block.size(); ++i) {
    // 0 * inf: not above any threshold, hence the code 0.
    const float t = FlushSubnormal(FlushSubnormal(block[i]) * reciprocal);
    codes[i] = std::isnan(t) ? 0 : table.codes[CountBelow(table, t)];
  }
  return absmax;
}

// The same as its CPU code gives them.
float EncodeBlockCpu(const RankTable& table, const std::vector<float>& block,
                     bool full, uint8_t* codes) {
  float absmax = 0.0f;
  for (float w : block) absmax = std::max(absmax, std::fabs(w));
  const float floored = std::max(absmax, 1e-38f);
  const float reciprocal = 1.0f / floored;
  for (size_t i = 0; i < block.size(); ++i) {
    const float t = full ? block[i] * reciprocal : block[i] / floored;
    codes[i] = table.codes[CountBelow(table, std::clamp(t, -1.0f, 1.0f))];
  }
  return full ? absmax : floored;
}

float WithoutLowBits(float x) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & ~7u);
}

float FoldSixteen(std::vector<float> sums) {
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

// A block as it is stored.
struct CodedBlock {
  float absmax = 0;
  std::vector<uint8_t> codes;
};

// A decoded value, as F32.
float DecodeOne(const float* levels, int code, float absmax, DType dtype) {
  uint32_t value = 0;
  StoreFromFloat(&value, dtype, 0, levels[code] * absmax);
  return LoadAsFloat(&value, dtype, 0);
}

// The search of nf4_math.h, written out again.
class BlockSearch {
 public:
  BlockSearch(const Nf4EncodeArgs& args, const RankTable& midpoints,
              const std::vector<float>& block)
      : levels_(CodebookLevels(args.codebook)),
        dtype_(args.weight.dtype),
        midpoints_(midpoints),
        block_(block) {}

  // The better one of `none` and what the search finds.
  CodedBlock Run(float max_abs, CodedBlock none) const {
    const float fitted = Fitted(max_abs);
    if (fitted == max_abs) return none;
    CodedBlock found = {fitted, {}};
    for (float w : block_) {
      found.codes.push_back(midpoints_.codes[RankOf(w, fitted)]);
    }
    // What F32 sums can be wrong by: the roundings of count / 16 + 10 steps in
    // each, and what squares lose outside its range.
    const auto steps = static_cast<float>(block_.size() / 16 + 16);
    const float bar = Error(none) * (1.0f - steps * 0x1p-23f) - 0x1p-126f;
    const float error = Error(found);
    return error < bar && error < 0x1p127f ? found : none;
  }

  // What to compare with `none`; `max_abs` where it is not sane.
  float Fitted(float max_abs) const {
    float ratio = 0;
    float best_gain = -1;
    for (float shrink :
         {1.09f, 1.04f, 0.96f, 0.91f, 0.87f, 0.825f, 0.75f, 0.70f}) {
      const auto [cross, square] = StepSums(max_abs, shrink);
      const float gain = WithoutLowBits(cross * cross / square);
      if (gain > best_gain) {
        ratio = cross / square;
        best_gain = gain;
      }
    }
    const float fitted = Fit(ratio * max_abs);
    const bool sane = fitted >= max_abs * 0.25f && fitted <= max_abs * 4.0f &&
                      (fitted <= max_abs || fitted <= 32768.0f);
    return sane ? fitted : max_abs;
  }

 private:
  int RankOf(float w, float absmax) const {
    const float t = w * (1.0f / absmax);
    return CountBelow(midpoints_, std::clamp(t, -1.0f, 1.0f));
  }

  // Of the values that a reader gets.
  float Error(const CodedBlock& coded) const {
    std::vector<float> sums(16);
    for (size_t i = 0; i < block_.size(); ++i) {
      const float d =
          block_[i] - DecodeOne(levels_, coded.codes[i], coded.absmax, dtype_);
      sums[i % 16] += d * d;
    }
    return FoldSixteen(sums);
  }

  // sum(t L) and sum(L L) in units of 1 / 4095, with t = w / max_abs in steps
  // of 1 / 127.
  std::pair<float, float> StepSums(float max_abs, float shrink) const {
    float cross = 0;  // whole numbers below 2^24: exact
    float square = 0;
    for (float w : block_) {
      const float t = std::nearbyint(w * (127.0f / max_abs)) / 127.0f;
      const int rank =
          CountBelow(midpoints_, std::clamp(t / shrink, -1.0f, 1.0f));
      const float level = midpoints_.levels[rank];
      cross += std::nearbyint(4095.0f * (t * level));
      square += std::nearbyint(4095.0f * (level * level));
    }
    return {cross, square};
  }

  // The absmax with the least squared error for the codes that `absmax` gives.
  float Fit(float absmax) const {
    std::vector<float> weight_level(16), level_level(16);
    for (size_t i = 0; i < block_.size(); ++i) {
      const float level = midpoints_.levels[RankOf(block_[i], absmax)];
      weight_level[i % 16] += block_[i] * level;
      level_level[i % 16] += level * level;
    }
    const float cross = FoldSixteen(weight_level);
    return cross / FoldSixteen(level_level);
  }

  const float* const levels_;
  const DType dtype_;
  const RankTable& midpoints_;
  const std::vector<float>& block_;
};

void SetNibble(uint8_t* packed, int64_t i, int code) {
  if (i % 2 == 0) {
    packed[i / 2] = static_cast<uint8_t>(code << 4);
  } else {
    packed[i / 2] = static_cast<uint8_t>(packed[i / 2] | code);
  }
}

int GetNibble(const uint8_t* packed, int64_t i) {
  return i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15;
}

class Nf4Reference final : public Nf4Ops {
 public:
  absl::Status Encode(const Nf4EncodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckNf4Encode(args));
    const RankTable table = MakeRankTable(args.codebook, args.rule);
    const RankTable midpoints = MakeRankTable(args.codebook, Nf4Rule::kCpu);
    const int64_t n = args.weight.num_elements();
    *args.first_non_finite = -1;
    for (int64_t b = 0; b < CeilDiv(n, args.block_size); ++b) {
      EncodeBlock(args, table, midpoints, b);
    }
    if (n % 2 != 0) {
      const int64_t last = (n - 1) / args.block_size;
      const bool cuda_zero =
          args.rule == Nf4Rule::kCuda && args.absmax[last] == 0.0f;
      SetNibble(args.packed, n, cuda_zero ? 0 : table.zero_code);
    }
    return absl::OkStatus();
  }

  absl::Status Decode(const Nf4DecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckNf4Block(args.weight.dtype, args.block_size));
    const float* levels = CodebookLevels(args.codebook);
    for (int64_t i = 0; i < args.weight.num_elements(); ++i) {
      const float value =
          levels[GetNibble(args.packed, i)] * args.absmax[i / args.block_size];
      StoreFromFloat(args.weight.data, args.weight.dtype, i, value);
    }
    return absl::OkStatus();
  }

  absl::Status NestedEncode(const NestedEncodeArgs& args, Stream&) override {
    *args.offset = nf4::TorchMean(args.absmax, args.num_blocks);
    for (int64_t i = 0; i < args.num_blocks; i += kNestedBlockSize) {
      args.nested_absmax[i / kNestedBlockSize] = nf4::NestedEncodeBlock(
          args.absmax + i, std::min(kNestedBlockSize, args.num_blocks - i),
          *args.offset, args.rule, args.codes + i);
    }
    return absl::OkStatus();
  }

  absl::Status NestedDecode(const NestedDecodeArgs& args, Stream&) override {
    for (int64_t i = 0; i < args.num_blocks; ++i) {
      args.absmax[i] = nf4::NestedDecodeOne(
          args.codes[i], args.nested_absmax[i / kNestedBlockSize],
          *args.offset);
    }
    return absl::OkStatus();
  }

  absl::Status NestedRefine(const NestedRefineArgs& args, Stream&) override {
    return NestedRefineReference(args);
  }

 private:
  static void EncodeBlock(const Nf4EncodeArgs& args, const RankTable& table,
                          const RankTable& midpoints, int64_t b) {
    const int64_t n = args.weight.num_elements();
    const int64_t begin = b * args.block_size;
    const int64_t end = std::min(n, begin + args.block_size);
    std::vector<float> block;
    for (int64_t i = begin; i < end; ++i) {
      block.push_back(LoadAsFloat(args.weight.data, args.weight.dtype, i));
      if (!std::isfinite(block.back()) && *args.first_non_finite < 0) {
        *args.first_non_finite = i;
      }
    }
    CodedBlock coded = {0, std::vector<uint8_t>(block.size())};
    coded.absmax =
        args.rule == Nf4Rule::kCuda
            ? EncodeBlockCuda(table, block, coded.codes.data())
            : EncodeBlockCpu(table, block, end - begin == args.block_size,
                             coded.codes.data());
    if (args.search == Nf4Search::kBestScale) {
      float max_abs = 0.0f;
      for (float w : block) max_abs = std::max(max_abs, std::fabs(w));
      if (max_abs >= 0x1p-100f && max_abs <= 0x1p100f) {
        coded = BlockSearch(args, midpoints, block).Run(max_abs, coded);
      }
    }
    args.absmax[b] = coded.absmax;
    for (int64_t i = begin; i < end; ++i) {
      SetNibble(args.packed, i, coded.codes[static_cast<size_t>(i - begin)]);
    }
  }
};

}  // namespace

float Nf4FittedAbsmax(Codebook codebook, const std::vector<float>& block,
                      float max_abs) {
  Nf4EncodeArgs args;
  args.codebook = codebook;
  const RankTable midpoints = MakeRankTable(codebook, Nf4Rule::kCpu);
  return BlockSearch(args, midpoints, block).Fitted(max_abs);
}

std::unique_ptr<Nf4Ops> NewNf4Reference() {
  return std::make_unique<Nf4Reference>();
}

}  // namespace qs
