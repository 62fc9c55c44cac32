// AwqTile: some rows of a weight from what came in to codes on AWQ's grid and
// what they cost. Used by AwqQuantizer only; every tile has its own scratch.
//
//   scaled w[r, k] = weight[r, k] * column_scales[k] / row_divisors[r]
//
// Errors are tr(D H D^T) of the original input: with D the difference of scaled
// and decoded weights and S^-1 H S^-1 in place of H they are the same, but for
// the rows' divisors.
//
// A tile is a unit of rows or several (awq_cut.h). What is counted, and
// whether rows are to be rounded after all, is a unit's, so that it does not
// depend on tiles.
// Thread: one.
#ifndef QS_QUANT_AWQ_TILE_H_
#define QS_QUANT_AWQ_TILE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "quant/awq_cut.h"
#include "quant/awq_solution.h"
#include "quant/phase_times.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"
#include "quant/quantizer_base.h"

namespace qs {

// What the tiles of a tensor share. Must outlive them.
struct AwqTileContext {
  QuantSpec spec;
  DType dtype = DType::kBF16;
  AwqCut cut;
  int64_t groups = 0;  // a row
  AwqGridSpec grid;    // scales as stored
  bool clips = false;
  const AwqSiteSolution* solution = nullptr;
  const AwqTransform* transform = nullptr;
  PanelCheck checkpoint;

  const AwqSpec& awq() const { return *spec.awq(); }
  int64_t cols() const { return cut.cols; }
  bool best() const { return spec.profile == Profile::kBest; }
  int64_t group_size() const { return grid.group_size; }
};

// What is summed over units of rows, in order.
struct AwqUnitFacts {
  OutputError ours;
  OutputError rtn;
  std::array<int64_t, 10> clip_histogram{};
  int64_t clipped_groups = 0;  // whose range is less than the weights'
  int64_t codes_changed = 0;
};

class AwqTile {
 public:
  // `weight`: whole rows, the first of them row `first_row` of the tensor.
  // Errors: RESOURCE_EXHAUSTED.
  static absl::StatusOr<AwqTile> Create(const AwqTileContext& context,
                                        TensorView weight, int64_t first_row);
  static int64_t ScratchBytes(const AwqTileContext& context);

  // Codes, and the sums of what they cost, by units from that of `first_row`
  // on. Round to nearest, against which BEST holds each row, is kReport's.
  absl::Status Run(Backend& backend, PhaseClock& clock,
                   std::span<AwqUnitFacts> facts);

  const uint8_t* codes() const { return codes_; }
  const void* scales() const { return scales_; }
  const uint8_t* zero_points() const { return zero_points_; }

  // For the report, after Run: the weights that the layer acts as, in the
  // weight's dtype, and the steps of the groups.
  MeasuredPiece Measured();

 private:
  // Of some rows: codes, scales, zero points.
  struct Grids {
    uint8_t* codes;
    void* scales;
    uint8_t* zero_points;
  };
  // Rows [first, end) of the tile.
  struct Range {
    int64_t first;
    int64_t end;
    int64_t rows() const { return end - first; }
  };

  AwqTile(const AwqTileContext& context, TensorView weight, int64_t first_row)
      : c_(context),
        weight_(weight),
        first_row_(first_row),
        rows_(weight.rows) {}
  void TakeArrays();
  float Divisor(int64_t row) const;
  GptqGrid SolverGrid() const;
  const uint8_t* StoredZeroPoints() const {
    return c_.awq().symmetric ? nullptr : zero_points_;
  }

  void Scale();
  absl::Status Yardstick(Backend& backend);
  absl::Status ClipAndRound(Backend& backend, PhaseClock& clock);
  absl::Status SolveCodes(Backend& backend, PhaseClock& clock);
  absl::Status Refine(Backend& backend);
  absl::Status KeepBetterRows(Backend& backend);
  absl::Status KeepBetterRows(Range range, Backend& backend);
  // Whether a row of the unit that begins there is above rounding.
  bool AnyAboveRounding(int64_t first) const;
  int64_t UnitEnd(int64_t first) const {
    return std::min(first + c_.cut.unit_rows, rows_);
  }
  void TakeRow(int64_t row, const Grids& from);
  Range All() const { return {0, rows_}; }
  TensorView RowsOf(const TensorView& all, Range range) const;
  Grids RowsOf(const Grids& all, Range range) const;
  // The weights that an engine has, in decoded_.
  absl::Status Decode(const Grids& all, Range range, Backend& backend);
  // `decoded`: all rows; `error`, `signal` (may be null): of those in `range`.
  absl::Status Errors(const TensorView& decoded, Range range, double* error,
                      double* signal, Backend& backend);
  void Count(std::span<AwqUnitFacts> facts) const;
  void CountGroup(int64_t group, AwqUnitFacts* facts) const;

  const AwqTileContext& c_;
  TensorView weight_;
  int64_t first_row_;
  int64_t rows_;
  Scratch scratch_;
  TensorView scaled_;        // as it is quantized
  float* exact_ = nullptr;   // scaled, not rounded: what errors start from
  float* spare_ = nullptr;   // [rows, cols]
  void* rounded_ = nullptr;  // scaled, in the weight's dtype: REFERENCE's
  void* decoded_ = nullptr;  // in the weight's dtype, as an engine has it
  uint8_t* codes_ = nullptr;
  void* scales_ = nullptr;  // [rows, groups], as stored
  uint8_t* zero_points_ = nullptr;
  Grids other_ = {};
  float* low_ = nullptr;  // [rows, groups]
  float* high_ = nullptr;
  double* group_errors_ = nullptr;
  double* error_ = nullptr;  // [rows]
  double* signal_ = nullptr;
  double* rtn_error_ = nullptr;
  double* other_error_ = nullptr;
};

}  // namespace qs

#endif  // QS_QUANT_AWQ_TILE_H_
