// hqq's solver for groups that lie whole in a chunk of the flat weight, one
// text for every instruction set. Tested by tests/kernels/hqq_golden_test.cc
// and tests/kernels/hqq_differential_test.cc.
//
// A chunk is what torch adds up in level 0 of its sums, 512 elements or more.
// Its groups step together, each until its zero stands still; a group at rest
// costs nothing more, because its errors stay as they were, and so does the
// chunk's part of the error sum once all groups rest.
#include <hwy/aligned_allocator.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/cpu/hqq_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/hqq_solver_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/hqq-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::hqq {
namespace HWY_NAMESPACE {

constexpr float kMagic = 0x1.8p23f;

// Residual and absolute error of elements whose |error| is at most kNoShrink.
// kTable: the decoded values of at most sixteen codes in one vector.
template <bool kTable>
class Stepper {
 public:
  Stepper(float inverse, float zero, float max_code)
      : inverse_(hn::Set(DF(), inverse)),
        zero_(hn::Set(DF(), zero)),
        max_code_(hn::Set(DF(), max_code)),
        levels_(hn::Iota(DF(), 0)),
        values_(hn::Div(hn::Sub(levels_, zero_), inverse_)) {}

  HWY_INLINE void operator()(VF w, VF t, VF& residual, VF& error) const {
    VF code, value;
    if constexpr (kTable) {
      const VF u =
          hn::Min(hn::Max(hn::Add(t, zero_), hn::Zero(DF())), max_code_);
      const auto bits = hn::BitCast(DI(), hn::Add(u, hn::Set(DF(), kMagic)));
      const auto index =
          hn::IndicesFromVec(DF(), hn::And(bits, hn::Set(DI(), 15)));
      code = hn::TableLookupLanes(levels_, index);
      value = hn::TableLookupLanes(values_, index);
    } else {
      code = CodesOf(t, zero_, max_code_);
      value = hn::Div(hn::Sub(code, zero_), inverse_);
    }
    residual = hn::Sub(code, t);
    error = hn::Abs(hn::Sub(w, value));
  }

 private:
  const VF inverse_, zero_, max_code_, levels_, values_;
};

// The four accumulators' sum, lane by lane.
HWY_INLINE void SumAccumulators(const VF (&sums)[kRowVectors], float* lanes) {
  alignas(64) float all[kSumQuad];
  for (int64_t j = 0; j < kRowVectors; ++j) {
    hn::StoreU(sums[j], DF(), all + j * kLanes);
  }
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<float, 8> d;
  constexpr int64_t kStep = hn::MaxLanes(hn::CappedTag<float, 8>());
  for (int64_t l = 0; l < kSumLanes; l += kStep) {
    auto v = hn::Load(d, all + l);
    for (int64_t k = 1; k < 4; ++k) {
      v = hn::Add(v, hn::Load(d, all + k * kSumLanes + l));
    }
    hn::StoreU(v, d, lanes + l);
  }
#else
  for (int64_t l = 0; l < kSumLanes; ++l) {
    lanes[l] = all[l] + all[kSumLanes + l] + all[2 * kSumLanes + l] +
               all[3 * kSumLanes + l];
  }
#endif
}

// The chunk's arrays and what does not change from chunk to chunk.
template <class T>
class ChunkSolver {
 public:
  ChunkSolver(const HqqEncodeArgs& args, int64_t chunk, const Progress& p)
      : args_(args),
        spec_{args.stored, args.bits, args.round_zero, args.iterations},
        max_code_(spec_.max_code()),
        size_(args.group_size),
        // Exact: the size is a power of two.
        inverse_size_(1.0f / static_cast<float>(size_)),
        progress_(p),
        memory_(hwy::AllocateAligned<float>(3 * static_cast<size_t>(chunk))),
        w_(memory_.get()),
        t_(w_ + chunk),
        error_(t_ + chunk),
        lanes_(hwy::AllocateAligned<float>(
            static_cast<size_t>(chunk / size_ * kSumLanes))),
        active_(static_cast<size_t>(chunk / size_)) {}

