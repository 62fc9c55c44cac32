// Multiply-adds in registers: what the fastest instruction set of this machine
// can do, in operations a second (two an element).
#include "tests/bench/fma_peak.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/fma_peak.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace qs {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `rounds` times 12 vectors of multiply-adds; how many elements that is.
int64_t MultiplyAdds(int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, 0.999f);
  // All different, or the compiler would compute one for all.
  const auto start = [&](int i) HWY_ATTR {
    return hn::Set(d, 0.1f * static_cast<float>(i));
  };
  auto a0 = start(0), a1 = start(1), a2 = start(2), a3 = start(3);
  auto a4 = start(4), a5 = start(5), a6 = start(6), a7 = start(7);
  auto a8 = start(8), a9 = start(9), a10 = start(10), a11 = start(11);
  for (int64_t i = 0; i < rounds; ++i) {
    a0 = hn::MulAdd(a0, factor, factor);
    a1 = hn::MulAdd(a1, factor, factor);
    a2 = hn::MulAdd(a2, factor, factor);
    a3 = hn::MulAdd(a3, factor, factor);
    a4 = hn::MulAdd(a4, factor, factor);
    a5 = hn::MulAdd(a5, factor, factor);
    a6 = hn::MulAdd(a6, factor, factor);
    a7 = hn::MulAdd(a7, factor, factor);
    a8 = hn::MulAdd(a8, factor, factor);
    a9 = hn::MulAdd(a9, factor, factor);
    a10 = hn::MulAdd(a10, factor, factor);
    a11 = hn::MulAdd(a11, factor, factor);
  }
  const auto sum = hn::Add(
      hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(a4, a5)),
      hn::Add(hn::Add(hn::Add(a6, a7), hn::Add(a8, a9)), hn::Add(a10, a11)));
  *sink = hn::GetLane(sum);
  return rounds * 12 * static_cast<int64_t>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace qs
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <ctime>

namespace qs {

HWY_EXPORT(MultiplyAdds);

double ThreadSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double FmaPeak() {
  constexpr int64_t kRounds = 1'000'000;  // some milliseconds
  double best = 0;
  float sink = 0;
  for (int run = 0; run < 40; ++run) {
    const double start = ThreadSeconds();
    const int64_t elements = HWY_DYNAMIC_DISPATCH(MultiplyAdds)(kRounds, &sink);
    const double rate =
        2 * static_cast<double>(elements) / (ThreadSeconds() - start);
    if (rate > best && sink != 0) best = rate;
  }
  return best;
}

}  // namespace qs
#endif  // HWY_ONCE
