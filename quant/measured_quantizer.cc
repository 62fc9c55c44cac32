// Tested by tests/quant/measured_quantizer_test.cc.
#include "quant/measured_quantizer.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/dequantize.h"
#include "quant/site.h"

namespace qs {
namespace {

// Rows that are measured together.
constexpr int64_t kRows = 512;

int64_t BytesOf(const TensorInfo& info) {
  const MatrixShape shape = AsMatrix(info.shape);
  return shape.rows * shape.cols * DTypeBytes(info.dtype);
}

// The yardstick's grid: symmetric, the method's bits and groups.
GridSpec Yardstick(const QuantSpec& spec, int64_t cols) {
  GridSpec grid = SpecGrid(spec);
  grid.symmetric = true;
  if (grid.group_size < 1 || cols % grid.group_size != 0) {
    grid.group_size = cols;
  }
  return grid;
}

class MeasuredQuantizer final : public TensorQuantizer {
 public:
  MeasuredQuantizer(const QuantSpec& spec, const QuantizeOptions& options,
                    std::unique_ptr<TensorQuantizer> method, Buffer weight)
      : spec_(spec),
        options_(options),
        shape_(AsMatrix(method->info().shape)),
        method_(std::move(method)),
        weight_(std::move(weight)),
        method_input_(static_cast<size_t>(method_->num_tiles())),
        copy_clocks_(static_cast<size_t>(method_->num_tiles())) {}

  const TensorInfo& info() const override { return method_->info(); }
  uint8_t* input() override { return weight_.data(); }
  int64_t input_bytes() const override { return method_->input_bytes(); }
  int64_t num_tiles() const override { return method_->num_tiles(); }
  int64_t tile_input_end(int64_t tile) const override {
    return method_->tile_input_end(tile);
  }
  StreamedOutput streamed_output() const override { return {}; }
  Buffer TakeStreamed(int64_t) override { return {}; }
  bool has_second_round() const override { return method_->has_second_round(); }
  absl::Status BetweenRounds(Backend& backend) override {
    return method_->BetweenRounds(backend);
  }
  absl::Status RerunTile(int64_t tile, Backend& backend) override {
    return method_->RerunTile(tile, backend);
  }

  absl::StatusOr<uint8_t*> BeginTileInput(int64_t tile) override {
    QS_ASSIGN_OR_RETURN(method_input_[static_cast<size_t>(tile)],
                        method_->BeginTileInput(tile));
    return weight_.data() + TileBegin(tile);
  }
  absl::Status RunTile(int64_t tile, Backend& backend) override;
  absl::StatusOr<QuantizedTensor> Finish(Backend& backend) override;

 private:
  int64_t TileBegin(int64_t tile) const {
    return tile == 0 ? 0 : tile_input_end(tile - 1);
  }
  const uint8_t* RowOf(const Buffer& buffer, int64_t row) const {
    return buffer.data() + row * shape_.cols * DTypeBytes(info().dtype);
  }
  absl::Status Measure(const Buffer& decoded, const SiteMoments& moments,
                       TensorReport* report, Backend& backend) const;
  absl::Status RoundToNearest(const TensorView& weight, uint8_t* rounded,
                              Backend& backend) const;

