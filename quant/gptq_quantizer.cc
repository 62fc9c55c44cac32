// Tested by tests/quant/gptq_quantizer_test.cc and
// tests/quant/gptq_scaling_test.cc.
#include "quant/gptq_quantizer.h"

#include <algorithm>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_scales.h"
#include "quant/formats/grid_writer.h"
#include "quant/gptq_tile.h"

namespace qs {
namespace {

// At most one code in so many is no change: scales that are fitted after the
// codes leave a few of them beside the nearest (1 in 2000 with an input without
// structure); real inputs that were tried moved 15 in 100 and more.
constexpr int64_t kCodesOfAChange = 200;

constexpr int64_t kWordBits = 32;

// What does not depend on the tensor's site.
GptqContext MakeContext(const QuantSpec& spec, const TensorInfo& info,
                        const QuantizeOptions& options) {
  GptqContext context;
  context.gptq = *spec.gptq();
  context.best = spec.profile == Profile::kBest;
  context.measures = options.error_report;
  context.dtype = info.dtype;
  context.layout = GptqLayoutOf(context.gptq, info, options.large_tiles);
  context.stored = StoredScaleOf(spec.format, info.dtype);
  return context;
}

Partition MakePartition(const GptqLayout& layout) {
  return {.num_elements = layout.rows * layout.cols,
          .tile_elements = layout.tile_rows * layout.cols,
          .group_size = layout.report_group(),
          .measured_elements = layout.unit_rows * layout.cols};
}

class GptqQuantizer final : public QuantizerBase, public AwqMember {
 public:
  GptqQuantizer(const QuantSpec& spec, const TensorInfo& info,
                const QuantizeOptions& options, const GptqContext& context)
      : QuantizerBase(spec, info, options, MakePartition(context.layout)),
        context_(context) {
    context_.checkpoint = [this](double) { return CheckCancelled(); };
    context_.non_finite = [this](int64_t i) { return NonFiniteError(i); };
  }

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(AllocateInput());
    try {
      facts_.resize(static_cast<size_t>(layout().units()));
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError("cannot allocate the solver's books");
    }
    QS_ASSIGN_OR_RETURN(
        writer_,
        GridWriter::Create(
            spec(), {info().name, info().dtype, layout().rows, layout().cols},
            streams()));
    return absl::OkStatus();
  }
  absl::Status CheckSite() const;

  std::vector<TensorView> Pieces() const override;
  void SetSolution(std::shared_ptr<const AwqSiteSolution> solution,
                   AwqTransform transform, const PhaseTimes& times) override;

 private:
  absl::Status EncodeTile(int64_t index, int64_t begin, int64_t end,
                          Backend& backend) override;
  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend&) override;
  void AddToReport(TensorReport* report) const override;
  SolverFacts Facts() const;
  StreamedOutput streamed_output() const override;

  const GptqLayout& layout() const { return context_.layout; }
  // Of the site or of the group's solution.
  absl::StatusOr<GptqInput> FindInput(Backend& backend, PhaseClock& clock);
  absl::Status Write(int64_t index, int64_t first_row, int64_t rows,
                     const GptqCodes& codes, Backend& backend);

  GptqContext context_;
  std::unique_ptr<GridWriter> writer_;
  std::vector<GptqUnitFacts> facts_;
  // In a group, set before any tile runs.
  std::shared_ptr<const AwqSiteSolution> solution_;
  AwqTransform transform_;

  mutable absl::Mutex mutex_;
  std::shared_ptr<const GptqFactor> factor_ ABSL_GUARDED_BY(mutex_);
  const float* hessian_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::Status GptqQuantizer::CheckSite() const {
  const Site* site = options().site.get();
  if (site == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", info().name,
                     "\": got no second moments of its input, which gptq "
                     "needs: give its site or a calibration that has it"));
  }
  if (site->inputs() == layout().cols) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor \"", info().name, "\": site \"", site->name(), "\": got ",
      site->inputs(), " inputs, allowed ", layout().cols, " (the columns)"));
}