  // Starts the groups of [begin, begin + count).
  void Begin(int64_t begin, int64_t count) {
    first_ = begin / size_;
    active_count_ = count / size_;
    for (int64_t i = 0; i < active_count_; ++i) {
      active_[static_cast<size_t>(i)] = static_cast<int32_t>(i);
      StartGroup(static_cast<const T*>(args_.weight.data) + begin + i * size_,
                 i);
    }
  }

  // Step k of every group that still moves. False: none was left.
  //
  // In two loops: the chain of additions at the end of a group's sum takes
  // longer than all of its vectors, and this way the chains of several groups
  // run beside each other.
  bool Step(int k) {
    if (active_count_ == 0) return false;
    const int64_t count = active_count_;
    const int32_t* active = active_.data();
    const float* inverse = progress_.inverse + first_;
    const float* zero = progress_.zero + first_;
    float* lanes = lanes_.get();
    for (int64_t a = 0; a < count; ++a) {
      const int32_t i = active[a];
      SumResiduals(i, inverse[i], zero[i], lanes + a * kSumLanes);
    }
    MoveZeros(k);
    return true;
  }

  const float* errors() const { return error_; }

  void StoreCodes(int64_t begin, int64_t count) const {
    const VF max_code = hn::Set(DF(), max_code_);
    for (int64_t i = 0; i < count / size_; ++i) {
      const VF zero = hn::Set(DF(), progress_.zero[first_ + i]);
      uint8_t* codes = args_.codes + begin + i * size_;
      const float* t = t_ + i * size_;
      int64_t j = 0;
      for (; j + kLanes <= size_; j += kLanes) {
        StoreBytes(Bytes(hn::LoadU(DF(), t + j), zero, max_code), codes + j);
      }
      if (j < size_) {  // eight elements in a vector of sixteen
        uint8_t bytes[16];
        StoreBytes(Bytes(hn::LoadU(DF(), t), zero, max_code), bytes);
        std::memcpy(codes, bytes, static_cast<size_t>(size_));
      }
    }
  }

 private:
  static HWY_INLINE VU Bytes(VF t, VF zero, VF max_code) {
    const VF u = hn::Min(hn::Max(hn::Add(t, zero), hn::Zero(DF())), max_code);
    return hn::BitCast(DU(), hn::Add(u, hn::Set(DF(), kMagic)));
  }

  void StartGroup(const T* from, int64_t i) {
    float* w = w_ + i * size_;
    float* t = t_ + i * size_;
    MapRun(from, size_, w, [](VF v, int64_t) HWY_ATTR { return v; });
    Bounds bounds;
    FindBounds(w, &bounds);
    const Start start = StartOf(spec_, bounds);
    progress_.inverse[first_ + i] = start.inverse;
    progress_.zero[first_ + i] = start.zero;
    progress_.still[first_ + i] = static_cast<uint16_t>(spec_.iterations);
    const VF inverse = hn::Set(DF(), start.inverse);
    MapRun(w, size_, t,
           [=](VF v, int64_t) HWY_ATTR { return hn::Mul(v, inverse); });
  }

  void FindBounds(const float* w, Bounds* bounds) const {
    if (size_ < kLanes) {
      bounds->low = *std::min_element(w, w + size_) + 0.0f;
      bounds->high = *std::max_element(w, w + size_) + 0.0f;
      return;
    }
    VF low = hn::LoadU(DF(), w);
    VF high = low;
    for (int64_t j = kLanes; j < size_; j += kLanes) {
      low = hn::Min(low, hn::LoadU(DF(), w + j));
      high = hn::Max(high, hn::LoadU(DF(), w + j));
    }
    bounds->low = hn::GetLane(hn::MinOfLanes(DF(), low)) + 0.0f;
    bounds->high = hn::GetLane(hn::MaxOfLanes(DF(), high)) + 0.0f;
  }

