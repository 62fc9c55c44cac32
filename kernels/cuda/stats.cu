// Error statistics of decoded weights. Definition: kernels/stats_ops.h; what
// must be equal everywhere, and what is a reduction, is said there.
//
// Everything is summed in double, in a fixed order: a block of threads adds up
// a run of 4096 elements, 16 a thread, then the threads by a tree; one block
// adds up the runs, each thread every 256th of them, then the threads. A
// histogram is counted in a byte for each bin and thread, in shared memory.
// What is asked for by group takes a pass of its own before, a warp a group.
// Limits: any group size; a warp takes a whole group, however long.
// Tested by tests/kernels/stats_cuda_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/affine_launch.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/stats_ops.h"

namespace qs::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunks = static_cast<int>(kStatsRun) / (kThreads * kChunk);
static_assert(kChunks * kThreads * kChunk == kStatsRun);

// The sums of one decoding, and of the yardstick.
constexpr int kSquared = 0;
constexpr int kAbsolute = 1;
constexpr int kWeight = 2;
constexpr int kDecoded = 3;
constexpr int kDot = 4;
constexpr int kSums = 5;

struct Sums {
  double sum[kSums];
  double max;

  QS_KERNEL void Clear() {
    QS_UNROLL
    for (int k = 0; k < kSums; ++k) sum[k] = 0.0;
    max = 0.0;
  }
  QS_KERNEL void Add(float weight, float decoded) {
    const double w = static_cast<double>(weight);
    const double v = static_cast<double>(decoded);
    const double d = w - v;
    const double distance = d < 0.0 ? -d : d;
    sum[kSquared] = fma(d, d, sum[kSquared]);
    sum[kAbsolute] += distance;
    sum[kWeight] = fma(w, w, sum[kWeight]);
    sum[kDecoded] = fma(v, v, sum[kDecoded]);
    sum[kDot] = fma(w, v, sum[kDot]);
    max = distance > max ? distance : max;
  }
  QS_KERNEL void Add(const Sums& other) {
    QS_UNROLL
    for (int k = 0; k < kSums; ++k) sum[k] += other.sum[k];
    max = other.max > max ? other.max : max;
  }
};

// What the elements of a group are measured with.
struct alignas(16) Measures {
  float scale;       // of the yardstick
  float reciprocal;  // of it; 0 for one below the normal numbers
  float bins_per_unit;
};

// What one run gives, but for its histogram.
struct RunSums {
  Sums error;
  Sums rtn;
};

// ErrorSums as words, the doubles by their bits.
constexpr int kHeadWords = 7;
constexpr int kResultWords = kHeadWords + kHistogramBins;
static_assert(sizeof(ErrorSums) == kResultWords * sizeof(Counter));

template <class T>
struct StatsParams {
  using Element = T;
  const T* weight;
  const T* decoded;
  int64_t count;
  int64_t group_size;
  int group_shift;              // log2 of the group size, -1 when it is none
  bool vectors;                 // 16-byte aligned, both
  const float* steps;           // may be null
  double* group_squared_error;  // may be null
  Measures* measures;           // [groups]; null when not wanted
  bool yardstick;
  float half;  // its codes: -half .. half - 1
  RunSums* runs;
  uint32_t* bins;  // [runs, kHistogramBins]
  Counter* sums;   // an ErrorSums
  Counter* rtn;    // may be null
};

struct StatsShared {
  uint8_t bins[kHistogramBins][kThreads];
  Sums warps[2][kThreads / kWarpSize];
};

QS_HD int64_t Runs(int64_t count) {
  return (count + kStatsRun - 1) / kStatsRun;
}

template <class Thread>
QS_KERNEL void AddOverWarp(Thread& t, Sums* sums) {
  QS_UNROLL
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    QS_UNROLL
    for (int k = 0; k < kSums; ++k) {
      sums->sum[k] += t.ShuffleXor(sums->sum[k], mask);
    }
    const double max = t.ShuffleXor(sums->max, mask);
    sums->max = max > sums->max ? max : sums->max;
  }
}

