// The ceiling of what multiplies matrices, measured in the same process.
#ifndef QS_TESTS_BENCH_FMA_PEAK_H_
#define QS_TESTS_BENCH_FMA_PEAK_H_

namespace qs {

// Operations a second of one core, the best of 40 runs in its thread's time.
double FmaPeak();

// CPU time of the calling thread.
double ThreadSeconds();

}  // namespace qs

#endif  // QS_TESTS_BENCH_FMA_PEAK_H_