  // The ends of the sums, in order, and what follows from them.
  void MoveZeros(int k) {
    const int64_t count = active_count_;
    const float* lanes = lanes_.get();
    const float inverse_size = inverse_size_;
    float* zeros = progress_.zero + first_;
    uint16_t* still = progress_.still + first_;
    int32_t* active = active_.data();
    const int iterations = spec_.iterations;
    int64_t left = 0;
    for (int64_t a = 0; a < count; ++a, lanes += kSumLanes) {
      const int32_t i = active[a];
      float sum = lanes[0];
      for (int64_t l = 1; l < kSumLanes; ++l) sum += lanes[l];
      const float zero = zeros[i];
      const float next = NextOr(zero, sum * inverse_size);
      // No branch: when a group comes to rest cannot be predicted.
      const bool moves = next != zero;
      zeros[i] = next;
      still[i] = static_cast<uint16_t>(moves ? iterations : k);
      active[left] = i;
      left += moves;
    }
    active_count_ = left;
  }

  // The eight lanes of the sum of code - t, and the errors.
  HWY_INLINE void SumResiduals(int64_t i, float inverse, float zero,
                               float* lanes) {
    const float* w = w_ + i * size_;
    const float* t = t_ + i * size_;
    float* error = error_ + i * size_;
    constexpr bool kCanTable = kLanes == 16;
    if (size_ < kSumQuad) {
      SmallStep(w, inverse, zero, error, lanes);
    } else if (kCanTable && max_code_ <= 15) {
      Run<kCanTable>(w, t, inverse, zero, error, lanes);
    } else {
      Run<false>(w, t, inverse, zero, error, lanes);
    }
  }

  template <bool kTable>
  HWY_INLINE void Run(const float* w, const float* t, float inverse, float zero,
                      float* error, float* lanes) {
    const Stepper<kTable> step(inverse, zero, max_code_);
    const int64_t size = size_;
    VF sums[kRowVectors];
    for (VF& sum : sums) sum = hn::Zero(DF());
    VF most = hn::Zero(DF());
    for (int64_t k = 0; k < size; k += kSumQuad) {
      for (int64_t j = 0; j < kRowVectors; ++j) {
        const int64_t at = k + j * kLanes;
        VF residual, e;
        step(hn::Load(DF(), w + at), hn::Load(DF(), t + at), residual, e);
        hn::Store(e, DF(), error + at);
        sums[j] = hn::Add(sums[j], residual);
        most = hn::Max(most, e);
      }
    }
    SumAccumulators(sums, lanes);
    if (!hn::AllTrue(DF(), hn::Le(most, hn::Set(DF(), kNoShrink)))) {
      ShrinkStep(w, inverse, zero, lanes);
    }
  }

  // Groups of eight and sixteen.
  HWY_NOINLINE void SmallStep(const float* w, float inverse, float zero,
                              float* error, float* lanes) {
    const VF s = hn::Set(DF(), inverse);
    const VF z = hn::Set(DF(), zero);
    const VF max_code = hn::Set(DF(), max_code_);
    MapRun(w, size_, error, [=](VF v, int64_t) HWY_ATTR {
      const VF code = CodesOf(hn::Mul(v, s), z, max_code);
      return hn::Abs(hn::Sub(v, hn::Div(hn::Sub(code, z), s)));
    });
    ShrinkStep(w, inverse, zero, lanes);
  }

  // The whole sum in the first lane.
  HWY_NOINLINE void ShrinkStep(const float* w, float inverse, float zero,
                               float* lanes) {
    alignas(64) float residual[512];
    const VF s = hn::Set(DF(), inverse);
    const VF z = hn::Set(DF(), zero);
    const VF max_code = hn::Set(DF(), max_code_);
    MapRun(w, size_, residual, [=](VF v, int64_t) HWY_ATTR {
      return Residuals(v, s, z, max_code);
    });
    std::fill_n(lanes, kSumLanes, 0.0f);
    lanes[0] = TorchSum(residual, size_);
  }

