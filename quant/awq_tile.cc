// Tested by tests/quant/awq_group_test.cc and tests/quant/awq_quality_test.cc.
#include "quant/awq_tile.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/status_macros.h"
#include "quant/awq_quantizer.h"
#include "quant/awq_transform.h"
#include "quant/coded_group.h"
#include "quant/float_types.h"

namespace qs {
namespace {

// Sweeps of coordinate descent; it stops earlier when nothing changes.
constexpr int kSweeps = 10;

constexpr int64_t kF32 = sizeof(float);
constexpr int64_t kF64 = sizeof(double);

}  // namespace

int64_t AwqTile::ScratchBytes(const AwqTileContext& c) {
  const int64_t rows = c.cut.most_rows();
  const int64_t n = rows * c.cols();
  const int64_t groups = rows * c.groups;
  const auto padded = Scratch::Padded;
  return 2 * padded(n * kF32) + 2 * padded(n * DTypeBytes(c.dtype)) +
         2 * padded(n) + 4 * padded(groups * kF32) + 2 * padded(groups) +
         padded(groups * kF64) + 4 * padded(rows * kF64);
}

absl::StatusOr<AwqTile> AwqTile::Create(const AwqTileContext& context,
                                        TensorView weight, int64_t first_row) {
  AwqTile tile(context, weight, first_row);
  QS_ASSIGN_OR_RETURN(tile.scratch_, Scratch::Allocate(ScratchBytes(context)));
  tile.TakeArrays();
  return tile;
}

void AwqTile::TakeArrays() {
  const int64_t n = rows_ * c_.cols();
  const int64_t groups = rows_ * c_.groups;
  exact_ = scratch_.Take<float>(n);
  spare_ = scratch_.Take<float>(n);
  rounded_ = scratch_.Take<uint8_t>(n * DTypeBytes(c_.dtype));
  decoded_ = scratch_.Take<uint8_t>(n * DTypeBytes(c_.dtype));
  codes_ = scratch_.Take<uint8_t>(n);
  scales_ = scratch_.Take<float>(groups);
  zero_points_ = scratch_.Take<uint8_t>(groups);
  other_.codes = scratch_.Take<uint8_t>(n);
  other_.scales = scratch_.Take<float>(groups);
  other_.zero_points = scratch_.Take<uint8_t>(groups);
  low_ = scratch_.Take<float>(groups);
  high_ = scratch_.Take<float>(groups);
  group_errors_ = scratch_.Take<double>(groups);
  error_ = scratch_.Take<double>(rows_);
  signal_ = scratch_.Take<double>(rows_);
  rtn_error_ = scratch_.Take<double>(rows_);
  other_error_ = scratch_.Take<double>(rows_);
}

float AwqTile::Divisor(int64_t row) const {
  const std::vector<float>& divisors = c_.transform->row_divisors;
  return divisors.empty() ? 1.0f
                          : divisors[static_cast<size_t>(first_row_ + row)];
}

GptqGrid AwqTile::SolverGrid() const {
  return {.bits = c_.awq().bits,
          .group_size = c_.group_size(),
          .symmetric = c_.awq().symmetric,
          .scale_dtype = c_.grid.scale_dtype,
          .min_scale = c_.grid.min_scale,
          .decoded_dtype = c_.dtype};
}

absl::Status AwqTile::Run(Backend& backend, PhaseClock& clock,
                          std::span<AwqUnitFacts> facts) {
  clock.Enter(Phase::kPrepare);
  Scale();
  clock.Enter(Phase::kReport);
  QS_RETURN_IF_ERROR(Yardstick(backend));
  const bool solves = c_.solution->factor != nullptr;
  QS_RETURN_IF_ERROR(solves ? SolveCodes(backend, clock)
                            : ClipAndRound(backend, clock));
  clock.Enter(Phase::kReport);
  QS_RETURN_IF_ERROR(Decode({codes_, scales_, zero_points_}, All(), backend));
  QS_RETURN_IF_ERROR(Errors({decoded_, c_.dtype, rows_, c_.cols()}, All(),
                            error_, signal_, backend));
  if (c_.best()) {
    clock.Enter(Phase::kRefine);
    QS_RETURN_IF_ERROR(KeepBetterRows(backend));
    clock.Enter(Phase::kReport);
  }
  Count(facts);
  return absl::OkStatus();
}

void AwqTile::Scale() {
  TransformRows(*c_.transform, weight_, first_row_, false,
                {exact_, DType::kF32, rows_, c_.cols()});
  scaled_ = {exact_, DType::kF32, rows_, c_.cols()};
  if (c_.best()) return;
  TransformRows(*c_.transform, weight_, first_row_, true,
                {rounded_, c_.dtype, rows_, c_.cols()});
  scaled_ = {rounded_, c_.dtype, rows_, c_.cols()};
}

// Round to nearest of the weights as they came, on the same kind of grid.
absl::Status AwqTile::Yardstick(Backend& backend) {
  int64_t first_non_finite = -1;
  AffineEncodeArgs encode;
  encode.weight = weight_;
  encode.bits = c_.awq().bits;
  encode.group_size = c_.group_size();
  encode.symmetric = c_.awq().symmetric;
  encode.codes = codes_;
  encode.scales = scales_;
  encode.zero_points = c_.awq().symmetric ? nullptr : zero_points_;
  encode.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.affine().Encode(encode, backend.stream()));
  AffineDecodeArgs decode;
  decode.codes = codes_;
  decode.scales = scales_;
  decode.zero_points = encode.zero_points;
  decode.bits = c_.awq().bits;
  decode.group_size = c_.group_size();
  decode.weight = {decoded_, c_.dtype, rows_, c_.cols()};
  QS_RETURN_IF_ERROR(backend.affine().Decode(decode, backend.stream()));
  TransformRows(*c_.transform, decode.weight, first_row_, false,
                {spare_, DType::kF32, rows_, c_.cols()});
  return Errors({spare_, DType::kF32, rows_, c_.cols()}, All(), rtn_error_,
                nullptr, backend);
}

