// Constants of the affine family's range search: shared by the reference and by
// every fast version.
//
// A candidate step is the min-max step times a factor. How far a range is worth
// shrinking depends on the bits: the fewer codes, the more a clipped outlier
// pays for the others. Tuned on normal and Student-t5 weights in groups of 32
// and 128; the spacing is such that twice as many factors gain less than 0.3 %
// of squared error at 4 bits.
#ifndef QS_KERNELS_AFFINE_TABLES_H_
#define QS_KERNELS_AFFINE_TABLES_H_

namespace qs::affine {

constexpr int kCoarse = 5;  // candidate steps of the first round

struct ShrinkList {
  float coarse[kCoarse];
  float below, above;  // second round, relative to the best of the first
};

// By bits; 0 and 1 are not used.
constexpr ShrinkList kShrink[9] = {
    {},
    {},
    {{0.82f, 0.70f, 0.60f, 0.51f, 0.42f}, 0.96f, 1.04f},
    {{0.96f, 0.86f, 0.77f, 0.68f, 0.58f}, 0.97f, 1.03f},
    {{1.05f, 0.96f, 0.88f, 0.80f, 0.69f}, 0.975f, 1.025f},
    {{1.03f, 0.98f, 0.93f, 0.87f, 0.79f}, 0.985f, 1.015f},
    {{1.02f, 0.99f, 0.96f, 0.92f, 0.86f}, 0.99f, 1.01f},
    {{1.02f, 1.00f, 0.98f, 0.95f, 0.91f}, 0.995f, 1.005f},
    {{1.06f, 1.03f, 1.01f, 0.99f, 0.97f}, 0.995f, 1.005f},
};

// Only groups whose largest magnitude lies in here are searched: outside, the
// squares that the search adds leave the range of F32.
constexpr float kSearchMin = 0x1p-40f;
constexpr float kSearchMax = 0x1p40f;

}  // namespace qs::affine

#endif  // QS_KERNELS_AFFINE_TABLES_H_
