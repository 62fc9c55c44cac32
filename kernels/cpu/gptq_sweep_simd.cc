// Coordinate descent on one row, one text for every instruction set: a vector
// of columns is tested at once, the first that gains is taken, and the test
// goes on behind it with what that changed.
// Tested by tests/kernels/gptq_differential_test.cc.
#include <algorithm>

#include "kernels/cpu/gptq_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gptq_sweep_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::gptq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

HWY_INLINE void AddTo(float factor, const float* HWY_RESTRICT in, int64_t count,
                      float* HWY_RESTRICT out) {
  const VF by = hn::Set(DF(), factor);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    hn::StoreU(
        hn::MulAdd(by, hn::LoadU(DF(), in + i), hn::LoadU(DF(), out + i)), DF(),
        out + i);
  }
  for (; i < count; ++i) out[i] += factor * in[i];
}

void AddScaled(float factor, const float* in, int64_t count, float* out) {
  AddTo(factor, in, count, out);
}

void AddColumn(const float* matrix, int64_t count, float factor, float* out) {
  const VF by = hn::Set(DF(), factor);
  const auto lanes =
      hn::Mul(hn::Iota(DI(), 0), hn::Set(DI(), static_cast<int>(kRowGroup)));
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VF column = hn::GatherIndex(DF(), matrix + i * kRowGroup, lanes);
    hn::StoreU(hn::MulAdd(by, column, hn::LoadU(DF(), out + i)), DF(), out + i);
  }
  for (; i < count; ++i) out[i] += factor * matrix[i * kRowGroup];
}

void DecodeSteps(const float* steps, const float* scales, int64_t count,
                 DType dtype, float* out) {
  WithType(dtype, [&]<class T>(T*) {
    for (int64_t i = 0; i < count; i += kLanes) {
      hn::StoreU(RoundVector<T>(hn::Mul(hn::LoadU(DF(), steps + i),
                                        hn::LoadU(DF(), scales + i))),
                 DF(), out + i);
    }
  });
}

// gradient += by * H_damped[column].
HWY_INLINE void Move(const SweepArgs& args, int64_t column, float by) {
  AddTo(by, args.hessian + column * args.cols, args.cols, args.gradient);
  args.gradient[column] += by * args.damping;
}

template <class T>
int64_t SweepTyped(const SweepArgs& args, int64_t begin, int64_t end) {
  alignas(64) float first_lane[2 * kLanes];
  for (int64_t i = 0; i < 2 * kLanes; ++i) {
    first_lane[i] = i < kLanes ? 0.0f : 1.0f;
  }
  int64_t changed = 0;
  for (int64_t c = begin; c < end; c += kLanes) {
    const VF scale = hn::LoadU(DF(), args.scales + c);
    const VF low = hn::LoadU(DF(), args.low + c);
    const VF high = hn::LoadU(DF(), args.high + c);
    const VF diagonal = hn::LoadU(DF(), args.diagonal + c);
    const VF reciprocal = hn::LoadU(DF(), args.reciprocal + c);
    for (int64_t from = 0; from < kLanes;) {
      const VF steps = hn::LoadU(DF(), args.steps + c);
      const VF gradient = hn::LoadU(DF(), args.gradient + c);
      const VF wanted =
          hn::Sub(steps, hn::Div(hn::Mul(gradient, reciprocal), scale));
      const VF next = hn::Min(hn::Max(hn::Round(wanted), low), high);
      const VF by = hn::Sub(RoundVector<T>(hn::Mul(next, scale)),
                            RoundVector<T>(hn::Mul(steps, scale)));
      const VF gain =
          hn::Mul(by, hn::MulAdd(by, diagonal, hn::Add(gradient, gradient)));
      // Lanes from `from` on.
      const VF open = hn::LoadU(DF(), first_lane + kLanes - from);
      const auto better =
          hn::And(hn::Lt(gain, hn::Zero(DF())), hn::Gt(open, hn::Zero(DF())));
      const auto lane = static_cast<int64_t>(hn::FindFirstTrue(DF(), better));
      if (lane < 0) break;
      float all_next[kLanes], all_by[kLanes];
      hn::StoreU(next, DF(), all_next);
      hn::StoreU(by, DF(), all_by);
      args.steps[c + lane] = all_next[lane];
      Move(args, c + lane, all_by[lane]);
      ++changed;
      from = lane + 1;
    }
  }
  return changed;
}

