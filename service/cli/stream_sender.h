// StreamSender: the requests of one Quantize call — a batch's group, its sites
// from the calibration file, its tensors from their shards.
#ifndef QS_SERVICE_CLI_STREAM_SENDER_H_
#define QS_SERVICE_CLI_STREAM_SENDER_H_

#include <grpcpp/support/sync_stream.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/calibration/site_moments.h"
#include "quant/formats/posix_file.h"
#include "quant/v1/quantization.pb.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/checkpoint/work_batch.h"
#include "service/cli/progress.h"

namespace qs::cli {

using QuantizeStream = grpc::ClientReaderWriter<quant::v1::QuantizeRequest,
                                                quant::v1::QuantizeResponse>;

// The handle of a tensor in its stream; those of groups and sites follow.
inline int64_t TensorHandle(size_t tensor) {
  return static_cast<int64_t>(tensor) + 1;
}

// Holds one site's moments at a time, and the pool that was used last.
// Thread: one caller at a time. Errors: kBadInput — a file cannot be read.
class StreamSender {
 public:
  // All outlive it; `calibration` may be null when no batch has sites.
  StreamSender(QuantizeStream& stream, const PlannedCheckpoint& checkpoint,
               const Calibration* calibration, int64_t chunk_bytes,
               Progress& progress);

  // *written becomes false when the call takes no more.
  absl::Status Send(const WorkBatch& batch, bool* written);

  int64_t sent_bytes() const { return sent_bytes_; }  // of tensors

 private:
  void WriteGroup(const WorkBatch& batch, int64_t handle);
  absl::Status SendSite(const BatchSite& site, int64_t group);
  absl::StatusOr<std::shared_ptr<const SiteMoments>> Load(
      const BatchSite& site);
  void WriteMoments(const SiteMoments& moments, int64_t handle);
  void AppendFloats(const float* values, int64_t count, int64_t total);
  absl::Status SendTensor(const BatchTensor& tensor, int rule,
                          std::optional<int64_t> group);
  absl::StatusOr<int> InputOf(int shard);
  void Write() { written_ = written_ && stream_.Write(request_); }
  // The chunk in request_, which must have its data and offset.
  void WriteChunk(bool last);

  QuantizeStream& stream_;
  const PlannedCheckpoint& checkpoint_;
  const Calibration* const calibration_;
  const int64_t chunk_bytes_;
  Progress& progress_;
  int64_t next_handle_;
  bool written_ = true;
  quant::v1::QuantizeRequest request_;
  int input_shard_ = -1;
  UniqueFd input_;
  std::shared_ptr<const SiteMoments> pool_;  // the last one sent
  int64_t sent_bytes_ = 0;
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_STREAM_SENDER_H_
