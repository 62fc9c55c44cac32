// StreamOutput: the response side of one Quantize stream — cuts finished
// tensors into frames, reports on them, and adds up totals and the digest.
//
// Reads every output byte (CRC32C, SHA-256), so it belongs on a worker.
// Thread: one caller at a time, in the order in which messages are sent.
#ifndef QS_SERVICE_STREAM_STREAM_OUTPUT_H_
#define QS_SERVICE_STREAM_STREAM_OUTPUT_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "quant/quantized_tensor.h"
#include "quant/v1/quantization.pb.h"
#include "service/server/report_sums.h"
#include "service/stream/digest.h"
#include "service/stream/tensor_job.h"
#include "service/stream/wire.h"

namespace qs {

class StreamOutput {
 public:
  // Call before the first Next or Early.
  void LeaveOutDigest() { with_digest_ = false; }

  struct Step {
    OutMessage message;
    bool report = false;  // the tensor's last message
  };
  // The next message of a finished tensor: its frames in order, then its
  // report. Tensors may take turns.
  Step Next(const std::shared_ptr<TensorJob>& job);

  // A frame of the streamed output of a tensor that may not be finished.
  // Nullopt: there is none yet, or no more.
  std::optional<OutMessage> Early(const std::shared_ptr<TensorJob>& job);

  // The stream's last message. Call once, after the last report.
  OutMessage Summary(double seconds);

 private:
  // The front of `rest`, at the job's cursor, which moves on; `owner` keeps it
  // alive.
  OutMessage NextFrame(const std::shared_ptr<TensorJob>& job,
                       const StreamedOutput& output, ByteSpan rest,
                       std::shared_ptr<const void> owner);
  OutMessage Report(const TensorJob& job);

  bool with_digest_ = true;
  Sha256 digest_;
  ReportSums sums_;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_STREAM_OUTPUT_H_
