// TensorUploader: brings tensors of a checkpoint into a server's store, one
// after the other, over a connection of its own; goes on by itself where a lost
// one ended.
//
// A tensor's request id is made of its name, dtype, shape and digest, so that a
// second run, or another client with the same tensor, finds what the first one
// left: the rest is sent, or nothing.
#ifndef QS_SERVICE_CLI_TENSOR_UPLOADER_H_
#define QS_SERVICE_CLI_TENSOR_UPLOADER_H_

#include <grpcpp/channel.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/posix_file.h"
#include "quant/v1/tensors.grpc.pb.h"
#include "service/cli/arguments.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"

namespace qs::cli {

struct UploadedTensor {
  quant::v1::Tensor tensor;
  int64_t sent_bytes = 0;  // 0: the server had it
};

// Thread: one caller at a time.
class TensorUploader {
 public:
  // All outlive it. Errors: kUsage — a PEM file that cannot be read.
  static absl::StatusOr<std::unique_ptr<TensorUploader>> Make(
      const ServerArguments& server, const Checkpoint& checkpoint,
      RunControl& control, Progress& progress);

  // Errors: kBadInput — the file cannot be read, or changes; kServerLost —
  // after retries; the server's.
  absl::StatusOr<UploadedTensor> Upload(const CheckpointTensor& tensor);

 private:
  using Stub = quant::v1::TensorService::Stub;

  TensorUploader(const ServerArguments& server, const Checkpoint& checkpoint,
                 RunControl& control, Progress& progress,
                 std::shared_ptr<grpc::Channel> channel)
      : server_(server),
        checkpoint_(checkpoint),
        control_(control),
        progress_(progress),
        channel_(std::move(channel)),
        stub_(quant::v1::TensorService::NewStub(channel_)) {}

  absl::Status OpenShard(int shard);
  absl::Status ReadPiece(const SafetensorsEntry& entry, int64_t offset,
                         std::string* data) const;
  absl::StatusOr<std::string> DigestOf(const SafetensorsEntry& entry) const;
  absl::Status Try(const SafetensorsEntry& entry,
                   const quant::v1::CreateUploadRequest& request,
                   UploadedTensor* done);
  absl::Status Send(const SafetensorsEntry& entry,
                    const quant::v1::Upload& upload, UploadedTensor* done);

  const ServerArguments& server_;
  const Checkpoint& checkpoint_;
  RunControl& control_;
  Progress& progress_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<Stub> stub_;
  int shard_ = -1;
  UniqueFd file_;
  int64_t persisted_ = 0;  // as the server last said of this tensor
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_TENSOR_UPLOADER_H_
