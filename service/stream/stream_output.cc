// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/stream_output.h"

#include <algorithm>

#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"

namespace qs {

using quant::v1::Frame;
using quant::v1::QuantizeResponse;

StreamOutput::Step StreamOutput::Next(const std::shared_ptr<TensorJob>& job) {
  const QuantizedTensor& result = job->result();
  if (job->cursor.output == result.tensors.size()) {
    return {Report(job->handle(), result), true};
  }
  const OutputTensor& output = result.tensors[job->cursor.output];
  return {NextFrame(job, {output.name, output.dtype, output.shape,
                          output.data.bytes()}),
          false};
}

std::optional<OutMessage> StreamOutput::Early(
    const std::shared_ptr<TensorJob>& job) {
  const int64_t sent = job->cursor.offset;
  if (job->cursor.output > 0 ||
      job->StreamedBytes(sent) - sent < TensorJob::kFrameBytes) {
    return std::nullopt;
  }
  return NextFrame(job, job->streamed());
}

OutMessage StreamOutput::NextFrame(const std::shared_ptr<TensorJob>& job,
                                   const StreamedOutput& output) {
  TensorJob::Cursor& cursor = job->cursor;
  const auto total = static_cast<int64_t>(output.data.size());
  const int64_t size = std::min(TensorJob::kFrameBytes, total - cursor.offset);
  const ByteSpan payload = output.data.subspan(
      static_cast<size_t>(cursor.offset), static_cast<size_t>(size));
  const bool last = cursor.offset + size == total;
  if (with_digest_) digest_.Update(payload);
  Frame frame;
  frame.set_handle(job->handle());
  frame.set_tensor(output.name);
  frame.set_dtype(DTypeToProto(output.dtype));
  frame.mutable_shape()->Add(output.shape.begin(), output.shape.end());
  frame.set_offset(cursor.offset);
  frame.set_crc32c(Crc32c(payload));
  frame.set_last(last);
  cursor.offset = last ? 0 : cursor.offset + size;
  cursor.output += last ? 1 : 0;
  return EncodeFrame(frame, payload, job);
}

OutMessage StreamOutput::Report(int64_t handle, const QuantizedTensor& result) {
  const TensorReport& report = result.report;
  ++tensors_;
  bytes_in_ += report.bytes_in;
  bytes_out_ += report.bytes_out;
  if (report.has_error) {
    has_error_ = true;
    error_.Add(report.error);
    rtn_.Add(report.rtn);
  }
  QuantizeResponse response;
  *response.mutable_report() = ReportToProto(report);
  response.mutable_report()->set_handle(handle);
  for (const OutputTensor& output : result.tensors) {
    response.mutable_report()->add_output_tensors(output.name);
  }
  return EncodeResponse(response);
}

OutMessage StreamOutput::Summary(double seconds) {
  QuantizeResponse response;
  quant::v1::Summary& summary = *response.mutable_summary();
  summary.set_tensors(tensors_);
  summary.set_bytes_in(bytes_in_);
  summary.set_bytes_out(bytes_out_);
  if (has_error_) {
    *summary.mutable_error() = ErrorStatsToProto(error_);
    *summary.mutable_rtn() = ErrorStatsToProto(rtn_);
  }
  if (with_digest_) summary.set_digest(digest_.Finish());
  summary.set_seconds(seconds);
  return EncodeResponse(response);
}

}  // namespace qs