// The sum over the block, in thread 0. By all threads.
template <class Thread>
QS_KERNEL void AddOverBlock(Thread& t, Sums (&warps)[kThreads / kWarpSize],
                            Sums* sums) {
  AddOverWarp(t, sums);
  if (t.ThreadIndex() % kWarpSize == 0) {
    warps[t.ThreadIndex() / kWarpSize] = *sums;
  }
  t.Barrier();
  if (t.ThreadIndex() == 0) {
    QS_NO_UNROLL
    for (int w = 1; w < kThreads / kWarpSize; ++w) sums->Add(warps[w]);
  }
}

QS_KERNEL float BinsPerUnit(float step) {
  if (!(step > 0.0f)) return 0.0f;
  const float bins = static_cast<float>(kHistogramBins) / step;
  return bins < 0x1.fffffep127f ? bins : 0x1.fffffep127f;
}

QS_KERNEL int BinOf(float w, float v, float bins_per_unit) {
  const float bin = fabsf(w - v) * bins_per_unit;
  return bin < kHistogramBins ? static_cast<int>(bin) : kHistogramBins - 1;
}

template <class T>
struct StatsMemory {
  GlobalMemory<const T> weight;
  GlobalMemory<const T> decoded;
  GlobalMemory<const Measures> measures;
};

template <class Thread, class T>
QS_KERNEL StatsMemory<T> MemoryOf(const Thread& t, const StatsParams<T>& a) {
  const int64_t groups = (a.count + a.group_size - 1) / a.group_size;
  return {t.Global(a.weight, a.count), t.Global(a.decoded, a.count),
          t.Global(static_cast<const Measures*>(a.measures),
                   a.measures == nullptr ? 0 : groups)};
}

// Of round to nearest.
QS_KERNEL float Decoded(const Measures& m, float half, float w) {
  const float q = affine::Clamp(w * m.reciprocal, -half, half - 1.0f);
  return affine::RoundEven(q) * m.scale;
}

// Adds the chunk at `begin`.
template <class Thread, class T>
QS_KERNEL void AddChunk(Thread& t, StatsShared& shared, const StatsParams<T>& a,
                        const StatsMemory<T>& memory, int64_t begin,
                        Sums* error, Sums* rtn) {
  if (begin >= a.count) return;
  const auto weight = LoadChunk<T>(memory.weight, begin, a.count, a.vectors);
  const auto decoded = LoadChunk<T>(memory.decoded, begin, a.count, a.vectors);
  int64_t group =
      a.group_shift >= 0 ? begin >> a.group_shift : begin / a.group_size;
  int64_t next = (group + 1) * a.group_size;
  Measures measures = {0.0f, 0.0f, 0.0f};
  if (a.measures != nullptr) measures = memory.measures.Get(group);
  QS_UNROLL
  for (int j = 0; j < kChunk; ++j) {
    if (begin + j >= a.count) break;
    if (begin + j == next) {
      next += a.group_size;
      ++group;
      if (a.measures != nullptr) measures = memory.measures.Get(group);
    }
    const float w = weight.At(j);
    const float v = decoded.At(j);
    error->Add(w, v);
    if (a.yardstick) rtn->Add(w, Decoded(measures, a.half, w));
    if (a.steps != nullptr) {
      ++shared.bins[BinOf(w, v, measures.bins_per_unit)][t.ThreadIndex()];
    }
  }
}

