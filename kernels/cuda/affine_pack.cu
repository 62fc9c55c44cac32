// Dense packing of byte codes into 32-bit words, along rows and along columns,
// and back. Layout: kernels/affine_ops.h; definition:
// kernels/reference/affine_reference.cc, whose bytes these give.
//
// A thread takes 32 codes at a time, which are as many words as a code has
// bits: of a row, with 16-byte accesses to the codes where rows and the
// caller's pointer are aligned for them, or of a column, a warp taking 32
// columns side by side. The last codes of a row or column go one by one.
// Limits: 1 to 8 bits.
// Tested by tests/kernels/affine_cuda_test.cc.
#include "kernels/affine_ops.h"
#include "kernels/cuda/affine_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"

namespace qs::cuda {
namespace {

constexpr int kUnit = 32;              // codes
constexpr int kUnitWords = kUnit / 4;  // of codes, four a word

template <int kBitsValue, bool kColumnsValue>
struct PackParams {
  static constexpr int kBits = kBitsValue;
  static constexpr bool kColumns = kColumnsValue;
  const uint8_t* codes;
  uint32_t* words;
  int64_t rows;
  int64_t cols;
  bool vectors;  // 16-byte accesses to whole units of codes
};

template <int kBitsValue, bool kColumnsValue>
struct UnpackParams {
  static constexpr int kBits = kBitsValue;
  static constexpr bool kColumns = kColumnsValue;
  const uint32_t* words;
  uint8_t* codes;
  int64_t rows;
  int64_t cols;
  bool vectors;
};

struct UnitCodes {
  uint32_t w[kUnitWords];

