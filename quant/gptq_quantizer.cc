// Tested by tests/quant/gptq_quantizer_test.cc.
#include "quant/gptq_quantizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/grid_writer.h"
#include "quant/gptq_factor.h"

namespace qs {
namespace {

constexpr int64_t kWordBits = 32;
// A tile reads the factor once: the more rows, the less that costs, up to what
// one operation takes together.
constexpr int64_t kTileRows = 512;
constexpr int64_t kLeastTileRows = 128;
constexpr int64_t kTileElements = int64_t{1} << 22;
// BEST solves again with all scales times each of these and keeps, row by row,
// what lost least: the loop's errors are partly luck, and scales that were
// chosen group by group do not know what the loop adds to the weights. On the
// 28 linears of a small Llama the held-out output error goes from 3.69e-4 to
// 3.54e-4 at 4 bits and from 1.19e-3 to 1.11e-3 at 3, after the descent.
constexpr float kStarts[] = {0.88f, 0.92f, 0.96f, 1.04f, 1.08f, 1.12f};
// Then each group's scale alone, where a row has so few that it costs little:
// 3.38e-4 and 1.03e-3.
constexpr float kGroupStarts[] = {0.84f,  0.9f,  0.94f, 0.97f, 0.985f,
                                  1.015f, 1.03f, 1.06f, 1.1f,  1.16f};
constexpr int64_t kMostGroups = 6;
constexpr int kGroupPasses = 2;

struct Layout {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t groups = 0;     // a row
  int64_t tile_rows = 0;  // a multiple of kGridRowUnit
};

Layout MakeLayout(const GptqSpec& spec, const TensorInfo& info) {
  const MatrixShape shape = AsMatrix(info.shape);
  Layout layout;
  layout.rows = shape.rows;
  layout.cols = shape.cols;
  layout.group_size = spec.group_size == -1
                          ? shape.cols
                          : std::min(spec.group_size, shape.cols);
  layout.groups = CeilDiv(shape.cols, layout.group_size);
  layout.tile_rows =
      std::clamp(kTileElements / shape.cols / kGridRowUnit * kGridRowUnit,
                 kLeastTileRows, kTileRows);
  return layout;
}

// The error report's groups lie one after the other in the flat tensor.
int64_t ReportGroup(const Layout& layout) {
  return layout.cols % layout.group_size == 0 ? layout.group_size : layout.cols;
}

Partition MakePartition(const Layout& layout) {
  return {.num_elements = layout.rows * layout.cols,
          .tile_elements = layout.tile_rows * layout.cols,
          .group_size = ReportGroup(layout)};
}

// Codes and grids of the rows of a tile.
struct Solution {
  uint8_t* codes = nullptr;
  uint8_t* scales = nullptr;
  uint8_t* zero_points = nullptr;  // null when symmetric
};

struct Tile {
  int64_t index = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
  TensorView weight;
  Solution solved;
  Solution rounded;
  Solution start;  // scales and zero points only
  uint8_t* decoded = nullptr;
  double* error = nullptr;
  double* rounded_error = nullptr;
  double* signal = nullptr;
  float* steps = nullptr;
  double* group_errors = nullptr;
};

int64_t ScratchBytes(const Layout& layout, DType dtype, DType scale_dtype) {
  const int64_t rows = std::min(layout.tile_rows, layout.rows);
  const int64_t n = rows * layout.cols;
  const int64_t grids = rows * layout.groups;
  const auto f32 = static_cast<int64_t>(sizeof(float));
  const auto f64 = static_cast<int64_t>(sizeof(double));
  return 2 * Scratch::Padded(n) +
         3 * (Scratch::Padded(grids) +
              Scratch::Padded(grids * DTypeBytes(scale_dtype))) +
         Scratch::Padded(n * DTypeBytes(dtype)) +
         3 * Scratch::Padded(rows * f64) + Scratch::Padded(grids * f32) +
         Scratch::Padded(grids * f64);
}

// What the operations themselves take for a tile: weights as F32 side by side
// with codes or decoded weights.
int64_t OperationBytes(const Layout& layout) {
  const int64_t rows = std::min(layout.tile_rows, layout.rows);
  return rows * (layout.cols * 8 + layout.groups * 8 + 4096) +
         (int64_t{1} << 20) + layout.cols * 256;
}

class GptqQuantizer final : public QuantizerBase {
 public:
  GptqQuantizer(const QuantSpec& spec, TensorInfo info,
                const QuantizeOptions& options, const Layout& layout)
      : QuantizerBase(spec, std::move(info), options, MakePartition(layout)),
        gptq_(*spec.gptq()),
        layout_(layout),
        best_(spec.profile == Profile::kBest),
        stored_(StoredScaleOf(spec.format, QuantizerBase::info().dtype)) {}

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(CheckSite());
    QS_RETURN_IF_ERROR(AllocateInput());
    try {
      facts_.resize(static_cast<size_t>(num_tiles()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("cannot allocate the solver's books");
    }
    QS_ASSIGN_OR_RETURN(
        writer_,
        GridWriter::Create(
            spec(), {info().name, info().dtype, layout_.rows, layout_.cols},
            streams()));
    return absl::OkStatus();
  }

 private:
  // What a tile adds to the report.
  struct TileFacts {
    OutputError output;
    OutputError rounded;
    int64_t codes_changed = 0;
  };
  using Factor = std::shared_ptr<const GptqFactor>;

  absl::Status EncodeTile(int64_t index, int64_t begin, int64_t end,
                          Backend& backend) override;
  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend&) override;
  void AddToReport(TensorReport* report) const override;
  StreamedOutput streamed_output() const override;

