// GPTQ from a tensor and its site to the tensors of a file, and back.
#include "quant/gptq_quantizer.h"

#include <atomic>

#include "quant/formats/compressed_tensors.h"
#include "quant/formats/gptq_format.h"
#include "quant/gptq_factor.h"
#include "quant/site.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

using testing::FinishAll;
using testing::Gaussian;
using testing::MakeQuantizer;

constexpr char kName[] = "model.layers.0.mlp.up_proj.weight";

SiteMoments MomentsOf(const std::vector<float>& h, int64_t inputs,
                      int64_t tokens) {
  SiteMoments moments = *SiteMoments::Create("up", inputs);
  std::copy(h.begin(), h.end(), moments.second_moment());
  for (int64_t i = 0; i < inputs; ++i) {
    moments.abs_sum()[i] = std::sqrt(h[static_cast<size_t>(i * (inputs + 1))]);
  }
  moments.set_tokens(tokens);
  return moments;
}

std::shared_ptr<Site> SiteOf(const std::vector<float>& h, int64_t inputs,
                             int64_t tokens = 100000) {
  auto site = std::make_shared<Site>("up", inputs);
  site->Fill(MomentsOf(h, inputs, tokens));
  return site;
}

std::shared_ptr<Site> CorrelatedSite(int64_t inputs) {
  return SiteOf(RandomMoment({.rows = 1, .cols = inputs, .seed = 3}), inputs);
}

struct Problem {
  QuantSpec spec;
  TensorInfo info;
  std::vector<uint8_t> bytes;
  QuantizeOptions options;
};

Problem MakeProblem(const GptqSpec& gptq, Profile profile, OutputFormat format,
                    int64_t rows = 96, int64_t cols = 256) {
  Problem p;
  p.spec = {gptq, profile, format};
  p.info = {kName, DType::kBF16, {rows, cols}};
  p.bytes = Gaussian(rows * cols, DType::kBF16, 11);
  p.options.site = CorrelatedSite(cols);
  return p;
}

QuantizedTensor Run(const Problem& p, Backend& backend) {
  const auto quantizer = MakeQuantizer(p.spec, p.info, p.bytes, p.options);
  return FinishAll(*quantizer, backend);
}

StoredTensors Stored(const QuantizedTensor& quantized) {
  StoredTensors stored;
  for (const OutputTensor& t : quantized.tensors) {
    stored[t.name] = {t.name,
                      t.dtype,
                      t.shape,
                      {t.data.data(), static_cast<size_t>(t.data.size())}};
  }
  return stored;
}

DecodedWeight Decode(const Problem& p, const QuantizedTensor& quantized) {
  const GridSpec grid = SpecGrid(p.spec);
  absl::StatusOr<DecodedWeight> decoded =
      p.spec.format == OutputFormat::kCompressedTensors
          ? DecodeCompressedTensors(grid, Stored(quantized), kName)
          : DecodeGptq(grid,
                       p.spec.format == OutputFormat::kGptq ? GptqVersion::kV1
                                                            : GptqVersion::kV2,
                       Stored(quantized), kName, DType::kBF16);
  INFO(decoded.status().ToString());
  REQUIRE(decoded.ok());
  return *std::move(decoded);
}

struct RowErrors {
  std::vector<double> error, signal;
};

// d H d^T and w H w^T of each row.
RowErrors ErrorsOf(const Problem& p, const void* decoded) {
  const int64_t rows = p.info.shape[0], cols = p.info.shape[1];
  RowErrors out;
  out.error.resize(static_cast<size_t>(rows));
  out.signal.resize(static_cast<size_t>(rows));
  const auto backend = NewReferenceBackend();
  REQUIRE(backend->gptq()
              .OutputError({{p.bytes.data(), p.info.dtype, rows, cols},
                            {decoded, p.info.dtype, rows, cols},
                            (*p.options.site->Moments())->second_moment(),
                            out.error.data(),
                            out.signal.data()},
                           backend->stream())
              .ok());
  return out;
}

// tr(dW H dW^T) / tr(W H W^T) of what a reader of the file gets.
double ErrorOf(const Problem& p, const QuantizedTensor& quantized) {
  const RowErrors rows = ErrorsOf(p, Decode(p, quantized).data.data());
  return std::accumulate(rows.error.begin(), rows.error.end(), 0.0) /
         std::accumulate(rows.signal.begin(), rows.signal.end(), 0.0);
}

