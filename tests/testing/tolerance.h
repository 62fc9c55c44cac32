// Tolerances of reductions, each with its derivation. Everything elementwise is
// compared with ==.
#ifndef QS_TESTS_TESTING_TOLERANCE_H_
#define QS_TESTS_TESTING_TOLERANCE_H_

namespace qs {

// Error sums (StatsOps), relative to the sum of the magnitudes of the terms.
// A term: w - v in F32 (2^-24), squared or multiplied (twice the difference's
// and one more rounding): 3 roundings. Sums: up to 8 F32 additions in a partial
// sum, 4 in the fold; what follows in double does not count. 15 roundings of
// 2^-24 are below 2^-20.
constexpr double kErrorSumTolerance = 0x1p-20;

// The largest |w - v|: one rounding of the difference.
constexpr double kMaxErrorTolerance = 0x1p-24;

}  // namespace qs

#endif  // QS_TESTS_TESTING_TOLERANCE_H_