int64_t SweepRow(const SweepArgs& args, int64_t begin, int64_t end) {
  return WithType(args.decoded_dtype,
                  [&]<class T>(T*) { return SweepTyped<T>(args, begin, end); });
}

// x H_damped x^T and x . gradient over the columns [begin, end).
struct Forms {
  float square = 0;
  float slope = 0;
};
HWY_INLINE Forms FindForms(const SweepArgs& args, const float* x, int64_t begin,
                           int64_t end) {
  double square = 0, slope = 0;
  for (int64_t i = begin; i < end; ++i) {
    const float xi = x[i - begin];
    if (xi == 0) continue;
    const float* const row = args.hessian + i * args.cols;
    VF sum = hn::Zero(DF());
    int64_t j = begin;
    for (; j + kLanes <= end; j += kLanes) {
      sum = hn::MulAdd(hn::LoadU(DF(), row + j), hn::LoadU(DF(), x + j - begin),
                       sum);
    }
    float product = hn::GetLane(hn::SumOfLanes(DF(), sum));
    for (; j < end; ++j) product += row[j] * x[j - begin];
    product += args.damping * xi;
    square += static_cast<double>(xi) * static_cast<double>(product);
    slope += static_cast<double>(xi) * static_cast<double>(args.gradient[i]);
  }
  return {static_cast<float>(square), static_cast<float>(slope)};
}

float ScaleChange(const SweepArgs& args, int64_t begin, int64_t end) {
  const Forms forms = FindForms(args, args.steps + begin, begin, end);
  return forms.square > 0 ? -forms.slope / forms.square : 0.0f;
}

template <class T>
void FindMoves(const SweepArgs& args, int64_t begin, int64_t end, float scale,
               float* by) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const VF steps = hn::LoadU(DF(), args.steps + i);
    const VF old = hn::LoadU(DF(), args.scales + i);
    hn::StoreU(hn::Sub(RoundVector<T>(hn::Mul(steps, hn::Set(DF(), scale))),
                       RoundVector<T>(hn::Mul(steps, old))),
               DF(), by + (i - begin));
  }
}

bool MoveScale(const SweepArgs& args, int64_t begin, int64_t end, float scale,
               float* scratch) {
  WithType(args.decoded_dtype, [&]<class T>(T*) {
    FindMoves<T>(args, begin, end, scale, scratch);
  });
  const Forms forms = FindForms(args, scratch, begin, end);
  if (!(2 * forms.slope + forms.square < 0)) return false;
  for (int64_t i = begin; i < end; ++i) {
    if (scratch[i - begin] != 0) Move(args, i, scratch[i - begin]);
  }
  return true;
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::gptq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::gptq {

HWY_EXPORT(AddColumn);
HWY_EXPORT(AddScaled);
HWY_EXPORT(DecodeSteps);
HWY_EXPORT(SweepRow);
HWY_EXPORT(ScaleChange);
HWY_EXPORT(MoveScale);

void AddColumn(const float* matrix, int64_t count, float factor, float* out) {
  HWY_DYNAMIC_DISPATCH(AddColumn)(matrix, count, factor, out);
}

void AddScaled(float factor, const float* in, int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(AddScaled)(factor, in, count, out);
}

void DecodeSteps(const float* steps, const float* scales, int64_t count,
                 DType dtype, float* out) {
  HWY_DYNAMIC_DISPATCH(DecodeSteps)(steps, scales, count, dtype, out);
}

int64_t SweepRow(const SweepArgs& args, int64_t begin, int64_t end) {
  return HWY_DYNAMIC_DISPATCH(SweepRow)(args, begin, end);
}

float ScaleChange(const SweepArgs& args, int64_t begin, int64_t end) {
  return HWY_DYNAMIC_DISPATCH(ScaleChange)(args, begin, end);
}

bool MoveScale(const SweepArgs& args, int64_t begin, int64_t end, float scale,
               float* scratch) {
  return HWY_DYNAMIC_DISPATCH(MoveScale)(args, begin, end, scale, scratch);
}

}  // namespace qs::gptq
#endif  // HWY_ONCE