  const QuantSpec spec_;
  const QuantizeOptions options_;
  const MatrixShape shape_;
  const std::unique_ptr<TensorQuantizer> method_;
  Buffer weight_;
  std::vector<uint8_t*> method_input_;  // by tile, with tiled_input
  std::vector<PhaseClock> copy_clocks_;
};

absl::Status MeasuredQuantizer::RunTile(int64_t tile, Backend& backend) {
  PhaseClock& clock = copy_clocks_[static_cast<size_t>(tile)];
  clock.Enter(Phase::kPrepare);
  const int64_t begin = TileBegin(tile);
  uint8_t* const out = options_.tiled_input
                           ? method_input_[static_cast<size_t>(tile)]
                           : method_->input() + begin;
  std::memcpy(out, weight_.data() + begin,
              static_cast<size_t>(tile_input_end(tile) - begin));
  clock.Stop();
  return method_->RunTile(tile, backend);
}

absl::StatusOr<QuantizedTensor> MeasuredQuantizer::Finish(Backend& backend) {
  QS_ASSIGN_OR_RETURN(QuantizedTensor result, method_->Finish(backend));
  PhaseClock clock;
  clock.Enter(Phase::kWait);
  QS_ASSIGN_OR_RETURN(const SiteMoments* const moments,
                      options_.site->Moments());
  clock.Enter(Phase::kReport);
  QS_ASSIGN_OR_RETURN(const OutputTensor decoded,
                      Dequantize(spec_, info().name, info().dtype, info().shape,
                                 result.tensors));
  QS_RETURN_IF_ERROR(Measure(decoded.data, *moments, &result.report, backend));
  result.report.has_output_error = true;
  result.report.tokens = moments->tokens();
  clock.Stop();
  result.report.phases.Add(clock.times());
  for (const PhaseClock& copy : copy_clocks_) {
    result.report.phases.Add(copy.times());
  }
  return result;
}

absl::Status MeasuredQuantizer::Measure(const Buffer& decoded,
                                        const SiteMoments& moments,
                                        TensorReport* report,
                                        Backend& backend) const {
  const int64_t most = std::min(kRows, shape_.rows);
  const DType dtype = info().dtype;
  QS_ASSIGN_OR_RETURN(Buffer rounded,
                      Buffer::Allocate(most * shape_.cols * DTypeBytes(dtype)));
  std::vector<double> error(static_cast<size_t>(most));
  std::vector<double> signal(static_cast<size_t>(most));
  const auto add = [&](const TensorView& weight, const uint8_t* values,
                       OutputError* out) {
    GptqErrorArgs args;
    args.weight = weight;
    args.decoded = {values, dtype, weight.rows, shape_.cols};
    args.hessian = moments.second_moment();
    args.hessian_id = options_.site->moment_id();
    args.error = error.data();
    args.signal = signal.data();
    const absl::Status status =
        backend.gptq().OutputError(args, backend.stream());
    for (int64_t r = 0; r < weight.rows; ++r) {
      out->error += error[static_cast<size_t>(r)];
      out->signal += signal[static_cast<size_t>(r)];
    }
    return status;
  };
  for (int64_t row = 0; row < shape_.rows; row += most) {
    if (options_.cancelled != nullptr && *options_.cancelled) {
      return absl::CancelledError("cancelled");
    }
    const TensorView weight = {RowOf(weight_, row), dtype,
                               std::min(most, shape_.rows - row), shape_.cols};
    QS_RETURN_IF_ERROR(add(weight, RowOf(decoded, row), &report->output_error));
    if (SpecGrid(spec_).bits < kMinRtnBits) continue;  // no such rounding
    QS_RETURN_IF_ERROR(RoundToNearest(weight, rounded.data(), backend));
    QS_RETURN_IF_ERROR(add(weight, rounded.data(), &report->rtn_output_error));
  }
  return absl::OkStatus();
}

absl::Status MeasuredQuantizer::RoundToNearest(const TensorView& weight,
                                               uint8_t* rounded,
                                               Backend& backend) const {
  const GridSpec grid = Yardstick(spec_, shape_.cols);
  const int64_t n = weight.num_elements();
  QS_ASSIGN_OR_RETURN(Buffer codes, Buffer::Allocate(n));
  QS_ASSIGN_OR_RETURN(
      Buffer scales,
      Buffer::Allocate(n / grid.group_size * DTypeBytes(weight.dtype)));
  int64_t first_non_finite = -1;
  AffineEncodeArgs encode;
  encode.weight = weight;
  encode.bits = grid.bits;
  encode.group_size = grid.group_size;
  encode.codes = codes.data();
  encode.scales = scales.data();
  encode.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.affine().Encode(encode, backend.stream()));
  AffineDecodeArgs decode;
  decode.codes = codes.data();
  decode.scales = scales.data();
  decode.bits = grid.bits;
  decode.group_size = grid.group_size;
  decode.weight = {rounded, weight.dtype, weight.rows, weight.cols};
  return backend.affine().Decode(decode, backend.stream());
}

}  // namespace

int64_t MeasuredExtraBytes(const TensorInfo& info) {
  const int64_t cols = AsMatrix(info.shape).cols;
  const int64_t bytes = BytesOf(info);
  // The input, the decoded weight and the codes it comes from; of some rows,
  // the yardstick's weights and codes and two F32 forms.
  return 2 * bytes + bytes / DTypeBytes(info.dtype) + kRows * cols * 16;
}

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewMeasuredQuantizer(
    const QuantSpec& spec, const TensorInfo& info,
    const QuantizeOptions& options) {
  const int64_t cols = AsMatrix(info.shape).cols;
  if (options.site->inputs() != cols) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", info.name, "\": site \"", options.site->name(), "\": got ",
        options.site->inputs(), " inputs, allowed ", cols, " (the columns)"));
  }
  QuantizeOptions own = options;
  own.site = nullptr;
  own.streamed_output = false;
  QS_ASSIGN_OR_RETURN(std::unique_ptr<TensorQuantizer> method,
                      TensorQuantizer::Create(spec, info, own));
  QS_ASSIGN_OR_RETURN(Buffer weight, Buffer::Allocate(BytesOf(info)));
  return std::unique_ptr<TensorQuantizer>(std::make_unique<MeasuredQuantizer>(
      spec, options, std::move(method), std::move(weight)));
}

}  // namespace qs