// Adds up a bin's bytes, eight threads a bin, and clears them.
template <class Thread, class Global>
QS_KERNEL void StoreBins(Thread& t, StatsShared& shared, const Global& runs,
                         int64_t run) {
  const int bin = t.ThreadIndex() / 8;
  const int part = t.ThreadIndex() % 8;
  uint32_t sum = 0;
  QS_NO_UNROLL
  for (int i = part; i < kThreads; i += 8) {
    sum += shared.bins[bin][i];
    shared.bins[bin][i] = 0;
  }
  QS_UNROLL
  for (int mask = 1; mask < 8; mask *= 2) sum += t.ShuffleXor(sum, mask);
  if (part == 0) runs.Set(run * kHistogramBins + bin, sum);
}
static_assert(kThreads == 8 * kHistogramBins);

template <class Thread, class Params>
QS_KERNEL void StatsRunKernel(Thread& t, StatsShared& shared, const Params& a) {
  const auto memory = MemoryOf(t, a);
  const int64_t count = Runs(a.count);
  const auto runs = t.Global(a.runs, count);
  const auto bins = t.Global(a.bins, count * kHistogramBins);
  for (int bin = 0; bin < kHistogramBins; ++bin) {
    shared.bins[bin][t.ThreadIndex()] = 0;
  }
  for (int64_t run = t.BlockIndex(); run < count; run += t.GridSize()) {
    RunSums sums;
    sums.error.Clear();
    sums.rtn.Clear();
    QS_NO_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      const int64_t chunk = int64_t{c} * kThreads + t.ThreadIndex();
      AddChunk(t, shared, a, memory, run * kStatsRun + chunk * kChunk,
               &sums.error, &sums.rtn);
    }
    AddOverBlock(t, shared.warps[0], &sums.error);
    if (a.yardstick) AddOverBlock(t, shared.warps[1], &sums.rtn);
    if (t.ThreadIndex() == 0) runs.Set(run, sums);
    if (a.steps != nullptr) StoreBins(t, shared, bins, run);
    t.Barrier();
  }
}

