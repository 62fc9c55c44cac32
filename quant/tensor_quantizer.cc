// Tested by tests/quant/tensor_quantizer_test.cc.
#include "quant/tensor_quantizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_quantizer.h"
#include "quant/error_collector.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/hqq_format.h"
#include "quant/gptq_quantizer.h"
#include "quant/group_base.h"
#include "quant/hqq_quantizer.h"
#include "quant/measured_quantizer.h"
#include "quant/nf4_quantizer.h"
#include "quant/rtn_quantizer.h"
#include "quant/tensor_limits.h"

namespace qs {
namespace {

// Keeps every product of sizes far from overflow; no machine holds more.
constexpr int64_t kMaxTensorBytes = int64_t{1} << 42;

absl::Status BadTensor(const TensorInfo& info, const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor \"", info.name, "\": ", text));
}

absl::Status CheckShape(const TensorInfo& info) {
  const std::string got =
      absl::StrCat("got shape [", absl::StrJoin(info.shape, ", "), "], ");
  const std::vector<int64_t>& shape = info.shape;
  if (shape.empty() || shape.size() > kMaxDimensions) {
    return BadTensor(info, absl::StrCat(got, "allowed 1 to ", kMaxDimensions,
                                        " dimensions"));
  }
  if (*std::min_element(shape.begin(), shape.end()) < 1) {
    return BadTensor(info, got + "allowed dimensions are at least 1");
  }
  const std::optional<int64_t> n = CheckedNumElements(shape);
  if (!n || *n > kMaxTensorBytes / DTypeBytes(info.dtype)) {
    return BadTensor(
        info, absl::StrCat(got, "allowed at most ", kMaxTensorBytes, " bytes"));
  }
  return absl::OkStatus();
}

// Everything that can be wrong before memory is asked for.
absl::Status CheckTensor(const QuantSpec& spec, const TensorInfo& info) {
  QS_RETURN_IF_ERROR(ValidateSpec(spec));
  if (!IsFloatWeight(info.dtype)) {
    return BadTensor(info, absl::StrCat("got dtype ", DTypeName(info.dtype),
                                        ", allowed F32, F16, BF16"));
  }
  QS_RETURN_IF_ERROR(CheckShape(info));
  if (spec.format != OutputFormat::kBitsandbytes &&
      !absl::EndsWith(info.name, ".weight")) {
    return BadTensor(info, "allowed names end in \".weight\" in this format");
  }
  const MatrixShape shape = AsMatrix(info.shape);
  return ValidateSpecForShape(spec, info.name, shape.rows, shape.cols);
}

int64_t NumElements(const TensorInfo& info) {
  return CheckedNumElements(info.shape).value_or(0);
}

TensorSizes SizesOf(const QuantSpec& spec, const TensorInfo& info,
                    const QuantizeOptions& options) {
  if (const Nf4Spec* nf4 = spec.nf4()) {
    return Nf4Sizes(*nf4, info, options, NumElements(info));
  }
  if (spec.awq() != nullptr) return AwqSizes(spec, info, options);
  if (spec.hqq() != nullptr) return HqqSizes(spec, info, options);
  if (spec.gptq() != nullptr) return GptqSizes(spec, info, options);
  return RtnSizes(*spec.rtn(), info, options);
}

// Whether a site is there only to be reported on.
bool Measured(const QuantSpec& spec, const QuantizeOptions& options) {
  return options.site != nullptr && options.error_report &&
         !NeedsCalibration(spec);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorQuantizer>> TensorQuantizer::Create(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  QS_RETURN_IF_ERROR(CheckTensor(spec, info));
  if (Measured(spec, options)) return NewMeasuredQuantizer(spec, info, options);
  const int64_t n = NumElements(info);
  if (spec.nf4() != nullptr) {
    return NewNf4Quantizer(spec, std::move(info), options, n);
  }
  if (spec.awq() != nullptr) {
    return BadTensor(info, absl::StrCat("got no group, allowed in a group for ",
                                        SpecMethodName(spec)));
  }
  if (spec.hqq() != nullptr) {
    return NewHqqQuantizer(spec, std::move(info), options);
  }
  if (spec.gptq() != nullptr) {
    return NewGptqQuantizer(spec, std::move(info), options);
  }
  return NewRtnQuantizer(spec, std::move(info), options);
}

absl::Status TensorQuantizer::RunTileFrom(std::span<const InputPiece> pieces,
                                          int64_t tile, Backend& backend) {
  QS_ASSIGN_OR_RETURN(uint8_t * to, BeginTileInput(tile));
  for (const InputPiece& piece : pieces) {
    to = std::copy(piece.begin(), piece.end(), to);
  }
  return RunTile(tile, backend);
}

absl::StatusOr<int64_t> EstimateMemoryBytes(const QuantSpec& spec,
                                            const TensorInfo& info) {
  return EstimateMemoryBytes(spec, info, QuantizeOptions(), 0);
}

absl::StatusOr<int64_t> EstimateMemoryBytes(const QuantSpec& spec,
                                            const TensorInfo& info,
                                            const QuantizeOptions& options,
                                            int64_t max_tiles) {
  QS_RETURN_IF_ERROR(CheckTensor(spec, info));
  const TensorSizes sizes = SizesOf(spec, info, options);
  const int64_t input = NumElements(info) * DTypeBytes(info.dtype);
  const int64_t tiles = CeilDiv(input, sizes.tile_input);
  // Up to three large buffers are rounded up.
  const int64_t rounding =
      input >= Buffer::kLarge ? 3 * Buffer::kMostRounding : 0;
  int64_t held = input;
  if (options.tiled_input) {
    const bool all = spec.nf4() != nullptr && Nf4HasSecondRound(spec, options);
    held = Buffer::BytesTaken(sizes.tile_input) *
           (all ? tiles : std::min(tiles, max_tiles));
  }
  int64_t running = std::min(tiles, kEstimatedTilesRunning);
  // Large tiles are few, and what they take counts.
  if (options.tiled_input && options.large_tiles) {
    running = std::min(running, max_tiles);
  }
  return held + sizes.output + sizes.extra + rounding +
         tiles * ErrorCollector::BytesPerTile() + running * sizes.tile_scratch;
}

TileScratch TileScratchOf(const QuantSpec& spec, const TensorInfo& info,
                          const QuantizeOptions& options) {
  const TensorSizes sizes = SizesOf(spec, info, options);
  const int64_t input = NumElements(info) * DTypeBytes(info.dtype);
  return {sizes.tile_scratch,
          std::min(CeilDiv(input, sizes.tile_input), kEstimatedTilesRunning)};
}

absl::StatusOr<int64_t> OutputBytes(const QuantSpec& spec,
                                    const TensorInfo& info) {
  QS_RETURN_IF_ERROR(CheckTensor(spec, info));
  if (spec.nf4() != nullptr) return SizesOf(spec, info, {}).output;
  const MatrixShape shape = AsMatrix(info.shape);
  if (spec.format == OutputFormat::kHqq) {
    return HqqOutputBytes(HqqLayoutOf(*spec.hqq(), info.name, info.dtype,
                                      shape.rows, shape.cols));
  }
  return GridOutputBytes(spec, {info.name, info.dtype, shape.rows, shape.cols});
}

MatrixShape AsMatrix(const std::vector<int64_t>& shape) {
  if (shape.empty()) return {};
  if (shape.size() == 1) return {1, shape[0]};
  MatrixShape matrix{shape[0], 1};
  for (size_t i = 1; i < shape.size(); ++i) matrix.cols *= shape[i];
  return matrix;
}

}  // namespace qs
