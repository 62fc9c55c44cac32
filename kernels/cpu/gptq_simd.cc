// The loops of GPTQ over positions, one text for every instruction set.
// Tested by tests/kernels/gptq_differential_test.cc.
#include "kernels/cpu/gptq_simd.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/checked_math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gptq_simd.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qs::gptq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qs::HWY_NAMESPACE;

// Columns of a panel and vectors of rows that are summed up in registers.
#if HWY_TARGET <= HWY_AVX3
constexpr int64_t kStepColumns = 8;
#else
constexpr int64_t kStepColumns = 4;
#endif
constexpr int64_t kStepVectors = 2;
constexpr int64_t kStepRows = kStepVectors * kLanes;

// Floats of a cache line.
constexpr int64_t kLine = 16;

// One panel.
HWY_INLINE void AddPanel(const float* HWY_RESTRICT d,
                         const float* HWY_RESTRICT panel, int64_t depth,
                         float* HWY_RESTRICT p) {
  for (int64_t r = 0; r < kRowGroup; r += kStepRows) {
    for (int64_t c0 = 0; c0 < kPanel; c0 += kStepColumns) {
      float* const out = p + c0 * kRowGroup + r;
      VF sums[kStepColumns][kStepVectors];
      for (int64_t c = 0; c < kStepColumns; ++c) {
        for (int64_t v = 0; v < kStepVectors; ++v) {
          sums[c][v] = hn::LoadU(DF(), out + c * kRowGroup + v * kLanes);
        }
      }
      const float* m = panel + c0;
      const float* x = d + r;
      for (int64_t k = 0; k < depth; ++k, m += kPanel, x += kRowGroup) {
        const VF x0 = hn::LoadU(DF(), x);
        const VF x1 = hn::LoadU(DF(), x + kLanes);
        for (int64_t c = 0; c < kStepColumns; ++c) {
          const VF factor = hn::Set(DF(), m[c]);
          sums[c][0] = hn::MulAdd(x0, factor, sums[c][0]);
          sums[c][1] = hn::MulAdd(x1, factor, sums[c][1]);
        }
      }
      for (int64_t c = 0; c < kStepColumns; ++c) {
        for (int64_t v = 0; v < kStepVectors; ++v) {
          hn::StoreU(sums[c][v], DF(), out + c * kRowGroup + v * kLanes);
        }
      }
    }
  }
}

void AddProduct(const float* d, const float* panels, int64_t panel_rows,
                int64_t depth, int64_t num_panels, float* p,
                const float* next = nullptr) {
  const int64_t share = CeilDiv(depth * kRowGroup, num_panels);
  for (int64_t j = 0; j < num_panels; ++j) {
    // Into the second cache: the first has no room on every machine.
    for (int64_t i = 0; next != nullptr && i < share; i += kLine) {
      __builtin_prefetch(next + j * share + i, 0, 2);
    }
    AddPanel(d, panels + j * panel_rows * kPanel, depth,
             p + j * kPanel * kRowGroup);
  }
}

// p[j] += d * R[i, j] for the columns j of [begin, end).
HWY_INLINE void SpreadColumn(const float* HWY_RESTRICT d, const float* panels,
                             int64_t panel_rows, int64_t i, int64_t begin,
                             int64_t end, float* HWY_RESTRICT p) {
  for (int64_t r = 0; r < kRowGroup; r += kLanes) {
    const VF x = hn::LoadU(DF(), d + r);
    for (int64_t j = begin; j < end; ++j) {
      const float m =
          panels[(j / kPanel * panel_rows + i) * kPanel + j % kPanel];
      float* const out = p + j * kRowGroup + r;
      hn::StoreU(hn::MulAdd(x, hn::Set(DF(), m), hn::LoadU(DF(), out)), DF(),
                 out);
    }
  }
}

// Two panels are solved column by column; what they add to the later ones
// follows in one product.
constexpr int64_t kSerial = 2 * kPanel;

// Calls column(i) for i in [0, count): it sets d_at(i), which is then spread.
template <class DAt, class Column>
HWY_INLINE void ForColumns(const float* panels, int64_t panel_rows,
                           int64_t count, float* p, const DAt& d_at,
                           const Column& column) {
  for (int64_t b = 0; b < count; b += kSerial) {
    const int64_t end = std::min(b + kSerial, count);
    for (int64_t i = b; i < end; ++i) {
      column(i);
      SpreadColumn(d_at(i), panels, panel_rows, i, i + 1, end, p);
    }
    if (end >= count) return;
    const int64_t next = end / kPanel;
    AddProduct(d_at(b), panels + (next * panel_rows + b) * kPanel, panel_rows,
               kSerial, CeilDiv(count, kPanel) - next, p + end * kRowGroup);
  }
}

