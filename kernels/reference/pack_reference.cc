// One code after the other. Tested by tests/kernels/pack_layouts_test.cc.
#include "kernels/reference/pack_reference.h"

namespace qs::reference {
namespace {

// Where the eight rows of a word of AWQ are: the nibble of each.
constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// The word that holds code (row, col), and the code's place in it.
template <class Args>
auto* AwqWord(const Args& args, int64_t row, int64_t col) {
  return args.words + col * args.stride + row / 8;
}
int AwqShift(int64_t row) { return 4 * kNibble[row % 8]; }

// The place of part j in an element.
int PartShift(int bits, int64_t j) {
  return static_cast<int>(bits * (PackedParts(bits) - 1 - j));
}

}  // namespace

void PackAwq(const PackAwqArgs& args) {
  for (int64_t col = 0; col < args.cols; ++col) {
    for (int64_t row = 0; row < args.rows; row += 8) {
      *AwqWord(args, row, col) = 0;
    }
    for (int64_t row = 0; row < args.rows; ++row) {
      const uint32_t code = args.codes[row * args.cols + col] & 15u;
      *AwqWord(args, row, col) |= code << AwqShift(row);
    }
  }
}

void UnpackAwq(const UnpackAwqArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t col = 0; col < args.cols; ++col) {
      args.codes[row * args.cols + col] =
          static_cast<uint8_t>(*AwqWord(args, row, col) >> AwqShift(row) & 15u);
    }
  }
}

void PackParts(const PackPartsArgs& args) {
  const uint32_t mask = (1u << args.bits) - 1;
  for (int64_t i = 0; i < args.part; ++i) {
    uint32_t element = 0;
    for (int64_t j = 0; j < PackedParts(args.bits); ++j) {
      const int64_t at = i + j * args.part;
      if (at >= args.count) continue;
      element |= (args.codes[at] & mask) << PartShift(args.bits, j);
    }
    if (args.bits == 3) {
      static_cast<uint32_t*>(args.packed)[i] = element;
    } else {
      static_cast<uint8_t*>(args.packed)[i] = static_cast<uint8_t>(element);
    }
  }
}

void UnpackParts(const UnpackPartsArgs& args) {
  const uint32_t mask = (1u << args.bits) - 1;
  for (int64_t at = 0; at < args.count; ++at) {
    const int64_t i = at % args.part;
    const uint32_t element = args.bits == 3
                                 ? static_cast<const uint32_t*>(args.packed)[i]
                                 : static_cast<const uint8_t*>(args.packed)[i];
    const int shift = PartShift(args.bits, at / args.part);
    args.codes[at] = static_cast<uint8_t>(element >> shift & mask);
  }
}

}  // namespace qs::reference
