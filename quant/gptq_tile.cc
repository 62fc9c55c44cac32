// Tested by tests/quant/gptq_quantizer_test.cc and
// tests/quant/gptq_scaling_test.cc.
#include "quant/gptq_tile.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/base/status_macros.h"
#include "quant/awq_transform.h"

namespace qs {
namespace {

constexpr int64_t kF32 = sizeof(float);
constexpr int64_t kF64 = sizeof(double);

}  // namespace

int64_t GptqTile::ScratchBytes(const GptqContext& c, bool scaled) {
  const int64_t rows = c.layout.most_rows();
  const int64_t n = rows * c.layout.cols;
  const int64_t grids = rows * c.layout.groups;
  const auto padded = Scratch::Padded;
  return 2 * padded(n) +
         3 * (padded(grids) + padded(grids * DTypeBytes(c.stored.dtype))) +
         padded(n * DTypeBytes(c.dtype)) + (scaled ? 2 * padded(n * kF32) : 0) +
         4 * padded(rows * kF64) + padded(grids * kF32) + padded(grids * kF64);
}

// Weights as F32 side by side with codes or decoded weights.
int64_t GptqTile::OperationBytes(const GptqLayout& layout) {
  return layout.most_rows() * (layout.cols * 8 + layout.groups * 8 + 4096) +
         (int64_t{1} << 20) + layout.cols * 1024;
}

absl::StatusOr<GptqTile> GptqTile::Create(const GptqContext& context,
                                          const GptqInput& input,
                                          TensorView weight,
                                          int64_t first_row) {
  GptqTile tile(context, input, weight, first_row);
  QS_ASSIGN_OR_RETURN(tile.scratch_,
                      Scratch::Allocate(ScratchBytes(context, tile.scales())));
  tile.TakeArrays();
  tile.solvable_ =
      tile.scales() ? tile.Scaled(weight, tile.scaled_) : tile.weight_;
  return tile;
}

bool GptqTile::scales() const {
  return input_.transform != nullptr && input_.transform->scales();
}

bool GptqTile::refines() const {
  return c_.best && c_.gptq.sweeps > 0 &&
         c_.gptq.order != ColumnOrder::kActOrder;
}

float GptqTile::Divisor(int64_t row) const {
  if (!scales() || input_.transform->row_divisors.empty()) return 1.0f;
  return input_.transform->row_divisors[static_cast<size_t>(first_row_ + row)];
}

GptqRows GptqTile::Rows() const {
  return GptqRows(c_, *input_.factor, input_.hessian, solvable_, first_row_);
}

GptqCodes GptqTile::TakeCodes() {
  const int64_t grids = weight_.rows * c_.layout.groups;
  GptqCodes taken;
  taken.scales = scratch_.Take<uint8_t>(grids * DTypeBytes(c_.stored.dtype));
  if (!c_.gptq.symmetric) taken.zero_points = scratch_.Take<uint8_t>(grids);
  return taken;
}

void GptqTile::TakeArrays() {
  const int64_t n = weight_.num_elements();
  const int64_t grids = weight_.rows * c_.layout.groups;
  start_ = TakeCodes();
  for (GptqCodes* codes : {&solved_, &other_}) {
    *codes = TakeCodes();
    codes->codes = scratch_.Take<uint8_t>(n);
  }
  decoded_ = scratch_.Take<uint8_t>(n * DTypeBytes(c_.dtype));
  for (float** array : {&scaled_, &spare_}) {
    if (scales()) *array = scratch_.Take<float>(n);
  }
  for (double** array : {&error_, &other_error_, &rtn_error_, &signal_}) {
    *array = scratch_.Take<double>(weight_.rows);
  }
  steps_ = scratch_.Take<float>(grids);
  group_errors_ = scratch_.Take<double>(grids);
}

// The transform of weights as they came.
TensorView GptqTile::Scaled(const TensorView& in, float* to) const {
  TransformRows(*input_.transform, in, first_row_, false,
                {to, DType::kF32, in.rows, in.cols});
  return {to, DType::kF32, in.rows, in.cols};
}

absl::Status GptqTile::Run(Backend& backend, PhaseClock& clock,
                           std::span<GptqUnitFacts> facts) {
  const GptqRows rows = Rows();
  clock.Enter(Phase::kEncode);
  QS_RETURN_IF_ERROR(rows.Solve(false, solved_, error_, backend));
  if (c_.best && !c_.dynamic()) {
    clock.Enter(Phase::kRefine);
    QS_RETURN_IF_ERROR(FindGptqStarts(rows, solved_, error_, other_,
                                      other_error_, start_, backend));
  }
  if (refines()) {
    clock.Enter(Phase::kRefine);
    QS_RETURN_IF_ERROR(rows.Refine(solved_, error_, backend));
  }
  if (!c_.best && !c_.measures) return absl::OkStatus();
  return Compare(backend, clock, facts);
}

// Errors of the solution and of rounding, rows exchanged where BEST may, and
// what the report says of both.
absl::Status GptqTile::Compare(Backend& backend, PhaseClock& clock,
                               std::span<GptqUnitFacts> facts) {
  clock.Enter(Phase::kReport);
  QS_RETURN_IF_ERROR(Yardstick(backend));
  if (!refines()) {
    const GptqRows rows = Rows();
    QS_RETURN_IF_ERROR(rows.Decode(solved_, true, decoded_, backend));
    QS_RETURN_IF_ERROR(
        rows.Errors({decoded_, c_.dtype, weight_.rows, weight_.cols}, error_,
                    nullptr, backend));
  }
  if (c_.best && c_.gptq.order != ColumnOrder::kActOrder) {
    clock.Enter(Phase::kRefine);
    QS_RETURN_IF_ERROR(KeepBetterRows(backend));
    clock.Enter(Phase::kReport);
  }
  for (int64_t r = 0; r < weight_.rows; ++r) {
    const double square = static_cast<double>(Divisor(r)) * Divisor(r);
    GptqUnitFacts& unit = FactsOf(r, facts);
    unit.output.error += error_[r] * square;
    unit.output.signal += signal_[r] * square;
    unit.rounded.error += rtn_error_[r] * square;
    unit.rounded.signal += signal_[r] * square;
  }
  return CountChanged(backend, facts);
}

// Round to nearest of the weights as they came. Its codes are in `other_`.
absl::Status GptqTile::Yardstick(Backend& backend) {
  const GptqRows rows = Rows();
  QS_RETURN_IF_ERROR(rows.Round(weight_, GptqRange::kMinMax, other_, backend));
  QS_RETURN_IF_ERROR(rows.Decode(other_, false, decoded_, backend));
  const TensorView decoded = {decoded_, c_.dtype, weight_.rows, weight_.cols};
  return rows.Errors(scales() ? Scaled(decoded, spare_) : decoded, rtn_error_,
                     signal_, backend);
}

bool GptqTile::AnyAboveRounding(int64_t first, int64_t end) const {
  for (int64_t r = first; r < end; ++r) {
    if (rtn_error_[r] < error_[r]) return true;
  }
  return false;
}

// Rows that rounding what was solved serves better take its codes. (Rounding of
// unscaled weights is not to be had of a scaled input; there, rows of units
// that have one above it.)
absl::Status GptqTile::KeepBetterRows(Backend& backend) {
  const GptqRows rows = Rows();
  const double* rounded = rtn_error_;
  if (scales()) {
    if (!AnyAboveRounding(0, weight_.rows)) return absl::OkStatus();
    QS_RETURN_IF_ERROR(
        rows.Round(solvable_, GptqRange::kMinMax, other_, backend));
    QS_RETURN_IF_ERROR(rows.Decode(other_, false, decoded_, backend));
    QS_RETURN_IF_ERROR(
        rows.Errors({decoded_, c_.dtype, weight_.rows, weight_.cols},
                    other_error_, nullptr, backend));
    rounded = other_error_;
  }
  const int64_t unit = c_.layout.unit_rows;
  for (int64_t first = 0; first < weight_.rows; first += unit) {
    const int64_t end = std::min(first + unit, weight_.rows);
    if (!AnyAboveRounding(first, end)) continue;
    for (int64_t r = first; r < end; ++r) {
      if (!(rounded[r] < error_[r])) continue;
      error_[r] = rounded[r];
      rows.TakeRow(other_, r, solved_);
    }
  }
  return absl::OkStatus();
}

// Codes that differ from rounding on the same grids.
absl::Status GptqTile::CountChanged(Backend& backend,
                                    std::span<GptqUnitFacts> facts) {
  const GptqRows rows = Rows();
  const bool by_order = c_.gptq.order == ColumnOrder::kActOrder;
  const std::vector<int32_t>& order = input_.factor->order;
  rows.CopyGrids(solved_, other_);
  QS_RETURN_IF_ERROR(rows.Round(by_order ? InOrder() : solvable_,
                                GptqRange::kGiven, other_, backend));
  const int64_t cols = weight_.cols;
  for (int64_t r = 0; r < weight_.rows; ++r) {
    for (int64_t i = 0; i < cols; ++i) {
      const int64_t column = by_order ? order[static_cast<size_t>(i)] : i;
      FactsOf(r, facts).codes_changed +=
          other_.codes[r * cols + i] != solved_.codes[r * cols + column] ? 1
                                                                         : 0;
    }
  }
  return absl::OkStatus();
}

// What was solved with its columns in the order of the loop, so that groups of
// that order are runs. Lies in memory that Measured uses.
TensorView GptqTile::InOrder() const {
  uint8_t* const to = scales() ? reinterpret_cast<uint8_t*>(spare_) : decoded_;
  const auto* from = static_cast<const uint8_t*>(solvable_.data);
  const int64_t bytes = DTypeBytes(solvable_.dtype);
  const std::vector<int32_t>& order = input_.factor->order;
  for (int64_t r = 0; r < solvable_.rows; ++r) {
    const int64_t row = r * solvable_.cols;
    for (int64_t i = 0; i < solvable_.cols; ++i) {
      std::memcpy(to + (row + i) * bytes,
                  from + (row + order[static_cast<size_t>(i)]) * bytes,
                  static_cast<size_t>(bytes));
    }
  }
  return {to, solvable_.dtype, solvable_.rows, solvable_.cols};
}

absl::StatusOr<MeasuredPiece> GptqTile::Measured(Backend& backend) {
  QS_RETURN_IF_ERROR(Rows().Decode(solved_, true, decoded_, backend));
  MeasuredPiece piece;
  piece.weight = weight_;
  piece.decoded = {decoded_, c_.dtype, weight_.rows, weight_.cols};
  double middle = 1;
  if (scales()) {
    const MutableTensorView restored = {spare_, c_.dtype, weight_.rows,
                                        weight_.cols};
    RestoreRows(*input_.transform, piece.decoded, first_row_, restored);
    piece.decoded = restored;
    middle = GeometricMean(input_.transform->column_scales);
  }
  const int64_t report_group = c_.layout.report_group();
  const int64_t groups = c_.layout.groups;
  const bool stepped = report_group == c_.layout.group_size &&
                       c_.gptq.order != ColumnOrder::kActOrder;
  for (int64_t g = 0; stepped && g < weight_.rows * groups; ++g) {
    const float step = LoadAsFloat(solved_.scales, c_.stored.dtype, g);
    steps_[g] = static_cast<float>(step * Divisor(g / groups) / middle);
  }
  piece.steps = stepped ? steps_ : nullptr;
  piece.first_group = first_row_ * weight_.cols / report_group;
  piece.group_errors = group_errors_;
  return piece;
}

}  // namespace qs