  absl::Status CheckSite() const;
  absl::StatusOr<Factor> FindFactor(Backend& backend);
  PanelCheck Cancel() const {
    return [this](double) { return CheckCancelled(); };
  }
  bool ordered() const {
    return gptq_.order == ColumnOrder::kActOrder ||
           gptq_.order == ColumnOrder::kGroupAware;
  }
  bool dynamic() const { return gptq_.order != ColumnOrder::kActOrderStatic; }
  GptqGrid Grid() const;
  const float* Hessian() const { return moments_->second_moment(); }

  Tile TakeScratch(int64_t index, int64_t begin, int64_t end,
                   Scratch* scratch) const;
  // To `solution`, with the loop's own error of each row.
  absl::Status Solve(const Tile& tile, const GptqFactor& factor,
                     GptqRange range, const Solution& solution,
                     double* row_loss, Backend& backend) const;
  absl::Status SolveAgain(const Tile& tile, const GptqFactor& factor,
                          Backend& backend) const;
  void KeepGrids(const Tile& tile) const;
  static constexpr int64_t kAllGroups = -1;
  absl::Status TryScales(const Tile& tile, const GptqFactor& factor,
                         int64_t group, float by, Backend& backend) const;
  void ScaleGrids(const Tile& tile, int64_t group, float by) const;
  void TakeRow(const Tile& tile, int64_t row) const;
  GptqRange Range() const;
  absl::Status Refine(const Tile& tile, const GptqFactor& factor,
                      Backend& backend) const;
  absl::Status Round(const Tile& tile, GptqRange range, const Solution& grids,
                     Backend& backend) const;
  absl::Status FindError(const Tile& tile, const Solution& solution,
                         const GptqFactor* factor, double* error,
                         double* signal, Backend& backend) const;
  absl::Status CompareToRounding(const Tile& tile, const GptqFactor& factor,
                                 Backend& backend);
  void KeepBetterRows(const Tile& tile) const;
  absl::Status CountChanged(const Tile& tile, Backend& backend);
  absl::Status Write(const Tile& tile, Backend& backend);
  absl::Status Measure(const Tile& tile, Backend& backend);

  const GptqSpec gptq_;
  const Layout layout_;
  const bool best_;
  const StoredScale stored_;
  const SiteMoments* moments_ = nullptr;  // set with the factor
  mutable absl::Mutex mutex_;
  Factor factor_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<GridWriter> writer_;
  std::vector<TileFacts> facts_;
};

absl::Status GptqQuantizer::CheckSite() const {
  const Site* site = options().site.get();
  if (site == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", info().name,
                     "\": got no second moments of its input, which gptq "
                     "needs: give its site or a calibration that has it"));
  }
  if (site->inputs() == layout_.cols) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor \"", info().name, "\": site \"", site->name(), "\": got ",
      site->inputs(), " inputs, allowed ", layout_.cols, " (the columns)"));
}

absl::StatusOr<GptqQuantizer::Factor> GptqQuantizer::FindFactor(
    Backend& backend) {
  absl::MutexLock lock(&mutex_);
  if (factor_ != nullptr) return factor_;
  Site& site = *options().site;
  QS_ASSIGN_OR_RETURN(moments_, site.Moments());
  QS_ASSIGN_OR_RETURN(
      factor_, SharedGptqFactor(gptq_, spec().profile, layout_.group_size, site,
                                Cancel(), backend));
  return factor_;
}

