// The 8-bit coding of absmax values ("double quantization"): its definition,
// which the reference runs, and the parts of it that kernels/cpu shares.
//
//   offset = mean(absmax);  d_i = absmax_i - offset;  m2 = max|d| of a block of
//   256;  code = nearest level of the map to d * (1 / m2), by the rule's own
//   search, where a d of 0 stays 0 even if 1 / m2 overflows.
// Source: bitsandbytes 0.50.2 (quantize_blockwise with the dynamic map).
#ifndef QS_KERNELS_NESTED_ABSMAX_H_
#define QS_KERNELS_NESTED_ABSMAX_H_

#include <cstdint>

#include "kernels/nf4_ops.h"

namespace qs::nf4 {

// The mean in the order of torch's CPU sum with 8 float lanes: 4 interleaved
// accumulators a lane, 4 cascade levels, then the lanes in order.
float TorchMean(const float* values, int64_t count);

// Codes of one block of `count` <= 256 values, and its m2; where m2 is 0 or
// not finite (finite values whose sum overflows), every code is 0.
float NestedEncodeBlock(const float* absmax, int64_t count, float offset,
                        Nf4Rule rule, uint8_t* codes);

// fl(fl(map[code] * m2) + offset).
float NestedDecodeOne(uint8_t code, float nested_absmax, float offset);

// kCuda: the nearest level to a normalized value, the even code on a midpoint.
uint8_t NestedNearest(float t);

// kCpu: a normalized value's step, 0 to 65535, and the code of a step.
int NestedStep(float t);
uint8_t NestedOfStep(int step);

}  // namespace qs::nf4

#endif  // QS_KERNELS_NESTED_ABSMAX_H_