QS_KERNEL Counter BitsOfDouble(double x) {
  Counter bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

template <class Global>
QS_KERNEL void StoreSums(const Global& out, int64_t count, const Sums& sums) {
  out.Set(0, static_cast<Counter>(count));
  out.Set(1, BitsOfDouble(sums.sum[kSquared]));
  out.Set(2, BitsOfDouble(sums.sum[kAbsolute]));
  out.Set(3, BitsOfDouble(sums.max));
  out.Set(4, BitsOfDouble(sums.sum[kWeight]));
  out.Set(5, BitsOfDouble(sums.sum[kDecoded]));
  out.Set(6, BitsOfDouble(sums.sum[kDot]));
}

// One block: the runs.
template <class Thread, class Params>
QS_KERNEL void StatsTotalKernel(Thread& t, StatsShared& shared,
                                const Params& a) {
  const int64_t count = Runs(a.count);
  const auto runs = t.Global(a.runs, count);
  const auto bins = t.Global(a.bins, count * kHistogramBins);
  const auto out = t.Global(a.sums, kResultWords);
  const auto rtn_out = t.Global(a.rtn, a.rtn == nullptr ? 0 : kResultWords);
  RunSums sums;
  sums.error.Clear();
  sums.rtn.Clear();
  for (int64_t run = t.ThreadIndex(); run < count; run += kThreads) {
    const RunSums one = runs.Get(run);
    sums.error.Add(one.error);
    sums.rtn.Add(one.rtn);
  }
  AddOverBlock(t, shared.warps[0], &sums.error);
  AddOverBlock(t, shared.warps[1], &sums.rtn);
  if (t.ThreadIndex() == 0) {
    StoreSums(out, a.count, sums.error);
    if (a.rtn != nullptr) StoreSums(rtn_out, a.count, sums.rtn);
  }
  // Eight threads a bin.
  const int bin = t.ThreadIndex() / 8;
  Counter total = 0;
  for (int64_t run = t.ThreadIndex() % 8; a.steps != nullptr && run < count;
       run += 8) {
    total += bins.Get(run * kHistogramBins + bin);
  }
  QS_UNROLL
  for (int mask = 1; mask < 8; mask *= 2) total += t.ShuffleXor(total, mask);
  if (t.ThreadIndex() % 8 != 0) return;
  out.Set(kHeadWords + bin, total);
  if (a.rtn != nullptr) rtn_out.Set(kHeadWords + bin, Counter{0});
}

// The part of a group that a warp's lane sees.
template <class Weight>
QS_KERNEL void AddGroup(const Weight& weight, const Weight& decoded,
                        int64_t first, int64_t end, double* sum,
                        float* absmax) {
  QS_NO_UNROLL
  for (int64_t i = first; i < end; i += kWarpSize) {
    const float w = Widen(weight.Get(i));
    const double d =
        static_cast<double>(w) - static_cast<double>(Widen(decoded.Get(i)));
    *sum = fma(d, d, *sum);
    *absmax = fabsf(w) > *absmax ? fabsf(w) : *absmax;
  }
}

// A group a warp: its squared error, and what its elements are measured with.
template <class Thread, class Params>
QS_KERNEL void StatsGroupKernel(Thread& t, NoShared&, const Params& a) {
  const int64_t groups = (a.count + a.group_size - 1) / a.group_size;
  const auto weight = t.Global(a.weight, a.count);
  const auto decoded = t.Global(a.decoded, a.count);
  const bool errors = a.group_squared_error != nullptr;
  const auto squared = t.Global(a.group_squared_error, errors ? groups : 0);
  const auto measures =
      t.Global(a.measures, a.measures == nullptr ? 0 : groups);
  const auto steps = t.Global(a.steps, a.steps == nullptr ? 0 : groups);
  const int lane = t.ThreadIndex() % kWarpSize;
  const int warps = t.BlockSize() / kWarpSize;
  for (int64_t base = t.BlockIndex() * warps; base < groups;
       base += t.GridSize() * warps) {
    const int64_t group = base + t.ThreadIndex() / kWarpSize;
    const int64_t begin = group * a.group_size;
    const int64_t end =
        begin + a.group_size < a.count ? begin + a.group_size : a.count;
    double sum = 0.0;
    float absmax = 0.0f;
    if (errors || a.yardstick) {
      AddGroup(weight, decoded, begin + lane, end, &sum, &absmax);
    }
    QS_UNROLL
    for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
      sum += t.ShuffleXor(sum, mask);
      const float other = t.ShuffleXor(absmax, mask);
      absmax = other > absmax ? other : absmax;
    }
    if (lane != 0 || group >= groups) continue;
    if (errors) squared.Set(group, sum);
    if (a.measures == nullptr) continue;
    const float scale = absmax / (a.half - 0.5f);
    measures.Set(
        group,
        Measures{scale, scale >= 0x1p-126f ? 1.0f / scale : 0.0f,
                 a.steps == nullptr ? 0.0f : BinsPerUnit(steps.Get(group))});
  }
}

QS_DEFINE_ENTRY(StatsRunKernel, StatsShared)
QS_DEFINE_ENTRY(StatsTotalKernel, StatsShared)
QS_DEFINE_ENTRY(StatsGroupKernel, NoShared)

// Pieces of the workspace.
struct StatsLayout {
  int64_t bins;
  int64_t measures;
  int64_t bytes;

  explicit StatsLayout(const ErrorSumsArgs& args) {
    const int64_t n = args.weight.num_elements();
    const int64_t runs = Runs(n);
    const auto f32 = static_cast<int64_t>(sizeof(float));
    bins = runs * static_cast<int64_t>(sizeof(RunSums));
    measures = bins + runs * kHistogramBins * f32;  // still a multiple of 16
    bytes = measures;
    if (args.rtn != nullptr || args.steps != nullptr) {
      bytes +=
          CeilDiv(n, args.group_size) * static_cast<int64_t>(sizeof(Measures));
    }
  }
};