absl::Status AwqTile::ClipAndRound(Backend& backend, PhaseClock& clock) {
  if (c_.clips) {
    clock.Enter(Phase::kSearch);
    AwqClipArgs clip;
    clip.weight = scaled_;
    // AutoAWQ's search is in the weight's dtype, its codes are in the file's.
    clip.grid =
        c_.best() ? c_.grid : AwqGrid(c_.spec, c_.dtype, c_.cols(), false);
    clip.second_moment = c_.solution->moment;
    clip.second_moment_id = c_.solution->moment_id;
    clip.checkpoint = c_.checkpoint;
    clip.low = low_;
    clip.high = high_;
    QS_RETURN_IF_ERROR(backend.awq().ClipSearch(clip, backend.stream()));
  }
  clock.Enter(Phase::kEncode);
  AwqQuantizeArgs round;
  round.weight = scaled_;
  round.grid = c_.grid;
  round.low = c_.clips ? low_ : nullptr;
  round.high = c_.clips ? high_ : nullptr;
  round.codes = codes_;
  round.group_scales = scales_;
  round.zero_points = zero_points_;
  return backend.awq().Quantize(round, backend.stream());
}

absl::Status AwqTile::SolveCodes(Backend& backend, PhaseClock& clock) {
  clock.Enter(Phase::kEncode);
  int64_t first_non_finite = -1;
  GptqSolveArgs solve;
  solve.weight = scaled_;
  solve.factor = c_.solution->factor->r.As<float>();
  solve.factor_id = c_.solution->factor->id;
  solve.order = c_.solution->factor->order.data();
  solve.grid = SolverGrid();
  solve.range = c_.awq().clip ? GptqRange::kCurvature : GptqRange::kMinMax;
  solve.checkpoint = c_.checkpoint;
  solve.codes = codes_;
  solve.scales = scales_;
  solve.zero_points = c_.awq().symmetric ? nullptr : zero_points_;
  solve.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.gptq().Solve(solve, backend.stream()));
  if (c_.awq().symmetric) {
    std::fill_n(zero_points_, rows_ * c_.groups,
                static_cast<uint8_t>(1 << (c_.awq().bits - 1)));
  }
  clock.Enter(Phase::kRefine);
  return Refine(backend);
}

