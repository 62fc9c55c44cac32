// GptqTile: some rows of a weight from what came in to GPTQ's codes and what
// they cost. Used by GptqQuantizer only; every tile has its own scratch.
//
// BEST solves each row from several scales, goes on with coordinate descent and
// refitted scales, and takes rounding for a row that rounding serves better.
//
// With a transform (AWQ scaling first, quant/awq_transform.h) what is solved is
// the scaled weight against S^-1 H S^-1; errors are those of the original input
// and weight all the same, and round to nearest, the yardstick, is of the
// weight as it came.
// Thread: one.
#ifndef QS_QUANT_GPTQ_TILE_H_
#define QS_QUANT_GPTQ_TILE_H_

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "quant/awq_solution.h"
#include "quant/gptq_rows.h"
#include "quant/quantized_tensor.h"
#include "quant/quantizer_base.h"

namespace qs {

// What the tensor's site has for all tiles. Must outlive them.
struct GptqInput {
  const GptqFactor* factor = nullptr;
  const float* hessian = nullptr;  // of what the solved columns read
  const AwqTransform* transform = nullptr;
};

// What a unit of rows adds to the report.
struct GptqUnitFacts {
  OutputError output;
  OutputError rounded;
  int64_t codes_changed = 0;
};

class GptqTile {
 public:
  // `weight`: whole rows, the first of them row `first_row` of the tensor.
  // Errors: RESOURCE_EXHAUSTED.
  static absl::StatusOr<GptqTile> Create(const GptqContext& context,
                                         const GptqInput& input,
                                         TensorView weight, int64_t first_row);
  // `scaled`: with a transform.
  static int64_t ScratchBytes(const GptqContext& context, bool scaled);
  // What the operations themselves take for a tile.
  static int64_t OperationBytes(const GptqLayout& layout);

  // Codes, and what is known of their cost, by units from that of `first_row`
  // on. Round to nearest, which BEST may take, is kReport's.
  absl::Status Run(Backend& backend, PhaseClock& clock,
                   std::span<GptqUnitFacts> facts);

  const GptqCodes& codes() const { return solved_; }
  // For the report, after Run: the weights that engines will act on.
  absl::StatusOr<MeasuredPiece> Measured(Backend& backend);

 private:
  GptqTile(const GptqContext& context, const GptqInput& input,
           TensorView weight, int64_t first_row)
      : c_(context), input_(input), weight_(weight), first_row_(first_row) {}
  bool scales() const;
  bool refines() const;
  float Divisor(int64_t row) const;
  GptqRows Rows() const;
  GptqCodes TakeCodes();
  void TakeArrays();
  TensorView Scaled(const TensorView& in, float* to) const;

  absl::Status Compare(Backend& backend, PhaseClock& clock,
                       std::span<GptqUnitFacts> facts);
  absl::Status Yardstick(Backend& backend);
  absl::Status KeepBetterRows(Backend& backend);
  bool AnyAboveRounding(int64_t first, int64_t end) const;
  absl::Status CountChanged(Backend& backend, std::span<GptqUnitFacts> facts);
  // Of a row of the tile.
  GptqUnitFacts& FactsOf(int64_t row, std::span<GptqUnitFacts> facts) const {
    return facts[static_cast<size_t>(row / c_.layout.unit_rows)];
  }
  TensorView InOrder() const;

  const GptqContext& c_;
  const GptqInput input_;
  TensorView weight_;
  TensorView solvable_;  // weight_, or it scaled
  int64_t first_row_;
  Scratch scratch_;
  GptqCodes solved_;
  GptqCodes other_;
  GptqCodes start_;  // grids only
  uint8_t* decoded_ = nullptr;
  float* scaled_ = nullptr;  // [rows, cols], with a transform
  float* spare_ = nullptr;   // the same
  double* error_ = nullptr;  // [rows]
  double* other_error_ = nullptr;
  double* rtn_error_ = nullptr;
  double* signal_ = nullptr;
  float* steps_ = nullptr;  // [rows, groups]
  double* group_errors_ = nullptr;
};

}  // namespace qs

#endif  // QS_QUANT_GPTQ_TILE_H_
