// Nf4Ops: block-wise 4-bit codes from a fixed codebook (NF4, FP4), and the
// 8-bit coding of their absmax ("double quantization", "nested").
//
// Definition: docs in proto/quant/v1/packed_formats.md; method: QLoRA (arXiv
// 2305.14314) as bitsandbytes 0.50 computes it. The weight is flattened
// row-major; a block is `block_size` consecutive elements, the last one may be
// short. Byte i of `packed` = code(2i) << 4 | code(2i+1); with an odd count the
// missing last nibble is the code of 0.0 (NF4 7, FP4 0).
//
// All pointers are in the backend's device memory. Every operation is
// elementwise in the sense of the design: the same bytes on every backend, ISA
// and thread count, except NestedEncode's offset, which is a *reduction* with
// one fixed order, the same on every backend too.
//
// Errors: INVALID_ARGUMENT — an argument out of range. Data is not an error
// here: see `first_non_finite`.
// Thread: thread-compatible; distinct calls on distinct memory may run at once.
#ifndef QS_KERNELS_NF4_OPS_H_
#define QS_KERNELS_NF4_OPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/stream.h"

namespace qs {

enum class Codebook { kNf4, kFp4 };

// Whose rounding the reference follows where bitsandbytes' devices differ.
enum class Nf4Rule { kCuda, kCpu };

// How absmax and codes are chosen.
enum class Nf4Search {
  kNone,       // REFERENCE: absmax of the block, the library's thresholds
  kBestScale,  // BEST: an absmax (>0) and codes that a search finds, on blocks
               // where Decode, to the weight's own dtype, has a lower squared
               // error with them than with kNone's; else what kNone stores
};

constexpr int64_t kNestedBlockSize = 256;

struct Nf4EncodeArgs {
  TensorView weight;  // F32, F16 or BF16, one flat run at any address
  int64_t block_size = 64;
  Codebook codebook = Codebook::kNf4;
  Nf4Rule rule = Nf4Rule::kCuda;
  Nf4Search search = Nf4Search::kNone;
  uint8_t* packed = nullptr;  // [(n + 1) / 2]
  float* absmax = nullptr;    // [CeilDiv(n, block_size)]
  // Out: flat index of the first NaN or infinity, -1 when there is none.
  // Output in a block with such an element is unspecified.
  int64_t* first_non_finite = nullptr;
};

struct Nf4DecodeArgs {
  const uint8_t* packed = nullptr;
  const float* absmax = nullptr;
  int64_t block_size = 64;
  Codebook codebook = Codebook::kNf4;
  MutableTensorView weight;  // out; product in F32, one rounding to its dtype
};

struct NestedEncodeArgs {
  const float* absmax = nullptr;  // [num_blocks]
  int64_t num_blocks = 0;
  Nf4Rule rule = Nf4Rule::kCuda;
  uint8_t* codes = nullptr;        // [num_blocks]
  float* nested_absmax = nullptr;  // [CeilDiv(num_blocks, 256)]
  float* offset = nullptr;         // [1]; mean in torch's CPU order
};

// absmax[i] = fl(fl(map[codes[i]] * nested_absmax[i / 256]) + offset).
struct NestedDecodeArgs {
  const uint8_t* codes = nullptr;
  const float* nested_absmax = nullptr;
  const float* offset = nullptr;
  int64_t num_blocks = 0;
  float* absmax = nullptr;  // out
};

// BEST with double quantization: searches a better absmax for each block among
// those that the nested coding of kNone's can express. What a reader decodes is
// never worse than what REFERENCE stores, in squared error on any block.
// Equations: kernels/nf4_nested_math.h.
struct NestedRefineArgs {
  TensorView weight;  // as for Encode; finite
  int64_t block_size = 64;
  Codebook codebook = Codebook::kNf4;
  // The place of the weight's first block in its run of 256: 0 to 255.
  int64_t first_block = 0;
  // NestedEncode's, of the absmax that Encode with kNone has for the tensor.
  const float* nested_absmax = nullptr;  // from the first block's run on
  const float* offset = nullptr;         // [1]
  uint8_t* codes = nullptr;   // [num_blocks] in: NestedEncode's; out: chosen
  float* absmax = nullptr;    // [num_blocks] in: kNone's; out: decoded
  uint8_t* packed = nullptr;  // [(n + 1) / 2] in: kNone's; out: chosen
  // Out: the absmax that `packed` is coded by, [num_blocks]: the decoded one;
  // kNone's where its codes stay; -1 where they are zeros, whatever is decoded.
  float* coded_by = nullptr;
};

class Nf4Ops {
 public:
  virtual ~Nf4Ops() = default;
  virtual absl::Status Encode(const Nf4EncodeArgs& args, Stream& stream) = 0;
  virtual absl::Status Decode(const Nf4DecodeArgs& args, Stream& stream) = 0;
  virtual absl::Status NestedEncode(const NestedEncodeArgs& args,
                                    Stream& stream) = 0;
  virtual absl::Status NestedDecode(const NestedDecodeArgs& args,
                                    Stream& stream) = 0;
  virtual absl::Status NestedRefine(const NestedRefineArgs& args,
                                    Stream& stream) = 0;
};

// The 16 levels by code (FP4: sign-magnitude order, code 8 is +0.0), and the
// 256 levels of the nested map, ascending.
const float* CodebookLevels(Codebook codebook);
const float* NestedLevels();

}  // namespace qs

#endif  // QS_KERNELS_NF4_OPS_H_