GptqGrid GptqQuantizer::Grid() const {
  GptqGrid grid;
  grid.bits = gptq_.bits;
  grid.group_size = layout_.group_size;
  grid.symmetric = gptq_.symmetric;
  grid.scale_dtype = stored_.dtype;
  grid.min_scale = stored_.min;
  // The libraries' loop does not round what it decodes; engines do.
  grid.decoded_dtype = best_ ? info().dtype : DType::kF32;
  return grid;
}

Tile GptqQuantizer::TakeScratch(int64_t index, int64_t begin, int64_t end,
                                Scratch* scratch) const {
  Tile tile;
  tile.index = index;
  tile.first_row = begin / layout_.cols;
  tile.rows = (end - begin) / layout_.cols;
  tile.weight = InputView(begin, tile.rows, layout_.cols);
  const int64_t n = tile.rows * layout_.cols;
  const int64_t grids = tile.rows * layout_.groups;
  for (Solution* solution : {&tile.solved, &tile.rounded}) {
    solution->codes = scratch->Take<uint8_t>(n);
    solution->scales =
        scratch->Take<uint8_t>(grids * DTypeBytes(stored_.dtype));
    if (!gptq_.symmetric) solution->zero_points = scratch->Take<uint8_t>(grids);
  }
  tile.start.scales = scratch->Take<uint8_t>(grids * DTypeBytes(stored_.dtype));
  if (!gptq_.symmetric) tile.start.zero_points = scratch->Take<uint8_t>(grids);
  tile.decoded = scratch->Take<uint8_t>(n * DTypeBytes(info().dtype));
  tile.error = scratch->Take<double>(tile.rows);
  tile.rounded_error = scratch->Take<double>(tile.rows);
  tile.signal = scratch->Take<double>(tile.rows);
  tile.steps = scratch->Take<float>(grids);
  tile.group_errors = scratch->Take<double>(grids);
  return tile;
}

absl::Status GptqQuantizer::EncodeTile(int64_t index, int64_t begin,
                                       int64_t end, Backend& backend) {
  QS_ASSIGN_OR_RETURN(const Factor factor, FindFactor(backend));
  QS_ASSIGN_OR_RETURN(
      Scratch scratch,
      Scratch::Allocate(ScratchBytes(layout_, info().dtype, stored_.dtype)));
  const Tile tile = TakeScratch(index, begin, end, &scratch);
  QS_RETURN_IF_ERROR(
      Solve(tile, *factor, Range(), tile.solved, tile.error, backend));
  if (best_ && !dynamic()) {
    QS_RETURN_IF_ERROR(SolveAgain(tile, *factor, backend));
  }
  if (best_ && gptq_.sweeps > 0) {
    QS_RETURN_IF_ERROR(Refine(tile, *factor, backend));
  }
  if (best_ || options().error_report) {
    QS_RETURN_IF_ERROR(CompareToRounding(tile, *factor, backend));
  }
  QS_RETURN_IF_ERROR(Write(tile, backend));
  return options().error_report ? Measure(tile, backend) : absl::OkStatus();
}

// Errors of the solution and of rounding, rows exchanged where BEST may, and
// what the report says of both.
absl::Status GptqQuantizer::CompareToRounding(const Tile& tile,
                                              const GptqFactor& factor,
                                              Backend& backend) {
  QS_RETURN_IF_ERROR(Round(tile, GptqRange::kMinMax, tile.rounded, backend));
  QS_RETURN_IF_ERROR(FindError(tile, tile.rounded, nullptr, tile.rounded_error,
                               tile.signal, backend));
  QS_RETURN_IF_ERROR(
      FindError(tile, tile.solved, &factor, tile.error, nullptr, backend));
  TileFacts& facts = facts_[static_cast<size_t>(tile.index)];
  for (int64_t r = 0; r < tile.rows; ++r) {
    facts.rounded.error += tile.rounded_error[r];
    facts.rounded.signal += tile.signal[r];
  }
  if (best_) KeepBetterRows(tile);
  for (int64_t r = 0; r < tile.rows; ++r) {
    facts.output.error += tile.error[r];
    facts.output.signal += tile.signal[r];
  }
  return CountChanged(tile, backend);
}

