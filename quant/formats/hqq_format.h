// hqq's encoded state dict in safetensors: names, dtypes, shapes, packing,
// quantization_config, and the reader used to verify. Facts: packed_formats.md.
#ifndef QS_QUANT_FORMATS_HQQ_FORMAT_H_
#define QS_QUANT_FORMATS_HQQ_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/affine_ops.h"
#include "quant/formats/bitsandbytes.h"
#include "quant/formats/stored_tensors.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

class Backend;

// One weight [rows, cols] of a file. `dtype` is the compute dtype: that of
// scales, zero points and the decoded weight (the model's).
struct HqqLayout {
  std::string name;  // of the weight, ends in ".weight"
  DType dtype = DType::kBF16;
  int64_t rows = 0;
  int64_t cols = 0;
  int bits = 4;             // 8, 4, 3, 2, 1
  int64_t group_size = 64;  // divides rows * cols
  int axis = 1;             // 1: a group is a run of the flat weight; 0: every
                            // (rows * cols / group_size)-th element of it

  int64_t groups() const { return rows * cols / group_size; }
  // The code matrix that is packed: [groups, group_size] for axis 1,
  // [group_size, groups] for axis 0. Both are the flat order of the weight.
  int64_t code_rows() const { return axis == 1 ? groups() : group_size; }
  int64_t code_cols() const { return axis == 1 ? group_size : groups(); }
};
HqqLayout HqqLayoutOf(const HqqSpec& spec, std::string name, DType dtype,
                      int64_t rows, int64_t cols);

// INVALID_ARGUMENT — bits, axis, dtype, name, a group size that does not
// divide, or code rows that do not fill the packed bytes (1, 2, 4 bits: a
// multiple of 8, 4, 2).
absl::Status CheckHqqLayout(const HqqLayout& layout);

// Bytes of W_q and of all tensors together.
int64_t HqqPackedBytes(const HqqLayout& layout);
int64_t HqqOutputBytes(const HqqLayout& layout);

// w ~ (code - zero) * scale. Codes in the weight's flat order, one a byte.
struct HqqPieces {
  Buffer packed;  // W_q, as PackHqqCodes writes it
  Buffer scales;  // dtype [groups]: the step, 1 / s of hqq's solver
  Buffer zeros;   // dtype [groups]
};

// How its codes are packed, without pointers. REQUIRES: CheckHqqLayout is OK.
PackPartsArgs HqqPackArgs(const HqqLayout& layout);

// The whole code matrix into `packed` (HqqPackedBytes, aligned for the words of
// 3 bits), and back. Row i shares its bytes with rows far away, so that parts
// of it cannot be packed alone. REQUIRES: CheckHqqLayout is OK. Errors: the
// backend's.
absl::Status PackHqqCodes(const HqqLayout& layout, const uint8_t* codes,
                          Backend& backend, uint8_t* packed);
absl::Status UnpackHqqCodes(const HqqLayout& layout, const uint8_t* packed,
                            Backend& backend, uint8_t* codes);

// W_q, scale, zero and the encoded metadata, in hqq's order.
// Errors: INVALID_ARGUMENT like CheckHqqLayout; RESOURCE_EXHAUSTED — no memory.
absl::StatusOr<std::vector<OutputTensor>> HqqTensors(const HqqLayout& layout,
                                                     HqqPieces pieces);

// A weight read back from a file's tensors, which say all about it.
struct HqqWeight {
  HqqLayout layout;
  Buffer codes;   // U8 [rows, cols]
  Buffer scales;  // layout.dtype [groups]
  Buffer zeros;   // layout.dtype [groups]
};

// `name` is the weight's ("...up_proj.weight"; the tensors are "...up_proj.W_q"
// and so on). Errors: INVALID_ARGUMENT — a piece is missing or does not fit,
// stray bits, scales or zeros not finite.
absl::StatusOr<HqqWeight> ReadHqq(const StoredTensors& tensors,
                                  const std::string& name);

// (code - zero) * scale, each step rounded to the compute dtype, as hqq does.
absl::StatusOr<DecodedWeight> DecodeHqq(const StoredTensors& tensors,
                                        const std::string& name);

// `quantization_config` for config.json, as transformers' HqqConfig writes it;
// hqq's own loader reads the tensors alone. A module whose name contains an
// entry of `skip_modules` is left alone.
std::string HqqConfigJson(const HqqSpec& spec,
                          const std::vector<std::string>& skip_modules);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_HQQ_FORMAT_H_