std::vector<TensorView> GptqQuantizer::Pieces() const {
  std::vector<TensorView> pieces;
  for (int64_t row = 0; row < layout().rows; row += layout().unit_rows) {
    pieces.push_back(InputView(
        row * layout().cols, std::min(layout().unit_rows, layout().rows - row),
        layout().cols));
  }
  return pieces;
}

void GptqQuantizer::SetSolution(std::shared_ptr<const AwqSiteSolution> solution,
                                AwqTransform transform,
                                const PhaseTimes& times) {
  AddTime(times);
  solution_ = std::move(solution);
  transform_ = std::move(transform);
  absl::MutexLock lock(&mutex_);
  factor_ = solution_->factor;
  hessian_ = solution_->moment;
  tokens_ = solution_->tokens;
}

absl::StatusOr<GptqInput> GptqQuantizer::FindInput(Backend& backend,
                                                   PhaseClock& clock) {
  clock.Enter(Phase::kWait);
  absl::MutexLock lock(&mutex_);
  if (factor_ == nullptr) {
    if (options().site == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(
          "tensor \"", info().name, "\": its group is not solved"));
    }
    Site& site = *options().site;
    QS_ASSIGN_OR_RETURN(const SiteMoments* moments, site.Moments());
    const PanelCheck checkpoint = [this](double done) {
      if (options().on_shared != nullptr) options().on_shared(done);
      return CheckCancelled();
    };
    QS_ASSIGN_OR_RETURN(factor_, SharedGptqFactor(context_.gptq, spec().profile,
                                                  layout().group_size, site,
                                                  checkpoint, backend, &clock));
    if (options().on_shared != nullptr) options().on_shared(1);
    hessian_ = moments->second_moment();
    tokens_ = moments->tokens();
  }
  return GptqInput{factor_.get(), hessian_, &transform_};
}

absl::Status GptqQuantizer::EncodeTile(int64_t index, int64_t begin,
                                       int64_t end, Backend& backend) {
  PhaseClock& clock = this->clock(index);
  QS_ASSIGN_OR_RETURN(const GptqInput input, FindInput(backend, clock));
  clock.Enter(Phase::kPrepare);
  const int64_t first_row = begin / layout().cols;
  const int64_t rows = (end - begin) / layout().cols;
  QS_ASSIGN_OR_RETURN(
      GptqTile tile,
      GptqTile::Create(context_, input, InputView(begin, rows, layout().cols),
                       first_row));
  const int64_t unit = first_row / layout().unit_rows;
  QS_RETURN_IF_ERROR(
      tile.Run(backend, clock,
               std::span(facts_).subspan(
                   static_cast<size_t>(unit),
                   static_cast<size_t>(CeilDiv(rows, layout().unit_rows)))));
  QS_RETURN_IF_ERROR(Write(index, first_row, rows, tile.codes(), backend));
  if (!options().error_report) return absl::OkStatus();
  clock.Enter(Phase::kReport);
  QS_ASSIGN_OR_RETURN(const MeasuredPiece piece, tile.Measured(backend));
  return errors().MeasureUnits(unit, layout().unit_rows, piece, backend);
}

absl::Status GptqQuantizer::Write(int64_t index, int64_t first_row,
                                  int64_t rows, const GptqCodes& codes,
                                  Backend& backend) {
  GridRows grid;
  grid.first_row = first_row;
  grid.rows = rows;
  grid.codes = codes.codes;
  grid.scales = codes.scales;
  grid.zero_points = codes.zero_points;
  grid.clock = &clock(index);
  if (writer_->streams()) {
    QS_ASSIGN_OR_RETURN(uint8_t* const words,
                        BeginTileOutput(index, writer_->StreamedBytes(rows)));
    grid.words = reinterpret_cast<uint32_t*>(words);
  }
  return writer_->AddRows(grid, backend);
}