  QS_KERNEL uint32_t At(int j) const { return w[j / 4] >> (j % 4 * 8) & 0xffu; }
};

// Where a unit's codes and words lie: both `step` elements apart, of `count`
// codes and `words` words.
struct Unit {
  int64_t codes;  // index of the first
  int64_t words;
  int64_t step;
  int count;
  int word_count;
};

template <class Params>
QS_KERNEL int64_t UnitCount(const Params& a) {
  const int64_t lines = Params::kColumns ? a.cols : a.rows;
  const int64_t length = Params::kColumns ? a.rows : a.cols;
  return lines * ((length + kUnit - 1) / kUnit);
}

template <class Params>
QS_KERNEL int64_t WordCount(const Params& a) {
  const int64_t lines = Params::kColumns ? a.cols : a.rows;
  const int64_t length = Params::kColumns ? a.rows : a.cols;
  return lines * ((length * Params::kBits + 31) / 32);
}

template <class Params>
QS_KERNEL Unit UnitAt(const Params& a, int64_t index) {
  constexpr int kBits = Params::kBits;
  Unit unit;
  int64_t left = 0;
  if constexpr (Params::kColumns) {
    const int64_t block = index / a.cols;
    const int64_t col = index % a.cols;
    unit.codes = block * kUnit * a.cols + col;
    unit.words = block * kBits * a.cols + col;
    unit.step = a.cols;
    left = a.rows - block * kUnit;
  } else {
    const int64_t units = (a.cols + kUnit - 1) / kUnit;
    const int64_t row = index / units;
    const int64_t block = index % units;
    unit.codes = row * a.cols + block * kUnit;
    unit.words = row * ((a.cols * kBits + 31) / 32) + block * kBits;
    unit.step = 1;
    left = a.cols - block * kUnit;
  }
  unit.count = left < kUnit ? static_cast<int>(left) : kUnit;
  unit.word_count = (unit.count * kBits + 31) / 32;
  return unit;
}

template <class Global>
QS_KERNEL UnitCodes LoadUnit(const Global& codes, const Unit& unit,
                             bool vectors) {
  UnitCodes in;
  if (vectors && unit.count == kUnit) {
    QS_UNROLL
    for (int i = 0; i < kUnitWords / 4; ++i) {
      const auto four = codes.template GetVector<Words>(unit.codes + 16 * i);
      QS_UNROLL
      for (int k = 0; k < 4; ++k) in.w[4 * i + k] = four.w[k];
    }
    return in;
  }
  QS_UNROLL
  for (int i = 0; i < kUnitWords; ++i) in.w[i] = 0;
  QS_UNROLL
  for (int j = 0; j < kUnit; ++j) {
    if (j < unit.count) {
      in.w[j / 4] |=
          static_cast<uint32_t>(codes.Get(unit.codes + j * unit.step))
          << (j % 4 * 8);
    }
  }
  return in;
}

template <class Global>
QS_KERNEL void StoreUnit(const Global& codes, const Unit& unit,
                         const UnitCodes& out, bool vectors) {
  if (vectors && unit.count == kUnit) {
    QS_UNROLL
    for (int i = 0; i < kUnitWords / 4; ++i) {
      Words four;
      QS_UNROLL
      for (int k = 0; k < 4; ++k) four.w[k] = out.w[4 * i + k];
      codes.SetVector(unit.codes + 16 * i, four);
    }
    return;
  }
  QS_UNROLL
  for (int j = 0; j < kUnit; ++j) {
    if (j < unit.count) codes.Set(unit.codes + j * unit.step, out.At(j));
  }
}

template <class Thread, class Params>
QS_KERNEL void PackKernel(Thread& t, NoShared&, const Params& a) {
  constexpr int kBits = Params::kBits;
  const auto codes = t.Global(a.codes, a.rows * a.cols);
  const auto words = t.Global(a.words, WordCount(a));
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < UnitCount(a); i += stride) {
    const Unit unit = UnitAt(a, i);
    const UnitCodes in = LoadUnit(codes, unit, a.vectors);
    uint32_t out[kBits + 1] = {};  // one more than is stored
    QS_UNROLL
    for (int j = 0; j < kUnit; ++j) {
      const uint32_t code = in.At(j) & ((1u << kBits) - 1u);
      const int shift = j * kBits % 32;
      out[j * kBits / 32] |= code << shift;
      if (shift + kBits > 32) out[j * kBits / 32 + 1] |= code >> (32 - shift);
    }
    QS_UNROLL
    for (int k = 0; k < kBits; ++k) {
      if (k < unit.word_count) words.Set(unit.words + k * unit.step, out[k]);
    }
  }
}

template <class Thread, class Params>
QS_KERNEL void UnpackKernel(Thread& t, NoShared&, const Params& a) {
  constexpr int kBits = Params::kBits;
  const auto codes = t.Global(a.codes, a.rows * a.cols);
  const auto words = t.Global(a.words, WordCount(a));
  const int64_t stride = t.GridSize() * t.BlockSize();
  for (int64_t i = t.BlockIndex() * t.BlockSize() + t.ThreadIndex();
       i < UnitCount(a); i += stride) {
    const Unit unit = UnitAt(a, i);
    uint32_t in[kBits + 1] = {};
    QS_UNROLL
    for (int k = 0; k < kBits; ++k) {
      if (k < unit.word_count) in[k] = words.Get(unit.words + k * unit.step);
    }
    UnitCodes out = {};
    QS_UNROLL
    for (int j = 0; j < kUnit; ++j) {
      const int shift = j * kBits % 32;
      uint32_t code = in[j * kBits / 32] >> shift;
      if (shift + kBits > 32) code |= in[j * kBits / 32 + 1] << (32 - shift);
      out.w[j / 4] |= (code & ((1u << kBits) - 1u)) << (j % 4 * 8);
    }
    StoreUnit(codes, unit, out, a.vectors);
  }
}

QS_DEFINE_ENTRY(PackKernel, NoShared)
QS_DEFINE_ENTRY(UnpackKernel, NoShared)

template <int kBits>
struct BitsOf {
  static constexpr int kValue = kBits;
};

// Calls `body` with the number of bits as a type.
template <class Body>
int WithBits(int bits, const Body& body) {
  switch (bits) {
    case 1:
      return body(BitsOf<1>());
    case 2:
      return body(BitsOf<2>());
    case 3:
      return body(BitsOf<3>());
    case 4:
      return body(BitsOf<4>());
    case 5:
      return body(BitsOf<5>());
    case 6:
      return body(BitsOf<6>());
    case 7:
      return body(BitsOf<7>());
    case 8:
      return body(BitsOf<8>());
    default:
      return kCudaInvalidValue;
  }
}

template <class Args>
bool IsVector(const Args& args) {
  return IsAligned(args.codes, sizeof(Words)) && args.cols % 16 == 0;
}

template <class Args>
bool IsPackShape(const Args& args) {
  return args.rows >= 0 && args.cols >= 0 && args.bits >= 1 && args.bits <= 8;
}

template <bool kColumns, class Args>
int Pack(const Args& args, cudaStream_t stream) {
  if (!IsPackShape(args)) return kCudaInvalidValue;
  if (args.rows == 0 || args.cols == 0) return 0;
  if (!IsPointer(args.codes) || !IsPointer(args.words)) {
    return kCudaInvalidValue;
  }
  return WithBits(args.bits, [&](auto bits) {
    const PackParams<decltype(bits)::kValue, kColumns> params = {
        args.codes, args.words, args.rows, args.cols,
        !kColumns && IsVector(args)};
    const LaunchShape shape =
        ShapeFor(kColumns ? CeilDiv(args.rows, kUnit) * args.cols
                          : CeilDiv(args.cols, kUnit) * args.rows);
    return QS_LAUNCH(PackKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

template <bool kColumns, class Args>
int Unpack(const Args& args, cudaStream_t stream) {
  if (!IsPackShape(args)) return kCudaInvalidValue;
  if (args.rows == 0 || args.cols == 0) return 0;
  if (!IsPointer(args.codes) || !IsPointer(args.words)) {
    return kCudaInvalidValue;
  }
  return WithBits(args.bits, [&](auto bits) {
    const UnpackParams<decltype(bits)::kValue, kColumns> params = {
        args.words, args.codes, args.rows, args.cols,
        !kColumns && IsVector(args)};
    const LaunchShape shape =
        ShapeFor(kColumns ? CeilDiv(args.rows, kUnit) * args.cols
                          : CeilDiv(args.cols, kUnit) * args.rows);
    return QS_LAUNCH(UnpackKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

}  // namespace

int LaunchPackRows(const PackRowsArgs& args, cudaStream_t stream) {
  return Pack<false>(args, stream);
}
int LaunchUnpackRows(const UnpackRowsArgs& args, cudaStream_t stream) {
  return Unpack<false>(args, stream);
}
int LaunchPackColumns(const PackColumnsArgs& args, cudaStream_t stream) {
  return Pack<true>(args, stream);
}
int LaunchUnpackColumns(const UnpackColumnsArgs& args, cudaStream_t stream) {
  return Unpack<true>(args, stream);
}

}  // namespace qs::cuda
