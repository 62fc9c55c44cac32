// What tensors ask of a device: how much is copied, and in how many operations.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/cuda_backend.h"
#include "quant/awq_cut.h"
#include "quant/site_accumulator.h"
#include "tests/quant/awq_cases.h"
#include "tests/testing/counting_device.h"
#include "tests/testing/sanitized.h"

namespace qs::testing {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;

// A worker on a device that counts.
struct Worker {
  const std::shared_ptr<cuda::CountingDevice> device =
      std::make_shared<cuda::CountingDevice>();
  const std::unique_ptr<Backend> backend = *cuda::NewCudaBackend(
      device, cuda::NewEmulatedBlas(), NewCpuBackend(1), kMany);
};

// `layers` tensors [rows, cols] that read one input, behind a norm.
struct Block {
  Block(int layers, int64_t rows, int64_t cols, DType dtype = DType::kBF16)
      : inputs(cols) {
    info.name = "block";
    info.sites = {{"in", cols, {}, ""}};
    info.sites[0].fold.kind = FoldKind::kNorm;
    info.sites[0].fold.producer = "norm.weight";
    for (int i = 0; i < layers; ++i) {
      const std::string name = "up" + std::to_string(i) + ".weight";
      info.tensors.push_back({{name, dtype, {rows, cols}}, 0});
      weights[name] = Gaussian(rows * cols, dtype, 3);
    }
    info.tensors.push_back(
        {{"norm.weight", dtype, {cols}}, -1, GroupRole::kFoldOnly});
    weights["norm.weight"] =
        Stored(std::vector<float>(static_cast<size_t>(cols), 1.0f), dtype);
  }
  // Without what is folded into.
  void Unfold() {
    info.sites[0].fold = {};
    info.tensors.pop_back();
    weights.erase("norm.weight");
  }
  Moments NewMoments() const {
    Moments moments;
    moments.emplace("in",
                    MomentsOf("in", Tokens(4 * inputs, inputs, 5), inputs));
    return moments;
  }
  int64_t matrix_bytes() const { return inputs * inputs * 4; }