  const HqqEncodeArgs& args_;
  const Spec spec_;
  const float max_code_;
  const int64_t size_;
  const float inverse_size_;
  const Progress& progress_;
  const hwy::AlignedFreeUniquePtr<float[]> memory_;
  float* const w_;                                  // as F32
  float* const t_;                                  // fl(w * inverse)
  float* const error_;                              // |e| of the last step
  const hwy::AlignedFreeUniquePtr<float[]> lanes_;  // of each group's sum
  std::vector<int32_t> active_;
  int64_t active_count_ = 0;
  int64_t first_ = 0;  // the chunk's first group
};

// Adds a chunk's errors to the sums of iteration k. `rows` of 32 elements; a
// whole chunk is number `chunk` of its tile.
inline void AddChunk(const float* sums, bool whole, int64_t chunk, int power,
                     TileErrors* errors) {
  if (!whole) {
    std::memcpy(errors->level[0], sums, sizeof(errors->level[0]));
    return;
  }
  for (int64_t j = 0; j < kSumQuad; ++j) errors->level[1][j] += sums[j];
  if (((chunk + 1) & ((int64_t{1} << power) - 1)) != 0) return;
  AddLevel(errors->level[2], errors->level[1]);
}

template <class T>
int64_t SolveTyped(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                   int power, const Progress& progress, TileErrors* errors) {
  const int64_t chunk = ChunkElements(power);
  const T* weight = static_cast<const T*>(args.weight.data);
  ChunkSolver<T> solver(args, chunk, progress);
  for (int64_t at = begin; at < end; at += chunk) {
    const int64_t count = std::min(chunk, end - at);
    const int64_t rows = count / kSumQuad;
    if (!std::isfinite(MaxAbs(weight + at, count))) {
      int64_t i = at;
      while (std::isfinite(LoadOne<T>(weight, i))) ++i;
      return i;
    }
    solver.Begin(at, count);
    alignas(64) float sums[kSumQuad];
    for (int k = 0; k < args.iterations; ++k) {
      if (solver.Step(k)) {
        std::memset(sums, 0, sizeof(sums));
        AddRows(solver.errors(), rows, sums);
      }
      AddChunk(sums, count == chunk, (at - begin) / chunk, power, &errors[k]);
      if (count % kSumQuad == 0) continue;
      std::memcpy(errors[k].rest, solver.errors() + rows * kSumQuad,
                  static_cast<size_t>(count % kSumQuad) * sizeof(float));
    }
    solver.StoreCodes(at, count);
  }
  return -1;
}

int64_t SolveTile(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                  int power, const Progress& progress, TileErrors* errors) {
  return WithType(args.weight.dtype, [&]<class T>(T*) {
    return SolveTyped<T>(args, begin, end, power, progress, errors);
  });
}

void SolveAgain(const HqqEncodeArgs& args, int64_t g, int iterations,
                const Progress& progress) {
  WithType(args.weight.dtype, [&]<class T>(T*) {
    ChunkSolver<T> solver(args, args.group_size, progress);
    solver.Begin(g * args.group_size, args.group_size);
    for (int k = 0; k < iterations && solver.Step(k); ++k) {
    }
    solver.StoreCodes(g * args.group_size, args.group_size);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::hqq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::hqq {

HWY_EXPORT(SolveTile);
HWY_EXPORT(SolveAgain);

bool InChunks(const HqqEncodeArgs& args) {
  const int64_t size = args.group_size;
  return args.axis == 1 && size >= kSumLanes && size <= 512 &&
         (size & (size - 1)) == 0;
}

int64_t SolveTile(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                  int power, const Progress& progress, TileErrors* errors) {
  return HWY_DYNAMIC_DISPATCH(SolveTile)(args, begin, end, power, progress,
                                         errors);
}

void SolveAgain(const HqqEncodeArgs& args, int64_t g, int iterations,
                const Progress& progress) {
  HWY_DYNAMIC_DISPATCH(SolveAgain)(args, g, iterations, progress);
}

}  // namespace qs::hqq
#endif  // HWY_ONCE
