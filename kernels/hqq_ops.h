// HqqOps: integer codes with one scale and one zero point per group, fitted to
// the weights alone (HQQ, Badri and Shaji 2023, mobiusml.github.io/hqq_blog).
//
//   w ~ (code - zero) * scale,   code in [0, 2^bits - 1]
//
// Groups. The weight is one flat run of n elements, G = n / group_size.
//   axis 1: group g has the elements g * group_size + k;
//   axis 0: group g has the elements k * G + g.
//
// REFERENCE is hqq 0.2.8.post1 on a CPU in F32, bit for bit on ordinary
// weights, including the sum order of torch 2.15 on one thread: `scale` stays
// that of the group's range, the zero moves until the mean error of the whole
// tensor no longer falls. So it needs the whole tensor. Where an error is above
// 0.17, hqq's shrink term has a power in it, here rounded correctly: zeros are
// then within 5e-7 of torch's, whose power is off in the last bit.
// BEST searches scale and zero for each group by itself; see hqq_math.h.
//
// Elementwise: the same bytes on every backend, ISA and thread count. All
// pointers are in the backend's device memory.
//
// Errors: INVALID_ARGUMENT — bits, group size, axis or dtype out of range;
// RESOURCE_EXHAUSTED — no memory for the solver's state.
// Thread: thread-compatible; distinct calls on distinct memory may run at once.
#ifndef QS_KERNELS_HQQ_OPS_H_
#define QS_KERNELS_HQQ_OPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/stream.h"

namespace qs {

enum class HqqSolver {
  kReference,
  kBest,  // never above rounding, nor above any iterate of kReference, in
          // squared error of the decoded values on any group (but for the
          // rounding of F32 sums, 2^-18 of it)
};

// What the solver did. Parts of a tensor add up (kBest).
struct HqqFacts {
  int iterations = 0;  // kReference: until the whole tensor stopped
  int64_t groups = 0;
  int64_t group_iterations = 0;  // sum over groups, until each stood still
  double error = 0;  // kReference: the last iteration's mean |w - v|
};

struct HqqEncodeArgs {
  TensorView weight;        // F32, F16 or BF16, one flat run
  int bits = 4;             // 8, 4, 3, 2, 1
  int64_t group_size = 64;  // divides the elements
  int axis = 1;
  HqqSolver solver = HqqSolver::kReference;
  int iterations = 20;     // 0: rounding only
  bool round_zero = true;  // the first zero to an integer; hqq: bits == 4
  // Out. One code a byte, in the weight's flat order.
  uint8_t* codes = nullptr;
  // [G] each, of dtype `stored`: F32 as hqq's solver gives them (its scale is
  // the inverse of `scales`), else rounded once. kBest chooses for the rounded
  // values, decoded as Decode does.
  DType stored = DType::kF32;
  void* scales = nullptr;
  void* zeros = nullptr;
  // [G], instead of `zeros`: integer zero points in [0, 2^bits - 1], decoded as
  // AffineOps does; `stored` is then the weight's dtype, bits at least 2, axis
  // 1. kReference rounds hqq's zero, and takes AffineOps' min-max grid for a
  // group whose zero is out of range or whose range is at most 1e-4.
  uint8_t* zero_points = nullptr;
  // First flat index that is NaN or infinite, -1 when there is none. Output is
  // then unspecified.
  int64_t* first_non_finite = nullptr;
  HqqFacts* facts = nullptr;  // may be null; host memory
};

struct HqqDecodeArgs {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;  // dtype of `weight`
  const void* zeros = nullptr;   // dtype of `weight`
  int64_t group_size = 64;
  int axis = 1;
  // Out. Code minus zero is rounded to its dtype, so is the product.
  MutableTensorView weight;
};

class HqqOps {
 public:
  virtual ~HqqOps() = default;
  virtual absl::Status Encode(const HqqEncodeArgs& args, Stream& s) = 0;
  virtual absl::Status Decode(const HqqDecodeArgs& args, Stream& s) = 0;
};

// Bytes that Encode holds beside its arguments, at most.
int64_t HqqWorkspaceBytes(int64_t num_elements, int64_t group_size, int axis,
                          HqqSolver solver);

}  // namespace qs

#endif  // QS_KERNELS_HQQ_OPS_H_
