// Tested by tests/service/quantize_stream_test.cc.
#include "service/stream/stream_output.h"

#include <algorithm>
#include <utility>

#include "service/base/metrics.h"
#include "service/server/gpu_seconds.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"

namespace qs {

using quant::v1::Frame;
using quant::v1::QuantizeResponse;

StreamOutput::Step StreamOutput::Next(const std::shared_ptr<TensorJob>& job) {
  if (auto frame = Early(job)) return {*std::move(frame), false};
  const QuantizedTensor& result = job->result();
  TensorJob::Cursor& cursor = job->cursor;
  if (cursor.output == result.tensors.size()) {
    return {Report(*job), true};
  }
  const OutputTensor& output = result.tensors[cursor.output];
  const ByteSpan rest =
      output.data.bytes().subspan(static_cast<size_t>(cursor.offset));
  return {
      NextFrame(job,
                {output.name, output.dtype, output.shape, output.data.size()},
                rest, job),
      false};
}

std::optional<OutMessage> StreamOutput::Early(
    const std::shared_ptr<TensorJob>& job) {
  TensorJob::Cursor& cursor = job->cursor;
  if (cursor.pieces.empty()) {
    cursor.pieces = job->NextPieces();
    cursor.piece_offset = 0;
    if (cursor.pieces.empty()) return std::nullopt;
  }
  const std::shared_ptr<const Buffer> piece = cursor.pieces.front();
  const ByteSpan rest =
      piece->bytes().subspan(static_cast<size_t>(cursor.piece_offset));
  OutMessage frame = NextFrame(job, job->streamed(), rest, piece);
  cursor.piece_offset += static_cast<int64_t>(frame.payload.size());
  if (cursor.piece_offset == piece->size()) {
    cursor.pieces.pop_front();
    cursor.piece_offset = 0;
  }
  frame.more = !cursor.pieces.empty();
  return frame;
}

OutMessage StreamOutput::NextFrame(const std::shared_ptr<TensorJob>& job,
                                   const StreamedOutput& output, ByteSpan rest,
                                   std::shared_ptr<const void> owner) {
  TensorJob::Cursor& cursor = job->cursor;
  const ByteSpan payload = rest.first(
      std::min(rest.size(), static_cast<size_t>(TensorJob::kFrameBytes)));
  const auto size = static_cast<int64_t>(payload.size());
  const bool last = cursor.offset + size == output.bytes;
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
  return EncodeFrame(frame, payload, std::move(owner));
}

OutMessage StreamOutput::Report(const TensorJob& job) {
  const QuantizedTensor& result = job.result();
  const TensorReport& report = result.report;
  // "gptq-best/2"
  CountQuantized(report.algorithm.substr(0, report.algorithm.find('-')),
                 report.bytes_in, report.bytes_out);
  QuantizeResponse response;
  *response.mutable_report() = ReportToProto(report);
  sums_.Add(response.report());
  CountGpuSeconds(response.report());
  response.mutable_report()->set_handle(job.handle());
  response.mutable_report()->set_rule(job.rule());
  for (const OutputTensor& output : result.tensors) {
    response.mutable_report()->add_output_tensors(output.name);
  }
  return EncodeResponse(response);
}

OutMessage StreamOutput::Summary(double seconds) {
  QuantizeResponse response;
  quant::v1::Summary& summary = *response.mutable_summary();
  summary.set_tensors(sums_.tensors());
  summary.set_bytes_in(sums_.bytes_in());
  summary.set_bytes_out(sums_.bytes_out());
  if (sums_.has_error()) {
    *summary.mutable_error() = sums_.error().Stats();
    if (sums_.rtn().count() > 0) *summary.mutable_rtn() = sums_.rtn().Stats();
  }
  if (const auto error = sums_.OutputError()) {
    summary.set_output_error(*error);
  }
  if (const auto rtn = sums_.RtnOutputError()) {
    summary.set_rtn_output_error(*rtn);
  }
  *summary.mutable_totals() = sums_.Totals();
  if (with_digest_) summary.set_digest(digest_.Finish());
  summary.set_seconds(seconds);
  return EncodeResponse(response);
}

}  // namespace qs