TEST_CASE("the file of every order, format and width reads back as reported") {
  const auto backend = NewCpuBackend(1);
  for (OutputFormat format : {OutputFormat::kCompressedTensors,
                              OutputFormat::kGptq, OutputFormat::kGptqV2}) {
    for (ColumnOrder order :
         {ColumnOrder::kNone, ColumnOrder::kActOrder,
          ColumnOrder::kActOrderStatic, ColumnOrder::kGroupAware}) {
      for (int bits : {2, 3, 4, 8}) {
        for (Profile profile : {Profile::kReference, Profile::kBest}) {
          GptqSpec gptq = DefaultGptqSpec(profile);
          gptq.order = order;
          gptq.bits = bits;
          gptq.group_size = 64;
          gptq.symmetric = format != OutputFormat::kGptqV2;
          const Problem p = MakeProblem(gptq, profile, format, 64, 192);
          if (!ValidateSpec(p.spec).ok()) continue;
          INFO(SpecAlgorithm(p.spec)
               << " format " << static_cast<int>(format) << " order "
               << static_cast<int>(order) << " bits " << bits);
          const QuantizedTensor q = Run(p, *backend);
          const TensorReport& report = q.report;
          REQUIRE(report.has_output_error);
          CHECK(RelativeOutputError(report.output_error) ==
                Approx(ErrorOf(p, q)).epsilon(1e-3));
          CHECK(RelativeOutputError(report.output_error) <
                RelativeOutputError(report.rtn_output_error));
          CHECK(report.tokens == 100000);
          REQUIRE(report.solver.has_value());
          CHECK(report.solver->codes_changed > 0);
          CHECK(report.warnings.empty());
          CHECK(report.bytes_out == *OutputBytes(p.spec, p.info));
        }
      }
    }
  }
}

TEST_CASE("a whole row is a group, and the last group may be shorter") {
  const auto backend = NewCpuBackend(1);
  GptqSpec gptq;
  gptq.group_size = -1;
  Problem p = MakeProblem(gptq, Profile::kBest,
                          OutputFormat::kCompressedTensors, 32, 96);
  CHECK(RelativeOutputError(Run(p, *backend).report.output_error) ==
        Approx(ErrorOf(p, Run(p, *backend))).epsilon(1e-3));
  gptq.group_size = 64;
  p = MakeProblem(gptq, Profile::kBest, OutputFormat::kGptqV2, 32, 96);
  CHECK(RelativeOutputError(Run(p, *backend).report.output_error) ==
        Approx(ErrorOf(p, Run(p, *backend))).epsilon(1e-3));
}

TEST_CASE("BEST is below REFERENCE") {
  const auto backend = NewCpuBackend(1);
  for (int bits : {3, 4}) {
    GptqSpec gptq = DefaultGptqSpec(Profile::kReference);
    gptq.bits = bits;
    gptq.order = ColumnOrder::kActOrderStatic;
    gptq.damping = 0.01;
    const Problem reference = MakeProblem(gptq, Profile::kReference,
                                          OutputFormat::kCompressedTensors);
    gptq = DefaultGptqSpec(Profile::kBest);
    gptq.bits = bits;
    const Problem best =
        MakeProblem(gptq, Profile::kBest, OutputFormat::kCompressedTensors);
    CHECK(ErrorOf(best, Run(best, *backend)) <
          0.85 * ErrorOf(reference, Run(reference, *backend)));
  }
}

// The weights rounded to nearest, with the scales of the problem's format.
std::vector<uint8_t> Nearest(const Problem& p, Backend& backend) {
  const int64_t rows = p.info.shape[0], cols = p.info.shape[1];
  const GridSpec spec = SpecGrid(p.spec);
  const StoredScale stored = StoredScaleOf(p.spec.format, p.info.dtype);
  const auto grids = static_cast<size_t>(rows * cols / spec.group_size);
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  std::vector<uint8_t> scales(grids * 4), zero_points(grids);
  std::vector<uint8_t> decoded(p.bytes.size());
  int64_t bad = -1;
  GptqSolveArgs args;
  args.weight = {p.bytes.data(), p.info.dtype, rows, cols};
  args.grid = {.bits = spec.bits,
               .group_size = spec.group_size,
               .symmetric = spec.symmetric,
               .scale_dtype = stored.dtype,
               .min_scale = stored.min};
  args.codes = codes.data();
  args.scales = scales.data();
  args.zero_points = spec.symmetric ? nullptr : zero_points.data();
  args.first_non_finite = &bad;
  REQUIRE(backend.gptq().Solve(args, backend.stream()).ok());
  GptqDecodeArgs decode;
  decode.codes = args.codes;
  decode.scales = args.scales;
  decode.zero_points = args.zero_points;
  decode.grid = args.grid;
  decode.weight = {decoded.data(), p.info.dtype, rows, cols};
  REQUIRE(backend.gptq().Decode(decode, backend.stream()).ok());
  return decoded;
}