GptqRange GptqQuantizer::Range() const {
  if (gptq_.range_search == RangeSearch::kMse) return GptqRange::kMse;
  // The weights of a dynamic group are known when the loop is there.
  return gptq_.range_search == RangeSearch::kMinMax || dynamic()
             ? GptqRange::kMinMax
             : GptqRange::kCurvature;
}

absl::Status GptqQuantizer::Solve(const Tile& tile, const GptqFactor& factor,
                                  GptqRange range, const Solution& solution,
                                  double* row_loss, Backend& backend) const {
  int64_t first_non_finite = -1;
  GptqSolveArgs args;
  args.weight = tile.weight;
  args.factor = factor.r.As<float>();
  args.order = factor.order.data();
  args.grid = Grid();
  args.static_groups = !dynamic();
  args.group_index = ordered() ? factor.group_of.data() : nullptr;
  args.range = range;
  args.norm = gptq_.range_norm;
  args.zeroed = best_ ? nullptr : factor.dead.data();
  args.checkpoint = Cancel();
  args.codes = solution.codes;
  args.scales = solution.scales;
  args.zero_points = solution.zero_points;
  args.row_loss = row_loss;
  args.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.gptq().Solve(args, backend.stream()));
  return first_non_finite < 0
             ? absl::OkStatus()
             : NonFiniteError(tile.first_row * layout_.cols + first_non_finite);
}

// tile.error is the loop's error of what is solved so far.
absl::Status GptqQuantizer::SolveAgain(const Tile& tile,
                                       const GptqFactor& factor,
                                       Backend& backend) const {
  KeepGrids(tile);
  for (float by : kStarts) {
    QS_RETURN_IF_ERROR(TryScales(tile, factor, kAllGroups, by, backend));
  }
  if (layout_.groups > kMostGroups) return absl::OkStatus();
  for (int64_t trial = 0; trial < kGroupPasses * layout_.groups; ++trial) {
    KeepGrids(tile);
    for (float by : kGroupStarts) {
      QS_RETURN_IF_ERROR(
          TryScales(tile, factor, trial % layout_.groups, by, backend));
    }
  }
  return absl::OkStatus();
}

// tile.start: the grids from which scales are tried.
void GptqQuantizer::KeepGrids(const Tile& tile) const {
  const int64_t grids = tile.rows * layout_.groups;
  std::copy_n(tile.solved.scales, grids * DTypeBytes(stored_.dtype),
              tile.start.scales);
  if (gptq_.symmetric) return;
  std::copy_n(tile.solved.zero_points, grids, tile.start.zero_points);
}

// The rows that lose less with the scales of one group, or of all, times `by`
// take that solution.
absl::Status GptqQuantizer::TryScales(const Tile& tile,
                                      const GptqFactor& factor, int64_t group,
                                      float by, Backend& backend) const {
  const int64_t grids = tile.rows * layout_.groups;
  std::copy_n(tile.start.scales, grids * DTypeBytes(stored_.dtype),
              tile.rounded.scales);
  if (!gptq_.symmetric) {
    std::copy_n(tile.start.zero_points, grids, tile.rounded.zero_points);
  }
  ScaleGrids(tile, group, by);
  QS_RETURN_IF_ERROR(Solve(tile, factor, GptqRange::kGiven, tile.rounded,
                           tile.rounded_error, backend));
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (!(tile.rounded_error[r] < tile.error[r])) continue;
    tile.error[r] = tile.rounded_error[r];
    TakeRow(tile, r);
  }
  return absl::OkStatus();
}

// Scales of tile.rounded, where the product can be stored.
void GptqQuantizer::ScaleGrids(const Tile& tile, int64_t group,
                               float by) const {
  for (int64_t i = 0; i < tile.rows * layout_.groups; ++i) {
    if (group != kAllGroups && i % layout_.groups != group) continue;
    const float old = LoadAsFloat(tile.rounded.scales, stored_.dtype, i);
    StoreFromFloat(tile.rounded.scales, stored_.dtype, i, old * by);
    const float now = LoadAsFloat(tile.rounded.scales, stored_.dtype, i);
    if (std::isfinite(now) && now > 0 && now >= stored_.min) continue;
    StoreFromFloat(tile.rounded.scales, stored_.dtype, i, old);
  }
}

// A row of tile.rounded becomes the solution's.
void GptqQuantizer::TakeRow(const Tile& tile, int64_t row) const {
  const int64_t scale_bytes = layout_.groups * DTypeBytes(stored_.dtype);
  std::copy_n(tile.rounded.codes + row * layout_.cols, layout_.cols,
              tile.solved.codes + row * layout_.cols);
  std::copy_n(tile.rounded.scales + row * scale_bytes, scale_bytes,
              tile.solved.scales + row * scale_bytes);
  if (gptq_.symmetric) return;
  std::copy_n(tile.rounded.zero_points + row * layout_.groups, layout_.groups,
              tile.solved.zero_points + row * layout_.groups);
}

