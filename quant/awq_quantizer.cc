// Tested by tests/quant/awq_group_test.cc and tests/quant/awq_quality_test.cc.
#include "quant/awq_quantizer.h"

#include <algorithm>
#include <new>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_scales.h"
#include "quant/awq_tile.h"

namespace qs {
namespace {

// AutoAWQ clips no linear whose name inside its layer contains one of these.
bool AutoAwqSkipsClip(const std::string& name) {
  size_t inside = 0;  // behind the first component that is a number
  for (size_t dot = name.find('.'); dot != std::string::npos;) {
    const size_t next = name.find('.', dot + 1);
    if (next == std::string::npos) break;
    const std::string part = name.substr(dot + 1, next - dot - 1);
    if (!part.empty() &&
        part.find_first_not_of("0123456789") == std::string::npos) {
      inside = next + 1;
      break;
    }
    dot = next;
  }
  for (const char* skipped : {"q_", "k_", "query", "key", "Wqkv"}) {
    if (name.find(skipped, inside) != std::string::npos) return true;
  }
  return false;
}

// What does not depend on the group's solution.
AwqTileContext MakeContext(const QuantSpec& spec, const TensorInfo& info,
                           const QuantizeOptions& options) {
  AwqTileContext context;
  context.spec = spec;
  context.dtype = info.dtype;
  context.cut = AwqCutOf(info, options.large_tiles);
  context.grid = AwqGrid(spec, info.dtype, context.cols(), true);
  context.groups = context.cols() / context.grid.group_size;
  context.clips = spec.awq()->clip && (spec.profile == Profile::kBest ||
                                       !AutoAwqSkipsClip(info.name));
  return context;
}

Partition MakePartition(const AwqTileContext& context) {
  const AwqCut& cut = context.cut;
  return {.num_elements = cut.rows * cut.cols,
          .tile_elements = cut.tile_rows * cut.cols,
          .group_size = context.group_size(),
          .measured_elements = cut.unit_rows * cut.cols};
}

class AwqQuantizer final : public QuantizerBase, public AwqMember {
 public:
  AwqQuantizer(const QuantSpec& spec, const TensorInfo& info,
               const QuantizeOptions& options, const AwqTileContext& context)
      : QuantizerBase(spec, info, options, MakePartition(context)),
        context_(context) {
    context_.checkpoint = [this](double) { return CheckCancelled(); };
  }

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(AllocateInput());
    try {
      facts_.resize(static_cast<size_t>(cut().units()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("cannot allocate the solver's books");
    }
    QS_ASSIGN_OR_RETURN(writer_, GridWriter::Create(spec(),
                                                    {info().name, info().dtype,
                                                     cut().rows, cut().cols},
                                                    options().streamed_output));
    return absl::OkStatus();
  }

  std::vector<TensorView> Pieces() const override {
    std::vector<TensorView> pieces;
    for (int64_t row = 0; row < cut().rows; row += cut().unit_rows) {
      pieces.push_back(InputView(row * cut().cols,
                                 std::min(cut().unit_rows, cut().rows - row),
                                 cut().cols));
    }
    return pieces;
  }

  void SetSolution(std::shared_ptr<const AwqSiteSolution> solution,
                   AwqTransform transform, const PhaseTimes& times) override {
    AddTime(times);
    solution_ = std::move(solution);
    transform_ = std::move(transform);
    context_.solution = solution_.get();
    context_.transform = &transform_;
  }

 private:
  absl::Status EncodeTile(int64_t tile, int64_t begin, int64_t end,
                          Backend& backend) override;
  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend&) override {
    ReleaseInput();
    return writer_->Finish();
  }
  void AddToReport(TensorReport* report) const override;
  SolverFacts Facts() const;
  bool Changed(const SolverFacts& solver) const;

  StreamedOutput streamed_output() const override {
    if (!writer_->streams()) return {};
    const int64_t rows = cut().rows;
    const int64_t bytes = writer_->StreamedBytes(rows);
    return {
        info().name + "_packed", DType::kI32, {rows, bytes / rows / 4}, bytes};
  }
  absl::Status Pack(int64_t index, int64_t first_row, int64_t rows,
                    const AwqTile& tile, Backend& backend);

  const AwqCut& cut() const { return context_.cut; }

