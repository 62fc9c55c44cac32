// NF4/FP4 codes read back on the host, before they leave it.
//
// By a decoder of its own: it shares the codebook's levels with the encoders,
// but no threshold, no look-up and no loop, and asks no backend, so that a
// fault of an encoder, of a device or of a copy from it shows.
//
// Thread: any; distinct calls may run at once.
#ifndef QS_KERNELS_NF4_VERIFY_OPS_H_
#define QS_KERNELS_NF4_VERIFY_OPS_H_

#include <cstdint>
#include <optional>

#include "kernels/base/tensor_view.h"
#include "kernels/nf4_ops.h"

namespace qs {

// What an Encode (nf4_ops.h) was given and gave, or with double quantization a
// NestedRefine and its coded_by; host memory.
struct Nf4VerifyArgs {
  TensorView weight;  // F32, F16 or BF16, at any address; finite
  int64_t block_size = 64;
  Codebook codebook = Codebook::kNf4;
  const uint8_t* packed = nullptr;
  const float* absmax = nullptr;
  // With double quantization, where a reader multiplies by another absmax: the
  // rule of the Encode.
  std::optional<Nf4Rule> nested_rule = std::nullopt;
};

// The flat index of the first weight whose code is wrong, -1 where none is; the
// number of weights stands for the nibble behind an odd one.
//
// A code is right if no level of the codebook, times its block's absmax, lies
// nearer to the weight by more than 2^-17 absmax; thus the ends of the codebook
// take what lies beyond absmax. Besides, as the rules have it: where absmax is
// 0 or less, any code of level 0, and where it is 0, any code of a weight below
// float32's normal numbers; above 2^126, where CUDA's rule has no reciprocal,
// any code of level 0. Differences below 2^-125 are none. The nibble behind an
// odd number of weights is one of level 0, or 0.
//
// What is nothing by an absmax at or near 0 may be much by a reader's. So with
// a nested_rule a code has to be the rule's there, too: where absmax is 0, no
// weight is a normal number, and the code is 0 by kCuda, one of level 0 by
// kCpu; elsewhere the smallest difference counts, while kCuda takes weights
// below the normal numbers as 0, and kCpu an absmax below 1e-38 as 1e-38.
int64_t FindWrongNf4Code(const Nf4VerifyArgs& args);

}  // namespace qs

#endif  // QS_KERNELS_NF4_VERIFY_OPS_H_
