// Tested by tests/cli/tensor_sink_test.cc.
#include "service/cli/tensor_sink.h"

#include <algorithm>
#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "service/cli/exit_code.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// A server must not fill the disk: 8 bits with an F32 scale for every other
// weight is the most that a method here gives.
int64_t MostBytes(const CheckpointTensor& source) {
  const int64_t in = source.entry.end - source.entry.begin;
  return 4 * in + (int64_t{1} << 20);
}

std::span<const uint8_t> BytesOf(const std::string& data) {
  return {reinterpret_cast<const uint8_t*>(data.data()), data.size()};
}

std::string ShapeText(const google::protobuf::RepeatedField<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

absl::Status TensorSink::Broken(const std::string& what, const std::string& got,
                                const std::string& allowed) const {
  return UnexpectedError(absl::StrCat("answer for tensor ", source_->entry.name,
                                      ": ", what, ": got ", got, ", allowed ",
                                      allowed));
}

absl::Status TensorSink::Begin(const v1::Frame& frame) {
  const std::vector<int64_t> shape(frame.shape().begin(), frame.shape().end());
  const std::optional<DType> dtype = DTypeFromProto(frame.dtype());
  if (!dtype) {
    return Broken("dtype", absl::StrCat(static_cast<int>(frame.dtype())),
                  "a known one");
  }
  const std::optional<int64_t> count = CheckedNumElements(shape);
  const std::optional<int64_t> bytes =
      count ? CheckedMul(*count, DTypeBytes(*dtype)) : std::nullopt;
  if (!bytes || *bytes > MostBytes(*source_) - total_) {
    return Broken(
        "shape", ShapeText(frame.shape()),
        absl::StrCat("at most ", MostBytes(*source_), " bytes in all"));
  }
  total_ += *bytes;
  const int64_t offset = spill_ == nullptr ? 0 : spill_->Reserve(*bytes);
  outputs_.push_back({frame.tensor(), *dtype, shape, offset, *bytes});
  received_ = 0;
  open_ = true;
  return absl::OkStatus();
}

absl::Status TensorSink::CheckPiece(const v1::Frame& frame) const {
  const SpilledTensor& output = outputs_.back();
  if (frame.tensor() != output.name) {
    return Broken("frame", frame.tensor(), "more of " + output.name);
  }
  if (DTypeFromProto(frame.dtype()) != output.dtype ||
      !std::equal(frame.shape().begin(), frame.shape().end(),
                  output.shape.begin(), output.shape.end())) {
    return Broken(output.name, ShapeText(frame.shape()),
                  "the dtype and shape of its first frame");
  }
  if (frame.offset() != received_) {
    return Broken(output.name + " offset", absl::StrCat(frame.offset()),
                  absl::StrCat(received_));
  }
  const int64_t end = received_ + static_cast<int64_t>(frame.data().size());
  if (end > output.bytes || frame.last() != (end == output.bytes)) {
    return Broken(
        output.name + " length",
        absl::StrCat(end, frame.last() ? ", the last," : "", " bytes"),
        absl::StrCat(output.bytes));
  }
  return absl::OkStatus();
}

absl::Status TensorSink::TakeFrame(const v1::Frame& frame) {
  if (!open_) QS_RETURN_IF_ERROR(Begin(frame));
  QS_RETURN_IF_ERROR(CheckPiece(frame));
  const std::span<const uint8_t> data = BytesOf(frame.data());
  if (const uint32_t crc = Crc32c(data); crc != frame.crc32c()) {
    return Broken(outputs_.back().name + " crc32c", absl::StrCat(crc),
                  absl::StrCat(frame.crc32c(), " as sent"));
  }
  if (spill_ != nullptr) {
    QS_RETURN_IF_ERROR(spill_->Write(outputs_.back().offset + received_, data));
  }
  received_ += static_cast<int64_t>(data.size());
  open_ = !frame.last();
  return absl::OkStatus();
}

absl::Status TensorSink::TakeReport(const v1::TensorReport& report) const {
  const SafetensorsEntry& entry = source_->entry;
  if (open_ || outputs_.empty()) {
    return Broken("report", "it before the last frame", "it after");
  }
  if (report.name() != entry.name ||
      DTypeFromProto(report.dtype()) != entry.dtype ||
      !std::equal(report.shape().begin(), report.shape().end(),
                  entry.shape.begin(), entry.shape.end())) {
    return Broken("report",
                  absl::StrCat(report.name(), " ", ShapeText(report.shape())),
                  "the tensor that was sent");
  }
  if (report.bytes_out() != total_) {
    return Broken("report bytes_out", absl::StrCat(report.bytes_out()),
                  absl::StrCat(total_));
  }
  return CheckOutputs(report);
}

absl::Status TensorSink::CheckOutputs(const v1::TensorReport& report) const {
  const SafetensorsEntry& entry = source_->entry;
  const bool same =
      std::equal(report.output_tensors().begin(), report.output_tensors().end(),
                 outputs_.begin(), outputs_.end(),
                 [](const std::string& name, const SpilledTensor& output) {
                   return name == output.name;
                 });
  if (!same) {
    return Broken("report output_tensors",
                  absl::StrJoin(report.output_tensors(), " "),
                  "the tensors of the frames");
  }
  const SpilledTensor& first = outputs_.front();
  if (fold_only_ &&
      (outputs_.size() > 1 || first.name != entry.name ||
       first.dtype != entry.dtype || first.shape != entry.shape)) {
    return Broken("report output_tensors",
                  absl::StrJoin(report.output_tensors(), " "),
                  "the tensor itself in its dtype and shape");
  }
  return absl::OkStatus();
}

}  // namespace qs::cli
