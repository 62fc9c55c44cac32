// What HQQ's two quantizers share: how a tensor is cut, one call of the solver,
// the measuring of what it gave. Used by hqq_quantizer.cc and its two files.
#ifndef QS_QUANT_HQQ_BASE_H_
#define QS_QUANT_HQQ_BASE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/status_macros.h"
#include "quant/quantizer_base.h"

namespace qs::hqq {

// In elements of the flat run.
struct Cut {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t slice = 0;  // whole groups; compressed-tensors: whole row units
  int64_t tile = 0;   // whole slices, or everything
  bool whole = false;

  int64_t elements() const { return rows * cols; }
  int64_t groups() const { return elements() / group_size; }
  int64_t tile_elements() const { return std::min(tile, elements()); }
  int64_t slice_elements() const { return std::min(slice, elements()); }
};

// Rows of codes with integer zero points, else hqq's own format.
bool IsGrid(const QuantSpec& spec);
// `large`: QuantizeOptions::large_tiles.
Cut MakeCut(const QuantSpec& spec, const TensorInfo& info, bool large);
// What EncodeTile holds: results of what is encoded at once (a slice, or the
// whole tensor; hqq's own format keeps them) and the measuring of a slice.
int64_t ScratchBytes(const QuantSpec& spec, const Cut& cut, DType dtype);

class QuantizerOfGroups : public QuantizerBase {
 protected:
  QuantizerOfGroups(const QuantSpec& spec, TensorInfo info,
                    const QuantizeOptions& options, const Cut& cut);

  // Some encoded groups, in the flat order of the weight.
  struct Slice {
    int64_t begin = 0;
    int64_t count = 0;
    TensorView weight;
    uint8_t* codes = nullptr;
    uint8_t* scales = nullptr;
    uint8_t* zeros = nullptr;        // hqq
    uint8_t* zero_points = nullptr;  // compressed-tensors
  };
  // What measuring a slice needs.
  struct Measuring {
    uint8_t* weight = nullptr;  // gathered groups of axis 0
    uint8_t* codes = nullptr;   // of those
    uint8_t* decoded = nullptr;
    float* steps = nullptr;
    double* group_errors = nullptr;
  };
  Measuring TakeMeasuring(Scratch* scratch) const;

  // Codes, scales and zeros of `slice`; adds to the tile's facts.
  absl::Status Encode(const Slice& slice, int64_t tile, Backend& backend);
  // Measures groups that lie one after the other.
  absl::Status Measure(int64_t tile, int64_t first_group,
                       const TensorView& weight, const TensorView& decoded,
                       const uint8_t* scales, const Measuring& m,
                       Backend& backend);

  // The input and the facts. Errors: RESOURCE_EXHAUSTED.
  absl::Status AllocateBooks();
  void AddToReport(TensorReport* report) const override;

  // Calls body(begin, end) for the slices of [begin, end).
  template <typename Body>
  absl::Status ForSlices(int64_t begin, int64_t end, const Body& body) const {
    for (int64_t at = begin; at < end; at += cut_.slice) {
      QS_RETURN_IF_ERROR(CheckCancelled());
      QS_RETURN_IF_ERROR(body(at, std::min(end, at + cut_.slice)));
    }
    return absl::OkStatus();
  }

  const Cut& cut() const { return cut_; }
  const HqqSpec& hqq() const { return hqq_; }
  int64_t element() const { return DTypeBytes(info().dtype); }

 private:
  const HqqSpec hqq_;
  const Cut cut_;
  std::vector<HqqFacts> facts_;  // one a tile
};

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewGridQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);
absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewDictQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);

}  // namespace qs::hqq

#endif  // QS_QUANT_HQQ_BASE_H_
