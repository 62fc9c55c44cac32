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

// Second moments (GramOps), relative to sqrt(H_ii H_jj). F32 sums over a run of
// 2048: sqrt(2048) roundings of 2^-24, times 4.
constexpr double kMomentTolerance = 1.1e-5;
// Tensor cores do not round: of F16 and BF16 products they cut off what is
// below the last bits of the sum so far, and of the new sum what F32 does not
// hold. On a diagonal all terms have one sign, so that nothing cancels. Compute
// capability 8.0 adds 8 products at a time with 1 bit more than F32 has (later
// ones more of both): a run has 256 steps, each of 8 cuts of 2^-25 and one of
// 2^-24 of the sum on average, where the sum is large from the first on.
constexpr double kTensorCoreMomentTolerance = 256 * 5 * 0x1p-24;  // 7.6e-5

}  // namespace qs

#endif  // QS_TESTS_TESTING_TOLERANCE_H_