TEST_CASE("BEST takes no row above what rounding to nearest makes of it") {
  const auto backend = NewCpuBackend(1);
  // Of one direction alone, and damped as much, the loop gains so little that
  // some rows would be better rounded.
  const auto one_token = SiteOf(
      RandomMoment({.rows = 1, .cols = 256, .tokens = 1, .seed = 6}), 256);
  for (const bool correlated : {true, false}) {
    for (const bool symmetric : {true, false}) {
      for (const int bits : {2, 3, 4, 8}) {
        INFO(bits << " bits, correlated " << correlated << ", symmetric "
                  << symmetric);
        GptqSpec gptq = DefaultGptqSpec(Profile::kBest);
        gptq.bits = bits;
        gptq.symmetric = symmetric;
        gptq.damping = 0.99;
        Problem best =
            MakeProblem(gptq, Profile::kBest, OutputFormat::kCompressedTensors);
        if (!correlated) best.options.site = one_token;
        const RowErrors ours =
            ErrorsOf(best, Decode(best, Run(best, *backend)).data.data());
        const std::vector<uint8_t> rounded = Nearest(best, *backend);
        const RowErrors theirs = ErrorsOf(best, rounded.data());
        for (size_t r = 0; r < ours.error.size(); ++r) {
          CHECK(ours.error[r] <= theirs.error[r] * (1 + 1e-4));
        }
      }
    }
  }
}

TEST_CASE("tiles, streams and threads change no byte") {
  GptqSpec gptq;
  gptq.group_size = 32;
  gptq.symmetric = false;
  Problem p = MakeProblem(gptq, Profile::kBest,
                          OutputFormat::kCompressedTensors, 1100, 64);
  const QuantizedTensor want = Run(p, *NewCpuBackend(1));
  const QuantizedTensor threaded = Run(p, *NewCpuBackend(3));
  p.options.tiled_input = p.options.streamed_output = true;
  auto quantizer = TensorQuantizer::Create(p.spec, p.info, p.options);
  REQUIRE(quantizer.ok());
  REQUIRE((*quantizer)->num_tiles() == 3);
  const auto backend = NewCpuBackend(1);
  std::vector<std::vector<uint8_t>> pieces(3);
  for (int64_t tile : {2, 0, 1}) {
    const int64_t begin =
        tile == 0 ? 0 : (*quantizer)->tile_input_end(tile - 1);
    std::memcpy(
        *(*quantizer)->BeginTileInput(tile), p.bytes.data() + begin,
        static_cast<size_t>((*quantizer)->tile_input_end(tile) - begin));
    REQUIRE((*quantizer)->RunTile(tile, *backend).ok());
    const Buffer piece = (*quantizer)->TakeStreamed(tile);
    pieces[static_cast<size_t>(tile)].assign(piece.data(),
                                             piece.data() + piece.size());
  }
  const auto streamed = (*quantizer)->Finish(*backend);
  REQUIRE(streamed.ok());
  std::vector<uint8_t> words;
  for (const auto& piece : pieces) {
    words.insert(words.end(), piece.begin(), piece.end());
  }
  REQUIRE(want.tensors.size() == streamed->tensors.size());
  for (size_t i = 0; i < want.tensors.size(); ++i) {
    const Buffer& a = want.tensors[i].data;
    const Buffer& b = threaded.tensors[i].data;
    INFO(want.tensors[i].name);
    REQUIRE(a.size() == b.size());
    CHECK(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size())) == 0);
    const Buffer& c = streamed->tensors[i].data;
    const uint8_t* bytes = i == 0 ? words.data() : c.data();
    REQUIRE(a.size() ==
            (i == 0 ? static_cast<int64_t>(words.size()) : c.size()));
    CHECK(std::memcmp(a.data(), bytes, static_cast<size_t>(a.size())) == 0);
  }
  CHECK(streamed->report.output_error.error == want.report.output_error.error);
}

