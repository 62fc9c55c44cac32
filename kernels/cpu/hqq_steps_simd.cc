// hqq's solver in single steps, for groups of any size and axis, and decoding;
// one text for every instruction set.
// Tested by tests/kernels/hqq_golden_test.cc and
// tests/kernels/hqq_differential_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/cpu/hqq_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/hqq_steps_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/hqq-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::hqq {
namespace HWY_NAMESPACE {

constexpr int64_t kPanel = 32;  // columns of axis 0 taken at once

int64_t FindNonFinite(const TensorView& weight, int64_t begin, int64_t end) {
  return WithType(weight.dtype, [&]<class T>(T*) -> int64_t {
    constexpr int64_t kRun = 4096;
    const T* w = static_cast<const T*>(weight.data);
    for (int64_t at = begin; at < end; at += kRun) {
      const int64_t count = std::min(kRun, end - at);
      if (std::isfinite(MaxAbs(w + at, count))) continue;
      int64_t i = at;
      while (std::isfinite(LoadOne<T>(w, i))) ++i;
      return i;
    }
    return -1;
  });
}

// Inverse scale and zero of the elements of a run: the same for all (axis 1) or
// one each (axis 0).
class RunGrid {
 public:
  RunGrid(const Progress& p, int64_t group, bool each)
      : inverse_(p.inverse + group), zero_(p.zero + group), each_(each) {}
  HWY_INLINE VF inverse(int64_t i) const { return Get(inverse_, i); }
  HWY_INLINE VF zero(int64_t i) const { return Get(zero_, i); }

 private:
  // The lanes after the end of a run are not used.
  HWY_INLINE VF Get(const float* p, int64_t i) const {
    return each_ ? hn::LoadU(DF(), p + i) : hn::Set(DF(), *p);
  }
  const float* const inverse_;
  const float* const zero_;
  const bool each_;
};

// Calls body(begin, end, group, each) for the runs of [begin, end) that lie in
// one group (axis 1) or in one row of groups (axis 0).
template <class Body>
void ForRuns(const HqqEncodeArgs& args, int64_t begin, int64_t end,
             const Body& body) {
  const bool each = args.axis == 0;
  const int64_t groups = args.weight.num_elements() / args.group_size;
  const int64_t run = each ? groups : args.group_size;
  while (begin < end) {
    const int64_t stop = std::min(end, (begin / run + 1) * run);
    body(begin, stop, each ? begin % groups : begin / run, each);
    begin = stop;
  }
}

template <class T>
void StartColumns(const HqqEncodeArgs& args, int64_t first, int64_t last,
                  float* low, float* high) {
  const T* w = static_cast<const T*>(args.weight.data);
  const int64_t groups = args.weight.num_elements() / args.group_size;
  const int64_t count = last - first;
  for (int64_t j = 0; j < count; ++j) {
    low[j] = INFINITY;
    high[j] = -INFINITY;
  }
  for (int64_t k = 0; k < args.group_size; ++k) {
    const T* row = w + k * groups + first;
    MapRun(row, count, low, [=](VF v, int64_t i) HWY_ATTR {
      return hn::Min(v, hn::LoadU(DF(), low + i));
    });
    MapRun(row, count, high, [=](VF v, int64_t i) HWY_ATTR {
      return hn::Max(v, hn::LoadU(DF(), high + i));
    });
  }
}

template <class T>
void StartRun(const T* w, int64_t count, float* low, float* high) {
  VF least = hn::Set(DF(), INFINITY);
  VF most = hn::Set(DF(), -INFINITY);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VF v = LoadVector(w + i);
    least = hn::Min(least, v);
    most = hn::Max(most, v);
  }
  *low = hn::GetLane(hn::MinOfLanes(DF(), least));
  *high = hn::GetLane(hn::MaxOfLanes(DF(), most));
  for (; i < count; ++i) {
    *low = std::min(*low, LoadOne<T>(w, i));
    *high = std::max(*high, LoadOne<T>(w, i));
  }
}

void StartGroups(const HqqEncodeArgs& args, int64_t first, int64_t last,
                 const Progress& progress) {
  const Spec spec = {args.stored, args.bits, args.round_zero, args.iterations};
  WithType(args.weight.dtype, [&]<class T>(T*) {
    for (int64_t g = first; g < last; g += kPanel) {
      const int64_t end = std::min(last, g + kPanel);
      // Room for the lanes after the end.
      float low[kPanel + 16], high[kPanel + 16];
      if (args.axis == 0) {
        StartColumns<T>(args, g, end, low, high);
      } else {
        for (int64_t i = g; i < end; ++i) {
          StartRun(
              static_cast<const T*>(args.weight.data) + i * args.group_size,
              args.group_size, &low[i - g], &high[i - g]);
        }
      }
      for (int64_t i = g; i < end; ++i) {
        const Start start =
            StartOf(spec, {low[i - g] + 0.0f, high[i - g] + 0.0f});
        progress.inverse[i] = start.inverse;
        progress.zero[i] = start.zero;
        progress.still[i] = static_cast<uint16_t>(args.iterations);
      }
    }
  });
}

