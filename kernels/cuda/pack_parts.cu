// Codes packed as hqq packs them, in parts, and back. Layout:
// kernels/affine_ops.h; definition: kernels/reference/pack_reference.cc, whose
// bytes these give.
//
// A thread makes 16 bytes of the packed elements of as many neighbouring codes
// of each part: sixteen bytes, or four words with 3 bits. Where parts or the
// caller's pointers are not aligned for that, one element.
// Limits: 8, 4, 3, 2 or 1 bits.
// Tested by tests/kernels/pack_cuda_test.cc.
#include <cstdint>
#include <type_traits>

#include "kernels/affine_ops.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

template <int kBitsValue>
struct Layout {
  static constexpr int kBits = kBitsValue;
  static constexpr int kParts = static_cast<int>(PackedParts(kBits));
  static constexpr bool kBytes = PackedPartBytes(kBits) == 1;
  using Element = std::conditional_t<kBytes, uint8_t, uint32_t>;
  // Elements of a thread, and its codes of a part.
  static constexpr int kUnit = sizeof(Words) / sizeof(Element);
  // Of one code, and of all that a register holds.
  static constexpr uint32_t kMask = (1u << kBits) - 1u;
  static constexpr uint32_t kMasks = kBytes ? kMask * 0x01010101u : kMask;
};

template <class LayoutType>
struct PackPartsParams : LayoutType {
  const uint8_t* codes;
  typename LayoutType::Element* packed;
  int64_t count;
  int64_t part;
  bool vectors;  // whole units
};

template <class LayoutType>
struct UnpackPartsParams : LayoutType {
  const typename LayoutType::Element* packed;
  uint8_t* codes;
  int64_t count;
  int64_t part;
  bool vectors;
};

// A unit's codes of a part, where they are in elements, in the lowest bits.
template <class Params, class Global>
QS_KERNEL Words LoadCodes(const Global& codes, int64_t at) {
  Words unit;
  if constexpr (Params::kBytes) {
    unit = codes.template GetVector<Words>(at);
    QS_UNROLL
    for (int k = 0; k < 4; ++k) unit.w[k] &= Params::kMasks;
  } else {
    const auto four = codes.template GetVector<uint32_t>(at);
    QS_UNROLL
    for (int k = 0; k < 4; ++k) unit.w[k] = four >> (8 * k) & Params::kMask;
  }
  return unit;
}

// Of elements that are shifted as far; other bits are not looked at.
template <class Params, class Global>
QS_KERNEL void StoreCodes(const Global& codes, int64_t at, Words unit) {
  uint32_t four = 0;
  QS_UNROLL
  for (int k = 0; k < 4; ++k) {
    unit.w[k] &= Params::kMasks;
    four |= unit.w[k] << (8 * k);
  }
  if constexpr (Params::kBytes) {
    codes.SetVector(at, unit);
  } else {
    codes.SetVector(at, four);
  }
}

template <class Thread, class Params>
QS_KERNEL void PackPartsKernel(Thread& t, NoShared&, const Params& a) {
  const auto codes = t.Global(a.codes, a.count);
  const auto packed = t.Global(a.packed, a.part);
  const int64_t unit = a.vectors ? Params::kUnit : 1;
  const int64_t stride = t.GridSize() * t.BlockSize() * unit;
  for (int64_t i = (t.BlockIndex() * t.BlockSize() + t.ThreadIndex()) * unit;
       i < a.part; i += stride) {
    if (a.vectors) {
      Words elements = {};
      QS_UNROLL
      for (int j = 0; j < Params::kParts; ++j) {
        const int64_t at = i + j * a.part;
        Words part = {};
        if (at < a.count) part = LoadCodes<Params>(codes, at);
        QS_UNROLL
        for (int k = 0; k < 4; ++k) {
          elements.w[k] = elements.w[k] << Params::kBits | part.w[k];
        }
      }
      packed.SetVector(i, elements);
      continue;
    }
    uint32_t element = 0;
    QS_UNROLL
    for (int j = 0; j < Params::kParts; ++j) {
      const int64_t at = i + j * a.part;
      element <<= Params::kBits;
      if (at < a.count) element |= codes.Get(at) & Params::kMask;
    }
    packed.Set(i, element);
  }
}

