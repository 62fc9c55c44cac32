// Tested by tests/quant/hqq_quantizer_test.cc.
#include "quant/hqq_base.h"

#include <new>
#include <utility>

#include "quant/formats/grid_writer.h"

namespace qs::hqq {
namespace {

Partition MakePartition(const Cut& cut) {
  return {.num_elements = cut.elements(),
          .tile_elements = cut.tile,
          .group_size = cut.group_size};
}

}  // namespace

bool IsGrid(const QuantSpec& spec) { return spec.format != OutputFormat::kHqq; }

Cut MakeCut(const QuantSpec& spec, const TensorInfo& info, bool large) {
  const HqqSpec& hqq = *spec.hqq();
  const MatrixShape shape = AsMatrix(info.shape);
  Cut cut;
  cut.rows = shape.rows;
  cut.cols = shape.cols;
  cut.group_size = hqq.group_size;
  cut.whole = spec.profile == Profile::kReference || hqq.axis == 0;
  const int64_t unit = IsGrid(spec) ? kGridRowUnit * cut.cols : cut.group_size;
  cut.slice = unit * std::max<int64_t>(1, kSliceElements / unit);
  const int64_t slice_bytes = cut.slice * DTypeBytes(info.dtype);
  const int64_t tile =
      cut.slice * std::max<int64_t>(1, kTileBytes / slice_bytes);
  cut.tile = cut.whole ? cut.elements() : tile;
  if (large) cut.slice = tile;
  return cut;
}

int64_t ScratchBytes(const QuantSpec& spec, const Cut& cut, DType dtype) {
  const int64_t slice = cut.slice_elements();
  const int64_t groups = slice / cut.group_size;
  const int64_t element = DTypeBytes(dtype);
  const int64_t measure =
      2 * Scratch::Padded(slice * element) + Scratch::Padded(slice) +
      Scratch::Padded(groups * static_cast<int64_t>(sizeof(float))) +
      Scratch::Padded(groups * static_cast<int64_t>(sizeof(double)));
  if (!IsGrid(spec)) return measure;
  const int64_t encoded = cut.whole ? cut.elements() : slice;
  return measure + Scratch::Padded(encoded) +
         Scratch::Padded(encoded / cut.group_size * element) +
         Scratch::Padded(encoded / cut.group_size);
}

QuantizerOfGroups::QuantizerOfGroups(const QuantSpec& spec, TensorInfo info,
                                     const QuantizeOptions& options,
                                     const Cut& cut)
    : QuantizerBase(spec, std::move(info), options, MakePartition(cut)),
      hqq_(*spec.hqq()),
      cut_(cut) {}

QuantizerOfGroups::Measuring QuantizerOfGroups::TakeMeasuring(
    Scratch* scratch) const {
  const int64_t slice = cut_.slice_elements();
  Measuring m;
  m.weight = scratch->Take<uint8_t>(slice * element());
  m.codes = scratch->Take<uint8_t>(slice);
  m.decoded = scratch->Take<uint8_t>(slice * element());
  m.steps = scratch->Take<float>(slice / cut_.group_size);
  m.group_errors = scratch->Take<double>(slice / cut_.group_size);
  return m;
}

absl::Status QuantizerOfGroups::Encode(const Slice& slice, int64_t tile,
                                       Backend& backend) {
  clock(tile).Enter(Phase::kEncode);
  int64_t first_non_finite = -1;
  HqqFacts facts;
  HqqEncodeArgs args;
  args.weight = slice.weight;
  args.bits = hqq_.bits;
  args.group_size = hqq_.group_size;
  args.axis = hqq_.axis;
  args.solver = spec().profile == Profile::kBest ? HqqSolver::kBest
                                                 : HqqSolver::kReference;
  args.iterations = hqq_.iterations;
  args.round_zero = hqq_.bits == 4;
  args.codes = slice.codes;
  args.stored = info().dtype;
  args.scales = slice.scales;
  args.zeros = slice.zeros;
  args.zero_points = slice.zero_points;
  args.first_non_finite = &first_non_finite;
  args.facts = &facts;
  QS_RETURN_IF_ERROR(backend.hqq().Encode(args, backend.stream()));
  if (first_non_finite >= 0) {
    return NonFiniteError(slice.begin + first_non_finite);
  }
  HqqFacts& sum = facts_[static_cast<size_t>(tile)];
  sum.groups += facts.groups;
  sum.group_iterations += facts.group_iterations;
  return absl::OkStatus();
}

absl::Status QuantizerOfGroups::Measure(int64_t tile, int64_t first_group,
                                        const TensorView& weight,
                                        const TensorView& decoded,
                                        const uint8_t* scales,
                                        const Measuring& m, Backend& backend) {
  const int64_t groups = weight.num_elements() / cut_.group_size;
  for (int64_t g = 0; g < groups; ++g) {
    m.steps[g] = LoadAsFloat(scales, info().dtype, g);
  }
  return errors().Measure(tile,
                          {.weight = weight,
                           .decoded = decoded,
                           .steps = m.steps,
                           .first_group = first_group,
                           .group_errors = m.group_errors},
                          backend);
}

absl::Status QuantizerOfGroups::AllocateBooks() {
  try {
    facts_.resize(static_cast<size_t>(num_tiles()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("cannot allocate the solver's books");
  }
  return AllocateInput();
}

void QuantizerOfGroups::AddToReport(TensorReport* report) const {
  HqqFacts sum;
  for (const HqqFacts& facts : facts_) {
    sum.groups += facts.groups;
    sum.group_iterations += facts.group_iterations;
  }
  SolverFacts solver;
  if (sum.groups > 0) {
    solver.iterations = static_cast<double>(sum.group_iterations) /
                        static_cast<double>(sum.groups);
  }
  report->solver = solver;
}

}  // namespace qs::hqq