absl::Status GptqQuantizer::Refine(const Tile& tile, const GptqFactor& factor,
                                   Backend& backend) const {
  if (gptq_.order == ColumnOrder::kActOrder) return absl::OkStatus();
  GptqRefineArgs args;
  args.weight = tile.weight;
  args.hessian = Hessian();
  args.damping = factor.facts.damping;
  args.grid = Grid();
  args.sweeps = gptq_.sweeps;
  args.refit_scales = gptq_.scale_refit;
  args.checkpoint = Cancel();
  args.codes = tile.solved.codes;
  args.scales = tile.solved.scales;
  args.zero_points = tile.solved.zero_points;
  return backend.gptq().Refine(args, backend.stream());
}

// Round to nearest: kMinMax finds the grids of `grids`, kGiven takes them. The
// codes go to `rounded`.
absl::Status GptqQuantizer::Round(const Tile& tile, GptqRange range,
                                  const Solution& grids,
                                  Backend& backend) const {
  int64_t first_non_finite = -1;
  GptqSolveArgs args;
  args.weight = tile.weight;
  args.grid = Grid();
  args.range = range;
  args.codes = tile.rounded.codes;
  args.scales = grids.scales;
  args.zero_points = grids.zero_points;
  args.first_non_finite = &first_non_finite;
  return backend.gptq().Solve(args, backend.stream());
}

absl::Status GptqQuantizer::FindError(const Tile& tile,
                                      const Solution& solution,
                                      const GptqFactor* factor, double* error,
                                      double* signal, Backend& backend) const {
  GptqDecodeArgs decode;
  decode.codes = solution.codes;
  decode.scales = solution.scales;
  decode.zero_points = solution.zero_points;
  decode.grid = Grid();
  if (factor != nullptr && ordered()) {
    decode.group_index = factor->group_of.data();
  }
  decode.weight = {tile.decoded, info().dtype, tile.rows, layout_.cols};
  QS_RETURN_IF_ERROR(backend.gptq().Decode(decode, backend.stream()));
  GptqErrorArgs args;
  args.weight = tile.weight;
  args.decoded = decode.weight;
  args.hessian = Hessian();
  args.error = error;
  args.signal = signal;
  return backend.gptq().OutputError(args, backend.stream());
}

void GptqQuantizer::KeepBetterRows(const Tile& tile) const {
  if (gptq_.order == ColumnOrder::kActOrder) return;
  for (int64_t r = 0; r < tile.rows; ++r) {
    if (!(tile.rounded_error[r] < tile.error[r])) continue;
    tile.error[r] = tile.rounded_error[r];
    TakeRow(tile, r);
  }
}

// Codes that differ from rounding on the same grids. Groups of the processing
// order are not counted: every code counts as changed.
absl::Status GptqQuantizer::CountChanged(const Tile& tile, Backend& backend) {
  int64_t& changed = facts_[static_cast<size_t>(tile.index)].codes_changed;
  const int64_t n = tile.rows * layout_.cols;
  if (gptq_.order == ColumnOrder::kActOrder) {
    changed = n;
    return absl::OkStatus();
  }
  QS_RETURN_IF_ERROR(Round(tile, GptqRange::kGiven, tile.solved, backend));
  for (int64_t i = 0; i < n; ++i) {
    changed += tile.rounded.codes[i] != tile.solved.codes[i] ? 1 : 0;
  }
  return absl::OkStatus();
}

absl::Status GptqQuantizer::Write(const Tile& tile, Backend& backend) {
  GridRows rows;
  rows.first_row = tile.first_row;
  rows.rows = tile.rows;
  rows.codes = tile.solved.codes;
  rows.scales = tile.solved.scales;
  rows.zero_points = tile.solved.zero_points;
  if (writer_->streams()) {
    QS_ASSIGN_OR_RETURN(
        uint8_t * words,
        BeginTileOutput(tile.index, writer_->StreamedBytes(tile.rows)));
    rows.words = reinterpret_cast<uint32_t*>(words);
  }
  return writer_->AddRows(rows, backend);
}