template <class Thread, class Params>
QS_KERNEL void UnpackPartsKernel(Thread& t, NoShared&, const Params& a) {
  const auto packed = t.Global(a.packed, a.part);
  const auto codes = t.Global(a.codes, a.count);
  const int64_t unit = a.vectors ? Params::kUnit : 1;
  const int64_t stride = t.GridSize() * t.BlockSize() * unit;
  for (int64_t i = (t.BlockIndex() * t.BlockSize() + t.ThreadIndex()) * unit;
       i < a.part; i += stride) {
    if (a.vectors) {
      const auto elements = packed.template GetVector<Words>(i);
      QS_UNROLL
      for (int j = 0; j < Params::kParts; ++j) {
        const int64_t at = i + j * a.part;
        if (at >= a.count) continue;
        Words shifted;
        QS_UNROLL
        for (int k = 0; k < 4; ++k) {
          shifted.w[k] =
              elements.w[k] >> (Params::kBits * (Params::kParts - 1 - j));
        }
        StoreCodes<Params>(codes, at, shifted);
      }
      continue;
    }
    const uint32_t element = packed.Get(i);
    QS_UNROLL
    for (int j = 0; j < Params::kParts; ++j) {
      const int64_t at = i + j * a.part;
      if (at >= a.count) continue;
      codes.Set(at, element >> (Params::kBits * (Params::kParts - 1 - j)) &
                        Params::kMask);
    }
  }
}

QS_DEFINE_ENTRY(PackPartsKernel, NoShared)
QS_DEFINE_ENTRY(UnpackPartsKernel, NoShared)

// Calls `body` with the layout of codes of `bits`.
template <class Body>
int WithLayout(int bits, const Body& body) {
  switch (bits) {
    case 1:
      return body(Layout<1>());
    case 2:
      return body(Layout<2>());
    case 3:
      return body(Layout<3>());
    case 4:
      return body(Layout<4>());
    case 8:
      return body(Layout<8>());
    default:
      return kCudaInvalidValue;
  }
}

template <class Args>
bool IsServable(const Args& args) {
  return args.part >= 0 && args.count >= 0 && PackedParts(args.bits) > 0 &&
         CeilDiv(args.count, PackedParts(args.bits)) <= args.part;
}

// Whether every unit is whole, there or missing as a whole, and aligned.
template <class LayoutType, class Args>
bool IsVector(const Args& args) {
  constexpr int kUnit = LayoutType::kUnit;
  return args.part % kUnit == 0 && args.count % kUnit == 0 &&
         IsAligned(args.codes, kUnit) && IsAligned(args.packed, sizeof(Words));
}

// Threads of a launch.
template <class LayoutType, class Args>
LaunchShape ShapeOf(const Args& args) {
  return ShapeFor(IsVector<LayoutType>(args) ? args.part / LayoutType::kUnit
                                             : args.part);
}

}  // namespace

int LaunchPackParts(const PackPartsArgs& args, cudaStream_t stream) {
  if (!IsServable(args)) return kCudaInvalidValue;
  if (args.part == 0) return 0;
  return WithLayout(args.bits, [&](auto layout) {
    using Of = decltype(layout);
    PackPartsParams<Of> params;
    params.codes = args.codes;
    params.packed = static_cast<typename Of::Element*>(args.packed);
    params.count = args.count;
    params.part = args.part;
    params.vectors = IsVector<Of>(args);
    if ((args.count > 0 && !IsPointer(params.codes)) ||
        !IsPointer(params.packed)) {
      return kCudaInvalidValue;
    }
    const LaunchShape shape = ShapeOf<Of>(args);
    return QS_LAUNCH(PackPartsKernel, NoShared, params, shape.grid, shape.block,
                     stream);
  });
}

int LaunchUnpackParts(const UnpackPartsArgs& args, cudaStream_t stream) {
  if (!IsServable(args)) return kCudaInvalidValue;
  if (args.count == 0) return 0;
  return WithLayout(args.bits, [&](auto layout) {
    using Of = decltype(layout);
    UnpackPartsParams<Of> params;
    params.packed = static_cast<const typename Of::Element*>(args.packed);
    params.codes = args.codes;
    params.count = args.count;
    params.part = args.part;
    params.vectors = IsVector<Of>(args);
    if (!IsPointer(params.packed) || !IsPointer(params.codes)) {
      return kCudaInvalidValue;
    }
    const LaunchShape shape = ShapeOf<Of>(args);
    return QS_LAUNCH(UnpackPartsKernel, NoShared, params, shape.grid,
                     shape.block, stream);
  });
}

}  // namespace qs::cuda