template <class T>
void FillErrors(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                const Progress& progress, float* errors) {
  const VF max_code = hn::Set(DF(), static_cast<float>((1 << args.bits) - 1));
  const T* w = static_cast<const T*>(args.weight.data);
  ForRuns(args, begin, end,
          [&](int64_t from, int64_t to, int64_t group, bool each) HWY_ATTR {
            const RunGrid grid(progress, group, each);
            MapRun(w + from, to - from, errors + (from - begin),
                   [&](VF v, int64_t i) HWY_ATTR {
                     const VF s = grid.inverse(i);
                     const VF z = grid.zero(i);
                     const VF code = CodesOf(hn::Mul(v, s), z, max_code);
                     const VF decoded = hn::Div(hn::Sub(code, z), s);
                     return hn::Abs(hn::Sub(v, decoded));
                   });
          });
}

void AddErrors(const HqqEncodeArgs& args, int64_t begin, int64_t end, int power,
               const Progress& progress, TileErrors* errors) {
  const int64_t chunk = ChunkElements(power);
  std::vector<float> buffer(static_cast<size_t>(chunk));
  for (int64_t at = begin; at < end; at += chunk) {
    const int64_t count = std::min(chunk, end - at);
    WithType(args.weight.dtype, [&]<class T>(T*) {
      FillErrors<T>(args, at, at + count, progress, buffer.data());
    });
    const int64_t rows = count / kSumQuad;
    AddRows(buffer.data(), rows, errors->level[0]);
    const int64_t rest = count - rows * kSumQuad;
    std::memcpy(errors->rest, buffer.data() + rows * kSumQuad,
                static_cast<size_t>(rest) * sizeof(float));
    if (count < chunk) break;
    AddLevel(errors->level[1], errors->level[0]);
    const int64_t done = (at - begin) / chunk + 1;
    if ((done & ((int64_t{1} << power) - 1)) != 0) continue;
    AddLevel(errors->level[2], errors->level[1]);
  }
}

// The next zeros of the groups [first, last), at most kPanel of them.
template <class T>
class ZeroMover {
 public:
  ZeroMover(const HqqEncodeArgs& args, const Progress& progress)
      : args_(args),
        progress_(progress),
        w_(static_cast<const T*>(args.weight.data)),
        size_(args.group_size),
        groups_(args.weight.num_elements() / size_),
        max_code_(hn::Set(DF(), static_cast<float>((1 << args.bits) - 1))),
        residuals_(
            static_cast<size_t>(size_ * (args.axis == 0 ? kPanel : 1) + 16)) {}

  void Run(int64_t first, int64_t last, float* next) {
    if (args_.axis == 0) {
      Columns(first, last, next);
    } else {
      for (int64_t g = first; g < last; ++g) {
        next[g - first] = Contiguous(g);
      }
    }
    for (int64_t i = 0; i < last - first; ++i) {
      next[i] /= static_cast<float>(size_);
    }
  }

 private:
  float Contiguous(int64_t g) {
    Fill(w_ + g * size_, size_, RunGrid(progress_, g, false),
         residuals_.data());
    return TorchSum(residuals_.data(), size_);
  }

  void Columns(int64_t first, int64_t last, float* sums) {
    const int64_t count = last - first;
    const RunGrid grid(progress_, first, true);
    for (int64_t k = 0; k < size_; ++k) {
      Fill(w_ + k * groups_ + first, count, grid,
           residuals_.data() + k * kPanel);
    }
    if (count == kPanel) return CascadeRows(residuals_.data(), size_, sums);
    for (int64_t j = 0; j < count; ++j) {
      sums[j] = InterleavedSum(size_, [&](int64_t k) {
        return residuals_[static_cast<size_t>(k * kPanel + j)];
      });
    }
  }

  void Fill(const T* w, int64_t count, const RunGrid& grid, float* out) const {
    MapRun(w, count, out, [&](VF v, int64_t i) HWY_ATTR {
      return Residuals(v, grid.inverse(i), grid.zero(i), max_code_);
    });
  }

  const HqqEncodeArgs& args_;
  const Progress& progress_;
  const T* const w_;
  const int64_t size_;
  const int64_t groups_;
  const VF max_code_;
  std::vector<float> residuals_;
};

bool MoveZeros(const HqqEncodeArgs& args, int64_t first, int64_t last, int k,
               const Progress& progress) {
  return WithType(args.weight.dtype, [&]<class T>(T*) {
    ZeroMover<T> mover(args, progress);
    bool moved = false;
    for (int64_t g = first; g < last; g += kPanel) {
      const int64_t end = std::min(last, g + kPanel);
      float next[kPanel];
      mover.Run(g, end, next);
      for (int64_t i = g; i < end; ++i) {
        const float moved_to = NextOr(progress.zero[i], next[i - g]);
        if (moved_to == progress.zero[i]) {
          progress.still[i] =
              std::min(progress.still[i], static_cast<uint16_t>(k));
          continue;
        }
        progress.zero[i] = moved_to;
        moved = true;
      }
    }
    return moved;
  });
}

