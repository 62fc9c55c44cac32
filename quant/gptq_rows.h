// GptqRows: the operations of GPTQ on some rows of a weight, with everything
// that the tensor's spec and site say filled in. Used by GptqTile and
// FindGptqStarts.
// Thread: distinct objects on distinct codes may run at once.
#ifndef QS_QUANT_GPTQ_ROWS_H_
#define QS_QUANT_GPTQ_ROWS_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "quant/formats/grid_writer.h"
#include "quant/gptq_factor.h"
#include "quant/gptq_layout.h"

namespace qs {

// What the tiles of a tensor share. Must outlive them.
struct GptqContext {
  GptqSpec gptq;
  bool best = true;
  bool measures = true;  // output errors are wanted even without `best`
  DType dtype = DType::kBF16;
  GptqLayout layout;
  StoredScale stored;
  // INVALID_ARGUMENT for the element of that flat index.
  std::function<absl::Status(int64_t)> non_finite;
  PanelCheck checkpoint;

  // Whether groups are not runs of stored columns in that order.
  bool ordered() const {
    return gptq.order == ColumnOrder::kActOrder ||
           gptq.order == ColumnOrder::kGroupAware;
  }
  // Whether ranges are of the weights as the loop finds them.
  bool dynamic() const { return gptq.order != ColumnOrder::kActOrderStatic; }
  GptqGrid Grid() const;
};

// Codes and grids of some rows.
struct GptqCodes {
  uint8_t* codes = nullptr;        // [rows, cols]
  uint8_t* scales = nullptr;       // [rows, groups], as stored
  uint8_t* zero_points = nullptr;  // [rows, groups]; null when symmetric
};

class GptqRows {
 public:
  // `hessian`: second moment of what the columns of `weight` read, `factor` its
  // factor. All must outlive it.
  GptqRows(const GptqContext& context, const GptqFactor& factor,
           const float* hessian, TensorView weight, int64_t first_row)
      : c_(context),
        factor_(factor),
        hessian_(hessian),
        weight_(weight),
        first_row_(first_row) {}

  const GptqContext& context() const { return c_; }
  int64_t rows() const { return weight_.rows; }
  int64_t grids() const { return rows() * c_.layout.groups; }

  // The loop, with ranges as the spec says or kGiven. `row_loss`, its own error
  // of each row, may be null.
  absl::Status Solve(bool given, const GptqCodes& to, double* row_loss,
                     Backend& backend) const;
  // `row_error`: of each row, undamped; may be null.
  absl::Status Refine(const GptqCodes& codes, double* row_error,
                      Backend& backend) const;
  // Round to nearest of `weight`: kMinMax finds grids, kGiven takes them.
  absl::Status Round(const TensorView& weight, GptqRange range,
                     const GptqCodes& to, Backend& backend) const;
  // To the tensor's dtype. `by_order`: groups may be those of the order.
  absl::Status Decode(const GptqCodes& codes, bool by_order, uint8_t* to,
                      Backend& backend) const;
  absl::Status Errors(const TensorView& decoded, double* error, double* signal,
                      Backend& backend) const;

  void TakeRow(const GptqCodes& from, int64_t row, const GptqCodes& to) const;
  void CopyGrids(const GptqCodes& from, const GptqCodes& to) const;

 private:
  GptqRange Range() const;

  const GptqContext& c_;
  const GptqFactor& factor_;
  const float* const hessian_;
  const TensorView weight_;
  const int64_t first_row_;
};

// Scales of BEST beside those that the range search finds: solves again with
// others and takes, row by row, what lost least. `error`: the loop's error of
// each row of `best`, which it keeps up to date. `trial`, `start` and
// `trial_error`: memory like that of `best` and `error`.
absl::Status FindGptqStarts(const GptqRows& rows, const GptqCodes& best,
                            double* error, const GptqCodes& trial,
                            double* trial_error, const GptqCodes& start,
                            Backend& backend);

}  // namespace qs

#endif  // QS_QUANT_GPTQ_ROWS_H_