absl::Status AwqTile::Refine(Backend& backend) {
  GptqRefineArgs refine;
  refine.weight = scaled_;
  refine.hessian = c_.solution->moment;
  refine.hessian_id = c_.solution->moment_id;
  refine.damping = c_.solution->factor->facts.damping;
  refine.grid = SolverGrid();
  refine.sweeps = kSweeps;
  refine.checkpoint = c_.checkpoint;
  refine.codes = codes_;
  refine.scales = scales_;
  refine.zero_points = StoredZeroPoints();
  return backend.gptq().Refine(refine, backend.stream());
}

void AwqTile::TakeRow(int64_t row, const Grids& from) {
  const int64_t scale_bytes = c_.groups * DTypeBytes(c_.grid.scale_dtype);
  std::copy_n(from.codes + row * c_.cols(), c_.cols(),
              codes_ + row * c_.cols());
  std::copy_n(from.zero_points + row * c_.groups, c_.groups,
              zero_points_ + row * c_.groups);
  std::copy_n(static_cast<uint8_t*>(from.scales) + row * scale_bytes,
              scale_bytes, static_cast<uint8_t*>(scales_) + row * scale_bytes);
}

bool AwqTile::AnyAboveRounding(int64_t first) const {
  for (int64_t r = first; r < UnitEnd(first); ++r) {
    if (error_[r] > rtn_error_[r]) return true;
  }
  return false;
}

// Rows of a unit that has one whose error is above that of rounding get the
// codes of rounding the scaled weights where those are better.
absl::Status AwqTile::KeepBetterRows(Backend& backend) {
  for (int64_t first = 0, end = 0; first < rows_; first = end) {
    end = UnitEnd(first);
    if (!AnyAboveRounding(first)) continue;
    // Such units that lie next to each other at once.
    while (end < rows_ && AnyAboveRounding(end)) end = UnitEnd(end);
    QS_RETURN_IF_ERROR(KeepBetterRows({first, end}, backend));
  }
  return absl::OkStatus();
}

absl::Status AwqTile::KeepBetterRows(Range range, Backend& backend) {
  const Grids other = RowsOf(other_, range);
  AwqQuantizeArgs round;
  round.weight = RowsOf(scaled_, range);
  round.grid = c_.grid;
  round.codes = other.codes;
  round.group_scales = other.scales;
  round.zero_points = other.zero_points;
  QS_RETURN_IF_ERROR(backend.awq().Quantize(round, backend.stream()));
  QS_RETURN_IF_ERROR(Decode(other_, range, backend));
  QS_RETURN_IF_ERROR(Errors({decoded_, c_.dtype, rows_, c_.cols()}, range,
                            other_error_, nullptr, backend));
  for (int64_t r = range.first; r < range.end; ++r) {
    if (!(other_error_[r] < error_[r])) continue;
    error_[r] = other_error_[r];
    TakeRow(r, other_);
  }
  return Decode({codes_, scales_, zero_points_}, range, backend);
}

TensorView AwqTile::RowsOf(const TensorView& all, Range range) const {
  const int64_t bytes = range.first * all.cols * DTypeBytes(all.dtype);
  return {static_cast<const uint8_t*>(all.data) + bytes, all.dtype,
          range.rows(), all.cols};
}

AwqTile::Grids AwqTile::RowsOf(const Grids& all, Range range) const {
  const int64_t groups = range.first * c_.groups;
  return {all.codes + range.first * c_.cols(),
          static_cast<uint8_t*>(all.scales) +
              groups * DTypeBytes(c_.grid.scale_dtype),
          all.zero_points + groups};
}