template <class T>
void WriteTyped(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                const Progress& progress) {
  const VF max_code = hn::Set(DF(), static_cast<float>((1 << args.bits) - 1));
  const T* w = static_cast<const T*>(args.weight.data);
  constexpr int64_t kRun = 1024;
  float codes[kRun];
  for (int64_t at = begin; at < end; at += kRun) {
    ForRuns(args, at, std::min(end, at + kRun),
            [&](int64_t from, int64_t to, int64_t group, bool each) HWY_ATTR {
              const RunGrid grid(progress, group, each);
              MapRun(w + from, to - from, codes, [&](VF v, int64_t i) HWY_ATTR {
                return CodesOf(hn::Mul(v, grid.inverse(i)), grid.zero(i),
                               max_code);
              });
              for (int64_t i = from; i < to; ++i) {
                args.codes[i] = static_cast<uint8_t>(codes[i - from]);
              }
            });
  }
}

void WriteCodes(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                const Progress& progress) {
  WithType(args.weight.dtype,
           [&]<class T>(T*) { WriteTyped<T>(args, begin, end, progress); });
}

template <class T>
void DecodeTyped(const HqqDecodeArgs& args, int64_t begin, int64_t end) {
  constexpr DType kType = kDType<T>;
  const int64_t groups = args.weight.num_elements() / args.group_size;
  T* out = static_cast<T*>(args.weight.data);
  const hn::Rebind<uint8_t, DI> d8;
  const auto one = [&](int64_t i, int64_t g) {
    const float steps = affine::RoundTo(
        kType, static_cast<float>(args.codes[i]) - LoadOne<T>(args.zeros, g));
    StoreFromFloat(out, kType, i, steps * LoadOne<T>(args.scales, g));
  };
  const auto vector = [&](int64_t i, VF zero, VF scale) HWY_ATTR {
    const auto codes = hn::PromoteTo(DI(), hn::LoadU(d8, args.codes + i));
    const VF steps = RoundVector<T>(hn::Sub(hn::ConvertTo(DF(), codes), zero));
    StoreVector(hn::Mul(steps, scale), out + i);
  };
  const T* scales = static_cast<const T*>(args.scales);
  const T* zeros = static_cast<const T*>(args.zeros);
  const int64_t run = args.axis == 0 ? groups : args.group_size;
  for (int64_t i = begin; i < end;) {
    const int64_t stop = std::min(end, (i / run + 1) * run);
    if (args.axis == 0) {
      for (; i + kLanes <= stop; i += kLanes) {
        vector(i, LoadVector(zeros + i % groups),
               LoadVector(scales + i % groups));
      }
      for (; i < stop; ++i) one(i, i % groups);
      continue;
    }
    const int64_t g = i / run;
    const VF zero = hn::Set(DF(), LoadOne<T>(zeros, g));
    const VF scale = hn::Set(DF(), LoadOne<T>(scales, g));
    for (; i + kLanes <= stop; i += kLanes) vector(i, zero, scale);
    for (; i < stop; ++i) one(i, g);
  }
}

void DecodeElements(const HqqDecodeArgs& args, int64_t begin, int64_t end) {
  WithType(args.weight.dtype,
           [&]<class T>(T*) { DecodeTyped<T>(args, begin, end); });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::hqq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::hqq {

HWY_EXPORT(FindNonFinite);
HWY_EXPORT(StartGroups);
HWY_EXPORT(AddErrors);
HWY_EXPORT(MoveZeros);
HWY_EXPORT(WriteCodes);
HWY_EXPORT(DecodeElements);

int64_t FindNonFinite(const TensorView& weight, int64_t begin, int64_t end) {
  return HWY_DYNAMIC_DISPATCH(FindNonFinite)(weight, begin, end);
}

void StartGroups(const HqqEncodeArgs& args, int64_t first, int64_t last,
                 const Progress& progress) {
  HWY_DYNAMIC_DISPATCH(StartGroups)(args, first, last, progress);
}

void AddErrors(const HqqEncodeArgs& args, int64_t begin, int64_t end, int power,
               const Progress& progress, TileErrors* errors) {
  HWY_DYNAMIC_DISPATCH(AddErrors)(args, begin, end, power, progress, errors);
}

bool MoveZeros(const HqqEncodeArgs& args, int64_t first, int64_t last, int k,
               const Progress& progress) {
  return HWY_DYNAMIC_DISPATCH(MoveZeros)(args, first, last, k, progress);
}

void WriteCodes(const HqqEncodeArgs& args, int64_t begin, int64_t end,
                const Progress& progress) {
  HWY_DYNAMIC_DISPATCH(WriteCodes)(args, begin, end, progress);
}

void DecodeElements(const HqqDecodeArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(DecodeElements)(args, begin, end);
}

}  // namespace qs::hqq
#endif  // HWY_ONCE
