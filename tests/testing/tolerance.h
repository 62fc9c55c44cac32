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

// AWQ's losses, relative. Products of up to 2^8 columns in F32 lose at most
// 2^8 * 2^-24 of the sum of magnitudes and half of that is typical of random
// signs; magnitudes are within 2^4 of the sum for the inputs of the tests.
constexpr double kAwqLossTolerance = 0x1p-14;
// Through a factor that was rounded to F32 instead of H.
constexpr double kAwqFactorTolerance = 0x1p-16;

}  // namespace qs

#endif  // QS_TESTS_TESTING_TOLERANCE_H_
