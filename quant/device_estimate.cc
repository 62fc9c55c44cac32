// Tested by tests/quant/device_estimate_test.cc.
#include "quant/device_estimate.h"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "kernels/base/checked_math.h"
#include "quant/awq_cut.h"
#include "quant/awq_judge.h"
#include "quant/awq_quantizer.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/hqq_format.h"
#include "quant/gptq_layout.h"
#include "quant/hqq_base.h"
#include "quant/nf4_quantizer.h"
#include "quant/quantizer_base.h"
#include "quant/solve_group.h"

namespace qs {
namespace {

// Of an argument that has one, whichever.
constexpr ContentId kSomeNumber = 1;
// Rows of a sample for AWQ's search, at most: where rows are taken evenly.
constexpr int64_t kMostSampledRows = 2 * 512;
constexpr int64_t kMeasuredRows = 512;  // of a site that is only reported on

DeviceBytes MostOf(std::initializer_list<DeviceBytes> all) {
  DeviceBytes most;
  for (const DeviceBytes& need : all) most = qs::MostOf(most, need);
  return most;
}

// Of a tensor, as far as methods that need no site are concerned.
struct Weight {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  TensorView View() const { return {nullptr, dtype, rows, cols}; }
};

DeviceBytes StatsBytes(const Weight& weight, int64_t group_size) {
  ErrorSumsArgs args;
  args.weight = args.decoded = weight.View();
  args.group_size = group_size;
  return DeviceBytesOf(args);
}

DeviceBytes AffineBytes(const Weight& weight, int64_t group_size) {
  AffineEncodeArgs args;
  args.weight = weight.View();
  args.group_size = group_size;
  return DeviceBytesOf(args);
}

// Codes of a result's rows and zero points of its groups.
DeviceBytes PackBytes(const Weight& weight, int bits, int64_t groups) {
  PackRowsArgs codes;
  codes.rows = weight.rows;
  codes.cols = weight.cols;
  codes.bits = bits;
  PackColumnsArgs columns;
  columns.rows = weight.rows;
  columns.cols = std::max(weight.cols, groups);
  columns.bits = bits;
  PackAwqArgs eights;
  eights.rows = columns.rows;
  eights.cols = columns.cols;
  return MostOf(
      {DeviceBytesOf(codes), DeviceBytesOf(columns), DeviceBytesOf(eights)});
}

DeviceBytes Nf4Bytes(const Nf4Spec& nf4, const TensorInfo& info, bool large) {
  const MatrixShape shape = AsMatrix(info.shape);
  const int64_t n = shape.rows * shape.cols;
  const Weight slice = {info.dtype, 1,
                        std::min(n, Nf4SliceElements(info, large))};
  Nf4EncodeArgs encode;
  encode.weight = slice.View();
  encode.block_size = nf4.block_size;
  NestedEncodeArgs nested;
  nested.num_blocks = nf4.double_quant ? CeilDiv(n, nf4.block_size) : 0;
  NestedRefineArgs refine;
  if (nf4.double_quant) refine.weight = encode.weight;
  refine.block_size = nf4.block_size;
  return MostOf({DeviceBytesOf(encode), DeviceBytesOf(nested),
                 DeviceBytesOf(refine), StatsBytes(slice, nf4.block_size)});
}

DeviceBytes RtnBytes(const RtnSpec& rtn, const Weight& weight, bool large) {
  const int64_t group = rtn.group_size == -1 ? weight.cols : rtn.group_size;
  const int64_t unit = rtn.symmetric ? 1 : kGridRowUnit;
  Weight slice = weight;
  slice.rows =
      unit * std::max<int64_t>(1, kSliceElements / (unit * weight.cols));
  if (large) {
    const int64_t bytes = slice.rows * slice.cols * DTypeBytes(slice.dtype);
    slice.rows *= std::max<int64_t>(1, kTileBytes / bytes);
  }
  slice.rows = std::min(slice.rows, weight.rows);
  return MostOf({AffineBytes(slice, group),
                 PackBytes(slice, rtn.bits, weight.cols / group),
                 StatsBytes(slice, group)});
}

DeviceBytes HqqBytes(const QuantSpec& spec, const TensorInfo& info,
                     bool large) {
  const HqqSpec& hqq = *spec.hqq();
  const hqq::Cut cut = hqq::MakeCut(spec, info, large);
  const Weight slice = {info.dtype, 1, cut.slice_elements()};
  HqqEncodeArgs encode;
  encode.weight = {nullptr, info.dtype, 1,
                   cut.whole ? cut.elements() : cut.slice_elements()};
  encode.group_size = hqq.group_size;
  encode.axis = hqq.axis;
  encode.stored = info.dtype;
  DeviceBytes most =
      MostOf({DeviceBytesOf(encode), AffineBytes(slice, hqq.group_size),
              StatsBytes(slice, hqq.group_size)});
  if (!hqq::IsGrid(spec)) {
    const HqqLayout layout =
        HqqLayoutOf(hqq, info.name, info.dtype, cut.rows, cut.cols);
    return MostOf({most, DeviceBytesOf(HqqPackArgs(layout))});
  }
  const int64_t rows = std::max<int64_t>(1, slice.cols / cut.cols);
  return MostOf({most, PackBytes({info.dtype, rows, cut.cols}, hqq.bits,
                                 cut.cols / hqq.group_size)});
}

// What solves and judges rows of one input, and its factor.
struct Solver {
  GptqGrid grid;
  bool static_groups = true;
  bool refines = false;
  bool factor_in_f64 = false;
  ContentId numbered = kSomeNumber;  // its matrices
};

DeviceBytes FactorBytes(int64_t inputs, bool in_f64, const DeviceTiles& tiles) {
  GptqFactorArgs args;
  args.size = inputs;
  args.in_f64 = in_f64;
  return DeviceBytesOf(args, tiles);
}

DeviceBytes ErrorBytes(const Weight& weight, DType decoded, ContentId numbered,
                       const DeviceTiles& tiles) {
  GptqErrorArgs args;
  args.weight = weight.View();
  args.decoded = {nullptr, decoded, weight.rows, weight.cols};
  args.hessian_id = numbered;
  return DeviceBytesOf(args, tiles);
}

DeviceBytes SolverBytes(const Solver& solver, const Weight& weight,
                        DType decoded, const DeviceTiles& tiles) {
  static constexpr float kThere = 0;
  GptqSolveArgs solve;
  solve.weight = weight.View();
  solve.factor = &kThere;
  solve.factor_id = solver.numbered;
  solve.grid = solver.grid;
  solve.static_groups = solver.static_groups;
  GptqDecodeArgs decode;
  decode.grid = solver.grid;
  decode.weight = {nullptr, decoded, weight.rows, weight.cols};
  DeviceBytes most =
      MostOf({DeviceBytesOf(solve, tiles), DeviceBytesOf(decode)});
  if (solver.refines) {
    GptqRefineArgs refine;
    refine.weight = weight.View();
    refine.hessian_id = solver.numbered;
    refine.grid = solver.grid;
    most = qs::MostOf(most, DeviceBytesOf(refine, tiles));
  }
  return most;
}

// Of `matrices` that are kept.
int64_t KeptBytes(int64_t inputs, int64_t matrices) {
  return matrices * 4 * inputs * inputs;
}

DeviceBytes GptqBytes(const QuantSpec& spec, const TensorInfo& info,
                      const DeviceUse& use, const DeviceTiles& tiles) {
  const bool scaled = use.scaled;
  const GptqSpec& gptq = *spec.gptq();
  const GptqLayout layout = GptqLayoutOf(gptq, info, use.large_tiles);
  const bool best = spec.profile == Profile::kBest;
  const Weight tile = {info.dtype, layout.most_rows(), layout.cols};
  Weight unit = tile;
  unit.rows = std::min(layout.unit_rows, layout.rows);
  Weight solved = tile;
  if (scaled) solved.dtype = DType::kF32;
  Solver solver;
  solver.grid.bits = gptq.bits;
  solver.grid.group_size = layout.group_size;
  solver.grid.symmetric = gptq.symmetric;
  solver.grid.scale_dtype = StoredScaleOf(spec.format, info.dtype).dtype;
  solver.grid.decoded_dtype = best ? info.dtype : DType::kF32;
  solver.static_groups = gptq.order != ColumnOrder::kActOrder;
  solver.refines = best && gptq.sweeps > 0 && solver.static_groups;
  DeviceBytes most =
      MostOf({FactorBytes(layout.cols, /*in_f64=*/!best, tiles),
              SolverBytes(solver, solved, info.dtype, tiles),
              ErrorBytes(solved, scaled ? DType::kF32 : info.dtype, kSomeNumber,
                         tiles),
              PackBytes(tile, gptq.bits, layout.groups),
              StatsBytes(unit, layout.report_group())});
  most.kept = KeptBytes(layout.cols, 2);  // a factor, and what it is of
  return most;
}

DeviceBytes AwqBytes(const QuantSpec& spec, const TensorInfo& info, bool large,
                     const DeviceTiles& tiles) {
  const AwqSpec& awq = *spec.awq();
  const AwqCut cut = AwqCutOf(info, large);
  const int64_t cols = cut.cols;
  const Weight tile = {info.dtype, cut.most_rows(), cols};
  const Weight exact = {DType::kF32, tile.rows, cols};
  Weight unit = tile;
  unit.rows = std::min(cut.unit_rows, cut.rows);
  const AwqGridSpec grid = AwqGrid(spec, info.dtype, cols, true);
  AwqQuantizeArgs round;
  round.weight = exact.View();
  round.grid = grid;
  DeviceBytes most =
      MostOf({AffineBytes(tile, grid.group_size), DeviceBytesOf(round),
              ErrorBytes(exact, DType::kF32, kSomeNumber, tiles),
              PackBytes(tile, awq.bits, cols / grid.group_size),
              StatsBytes(unit, grid.group_size)});
  if (awq.clip && !awq.solve_codes) {
    AwqClipArgs clip;
    clip.weight = exact.View();
    clip.grid = grid;
    clip.second_moment_id = kSomeNumber;
    most = qs::MostOf(most, DeviceBytesOf(clip, tiles));
  }
  // The moment, and what the search for scales has left.
  most.kept = KeptBytes(cols, 2);
  if (!awq.solve_codes) return most;
  Solver solver;
  solver.grid.bits = awq.bits;
  solver.grid.group_size = grid.group_size;
  solver.grid.symmetric = awq.symmetric;
  solver.grid.scale_dtype = grid.scale_dtype;
  solver.grid.decoded_dtype = info.dtype;
  solver.refines = true;
  most = qs::MostOf(most, SolverBytes(solver, exact, info.dtype, tiles));
  most.kept = KeptBytes(cols, 3);
  return most;
}

// The search for scales of one input: `weights` read it. `judges`: how well
// codes can be solved is part of it.
DeviceBytes SearchBytes(const AwqSpec& awq, bool judges, int64_t inputs,
                        const std::vector<TensorView>& weights,
                        const DeviceTiles& tiles) {
  const int64_t group =
      awq.group_size == -1 ? inputs : std::min(awq.group_size, inputs);
  int64_t rows = 0;
  for (const TensorView& weight : weights) rows += weight.rows;
  AwqStatisticsArgs means;
  means.weights = weights;
  means.group_size = group;
  AwqScaleLossArgs all;
  all.weights = weights;
  all.grid.group_size = group;
  all.candidates = awq.grid + 2;
  all.matrix_id = kSomeNumber;
  AwqScaleLossArgs sampled = all;  // with scales of both kinds
  const std::vector<TensorView> sample = {{nullptr, weights.front().dtype,
                                           std::min(kMostSampledRows, rows),
                                           inputs}};
  sampled.weights = sample;
  sampled.candidates = 2 * (awq.grid + 1);
  DeviceBytes most = MostOf({DeviceBytesOf(means), DeviceBytesOf(all, tiles),
                             DeviceBytesOf(sampled, tiles),
                             FactorBytes(inputs, /*in_f64=*/false, tiles)});
  if (!judges) return most;
  // Some rows are solved with matrices of their own.
  const auto pieces = static_cast<int64_t>(weights.size());
  const Weight judged = {DType::kF32, std::min(kJudgedRows + pieces, rows),
                         inputs};
  Solver judge;
  judge.grid.group_size = group;
  judge.numbered = 0;
  return MostOf({most, SolverBytes(judge, judged, DType::kF32, tiles),
                 ErrorBytes(judged, DType::kF32, 0, tiles)});
}

// Rows of a tensor as its pieces.
void AddPieces(const QuantSpec& spec, const TensorInfo& info,
               std::vector<TensorView>* pieces) {
  const MatrixShape shape = AsMatrix(info.shape);
  const int64_t most = spec.gptq() != nullptr
                           ? GptqLayoutOf(*spec.gptq(), info, false).unit_rows
                           : AwqCutOf(info, false).unit_rows;
  for (int64_t row = 0; row < shape.rows; row += most) {
    pieces->push_back(
        {nullptr, info.dtype, std::min(most, shape.rows - row), shape.cols});
  }
}

AwqSpec SearchSpecOf(const QuantSpec& spec) {
  if (spec.awq() != nullptr) return *spec.awq();
  AwqSpec awq;
  awq.group_size = spec.gptq()->group_size;
  return awq;
}

}  // namespace

DeviceBytes TensorDeviceBytes(const QuantSpec& spec, const TensorInfo& info,
                              const DeviceUse& use, const DeviceTiles& tiles) {
  const MatrixShape shape = AsMatrix(info.shape);
  const Weight weight = {info.dtype, shape.rows, shape.cols};
  if (spec.gptq() != nullptr) return GptqBytes(spec, info, use, tiles);
  if (spec.awq() != nullptr) {
    return AwqBytes(spec, info, use.large_tiles, tiles);
  }
  DeviceBytes most =
      spec.nf4() != nullptr   ? Nf4Bytes(*spec.nf4(), info, use.large_tiles)
      : spec.rtn() != nullptr ? RtnBytes(*spec.rtn(), weight, use.large_tiles)
                              : HqqBytes(spec, info, use.large_tiles);
  if (!use.measured) return most;
  const Weight measured = {info.dtype, std::min(shape.rows, kMeasuredRows),
                           shape.cols};
  return MostOf({most, ErrorBytes(measured, info.dtype, kSomeNumber, tiles),
                 AffineBytes(measured, std::max<int64_t>(1, shape.cols))});
}

DeviceBytes SolveDeviceBytes(const QuantSpec& spec, const GroupInfo& info,
                             const DeviceTiles& tiles) {
  DeviceBytes most;
  if (!SolvesWhole(spec, info)) return most;
  for (size_t s = 0; s < info.sites.size(); ++s) {
    std::vector<TensorView> pieces;
    for (const GroupTensor& tensor : info.tensors) {
      if (tensor.role != GroupRole::kQuantize) continue;
      if (tensor.site != static_cast<int>(s)) continue;
      AddPieces(spec, tensor.info, &pieces);
    }
    if (pieces.empty()) continue;
    const AwqSpec search = SearchSpecOf(spec);
    const bool judges = spec.profile == Profile::kBest && search.solve_codes;
    most = qs::MostOf(
        most, SearchBytes(search, judges, info.sites[s].inputs, pieces, tiles));
  }
  return most;
}

DeviceUse GroupDeviceUse(const QuantSpec& spec, const GroupInfo& info,
                         const QuantizeOptions& options) {
  return {.measured = options.error_report && !NeedsCalibration(spec),
          .scaled = SolvesWhole(spec, info),
          .large_tiles = options.large_tiles};
}

DeviceBytes SiteDeviceBytes(int64_t inputs, DType dtype, int64_t runs,
                            const DeviceTiles& tiles) {
  GramAccumulateArgs add;
  add.activations = {nullptr, dtype, runs * kGramRunTokens, inputs};
  GramFinishArgs finish;
  finish.inputs = inputs;
  return MostOf({DeviceBytesOf(add, tiles), DeviceBytesOf(finish)});
}

}  // namespace qs
