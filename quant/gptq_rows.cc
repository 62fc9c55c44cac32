// Tested by tests/quant/gptq_quantizer_test.cc.
#include "quant/gptq_rows.h"

#include <algorithm>

#include "kernels/base/status_macros.h"

namespace qs {

GptqGrid GptqContext::Grid() const {
  GptqGrid grid;
  grid.bits = gptq.bits;
  grid.group_size = layout.group_size;
  grid.symmetric = gptq.symmetric;
  grid.scale_dtype = stored.dtype;
  grid.min_scale = stored.min;
  // The libraries' loop does not round what it decodes; engines do.
  grid.decoded_dtype = best ? dtype : DType::kF32;
  return grid;
}

GptqRange GptqRows::Range() const {
  if (c_.gptq.range_search == RangeSearch::kMse) return GptqRange::kMse;
  // The weights of a dynamic group are known when the loop is there.
  return c_.gptq.range_search == RangeSearch::kMinMax || c_.dynamic()
             ? GptqRange::kMinMax
             : GptqRange::kCurvature;
}

absl::Status GptqRows::Solve(bool given, const GptqCodes& to, double* row_loss,
                             Backend& backend) const {
  int64_t first_non_finite = -1;
  GptqSolveArgs args;
  args.weight = weight_;
  args.factor = factor_.r.As<float>();
  args.factor_id = factor_.id;
  args.order = factor_.order.data();
  args.grid = c_.Grid();
  args.static_groups = !c_.dynamic();
  args.group_index = c_.ordered() ? factor_.group_of.data() : nullptr;
  args.range = given ? GptqRange::kGiven : Range();
  args.norm = c_.gptq.range_norm;
  args.zeroed = c_.best ? nullptr : factor_.dead.data();
  args.checkpoint = c_.checkpoint;
  args.codes = to.codes;
  args.scales = to.scales;
  args.zero_points = to.zero_points;
  args.row_loss = row_loss;
  args.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.gptq().Solve(args, backend.stream()));
  return first_non_finite < 0
             ? absl::OkStatus()
             : c_.non_finite(first_row_ * weight_.cols + first_non_finite);
}

absl::Status GptqRows::Refine(const GptqCodes& codes, double* row_error,
                              Backend& backend) const {
  GptqRefineArgs args;
  args.weight = weight_;
  args.hessian = hessian_;
  args.hessian_id = factor_.moment_id;
  args.damping = factor_.facts.damping;
  args.grid = c_.Grid();
  args.sweeps = c_.gptq.sweeps;
  args.refit_scales = c_.gptq.scale_refit;
  args.checkpoint = c_.checkpoint;
  args.codes = codes.codes;
  args.scales = codes.scales;
  args.zero_points = codes.zero_points;
  args.row_error = row_error;
  return backend.gptq().Refine(args, backend.stream());
}

absl::Status GptqRows::Round(const TensorView& weight, GptqRange range,
                             const GptqCodes& to, Backend& backend) const {
  int64_t first_non_finite = -1;
  GptqSolveArgs args;
  args.weight = weight;
  args.grid = c_.Grid();
  args.range = range;
  args.codes = to.codes;
  args.scales = to.scales;
  args.zero_points = to.zero_points;
  args.first_non_finite = &first_non_finite;
  return backend.gptq().Solve(args, backend.stream());
}

absl::Status GptqRows::Decode(const GptqCodes& codes, bool by_order,
                              uint8_t* to, Backend& backend) const {
  GptqDecodeArgs args;
  args.codes = codes.codes;
  args.scales = codes.scales;
  args.zero_points = codes.zero_points;
  args.grid = c_.Grid();
  if (by_order && c_.ordered()) args.group_index = factor_.group_of.data();
  args.weight = {to, c_.dtype, weight_.rows, weight_.cols};
  return backend.gptq().Decode(args, backend.stream());
}

absl::Status GptqRows::Errors(const TensorView& decoded, double* error,
                              double* signal, Backend& backend) const {
  GptqErrorArgs args;
  args.weight = weight_;
  args.decoded = decoded;
  args.hessian = hessian_;
  args.hessian_id = factor_.moment_id;
  args.error = error;
  args.signal = signal;
  return backend.gptq().OutputError(args, backend.stream());
}

void GptqRows::TakeRow(const GptqCodes& from, int64_t row,
                       const GptqCodes& to) const {
  const int64_t cols = weight_.cols;
  const int64_t groups = c_.layout.groups;
  const int64_t scale_bytes = groups * DTypeBytes(c_.stored.dtype);
  std::copy_n(from.codes + row * cols, cols, to.codes + row * cols);
  std::copy_n(from.scales + row * scale_bytes, scale_bytes,
              to.scales + row * scale_bytes);
  if (from.zero_points == nullptr) return;
  std::copy_n(from.zero_points + row * groups, groups,
              to.zero_points + row * groups);
}

void GptqRows::CopyGrids(const GptqCodes& from, const GptqCodes& to) const {
  std::copy_n(from.scales, grids() * DTypeBytes(c_.stored.dtype), to.scales);
  if (from.zero_points == nullptr) return;
  std::copy_n(from.zero_points, grids(), to.zero_points);
}

}  // namespace qs
