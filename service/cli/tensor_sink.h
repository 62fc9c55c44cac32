// TensorSink: takes the frames and the report of one input tensor, checks every
// promise of the contract, and puts the data into a spill file if there is one.
#ifndef QS_SERVICE_CLI_TENSOR_SINK_H_
#define QS_SERVICE_CLI_TENSOR_SINK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/dtype.h"
#include "quant/formats/checkpoint.h"
#include "quant/v1/quantization.pb.h"
#include "service/checkpoint/spill_file.h"

namespace qs::cli {

// Thread: one caller at a time.
class TensorSink {
 public:
  // Both must outlive it. Without `spill` data are checked and dropped.
  // `fold_only`: the answer is the tensor itself, changed.
  TensorSink(const CheckpointTensor& source, SpillFile* spill,
             bool fold_only = false)
      : source_(&source), spill_(spill), fold_only_(fold_only) {}

  // Errors: kUnexpected — the server broke the contract (which promise, got,
  // allowed); kOutput.
  absl::Status TakeFrame(const quant::v1::Frame& frame);
  // After the last frame. Errors: kUnexpected.
  absl::Status TakeReport(const quant::v1::TensorReport& report) const;

  const std::vector<SpilledTensor>& outputs() const { return outputs_; }

 private:
  absl::Status Begin(const quant::v1::Frame& frame);
  absl::Status CheckPiece(const quant::v1::Frame& frame) const;
  absl::Status CheckOutputs(const quant::v1::TensorReport& report) const;
  absl::Status Broken(const std::string& what, const std::string& got,
                      const std::string& allowed) const;

  const CheckpointTensor* source_;
  SpillFile* spill_;  // or null
  bool fold_only_;
  std::vector<SpilledTensor> outputs_;
  int64_t received_ = 0;  // of outputs_.back()
  int64_t total_ = 0;
  bool open_ = false;  // outputs_.back() is not complete
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_TENSOR_SINK_H_