template <class T>
void SolveBlockTyped(const BlockArgs& args) {
  const hn::Rebind<uint8_t, DI> d8;
  const VF low = hn::Zero(DF());
  const VF high = hn::Set(DF(), args.max_code);
  alignas(64) float loss[kRowGroup] = {};
  const auto d_at = [&](int64_t i) {
    return args.wd + (args.begin + i) * kRowGroup;
  };
  ForColumns(
      args.panels, args.panel_rows, args.end - args.begin, args.p, d_at,
      [&](int64_t i) HWY_ATTR {
        const int64_t position = args.begin + i;
        const int64_t group = args.group_at[position] * kRowGroup;
        uint8_t* const codes =
            args.codes + args.column_at[position] * kRowGroup;
        float* const wd = d_at(i);
        const VF diagonal = hn::Set(DF(), args.diagonal[position]);
        for (int64_t r = 0; r < kRowGroup; r += kLanes) {
          const VF scale = hn::LoadU(DF(), args.scales + group + r);
          const VF zero = hn::LoadU(DF(), args.zero_points + group + r);
          const VF weight = hn::LoadU(DF(), wd + r);
          const VF sum = hn::LoadU(DF(), args.p + i * kRowGroup + r);
          const VF w = hn::Add(weight, hn::Div(sum, diagonal));
          const VF code = hn::Min(
              hn::Max(hn::Add(hn::Round(hn::Div(w, scale)), zero), low), high);
          const VF q = RoundVector<T>(hn::Mul(hn::Sub(code, zero), scale));
          const VF e = hn::Mul(hn::Sub(w, q), diagonal);
          hn::StoreU(hn::Sub(weight, q), DF(), wd + r);
          hn::StoreU(hn::MulAdd(e, e, hn::LoadU(DF(), loss + r)), DF(),
                     loss + r);
          hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(DI(), code)), d8,
                     codes + r);
        }
      });
  for (int64_t r = 0; r < kRowGroup; ++r) {
    args.loss[r] += static_cast<double>(loss[r]);
  }
}

void SolveBlock(const BlockArgs& args) {
  WithType(args.decoded_dtype, [&]<class T>(T*) { SolveBlockTyped<T>(args); });
}

void SolveUpper(const float* panels, int64_t panel_rows, const float* diagonal,
                int64_t count, float* p) {
  const auto d_at = [&](int64_t i) { return p + i * kRowGroup; };
  ForColumns(panels, panel_rows, count, p, d_at, [&](int64_t i) HWY_ATTR {
    const VF divisor = hn::Set(DF(), -diagonal[i]);
    for (int64_t r = 0; r < kRowGroup; r += kLanes) {
      float* const x = p + i * kRowGroup + r;
      hn::StoreU(hn::Div(hn::LoadU(DF(), x), divisor), DF(), x);
    }
  });
}

// Rows [k, k + count) of PackPanels, panel by panel: as the panels are whole
// pages apart, one row at a time would push their lines out of the first cache
// half filled.
HWY_INLINE void PackRows(const float* from, int64_t stride, int64_t k,
                         int64_t count, int64_t rows, int64_t cols,
                         float* panels) {
  const hn::CappedTag<float, 8> d8;
  const auto n = static_cast<int64_t>(hn::Lanes(d8));
  const int64_t whole = cols / kPanel;
  for (int64_t j = 0; j < whole; ++j) {
    float* to = panels + (j * rows + k) * kPanel;
    for (int64_t r = 0; r < count; ++r, to += kPanel) {
      for (int64_t i = 0; i < kPanel; i += n) {
        hn::StoreU(hn::LoadU(d8, from + r * stride + j * kPanel + i), d8,
                   to + i);
      }
    }
  }
  if (whole * kPanel == cols) return;
  float* to = panels + (whole * rows + k) * kPanel;
  for (int64_t r = 0; r < count; ++r, to += kPanel) {
    std::fill_n(to, kPanel, 0.0f);
    std::copy_n(from + r * stride + whole * kPanel, cols - whole * kPanel, to);
  }
}

void PackPanels(const float* m, int64_t stride, int64_t row, int64_t rows,
                int64_t col, int64_t cols, float* panels) {
  constexpr int64_t kRows = 4;
  for (int64_t k = 0; k < rows; k += kRows) {
    PackRows(m + (row + k) * stride + col, stride, k, std::min(kRows, rows - k),
             rows, cols, panels);
  }
}