absl::StatusOr<std::vector<OutputTensor>> GptqQuantizer::Assemble(
    Backend& backend) {
  ReleaseInput();
  if (context_.gptq.order == ColumnOrder::kActOrder) {
    QS_ASSIGN_OR_RETURN(const GptqInput input,
                        FindInput(backend, whole_clock()));
    whole_clock().Enter(Phase::kPack);
    QS_RETURN_IF_ERROR(writer_->SetGroupIndex(input.factor->group_of));
  }
  return writer_->Finish();
}

StreamedOutput GptqQuantizer::streamed_output() const {
  if (!writer_->streams()) return {};
  return {
      info().name + "_packed",
      DType::kI32,
      {layout().rows, CeilDiv(layout().cols * context_.gptq.bits, kWordBits)},
      writer_->StreamedBytes(layout().rows)};
}

SolverFacts GptqQuantizer::Facts() const {
  SolverFacts solver;
  if (solution_ != nullptr) AddFacts(solution_->scales, &solver);
  for (const GptqUnitFacts& facts : facts_) {
    solver.codes_changed += facts.codes_changed;
  }
  return solver;
}

void GptqQuantizer::AddToReport(TensorReport* report) const {
  absl::MutexLock lock(&mutex_);
  if (factor_ == nullptr) return;
  SolverFacts solver = Facts();
  AddFacts(*factor_, &solver);
  report->tokens = tokens_;
  if (solver.diagonal_only) {
    report->warnings.push_back(
        "GPTQ_DIAGONAL_ONLY: the second moment of the input could not be "
        "factored; errors were weighted, not compensated");
  }
  report->has_output_error = context_.best || context_.measures;
  for (const GptqUnitFacts& facts : facts_) {
    report->output_error.error += facts.output.error;
    report->output_error.signal += facts.output.signal;
    report->rtn_output_error.error += facts.rounded.error;
    report->rtn_output_error.signal += facts.rounded.signal;
  }
  // Scales of 1, or none: the codes tell.
  const bool scaled = solver.scale_max > solver.scale_min;
  const int64_t codes = layout().rows * layout().cols;
  if (report->has_output_error && !scaled &&
      solver.codes_changed <= codes / kCodesOfAChange) {
    report->warnings.push_back(
        absl::StrCat("NO_CHANGE: the calibration changed ",
                     solver.codes_changed == 0 ? "" : "next to ",
                     "nothing: ", solver.codes_changed, " of ", codes,
                     " codes differ from rounding on the same grid"));
  }
  report->solver = solver;
}

}  // namespace

TensorSizes GptqSizes(const QuantSpec& spec, const TensorInfo& info,
                      const QuantizeOptions& options) {
  const GptqContext context = MakeContext(spec, info, options);
  const GptqLayout& layout = context.layout;
  TensorSizes sizes;
  sizes.output =
      GridOutputBytes(spec, {info.name, info.dtype, layout.rows, layout.cols});
  sizes.extra =
      16 * layout.cols + layout.units() * ErrorCollector::BytesPerTile();
  sizes.tile_input = layout.most_rows() * layout.cols * DTypeBytes(info.dtype);
  sizes.tile_scratch =
      GptqTile::ScratchBytes(context, spec.gptq()->awq_scaling) +
      GptqTile::OperationBytes(layout);
  return sizes;
}

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewGptqQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  const GptqContext context = MakeContext(spec, info, options);
  auto quantizer =
      std::make_unique<GptqQuantizer>(spec, info, options, context);
  QS_RETURN_IF_ERROR(quantizer->CheckSite());
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  return quantizer;
}

absl::StatusOr<AwqTensor> NewGptqMember(const QuantSpec& spec,
                                        const TensorInfo& info,
                                        const QuantizeOptions& options) {
  auto quantizer = std::make_unique<GptqQuantizer>(
      spec, info, options, MakeContext(spec, info, options));
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  AwqTensor tensor;
  tensor.member = quantizer.get();
  tensor.quantizer = std::move(quantizer);
  return tensor;
}

}  // namespace qs
