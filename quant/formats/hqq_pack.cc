// Tested by tests/formats/hqq_format_test.cc.
//
// hqq splits the code rows into as many parts as an element holds codes. Rows
// are contiguous, so a part is one run of codes.
#include "kernels/backend.h"
#include "quant/formats/hqq_format.h"

namespace qs {

PackPartsArgs HqqPackArgs(const HqqLayout& layout) {
  PackPartsArgs args;
  args.count = layout.rows * layout.cols;
  args.bits = layout.bits;
  args.part = HqqPackedBytes(layout) / PackedPartBytes(layout.bits);
  return args;
}

absl::Status PackHqqCodes(const HqqLayout& layout, const uint8_t* codes,
                          Backend& backend, uint8_t* packed) {
  PackPartsArgs args = HqqPackArgs(layout);
  args.codes = codes;
  args.packed = packed;
  return backend.affine().PackParts(args, backend.stream());
}

absl::Status UnpackHqqCodes(const HqqLayout& layout, const uint8_t* packed,
                            Backend& backend, uint8_t* codes) {
  const PackPartsArgs sizes = HqqPackArgs(layout);
  UnpackPartsArgs args;
  args.packed = packed;
  args.count = sizes.count;
  args.bits = sizes.bits;
  args.part = sizes.part;
  args.codes = codes;
  return backend.affine().UnpackParts(args, backend.stream());
}

}  // namespace qs