  AwqTileContext context_;
  std::unique_ptr<GridWriter> writer_;
  std::shared_ptr<const AwqSiteSolution> solution_;
  AwqTransform transform_;
  std::vector<AwqUnitFacts> facts_;
};

absl::Status AwqQuantizer::EncodeTile(int64_t index, int64_t begin, int64_t end,
                                      Backend& backend) {
  if (solution_ == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("tensor \"", info().name, "\": its group is not solved"));
  }
  const int64_t first_row = begin / context_.cols();
  const int64_t rows = (end - begin) / context_.cols();
  QS_ASSIGN_OR_RETURN(
      AwqTile tile,
      AwqTile::Create(context_, InputView(begin, rows, context_.cols()),
                      first_row));
  const int64_t unit = first_row / cut().unit_rows;
  QS_RETURN_IF_ERROR(
      tile.Run(backend, clock(index),
               std::span(facts_).subspan(
                   static_cast<size_t>(unit),
                   static_cast<size_t>(CeilDiv(rows, cut().unit_rows)))));
  QS_RETURN_IF_ERROR(Pack(index, first_row, rows, tile, backend));
  if (!options().error_report) return absl::OkStatus();
  clock(index).Enter(Phase::kReport);
  return errors().MeasureUnits(unit, cut().unit_rows, tile.Measured(), backend);
}

absl::Status AwqQuantizer::Pack(int64_t index, int64_t first_row, int64_t rows,
                                const AwqTile& tile, Backend& backend) {
  GridRows grid;
  grid.first_row = first_row;
  grid.rows = rows;
  grid.codes = tile.codes();
  grid.scales = tile.scales();
  grid.zero_points = context_.awq().symmetric ? nullptr : tile.zero_points();
  grid.clock = &clock(index);
  if (writer_->streams()) {
    QS_ASSIGN_OR_RETURN(uint8_t* const words,
                        BeginTileOutput(index, writer_->StreamedBytes(rows)));
    grid.words = reinterpret_cast<uint32_t*>(words);
  }
  return writer_->AddRows(grid, backend);
}

SolverFacts AwqQuantizer::Facts() const {
  SolverFacts solver;
  if (solution_->factor != nullptr) AddFacts(*solution_->factor, &solver);
  AddFacts(solution_->scales, &solver);
  for (const AwqUnitFacts& facts : facts_) {
    solver.codes_changed += facts.codes_changed;
    for (size_t i = 0; i < solver.clip_histogram.size(); ++i) {
      solver.clip_histogram[i] += facts.clip_histogram[i];
    }
  }
  return solver;
}

void AwqQuantizer::AddToReport(TensorReport* report) const {
  report->has_output_error = true;
  report->tokens = solution_->tokens;
  for (const AwqUnitFacts& facts : facts_) {
    report->output_error.error += facts.ours.error;
    report->output_error.signal += facts.ours.signal;
    report->rtn_output_error.error += facts.rtn.error;
    report->rtn_output_error.signal += facts.rtn.signal;
  }
  report->solver = Facts();
  if (!Changed(*report->solver)) {
    report->warnings.push_back(
        "NO_CHANGE: the calibration changed nothing: no scales, no clipped "
        "range, every code the nearest");
  }
}

// What the calibration was for: scales, limits, and codes where they are
// solved.
bool AwqQuantizer::Changed(const SolverFacts& solver) const {
  if (solver.scale_min != 1 || solver.scale_max != 1) return true;
  for (const AwqUnitFacts& facts : facts_) {
    if (facts.clipped_groups > 0) return true;
  }
  return solution_->factor != nullptr && solver.codes_changed > 0;
}

}  // namespace

AwqGridSpec AwqGrid(const QuantSpec& spec, DType weight, int64_t cols,
                    bool stored) {
  const AwqSpec& awq = *spec.awq();
  AwqGridSpec grid;
  grid.bits = awq.bits;
  grid.group_size = awq.group_size == -1 ? cols : awq.group_size;
  grid.symmetric = awq.symmetric;
  grid.rule =
      spec.profile == Profile::kReference ? AwqRule::kAutoAwq : AwqRule::kBest;
  grid.scale_dtype = weight;
  if (stored) {
    const StoredScale scale = StoredScaleOf(spec.format, weight);
    grid.scale_dtype = scale.dtype;
    grid.min_scale = scale.min;
  }
  return grid;
}

TensorSizes AwqSizes(const QuantSpec& spec, const TensorInfo& info,
                     const QuantizeOptions& options) {
  const AwqTileContext context = MakeContext(spec, info, options);
  const AwqCut& cut = context.cut;
  const int64_t tile = cut.most_rows() * cut.cols;
  TensorSizes sizes;
  sizes.output =
      GridOutputBytes(spec, {info.name, info.dtype, cut.rows, cut.cols});
  sizes.extra = cut.units() * (static_cast<int64_t>(sizeof(AwqUnitFacts)) +
                               ErrorCollector::BytesPerTile());
  sizes.tile_input = tile * DTypeBytes(info.dtype);
  // Solve and Refine hold about as much as two F32 copies of the tile.
  sizes.tile_scratch = AwqTile::ScratchBytes(context) +
                       2 * tile * static_cast<int64_t>(sizeof(float));
  return sizes;
}

absl::StatusOr<AwqTensor> NewAwqQuantizer(const QuantSpec& spec,
                                          const TensorInfo& info,
                                          const QuantizeOptions& options) {
  auto quantizer = std::make_unique<AwqQuantizer>(
      spec, info, options, MakeContext(spec, info, options));
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  AwqTensor tensor;
  tensor.member = quantizer.get();
  tensor.quantizer = std::move(quantizer);
  return tensor;
}

}  // namespace qs