void AddDots(const float* d, const float* p, int64_t cols, double factor,
             double* sums) {
  alignas(64) float part[kRowGroup];
  for (int64_t r = 0; r < kRowGroup; r += kLanes) {
    VF sum = hn::Zero(DF());
    for (int64_t c = 0; c < cols; ++c) {
      sum = hn::MulAdd(hn::LoadU(DF(), d + c * kRowGroup + r),
                       hn::LoadU(DF(), p + c * kRowGroup + r), sum);
    }
    hn::StoreU(sum, DF(), part + r);
  }
  for (int64_t r = 0; r < kRowGroup; ++r) {
    sums[r] += factor * static_cast<double>(part[r]);
  }
}

template <class T>
void LoadTyped(const TensorView& view, int64_t first, int64_t rows,
               const int32_t* position_of, float* out) {
  const T* const data = static_cast<const T*>(view.data);
  // So many columns that each line of the rows, which push each other out of
  // the first cache, is read once, and theirs in `out` stay there.
  constexpr int64_t kColumns = 64;
  for (int64_t c = 0; c < view.cols; c += kColumns) {
    const int64_t count = std::min(kColumns, view.cols - c);
    for (int64_t r = 0; r < kRowGroup; ++r) {
      alignas(64) float values[kColumns] = {};
      for (int64_t i = 0; r < rows && i < count; i += 16) {
        ForVectors(data + (first + r) * view.cols + c + i,
                   std::min<int64_t>(16, count - i),
                   [&](int64_t part, VF x) HWY_ATTR {
                     hn::StoreU(x, DF(), values + i + part * kLanes);
                   });
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = position_of == nullptr ? c + i : position_of[c + i];
        out[at * kRowGroup + r] = values[i];
      }
    }
  }
}

void LoadRowGroup(const TensorView& view, int64_t first, int64_t rows,
                  const int32_t* position_of, float* out) {
  WithType(view.dtype, [&]<class T>(T*) {
    LoadTyped<T>(view, first, rows, position_of, out);
  });
}

int64_t FindNonFinite(const TensorView& view, int64_t begin, int64_t end) {
  return WithType(view.dtype, [&]<class T>(T*) -> int64_t {
    const T* const data = static_cast<const T*>(view.data);
    if (std::isfinite(MaxAbs(data + begin, end - begin))) return -1;
    int64_t i = begin;
    while (std::isfinite(LoadOne<T>(data, i))) ++i;
    return i;
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace qs::gptq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qs::gptq {

HWY_EXPORT(AddDots);
HWY_EXPORT(LoadRowGroup);
HWY_EXPORT(FindNonFinite);
HWY_EXPORT(PackPanels);
HWY_EXPORT(AddProduct);
HWY_EXPORT(SolveBlock);
HWY_EXPORT(SolveUpper);

void AddDots(const float* d, const float* p, int64_t cols, double factor,
             double* sums) {
  HWY_DYNAMIC_DISPATCH(AddDots)(d, p, cols, factor, sums);
}

void LoadRowGroup(const TensorView& view, int64_t first, int64_t rows,
                  const int32_t* position_of, float* out) {
  HWY_DYNAMIC_DISPATCH(LoadRowGroup)(view, first, rows, position_of, out);
}

int64_t FindNonFinite(const TensorView& view, int64_t begin, int64_t end) {
  return HWY_DYNAMIC_DISPATCH(FindNonFinite)(view, begin, end);
}

void PackPanels(const float* m, int64_t stride, int64_t row, int64_t rows,
                int64_t col, int64_t cols, float* panels) {
  HWY_DYNAMIC_DISPATCH(PackPanels)(m, stride, row, rows, col, cols, panels);
}

void AddProduct(const float* d, const float* panels, int64_t panel_rows,
                int64_t depth, int64_t num_panels, float* p,
                const float* next) {
  HWY_DYNAMIC_DISPATCH(AddProduct)
  (d, panels, panel_rows, depth, num_panels, p, next);
}

void SolveBlock(const BlockArgs& args) {
  HWY_DYNAMIC_DISPATCH(SolveBlock)(args);
}

void SolveUpper(const float* panels, int64_t panel_rows, const float* diagonal,
                int64_t count, float* p) {
  HWY_DYNAMIC_DISPATCH(SolveUpper)(panels, panel_rows, diagonal, count, p);
}

}  // namespace qs::gptq
#endif  // HWY_ONCE