  int64_t inputs;
  GroupInfo info;
  Weights weights;
};

// Copies to the device of what has the size of the input's matrices.
int64_t MatricesCopied(const QuantSpec& spec, const Block& block) {
  const Worker worker;
  Solve(spec, block.info, block.weights, block.NewMoments(), *worker.backend);
  CHECK(worker.backend->memory().host_calls == 0);
  return worker.device->CopiesIn(block.matrix_bytes());
}

TEST_CASE("AWQ: an input's matrices are copied once", "[device_work]") {
  for (const int layers : {1, 3}) {
    INFO(layers << " tensors");
    const Block block(layers, 24, 96);
    AwqSpec awq;
    awq.group_size = 32;
    awq.grid = 4;
    awq.solve_codes = false;
    // To factor it for the search, that factor, the scaled moment.
    CHECK(MatricesCopied(Awq(awq, Profile::kBest), block) == 3);
    CHECK(MatricesCopied(Awq(awq, Profile::kReference, OutputFormat::kAwqGemm),
                         block) == 3);
  }
}

TEST_CASE("AWQ that solves codes: copies do not grow with tensors",
          "[device_work]") {
  AwqSpec awq;
  awq.group_size = 32;
  awq.grid = 4;
  awq.solve_codes = true;
  const QuantSpec spec = Awq(awq, Profile::kBest);
  CHECK(MatricesCopied(spec, Block(1, 24, 96)) ==
        MatricesCopied(spec, Block(3, 24, 96)));
}

TEST_CASE("a site that is only reported on is copied once", "[device_work]") {
  Block block(2, 600, 64);  // two slabs of rows each
  block.Unfold();
  const QuantSpec spec = {RtnSpec{4, 64, true}, Profile::kReference,
                          OutputFormat::kCompressedTensors};
  CHECK(MatricesCopied(spec, block) == 1);
}

struct SiteWork {
  std::vector<float> moments;
  int64_t bytes_copied = 0;
};

// Second moments of `tokens`, which come in odd pieces, `runs` in a call.
SiteWork SumSite(int64_t inputs, int64_t tokens, int64_t runs,
                 const std::vector<uint8_t>& rows) {
  const Worker worker;
  const auto sums = *SiteAccumulator::Create("in", inputs, DType::kBF16, runs);
  const int64_t row = inputs * DTypeBytes(DType::kBF16);
  for (int64_t t = 0, step = 1; t < tokens; t += step, step = 3 * step + 1) {
    step = std::min(step, tokens - t);
    REQUIRE(sums->Add(rows.data() + t * row, step, *worker.backend).ok());
  }
  SiteWork work;
  work.bytes_copied = worker.device->bytes_copied();
  const auto moments = sums->Finish(*worker.backend);
  REQUIRE(moments.ok());
  CHECK(worker.backend->memory().host_calls == 0);
  const float* const all = moments->second_moment();
  work.moments.assign(all, all + inputs * inputs);
  work.moments.insert(work.moments.end(), moments->abs_sum(),
                      moments->abs_sum() + inputs);
  return work;
}

TEST_CASE("second moments: sums are copied once for several runs",
          "[device_work]") {
  const int64_t inputs = 96;
  const int64_t tokens = 8 * kGramRunTokens;
  const auto rows = Gaussian(tokens * inputs, DType::kBF16, 3);
  const SiteWork one = SumSite(inputs, tokens, 1, rows);
  const int64_t row_bytes = tokens * inputs * 2;
  // There and back, with the index of what is not finite.
  const int64_t call_bytes = 2 * 8 * inputs * (inputs + 1) + 8;
  CHECK(one.bytes_copied == row_bytes + 8 * call_bytes);
  for (const int64_t runs : {2, 8}) {
    const SiteWork several = SumSite(inputs, tokens, runs, rows);
    CHECK(several.moments == one.moments);
    CHECK(several.bytes_copied == row_bytes + 8 / runs * call_bytes);
  }
}

TEST_CASE("second moments: what no call was filled with comes with the end",
          "[device_work]") {
  const int64_t inputs = 40;
  const int64_t tokens = 3 * kGramRunTokens + 57;
  const auto rows = Gaussian(tokens * inputs, DType::kBF16, 3);
  const SiteWork one = SumSite(inputs, tokens, 1, rows);
  const SiteWork several = SumSite(inputs, tokens, 4, rows);
  CHECK(several.moments == one.moments);
  CHECK(several.bytes_copied == 0);
}

TEST_CASE("second moments: NaN in any run of a call is named by its token",
          "[device_work]") {
  const int64_t inputs = 8;
  const int64_t tokens = 4 * kGramRunTokens;
  for (const int64_t token : {int64_t{3}, 2 * kGramRunTokens, tokens - 1}) {
    auto rows = Gaussian(tokens * inputs, DType::kBF16, 3);
    StoreFromFloat(rows.data(), DType::kBF16, token * inputs + 5, NAN);
    StoreFromFloat(rows.data(), DType::kBF16, tokens * inputs - 1, INFINITY);
    const Worker worker;
    const auto sums =
        *SiteAccumulator::Create("in", inputs, DType::kBF16, /*runs=*/4);
    const absl::Status status = sums->Add(rows.data(), tokens, *worker.backend);
    CHECK(std::string(status.message()) ==
          "site \"in\": NaN at token " + std::to_string(token) + ", input 5");
    CHECK(worker.backend->memory().host_calls == 0);
  }
}

// A unit of rows and a short one.
Block Tall() {
  Block block(1, 600, 64);
  block.Unfold();
  return block;
}

GptqSpec Gptq() {
  GptqSpec gptq;
  gptq.group_size = 32;
  gptq.sweeps = 2;
  return gptq;
}

// What a tensor of Tall came to.
QuantizedTensor SolveTall(const QuantSpec& spec, bool large, Backend& backend) {
  const Block block = Tall();
  QuantizeOptions options;
  options.large_tiles = large;
  SolvedGroup solved = Solve(spec, block.info, block.weights,
                             block.NewMoments(), backend, options);
  return std::move(solved.tensors.begin()->second);
}

void RequireSame(const QuantizedTensor& a, const QuantizedTensor& b) {
  CHECK(Parts(a) == Parts(b));
  const TensorReport& x = a.report;
  const TensorReport& y = b.report;
  CHECK(x.output_error.error == y.output_error.error);
  CHECK(x.output_error.signal == y.output_error.signal);
  CHECK(x.rtn_output_error.error == y.rtn_output_error.error);
  CHECK(x.error.squared_error == y.error.squared_error);
  CHECK(x.error.histogram == y.error.histogram);
  CHECK(x.rtn.squared_error == y.rtn.squared_error);
  CHECK(x.worst_groups.size() == y.worst_groups.size());
  for (size_t i = 0; i < x.worst_groups.size(); ++i) {
    CHECK(x.worst_groups[i].group == y.worst_groups[i].group);
  }
  CHECK(x.solver->codes_changed == y.solver->codes_changed);
  CHECK(x.solver->clip_histogram == y.solver->clip_histogram);
  CHECK(x.warnings == y.warnings);
}

TEST_CASE("GPTQ in large tiles: the same in fewer operations",
          "[device_work]") {
  for (const Profile profile : {Profile::kReference, Profile::kBest}) {
    INFO("profile " << static_cast<int>(profile));
    GptqSpec gptq = Gptq();
    if (profile == Profile::kReference) {
      gptq.range_search = RangeSearch::kMinMax;
    }
    const QuantSpec spec = {gptq, profile, OutputFormat::kCompressedTensors};
    const Worker small;
    const Worker large;
    RequireSame(SolveTall(spec, /*large=*/false, *small.backend),
                SolveTall(spec, /*large=*/true, *large.backend));
    INFO(small.device->operations()
         << " operations and " << small.device->waits() << " waits in units, "
         << large.device->operations() << " and " << large.device->waits()
         << " in a large tile");
    CHECK(large.device->operations() < small.device->operations());
    CHECK(large.device->waits() < small.device->waits());
  }
}

TEST_CASE("GPTQ in large tiles on a host: the same", "[device_work]") {
  const auto host = NewCpuBackend(1);
  const QuantSpec spec = {Gptq(), Profile::kBest,
                          OutputFormat::kCompressedTensors};
  RequireSame(SolveTall(spec, false, *host), SolveTall(spec, true, *host));
}

// A unit of AWQ's rows and a short one, behind a norm.
Block TwoUnits() {
  constexpr int64_t kCols = 256;
  const AwqCut unit = AwqCutOf({"", DType::kF32, {1, kCols}}, false);
  return {1, unit.unit_rows + 8, kCols, DType::kF32};
}

AwqSpec ShortAwq(bool solves) {
  AwqSpec awq;
  awq.group_size = 256;
  awq.grid = 1;
  awq.symmetric = false;
  awq.solve_codes = solves;
  return awq;
}

// The first tensor of a block.
QuantizedTensor SolveFirst(const QuantSpec& spec, const Block& block,
                           bool large, Backend& backend) {
  QuantizeOptions options;
  options.large_tiles = large;
  SolvedGroup solved = Solve(spec, block.info, block.weights,
                             block.NewMoments(), backend, options);
  return std::move(solved.tensors.at(block.info.tensors[0].info.name));
}

// The rest of AWQ is BEST's clip search, whose rows awq_cuda_test cuts, and
// what GPTQ does; the emulation takes a minute for so many weights.
TEST_CASE("AWQ in large tiles: the same in fewer operations", "[device_work]") {
  if (kSanitized) return;
  const Block block = TwoUnits();
  const QuantSpec spec =
      Awq(ShortAwq(false), Profile::kReference, OutputFormat::kAwqGemm);
  const Worker small;
  const Worker large;
  RequireSame(SolveFirst(spec, block, /*large=*/false, *small.backend),
              SolveFirst(spec, block, /*large=*/true, *large.backend));
  INFO(small.device->operations()
       << " operations and " << small.device->waits() << " waits in units, "
       << large.device->operations() << " and " << large.device->waits()
       << " in a large tile");
  CHECK(large.device->operations() < small.device->operations());
  CHECK(large.device->waits() < small.device->waits());
  CHECK(large.device->bytes_copied() <= small.device->bytes_copied());
}

TEST_CASE("AWQ in large tiles on a host: the same", "[device_work]") {
  const auto host = NewCpuBackend(1);
  const Block block = TwoUnits();
  for (const QuantSpec& spec :
       {Awq(ShortAwq(false), Profile::kReference, OutputFormat::kAwqGemm),
        Awq(ShortAwq(false), Profile::kBest),
        Awq(ShortAwq(true), Profile::kBest)}) {
    INFO("profile " << static_cast<int>(spec.profile));
    RequireSame(SolveFirst(spec, block, false, *host),
                SolveFirst(spec, block, true, *host));
  }
}

// Where few rows are served better by rounding, and not in all units.
TEST_CASE("GPTQ that scales first in large tiles on a host: the same",
          "[device_work]") {
  const auto host = NewCpuBackend(1);
  Block block(1, 1100, 64);
  block.weights["up0.weight"] = Gaussian(1100 * 64, DType::kBF16, 0);
  GptqSpec gptq = Gptq();
  gptq.awq_scaling = true;
  for (const int bits : {4, 8}) {
    INFO(bits << " bits");
    gptq.bits = bits;
    const QuantSpec spec = {gptq, Profile::kBest,
                            OutputFormat::kCompressedTensors};
    RequireSame(SolveFirst(spec, block, false, *host),
                SolveFirst(spec, block, true, *host));
  }
}

// Of a tensor whose one tile has several slices: so many that the operations of
// the whole, hqq's packing, are few beside theirs.
QuantizedTensor QuantizeTile(const QuantSpec& spec, bool large,
                             Backend& backend) {
  const TensorInfo info = {"w.weight", DType::kBF16, {1024, 256}};
  QuantizeOptions options;
  options.large_tiles = large;
  return Quantize(spec, info, Gaussian(1024 * 256, info.dtype, 3), backend,
                  options);
}

TEST_CASE("a tile in one slice: the same in fewer operations",
          "[device_work]") {
  const QuantSpec specs[] = {
      {RtnSpec{4, 64, true}, Profile::kReference,
       OutputFormat::kCompressedTensors},
      {HqqSpec{}, Profile::kReference, OutputFormat::kHqq},
      {HqqSpec{}, Profile::kBest, OutputFormat::kCompressedTensors},
      {Nf4Spec{}, Profile::kReference, OutputFormat::kBitsandbytes},
      {Nf4Spec{.double_quant = true}, Profile::kBest,
       OutputFormat::kBitsandbytes}};
  for (const QuantSpec& spec : specs) {
    if (kSanitized && spec.profile == Profile::kBest) continue;
    const Worker small;
    const Worker large;
    CHECK(Parts(QuantizeTile(spec, false, *small.backend)) ==
          Parts(QuantizeTile(spec, true, *large.backend)));
    INFO(SpecMethodName(spec)
         << ": " << small.device->operations() << " operations and "
         << small.device->waits() << " waits in slices, "
         << large.device->operations() << " and " << large.device->waits()
         << " in one");
    CHECK(2 * large.device->operations() < small.device->operations());
    CHECK(2 * large.device->waits() < small.device->waits());
  }
}

}  // namespace
}  // namespace qs::testing