absl::Status AwqTile::Decode(const Grids& all, Range range, Backend& backend) {
  const Grids grids = RowsOf(all, range);
  GptqDecodeArgs decode;
  decode.codes = grids.codes;
  decode.scales = grids.scales;
  decode.zero_points = grids.zero_points;
  decode.grid = SolverGrid();
  decode.weight = {static_cast<uint8_t*>(decoded_) +
                       range.first * c_.cols() * DTypeBytes(c_.dtype),
                   c_.dtype, range.rows(), c_.cols()};
  return backend.gptq().Decode(decode, backend.stream());
}

absl::Status AwqTile::Errors(const TensorView& decoded, Range range,
                             double* error, double* signal, Backend& backend) {
  GptqErrorArgs args;
  args.weight = RowsOf({exact_, DType::kF32, rows_, c_.cols()}, range);
  args.decoded = RowsOf(decoded, range);
  args.hessian = c_.solution->moment;
  args.hessian_id = c_.solution->moment_id;
  args.error = error + range.first;
  args.signal = signal == nullptr ? nullptr : signal + range.first;
  QS_RETURN_IF_ERROR(backend.gptq().OutputError(args, backend.stream()));
  for (int64_t r = range.first; r < range.end; ++r) {
    const double divisor = Divisor(r);
    error[r] *= divisor * divisor;
    if (signal != nullptr) signal[r] *= divisor * divisor;
  }
  return absl::OkStatus();
}

void AwqTile::Count(std::span<AwqUnitFacts> facts) const {
  std::fill(facts.begin(), facts.end(), AwqUnitFacts());
  for (int64_t r = 0; r < rows_; ++r) {
    AwqUnitFacts& unit = facts[static_cast<size_t>(r / c_.cut.unit_rows)];
    for (int64_t g = r * c_.groups; g < (r + 1) * c_.groups; ++g) {
      CountGroup(g, &unit);
    }
    unit.ours.error += error_[r];
    unit.ours.signal += signal_[r];
    unit.rtn.error += rtn_error_[r];
    unit.rtn.signal += signal_[r];
  }
}

// How far the range was cut, and codes that are not the nearest.
void AwqTile::CountGroup(int64_t group, AwqUnitFacts* facts) const {
  const float step = LoadAsFloat(scales_, c_.grid.scale_dtype, group);
  const int32_t top = (1 << c_.awq().bits) - 1;
  const int64_t first = group * c_.group_size();
  FloatRange range;
  WithFloatType(scaled_.dtype, [&](auto type) {
    using Type = decltype(type);
    const auto* const weights =
        static_cast<const typename Type::Stored*>(scaled_.data) + first;
    range = RangeOf<Type>(weights, c_.group_size());
    facts->codes_changed +=
        NotNearest<Type>({weights, codes_ + first, c_.group_size(), step,
                          zero_points_[group], top});
  });
  const float full = c_.awq().symmetric ? 2 * std::max(-range.low, range.high)
                                        : range.high - range.low;
  const float share = full > 0 ? step * static_cast<float>(top) / full : 1.0f;
  // Rounding of the scale moves it by less, the least clip by more.
  facts->clipped_groups += share < 0.99f ? 1 : 0;
  const int bin = static_cast<int>(std::ceil(std::min(share, 1.0f) * 10)) - 1;
  ++facts->clip_histogram[static_cast<size_t>(std::clamp(bin, 0, 9))];
}

MeasuredPiece AwqTile::Measured() {
  const MutableTensorView restored = {spare_, c_.dtype, rows_, c_.cols()};
  RestoreRows(*c_.transform, {decoded_, c_.dtype, rows_, c_.cols()}, first_row_,
              restored);
  const double middle = GeometricMean(c_.transform->column_scales);
  for (int64_t g = 0; g < rows_ * c_.groups; ++g) {
    const float step = LoadAsFloat(scales_, c_.grid.scale_dtype, g);
    low_[g] = static_cast<float>(step * Divisor(g / c_.groups) / middle);
  }
  return {.weight = weight_,
          .decoded = restored,
          .steps = low_,
          .first_group = first_row_ * c_.groups,
          .group_errors = group_errors_};
}

}  // namespace qs