TEST_CASE("all readers of a site share one factor") {
  const auto backend = NewCpuBackend(1);
  const auto site = CorrelatedSite(64);
  const auto factor = [&](const GptqSpec& spec, int64_t group_size) {
    return *SharedGptqFactor(spec, Profile::kBest, group_size, *site, nullptr,
                             *backend);
  };
  const auto first = factor(GptqSpec(), 32);
  CHECK(factor(GptqSpec{.bits = 3}, 64) == first);
  CHECK(factor(GptqSpec{.damping = 0.02}, 32) != first);
  CHECK(factor(GptqSpec{.order = ColumnOrder::kNone}, 32) != first);
}

TEST_CASE("orders are what the libraries make of a diagonal") {
  std::vector<float> h(36, 0.5f);
  const float diagonal[] = {2, 9, 9, 4, 1, 7};
  for (size_t i = 0; i < 6; ++i) h[i * 7] = diagonal[i];
  using Order = std::vector<int32_t>;
  const auto order = [&](ColumnOrder kind) {
    return GptqOrder(kind, 2, h.data(), 6, 0);
  };
  CHECK(order(ColumnOrder::kNone) == Order{0, 1, 2, 3, 4, 5});
  CHECK(order(ColumnOrder::kActOrder) == Order{1, 2, 5, 3, 0, 4});
  CHECK(order(ColumnOrder::kGroupAware) == Order{1, 0, 2, 3, 5, 4});
  CHECK(GptqOrder(ColumnOrder::kGroupAware, 4, h.data(), 6, 0) ==
        Order{1, 2, 3, 0, 4, 5});
}

TEST_CASE("few tokens raise BEST's damping") {
  const auto backend = NewCpuBackend(1);
  const std::vector<float> h = RandomMoment({.rows = 1, .cols = 64, .seed = 3});
  const auto damping = [&](Profile profile, int64_t tokens) {
    return (*MakeGptqFactor({.damping = 1e-4}, profile, 32,
                            {h.data(), 64, tokens}, nullptr, *backend))
        ->facts.damping;
  };
  CHECK(damping(Profile::kBest, 255) == kFewTokensDamping);
  CHECK(damping(Profile::kBest, 256) == 1e-4);
  CHECK(damping(Profile::kReference, 255) == 1e-4);
}

