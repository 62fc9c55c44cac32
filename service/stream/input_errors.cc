// Tested by tests/service/stream_errors_test.cc.
#include "service/stream/input_errors.h"

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quant/formats/format_limit.h"
#include "quant/tensor_limits.h"
#include "service/base/metrics.h"
#include "service/server/options.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"

namespace qs {
namespace {

absl::Status CheckShape(const quant::v1::TensorBegin& begin,
                        const std::string& field) {
  if (begin.shape_size() < 1 || begin.shape_size() > kMaxDimensions) {
    return BadFieldError(
        field, absl::StrCat("got ", begin.shape_size(),
                            " dimensions, allowed 1 to ", kMaxDimensions));
  }
  for (int64_t dimension : begin.shape()) {
    if (dimension < 1) {
      return BadFieldError(field, absl::StrCat("got a dimension of ", dimension,
                                               ", allowed at least 1"));
    }
  }
  return absl::OkStatus();
}

// A site's data that are finite, but no second moments.
bool IsBadCalibration(const std::string& text) {
  if (!absl::StartsWith(text, "site ")) return false;
  return !absl::StrContains(text, ": NaN at ") &&
         !absl::StrContains(text, ": Inf at ") &&
         !absl::StrContains(text, "got nan") &&
         !absl::StrContains(text, "got inf") &&
         !absl::StrContains(text, "got -nan") &&
         !absl::StrContains(text, "got -inf");
}

const char* InputReason(const absl::Status& status) {
  if (IsFormatLimit(status)) return "FORMAT_LIMIT";
  return IsBadCalibration(std::string(status.message())) ? "BAD_CALIBRATION"
                                                         : "NON_FINITE_INPUT";
}

}  // namespace

absl::Status InvalidError(const std::string& reason, const std::string& text,
                          const ErrorMetadata& metadata) {
  return RpcError(absl::StatusCode::kInvalidArgument, reason, text, metadata);
}

absl::Status NoMemoryError(const absl::Status& status) {
  return RetryableError(status.code(), "MEMORY_BUDGET",
                        std::string(status.message()));
}

absl::Status NoRoomError(const std::string& what, int64_t bytes,
                         const ByteBudget& budget, int64_t held) {
  const auto code = absl::StatusCode::kResourceExhausted;
  const std::string capacity = absl::StrCat(budget.capacity());
  if (bytes > budget.capacity() - held) {
    return RpcError(
        code, "MEMORY_BUDGET",
        absl::StrCat(what, ": got a need of ", bytes, " bytes and ", held,
                     " of its group, allowed ", capacity),
        {{"needed", absl::StrCat(bytes + held)}, {"capacity", capacity}});
  }
  return RetryableError(
      code, "MEMORY_BUDGET",
      absl::StrCat(what, ": needs ", bytes,
                   " bytes while another tensor or group is open, and ",
                   budget.reserved(), " of ", capacity, " are in use"),
      {{"needed", absl::StrCat(bytes)}, {"capacity", capacity}});
}

absl::Status TooLargeError(const std::string& what, const char* kind,
                           int64_t got, int64_t allowed) {
  return InvalidError(
      "TENSOR_TOO_LARGE",
      absl::StrCat(what, ": got ", kind, got, " bytes, allowed ", allowed),
      {{"got", absl::StrCat(got)}, {"allowed", absl::StrCat(allowed)}});
}

absl::Status OpenError(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kResourceExhausted) {
    return NoMemoryError(status);
  }
  return BadFieldError("tensor", std::string(status.message()));
}

absl::StatusOr<TensorInfo> TensorInfoFromProto(
    const quant::v1::TensorBegin& begin, const std::string& field) {
  if (begin.name().empty() || begin.name().size() > kMaxNameBytes) {
    return BadFieldError(field + ".name",
                         absl::StrCat("got ", begin.name().size(),
                                      " bytes, allowed 1 to ", kMaxNameBytes));
  }
  const absl::Status shape = CheckShape(begin, field + ".shape");
  if (!shape.ok()) return shape;
  const std::optional<DType> dtype = DTypeFromProto(begin.dtype());
  if (!dtype || !IsFloatWeight(*dtype)) {
    return BadFieldError(field + ".dtype",
                         absl::StrCat("got ", DTypeText(begin.dtype()),
                                      ", allowed F32, F16, BF16"));
  }
  return TensorInfo{
      begin.name(), *dtype, {begin.shape().begin(), begin.shape().end()}};
}

absl::Status CheckOffset(const std::string& what, int64_t handle,
                         int64_t offset, int64_t expected) {
  if (offset == expected) return absl::OkStatus();
  return RpcError(absl::StatusCode::kFailedPrecondition, "OFFSET_GAP",
                  absl::StrCat("chunk.offset: ", what, ": got ", offset,
                               ", expected ", expected),
                  {{"handle", absl::StrCat(handle)},
                   {"expected_offset", absl::StrCat(expected)}});
}

absl::Status CheckFloatValues(const std::string& what, DType dtype,
                              std::span<const float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    float stored = 0;
    StoreFromFloat(&stored, dtype, 0, values[i]);
    if (!std::isfinite(values[i]) ||
        std::isfinite(LoadAsFloat(&stored, dtype, 0))) {
      continue;
    }
    return BadFieldError(
        absl::StrCat("chunk.float_values[", i, "]"),
        absl::StrCat("got ", values[i], " for ", what, ", allowed up to ",
                     dtype == DType::kF16 ? "65504" : "3.38953e+38",
                     " either way, the largest number of ", DTypeName(dtype)));
  }
  return absl::OkStatus();
}

absl::Status CheckCrc(const ChunkView& chunk) {
  if (!chunk.crc32c) return absl::OkStatus();
  uint32_t crc = 0;
  for (const ByteSpan& piece : chunk.data) crc = ExtendCrc32c(crc, piece);
  if (crc == *chunk.crc32c) return absl::OkStatus();
  CountChunkCrcError();
  return RpcError(
      absl::StatusCode::kAborted, "CHUNK_CRC_MISMATCH",
      absl::StrCat("chunk.crc32c: got ", *chunk.crc32c, ", the data gives ",
                   crc, "; send the tensor again"),
      {{"handle", absl::StrCat(chunk.handle)},
       {"offset", absl::StrCat(chunk.offset)}});
}

absl::Status ComputeError(const absl::Status& status) {
  const std::string text(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return RpcError(status.code(), InputReason(status), text);
    case absl::StatusCode::kResourceExhausted:
      return RetryableError(status.code(), "MEMORY_BUDGET", text);
    case absl::StatusCode::kCancelled:
      return status;
    default:
      return absl::InternalError(text);
  }
}

}  // namespace qs
