// hqq's packings, one text for every instruction set.
// Tested by tests/kernels/pack_layouts_test.cc.
//
// Parts are runs of codes, and an element takes one code of each, so packing is
// loads of as many runs side by side.
#include <algorithm>
#include <type_traits>

#include "kernels/cpu/pack_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pack_parts_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace qs::affine {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements of up to 64 bytes together, and as many codes.
template <int kBits>
using Element = std::conditional_t<kBits == 3, uint32_t, uint8_t>;
template <int kBits>
using Elements = hn::CappedTag<Element<kBits>, 64 / sizeof(Element<kBits>)>;

template <int kBits>
HWY_INLINE auto LoadCodes(const uint8_t* codes) {
  const Elements<kBits> d;
  const auto mask = hn::Set(d, (1u << kBits) - 1);
  if constexpr (kBits == 3) {
    const hn::Rebind<uint8_t, decltype(d)> d8;
    return hn::And(hn::PromoteTo(d, hn::LoadU(d8, codes)), mask);
  } else {
    return hn::And(hn::LoadU(d, codes), mask);
  }
}

template <int kBits, class V>
HWY_INLINE void StoreCodes(V element, uint8_t* codes) {
  const Elements<kBits> d;
  const auto code = hn::And(element, hn::Set(d, (1u << kBits) - 1));
  if constexpr (kBits == 3) {
    const hn::Rebind<uint8_t, decltype(d)> d8;
    hn::StoreU(hn::TruncateTo(d8, code), d8, codes);
  } else {
    hn::StoreU(code, d, codes);
  }
}

// Of elements [begin, end), of which `parts` have codes.
template <int kBits>
void PackRun(const PackPartsArgs& args, int64_t parts, int64_t begin,
             int64_t end) {
  constexpr auto kParts = static_cast<int>(PackedParts(kBits));
  const Elements<kBits> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto* packed = static_cast<Element<kBits>*>(args.packed);
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    auto element = hn::Zero(d);
    for (int j = 0; j < kParts; ++j) {
      element = hn::ShiftLeft<kBits>(element);
      if (j >= parts) continue;
      element =
          hn::Or(element, LoadCodes<kBits>(args.codes + i + j * args.part));
    }
    hn::StoreU(element, d, packed + i);
  }
  for (; i < end; ++i) {
    uint32_t element = 0;
    for (int j = 0; j < kParts; ++j) {
      element <<= kBits;
      if (j >= parts) continue;
      element |= args.codes[i + j * args.part] & ((1u << kBits) - 1);
    }
    packed[i] = static_cast<Element<kBits>>(element);
  }
}

template <int kBits>
void UnpackRun(const UnpackPartsArgs& args, int64_t parts, int64_t begin,
               int64_t end) {
  constexpr auto kParts = static_cast<int>(PackedParts(kBits));
  const Elements<kBits> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto* packed = static_cast<const Element<kBits>*>(args.packed);
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) {
    auto element = hn::LoadU(d, packed + i);
    for (int j = kParts - 1; j >= 0; --j) {  // the lowest first
      if (j < parts) {
        StoreCodes<kBits>(element, args.codes + i + j * args.part);
      }
      element = hn::ShiftRight<kBits>(element);
    }
  }
  for (; i < end; ++i) {
    uint32_t element = packed[i];
    for (int j = kParts - 1; j >= 0; --j, element >>= kBits) {
      if (j >= parts) continue;
      args.codes[i + j * args.part] =
          static_cast<uint8_t>(element & ((1u << kBits) - 1));
    }
  }
}

template <class Run>
HWY_INLINE void WithBits(int bits, const Run& run) {
  switch (bits) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    default:
      return run(std::integral_constant<int, 4>());
  }
}

// Calls run(parts, begin, end) for the elements of [begin, end) that have a
// code of the last, shorter part, and for those that have none.
template <class Args, class Run>
HWY_INLINE void ByParts(const Args& args, int64_t begin, int64_t end,
                        const Run& run) {
  const int64_t whole = args.count / args.part;
  const int64_t split = std::clamp(args.count - whole * args.part, begin, end);
  if (begin < split) run(whole + 1, begin, split);
  if (split < end) run(whole, split, end);
}

// With 8 bits codes are elements.
int64_t CodesIn(int64_t count, int64_t begin, int64_t end) {
  return std::clamp(count, begin, end) - begin;
}

void PackPartsRange(const PackPartsArgs& args, int64_t begin, int64_t end) {
  if (args.bits == 8) {
    auto* packed = static_cast<uint8_t*>(args.packed) + begin;
    const int64_t there = CodesIn(args.count, begin, end);
    std::copy_n(args.codes + begin, there, packed);
    std::fill_n(packed + there, end - begin - there, uint8_t{0});
    return;
  }
  ByParts(args, begin, end, [&](int64_t parts, int64_t from, int64_t to) {
    WithBits(args.bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
      PackRun<kBits>(args, parts, from, to);
    });
  });
}

void UnpackPartsRange(const UnpackPartsArgs& args, int64_t begin, int64_t end) {
  if (args.bits == 8) {
    std::copy_n(static_cast<const uint8_t*>(args.packed) + begin,
                CodesIn(args.count, begin, end), args.codes + begin);
    return;
  }
  ByParts(args, begin, end, [&](int64_t parts, int64_t from, int64_t to) {
    WithBits(args.bits, [&]<int kBits>(std::integral_constant<int, kBits>) {
      UnpackRun<kBits>(args, parts, from, to);
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::affine
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::affine {

HWY_EXPORT(PackPartsRange);
HWY_EXPORT(UnpackPartsRange);

void PackPartsRange(const PackPartsArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(PackPartsRange)(args, begin, end);
}

void UnpackPartsRange(const UnpackPartsArgs& args, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(UnpackPartsRange)(args, begin, end);
}

}  // namespace qs::affine
#endif  // HWY_ONCE