std::string CreateError(const Problem& p) {
  const auto quantizer = TensorQuantizer::Create(p.spec, p.info, p.options);
  REQUIRE(quantizer.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(quantizer.status().message());
}

TEST_CASE("a tensor without its site, or with another's, is refused") {
  Problem p =
      MakeProblem(GptqSpec(), Profile::kBest, OutputFormat::kCompressedTensors);
  p.options.site = nullptr;
  CHECK(CreateError(p).find("tensor \"model.layers.0.mlp.up_proj.weight\": got "
                            "no second moments of its input") == 0);
  p.options.site = CorrelatedSite(128);
  CHECK(CreateError(p) ==
        "tensor \"model.layers.0.mlp.up_proj.weight\": site \"up\": got 128 "
        "inputs, allowed 256 (the columns)");
}

absl::Status RunStatus(const Problem& p) {
  const auto quantizer = MakeQuantizer(p.spec, p.info, p.bytes, p.options);
  return quantizer->RunTile(0, *NewCpuBackend(1));
}

TEST_CASE("moments and weights that cannot be used are refused") {
  Problem p = MakeProblem(GptqSpec{.group_size = 32}, Profile::kBest,
                          OutputFormat::kCompressedTensors, 32, 64);
  std::vector<float> h = RandomMoment({.rows = 1, .cols = 64, .seed = 3});
  h[65 * 7 + 1] = NAN;
  p.options.site = SiteOf(h, 64);
  CHECK(RunStatus(p).code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(RunStatus(p).message()).find("site \"up\"") == 0);
  p.options.site = std::make_shared<Site>("up", 64);
  p.options.site->Fail(absl::DataLossError("gone"));
  CHECK(RunStatus(p).code() == absl::StatusCode::kDataLoss);
  p.options.site = CorrelatedSite(64);
  StoreFromFloat(p.bytes.data(), DType::kBF16, 99, INFINITY);
  CHECK(RunStatus(p).message() ==
        "tensor \"model.layers.0.mlp.up_proj.weight\": Inf at index 99");
  std::atomic<bool> cancelled{true};
  p.options.cancelled = &cancelled;
  CHECK(RunStatus(p).code() == absl::StatusCode::kCancelled);
}

TEST_CASE("a calibration that changes nothing is a warning") {
  // The loudest inputs are the last, so that an order by them moves columns.
  std::vector<float> h(64 * 64);
  for (size_t i = 0; i < 64; ++i) h[i * 65] = 3 + static_cast<float>(i);
  for (const ColumnOrder order :
       {ColumnOrder::kNone, ColumnOrder::kActOrder,
        ColumnOrder::kActOrderStatic, ColumnOrder::kGroupAware}) {
    for (const bool symmetric : {true, false}) {
      INFO(static_cast<int>(order) << " symmetric " << symmetric);
      GptqSpec gptq = DefaultGptqSpec(Profile::kReference);
      gptq.group_size = 32;
      gptq.order = order;
      gptq.symmetric = symmetric;
      Problem p =
          MakeProblem(gptq, Profile::kReference, OutputFormat::kGptqV2, 32, 64);
      p.options.site = SiteOf(h, 64);
      const QuantizedTensor q = Run(p, *NewCpuBackend(1));
      CHECK(q.report.solver->codes_changed == 0);
      REQUIRE(q.report.warnings.size() == 1);
      CHECK(q.report.warnings[0].find("NO_CHANGE: ") == 0);
    }
  }
}

TEST_CASE("nor does an input without any structure help BEST") {
  std::vector<float> h(256 * 256);
  for (size_t i = 0; i < 256; ++i) h[i * 257] = 3;
  for (const int bits : {2, 3, 4, 8}) {
    GptqSpec gptq = DefaultGptqSpec(Profile::kBest);
    gptq.bits = bits;
    gptq.awq_scaling = false;
    Problem p =
        MakeProblem(gptq, Profile::kBest, OutputFormat::kCompressedTensors);
    p.options.site = SiteOf(h, 256);
    const QuantizedTensor q = Run(p, *NewCpuBackend(1));
    INFO(bits << " bits: " << q.report.solver->codes_changed << " changed");
    REQUIRE(q.report.warnings.size() == 1);
    CHECK(q.report.warnings[0].find("NO_CHANGE: ") == 0);
    p.options.site = CorrelatedSite(256);
    CHECK(Run(p, *NewCpuBackend(1)).report.warnings.empty());
  }
}

TEST_CASE("codes that changed are counted against rounding, in every order") {
  for (const ColumnOrder order :
       {ColumnOrder::kNone, ColumnOrder::kActOrder,
        ColumnOrder::kActOrderStatic, ColumnOrder::kGroupAware}) {
    INFO(static_cast<int>(order));
    GptqSpec gptq = DefaultGptqSpec(Profile::kReference);
    gptq.group_size = 32;
    gptq.order = order;
    const Problem p =
        MakeProblem(gptq, Profile::kReference, OutputFormat::kGptqV2);
    const QuantizedTensor q = Run(p, *NewCpuBackend(1));
    CHECK(q.report.solver->codes_changed > 0);
    CHECK(q.report.solver->codes_changed < 96 * 256 / 2);
    CHECK(q.report.warnings.empty());
  }
}

TEST_CASE("columns that no token reached are counted and still rounded") {
  Problem p = MakeProblem(GptqSpec{.group_size = 32}, Profile::kBest,
                          OutputFormat::kCompressedTensors, 32, 64);
  std::vector<float> h = RandomMoment({.rows = 1, .cols = 64, .seed = 3});
  for (size_t i = 0; i < 64; ++i) h[i * 64 + 9] = h[9 * 64 + i] = 0;
  p.options.site = SiteOf(h, 64);
  const QuantizedTensor q = Run(p, *NewCpuBackend(1));
  CHECK(q.report.solver->dead_columns == 1);
  const DecodedWeight decoded = Decode(p, q);
  double error = 0, signal = 0;
  for (int64_t r = 0; r < 32; ++r) {
    const double w = LoadAsFloat(p.bytes.data(), DType::kBF16, r * 64 + 9);
    const double d =
        w - LoadAsFloat(decoded.data.data(), decoded.dtype, r * 64 + 9);
    error += d * d;
    signal += w * w;
  }
  CHECK(error < 0.1 * signal);
  // All of them: there is nothing to solve against.
  p.options.site = SiteOf(std::vector<float>(64 * 64), 64);
  CHECK(RunStatus(p).code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("the estimate leaves moments and factor to the site") {
  const QuantSpec spec = {GptqSpec(), Profile::kBest,
                          OutputFormat::kCompressedTensors};
  const TensorInfo info = {kName, DType::kBF16, {512, 4096}};
  const auto bytes = EstimateMemoryBytes(spec, info);
  REQUIRE(bytes.ok());
  CHECK(*bytes >= 2 * 512 * 4096);
  CHECK(*bytes < 4 * 4096 * 4096);
}

}  // namespace
}  // namespace qs
