// What NestedRefine's loops have in common, and a block element by element.
// Included once for every target, by nf4_nested_simd.cc only.
#if defined(QS_KERNELS_CPU_NF4_NESTED_BLOCK_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef QS_KERNELS_CPU_NF4_NESTED_BLOCK_INL_H_
#undef QS_KERNELS_CPU_NF4_NESTED_BLOCK_INL_H_
#else
#define QS_KERNELS_CPU_NF4_NESTED_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/dtype.h"
#include "kernels/cpu/nested_simd.h"
#include "kernels/cpu/nf4-inl.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/nf4_math.h"
#include "kernels/nf4_nested_math.h"

HWY_BEFORE_NAMESPACE();
namespace qs::nf4 {
namespace HWY_NAMESPACE {

using Run = NestedRun<const float*>;

// What all blocks have in common.
class Refining {
 public:
  Refining(const NestedRefineArgs& args, const SimdTables& tables)
      : args_(args), tables_(tables), map_(NestedLevels()) {}

  const NestedRefineArgs& args() const { return args_; }
  const SimdTables& tables() const { return tables_; }

  int64_t RunNumber(int64_t b) const {
    return (args_.first_block + b) / kNestedBlockSize;
  }
  Run RunOf(int64_t b) const {
    return {map_, args_.nested_absmax[RunNumber(b)], *args_.offset};
  }
  // What a reader multiplies kNone's codes with; 0 where zeros do.
  float NoneAbsmax(int64_t b) const {
    const float decoded = RunOf(b).LevelOf(args_.codes[b]);
    return ZeroCodesDo(args_.absmax[b], decoded) ? 0.0f : decoded;
  }
  NestedTries Tries(int64_t b, float fitted) const {
    return MakeNestedTries(RunOf(b), fitted,
                           [&](float t) { return NearestByCells(cells_, t); });
  }
  // All but the 4-bit codes. Whether these are to be zeros.
  bool Keep(int64_t b, bool any, const NestedTry& nearest) const {
    const float decoded = RunOf(b).LevelOf(args_.codes[b]);
    const bool zeros = ZeroCodesDo(args_.absmax[b], decoded);
    if (zeros && any) {
      Take(b, nearest);
    } else {
      args_.coded_by[b] = args_.absmax[b];
      args_.absmax[b] = decoded;
    }
    if (zeros) args_.coded_by[b] = -1.0f;
    return zeros;
  }
  void Take(int64_t b, const NestedTry& taken) const {
    args_.codes[b] = static_cast<uint8_t>(taken.code);
    args_.absmax[b] = taken.absmax;
    args_.coded_by[b] = taken.absmax;
  }

 private:
  const NestedRefineArgs& args_;
  const SimdTables& tables_;
  const float* const map_;
  const NestedCells& cells_ = GetNestedCells();
};

// One block element by element.
template <class T>
class ScalarBlock {
 public:
  ScalarBlock(const Refining& refining, int64_t b, int64_t count)
      : refining_(refining),
        midpoints_(refining.tables().midpoints),
        packed_(refining.args().packed),
        b_(b),
        begin_(b * refining.args().block_size),
        count_(count) {
    // Vectors are loaded from any address, elements only from their own.
    const auto* weight = static_cast<const T*>(refining.args().weight.data);
    std::memcpy(static_cast<void*>(weight_), weight + begin_,
                static_cast<size_t>(count) * sizeof(T));
  }

  void Refine() const {
    const float absmax = refining_.args().absmax[b_];
    NestedTries tries = {};
    if (Searchable(absmax)) tries = refining_.Tries(b_, Fit(absmax));
    NestedTry taken;
    if (tries.any && Choose(tries, &taken)) {
      refining_.Take(b_, taken);
      Pack([&](float w) {
        return midpoints_.codes[SearchRank(midpoints_, 1.0f / taken.absmax, w)];
      });
    } else if (refining_.Keep(b_, tries.any, tries.nearest)) {
      Pack([&](float) { return midpoints_.zero_code; });
    }
  }

 private:
  float At(int64_t i) const { return LoadOne<T>(weight_, i); }

  float Fit(float absmax) const {
    const auto load = [this](int64_t i) { return At(i); };
    const RuleCoding unused = {midpoints_, {}};
    return FitAbsmax(absmax,
                     ScalarScorer(midpoints_, unused, kDType<T>, load, count_));
  }

  bool Choose(const NestedTries& tries, NestedTry* taken) const {
    const float absmax = refining_.args().absmax[b_];
    NestedBest best = {tries.nearest, ErrorOf(tries.nearest)};
    best.Offer(tries.other, ErrorOf(tries.other));
    for (int k = 1; tries.wide && k <= kWideTries; ++k) {
      const NestedTry wide = WideTry(refining_.RunOf(b_), absmax, k);
      if (wide.code >= 0) best.Offer(wide, ErrorOf(wide));
    }
    *taken = best.best;
    return IsSurelyBelow(best.error, NoneError(), count_);
  }

  float NoneError() const {
    const float* levels = refining_.tables().levels_by_code;
    return Error(refining_.NoneAbsmax(b_), [&](int64_t i) {
      const int64_t at = begin_ + i;
      return levels[at % 2 == 0 ? packed_[at / 2] >> 4 : packed_[at / 2] & 15];
    });
  }

  float ErrorOf(const NestedTry& t) const {
    const float reciprocal = 1.0f / t.absmax;
    return Error(t.absmax, [&](int64_t i) {
      return midpoints_.levels[SearchRank(midpoints_, reciprocal, At(i))];
    });
  }

  template <class LevelOf>
  float Error(float absmax, const LevelOf& level_of) const {
    Partial16 error;
    for (int64_t i = 0; i < count_; ++i) {
      const float d = At(i) - affine::RoundTo(kDType<T>, level_of(i) * absmax);
      error.Add(i, d * d);
    }
    return error.Fold();
  }

  template <class Code>
  void Pack(const Code& code) const {
    for (int64_t i = 0; i < count_; ++i) {
      SetNibble(packed_, begin_ + i, code(At(i)));
    }
    if (count_ % 2 != 0) {
      SetNibble(packed_, begin_ + count_, midpoints_.zero_code);
    }
  }

  const Refining& refining_;
  const RankTable& midpoints_;
  T weight_[4096];
  uint8_t* const packed_;
  const int64_t b_;
  const int64_t begin_;
  const int64_t count_;
};

}  // namespace HWY_NAMESPACE
}  // namespace qs::nf4
HWY_AFTER_NAMESPACE();

#endif  // include guard of one target