// Of the weights that engines will see: `decoded` is that of FindError's last
// call only where no row was exchanged, so they are decoded again.
absl::Status GptqQuantizer::Measure(const Tile& tile, Backend& backend) {
  QS_ASSIGN_OR_RETURN(const Factor factor, FindFactor(backend));
  GptqDecodeArgs decode;
  decode.codes = tile.solved.codes;
  decode.scales = tile.solved.scales;
  decode.zero_points = tile.solved.zero_points;
  decode.grid = Grid();
  decode.group_index = ordered() ? factor->group_of.data() : nullptr;
  decode.weight = {tile.decoded, info().dtype, tile.rows, layout_.cols};
  QS_RETURN_IF_ERROR(backend.gptq().Decode(decode, backend.stream()));
  const int64_t report_group = ReportGroup(layout_);
  const bool stepped = report_group == layout_.group_size &&
                       gptq_.order != ColumnOrder::kActOrder;
  for (int64_t g = 0; stepped && g < tile.rows * layout_.groups; ++g) {
    tile.steps[g] = LoadAsFloat(tile.solved.scales, stored_.dtype, g);
  }
  return errors().Measure(
      tile.index,
      {.weight = tile.weight,
       .decoded = decode.weight,
       .steps = stepped ? tile.steps : nullptr,
       .first_group = tile.first_row * layout_.cols / report_group,
       .group_errors = tile.group_errors},
      backend);
}

absl::StatusOr<std::vector<OutputTensor>> GptqQuantizer::Assemble(
    Backend& backend) {
  ReleaseInput();
  if (gptq_.order == ColumnOrder::kActOrder) {
    QS_ASSIGN_OR_RETURN(const Factor factor, FindFactor(backend));
    QS_RETURN_IF_ERROR(writer_->SetGroupIndex(factor->group_of));
  }
  return writer_->Finish();
}

StreamedOutput GptqQuantizer::streamed_output() const {
  if (!writer_->streams()) return {};
  return {info().name + "_packed",
          DType::kI32,
          {layout_.rows, CeilDiv(layout_.cols * gptq_.bits, kWordBits)},
          writer_->StreamedBytes(layout_.rows)};
}

void GptqQuantizer::AddToReport(TensorReport* report) const {
  absl::MutexLock lock(&mutex_);
  if (factor_ == nullptr) return;
  SolverFacts solver;
  solver.damping = factor_->facts.damping;
  solver.damping_retries = factor_->facts.damping_retries;
  solver.factor_in_f64 = factor_->facts.in_f64;
  solver.diagonal_only = factor_->facts.diagonal_only;
  solver.dead_columns = factor_->facts.dead_columns;
  report->tokens = moments_->tokens();
  if (solver.diagonal_only) {
    report->warnings.push_back(
        "GPTQ_DIAGONAL_ONLY: the second moment of the input could not be "
        "factored; errors were weighted, not compensated");
  }
  const bool measured = best_ || options().error_report;
  for (const TileFacts& facts : facts_) {
    report->output_error.error += facts.output.error;
    report->output_error.signal += facts.output.signal;
    report->rtn_output_error.error += facts.rounded.error;
    report->rtn_output_error.signal += facts.rounded.signal;
    solver.codes_changed += facts.codes_changed;
  }
  report->has_output_error = measured;
  if (measured && solver.codes_changed == 0) {
    report->warnings.push_back(
        "GPTQ_EQUALS_RTN: no code differs from rounding on the same grid: the "
        "calibration changed nothing");
  }
  report->solver = solver;
}

}  // namespace

TensorSizes GptqSizes(const QuantSpec& spec, const TensorInfo& info) {
  const Layout layout = MakeLayout(*spec.gptq(), info);
  const DType scale_dtype = StoredScaleOf(spec.format, info.dtype).dtype;
  TensorSizes sizes;
  sizes.output =
      GridOutputBytes(spec, {info.name, info.dtype, layout.rows, layout.cols});
  sizes.extra = 8 * layout.cols * layout.cols + 16 * layout.cols;
  sizes.tile_input = std::min(layout.tile_rows, layout.rows) * layout.cols *
                     DTypeBytes(info.dtype);
  sizes.tile_scratch =
      ScratchBytes(layout, info.dtype, scale_dtype) + OperationBytes(layout);
  return sizes;
}

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewGptqQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  const Layout layout = MakeLayout(*spec.gptq(), info);
  auto quantizer =
      std::make_unique<GptqQuantizer>(spec, std::move(info), options, layout);
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  return quantizer;
}

}  // namespace qs