template <class T>
StatsParams<T> MakeStatsParams(const ErrorSumsArgs& args, uint8_t* workspace) {
  const StatsLayout layout(args);
  const auto size = static_cast<uint64_t>(args.group_size);
  StatsParams<T> params;
  params.weight = static_cast<const T*>(args.weight.data);
  params.decoded = static_cast<const T*>(args.decoded.data);
  params.count = args.weight.num_elements();
  params.group_size = args.group_size;
  params.group_shift = std::has_single_bit(size) ? Log2(args.group_size) : -1;
  params.vectors = IsAligned(args.weight.data, sizeof(Words)) &&
                   IsAligned(args.decoded.data, sizeof(Words));
  params.steps = args.steps;
  params.group_squared_error = args.group_squared_error;
  const bool measured = layout.bytes > layout.measures;
  params.measures =
      measured ? reinterpret_cast<Measures*>(workspace + layout.measures)
               : nullptr;
  params.yardstick = args.rtn != nullptr;
  params.half = static_cast<float>(int64_t{1} << (args.rtn_bits - 1));
  params.runs = reinterpret_cast<RunSums*>(workspace);
  params.bins = reinterpret_cast<uint32_t*>(workspace + layout.bins);
  params.sums = reinterpret_cast<Counter*>(args.sums);
  params.rtn = reinterpret_cast<Counter*>(args.rtn);
  return params;
}

template <class T>
int LaunchTyped(const ErrorSumsArgs& args, void* workspace,
                cudaStream_t stream) {
  const auto params =
      MakeStatsParams<T>(args, static_cast<uint8_t*>(workspace));
  const int64_t groups = CeilDiv(params.count, params.group_size);
  const bool by_group =
      params.measures != nullptr || params.group_squared_error != nullptr;
  if (by_group && groups > 0) {
    const LaunchShape shape = ShapeFor(groups * kWarpSize);
    const int code = QS_LAUNCH(StatsGroupKernel, NoShared, params, shape.grid,
                               shape.block, stream);
    if (code != 0) return code;
  }
  if (params.count > 0) {
    const int code =
        QS_LAUNCH(StatsRunKernel, StatsShared, params,
                  std::min(Runs(params.count), kMaxGrid), kThreads, stream);
    if (code != 0) return code;
  }
  return QS_LAUNCH(StatsTotalKernel, StatsShared, params, 1, kThreads, stream);
}

// Whether all that is asked for can be served.
bool IsServable(const ErrorSumsArgs& args, const void* workspace) {
  const TensorView& weight = args.weight;
  const bool shape =
      IsFloatWeight(weight.dtype) && args.decoded.dtype == weight.dtype &&
      weight.num_elements() >= 0 &&
      args.decoded.num_elements() == weight.num_elements() &&
      args.group_size >= 1 && args.rtn_bits >= 2 && args.rtn_bits <= 8;
  if (!shape || !IsPointer(args.sums) || !IsAligned(workspace, 256)) {
    return false;
  }
  return weight.num_elements() == 0 ||
         (workspace != nullptr && IsElementPointer(weight.data, weight.dtype) &&
          IsElementPointer(args.decoded.data, weight.dtype) &&
          IsAligned(args.steps, sizeof(float)) &&
          IsAligned(args.group_squared_error, sizeof(double)) &&
          IsAligned(args.rtn, sizeof(Counter)));
}

}  // namespace

int64_t ErrorSumsWorkspaceBytes(const ErrorSumsArgs& args) {
  return StatsLayout(args).bytes;
}

int LaunchErrorSums(const ErrorSumsArgs& args, void* workspace,
                    cudaStream_t stream) {
  ErrorSumsArgs checked = args;
  if (args.rtn == nullptr) checked.rtn_bits = 4;  // not looked at
  if (!IsServable(checked, workspace)) return kCudaInvalidValue;
  return WithType(args.weight.dtype, [&](auto type) {
    return LaunchTyped<decltype(type)>(checked, workspace, stream);
  });
}

}  // namespace qs::cuda
