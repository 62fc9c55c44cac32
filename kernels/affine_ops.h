// AffineOps: integer codes with one scale (and zero point) per group of
// consecutive columns of a row, and their packing as files have it: densely
// into 32-bit words, and in the orders of AWQ's and hqq's own formats.
//
//   w ~ scale * (code - zero_point),   code, zero_point in [0, 2^bits - 1]
//
// Definition (compressed-tensors' min-max observer and its quantizer, equal to
// llm-compressor's RTN in every bit): see kernels/reference/affine_reference.cc
// for the arithmetic, proto/quant/v1/packed_formats.md for the packing.
// Elementwise: the same bytes on every backend, ISA and thread count. All
// pointers are in the backend's device memory.
//
// Errors: INVALID_ARGUMENT — bits, group size, dtype or shape out of range.
// Thread: thread-compatible; distinct calls on distinct memory may run at once.
#ifndef QS_KERNELS_AFFINE_OPS_H_
#define QS_KERNELS_AFFINE_OPS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/tensor_view.h"
#include "kernels/stream.h"

namespace qs {

enum class AffineSearch {
  kMinMax,     // REFERENCE
  kBestRange,  // BEST: the (scale, zero_point) of a fixed list of shrunken
               // ranges with the least squared error after rounding the scale
               // to its stored dtype; never above kMinMax's on any group
};

struct AffineEncodeArgs {
  TensorView weight;         // [rows, cols] F32, F16 or BF16
  int bits = 4;              // 2..8
  int64_t group_size = 128;  // divides cols
  bool symmetric = true;
  AffineSearch search = AffineSearch::kMinMax;
  // Out. One code a byte, [rows, cols], unsigned (signed code + 2^(bits-1)).
  uint8_t* codes = nullptr;
  // [rows, cols / group_size] in the weight's dtype (it is what is stored).
  void* scales = nullptr;
  // [rows, cols / group_size], unsigned; null when symmetric (2^(bits-1)).
  uint8_t* zero_points = nullptr;
  // First flat index that is NaN or infinite, -1 when there is none.
  int64_t* first_non_finite = nullptr;
};

struct AffineDecodeArgs {
  const uint8_t* codes = nullptr;
  const void* scales = nullptr;          // dtype of `weight`
  const uint8_t* zero_points = nullptr;  // null: 2^(bits-1)
  int bits = 4;
  int64_t group_size = 128;
  MutableTensorView weight;  // out, [rows, cols]
};

// Dense packing along a row: code i of a row starts at bit i * bits of the
// row's CeilDiv(cols * bits, 32) little-endian words and may straddle two.
struct PackRowsArgs {
  const uint8_t* codes = nullptr;  // [rows, cols]
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;               // 1..8
  uint32_t* words = nullptr;  // [rows, CeilDiv(cols * bits, 32)]
};
struct UnpackRowsArgs {
  const uint32_t* words = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;
  uint8_t* codes = nullptr;
};

// The same along dimension 0: code (i, j) starts at bit i * bits of column j of
// words [CeilDiv(rows * bits, 32), cols]. For zero points.
struct PackColumnsArgs {
  const uint8_t* codes = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;
  uint32_t* words = nullptr;
};
struct UnpackColumnsArgs {
  const uint32_t* words = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;
  uint8_t* codes = nullptr;
};

// AWQ GEMM's order, of codes of 4 bits: word (j, i) holds rows 8 i to 8 i + 7
// of column j, from the lowest nibble on those numbered 0, 2, 4, 6, 1, 3, 5, 7.
struct PackAwqArgs {
  const uint8_t* codes = nullptr;  // [rows, cols]
  int64_t rows = 0;                // a multiple of 8
  int64_t cols = 0;
  uint32_t* words = nullptr;  // [cols, rows / 8]
  // Words from one column's to the next's, rows / 8 at least. Those in between
  // stay as they are.
  int64_t stride = 0;
};
struct UnpackAwqArgs {
  const uint32_t* words = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  uint8_t* codes = nullptr;
};

// hqq's order: the codes are cut into as many parts as an element holds codes,
// and element i holds code i of every part, the first part's highest. With 8,
// 4, 2 and 1 bits elements are bytes of 8 / bits codes, with 3 bits 32-bit
// words of ten, whose two highest bits are 0.
struct PackPartsArgs {
  const uint8_t* codes = nullptr;
  int64_t count = 0;       // of codes, PackedParts(bits) * part at most: those
                           // that the last parts lack are packed as 0
  int bits = 4;            // 8, 4, 3, 2 or 1
  int64_t part = 0;        // codes of a part
  void* packed = nullptr;  // [part] U8, or U32 with 3 bits
};
struct UnpackPartsArgs {
  const void* packed = nullptr;
  int64_t count = 0;
  int bits = 4;
  int64_t part = 0;
  uint8_t* codes = nullptr;
};
// Codes of an element, 0 for other widths, and its bytes.
constexpr int64_t PackedParts(int bits) {
  const bool whole = bits == 1 || bits == 2 || bits == 4 || bits == 8;
  return bits == 3 ? 10 : whole ? 8 / bits : 0;
}
constexpr int64_t PackedPartBytes(int bits) { return bits == 3 ? 4 : 1; }

class AffineOps {
 public:
  virtual ~AffineOps() = default;
  virtual absl::Status Encode(const AffineEncodeArgs& args, Stream& s) = 0;
  virtual absl::Status Decode(const AffineDecodeArgs& args, Stream& s) = 0;
  virtual absl::Status PackRows(const PackRowsArgs& args, Stream& s) = 0;
  virtual absl::Status UnpackRows(const UnpackRowsArgs& args, Stream& s) = 0;
  virtual absl::Status PackColumns(const PackColumnsArgs& args, Stream& s) = 0;
  virtual absl::Status UnpackColumns(const UnpackColumnsArgs& args,
                                     Stream& s) = 0;
  virtual absl::Status PackAwq(const PackAwqArgs& args, Stream& s) = 0;
  virtual absl::Status UnpackAwq(const UnpackAwqArgs& args, Stream& s) = 0;
  virtual absl::Status PackParts(const PackPartsArgs& args, Stream& s) = 0;
  virtual absl::Status UnpackParts(const UnpackPartsArgs& args, Stream& s) = 0;
};

}  // namespace qs

#endif  // QS_KERNELS_AFFINE_OPS_H_
