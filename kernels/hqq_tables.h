// Constants of the HQQ family: shared by the reference and every fast version.
#ifndef QS_KERNELS_HQQ_TABLES_H_
#define QS_KERNELS_HQQ_TABLES_H_

namespace qs::hqq {

// hqq 0.2.8: a range at most this wide gets the inverse scale 1; no inverse
// scale is above kMaxInverse.
constexpr float kSmallRange = 1e-4f;
constexpr float kMaxInverse = 2e4f;

// The shrink term of an error e: max(|e| - fl(0.1 |e|^-0.3), 0) sign(e). It is
// zero up to 0.1^(1 / 1.3) = 0.17013.
constexpr float kShrinkFactor = 0.1f;
constexpr float kShrinkPower = -0.3f;
constexpr float kNoShrink = 0.17f;

// BEST's ranges [low + a d, high - b d], d = high - low: a and b on a grid of
// kGrid steps from `first`, then two rounds of the eight neighbours at the step
// times kRefine. Tuned on normal and Student-t5 weights in groups of 64: at 4,
// 3 and 2 bits within 0.5 % of the squared error of a dense 21 x 21 grid.
constexpr int kGrid = 4;
constexpr int kRefineRounds = 2;
constexpr float kRefine = 0.4f;
constexpr int kRefits = 3;  // then least squares and codes in turn

struct ShrinkGrid {
  float first, step;
};
// By bits; 5 to 7 are not used.
constexpr ShrinkGrid kShrink[9] = {{},
                                   {0.0f, 0.166f},
                                   {0.0f, 0.133f},
                                   {0.0f, 0.093f},
                                   {-0.02f, 0.06f},
                                   {},
                                   {},
                                   {},
                                   {-0.006f, 0.006f}};

// BEST with an integer zero point: factors of the step of the full range, each
// with the zero point that centres it and its two neighbours; then a round
// with `below` and `above` and two with ever smaller ones.
constexpr int kSteps = 6;
struct StepList {
  float coarse[kSteps];
  float spread;  // second round: 1 - spread and 1 + spread, third: half of it
};
constexpr StepList kStepList[9] = {
    {},
    {},
    {{0.84f, 0.74f, 0.65f, 0.57f, 0.50f, 0.42f}, 0.04f},
    {{0.97f, 0.89f, 0.81f, 0.74f, 0.66f, 0.58f}, 0.03f},
    {{1.04f, 0.98f, 0.92f, 0.86f, 0.80f, 0.72f}, 0.025f},
    {},
    {},
    {},
    {{1.05f, 1.03f, 1.01f, 1.00f, 0.99f, 0.975f}, 0.004f}};

// Groups are searched when their range lies in here, so that its inverse and
// the products with it are normal numbers.
constexpr float kSearchMin = 0x1p-100f;
constexpr float kSearchMax = 0x1p100f;

// |e|^-0.3 in F64 (no library's pow is the same everywhere): m * 2^k = |e| with
// m in [3/4, 3/2), r = (m - 1) / (m + 1), log2(m) = r * P(r^2);
// y = fl(-0.3f) * log2 |e|, 2^y = 2^rne(y) * Q((y - rne(y)) * ln 2). Horner's
// rule, highest coefficient first, every operation rounded to F64. Relative
// error below 1e-14, so that rounding it to F32 is right but for one argument
// in 10^7, and the same everywhere.
constexpr double kTwoOverLn2 = 2.8853900817779268;
constexpr double kLn2 = 0.69314718055994531;
constexpr int kLogTerms = 12;  // 2 / ln 2 / (2 i + 1)
constexpr int kExpTerms = 14;  // 1 / i!

}  // namespace qs::hqq

#endif  // QS_KERNELS_HQQ_TABLES_H_
