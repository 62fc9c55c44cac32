// Tested by tests/e2e/quantctl_upload_test.py.
#include "service/cli/tensor_uploader.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "service/checkpoint/fault.h"
#include "service/cli/channel.h"
#include "service/cli/exit_code.h"
#include "service/server/error.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"
#include "service/stream/digest.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr int64_t kPieceBytes = int64_t{1} << 20;
constexpr std::chrono::seconds kDeadline{60};

std::span<const uint8_t> BytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// 128 bytes at most, the same for the same tensor.
std::string RequestId(const v1::CreateUploadRequest& request) {
  const std::string text = absl::StrCat(
      request.tensor_name(), "\n", static_cast<int>(request.dtype()), "\n",
      absl::StrJoin(request.shape(), ","), "\n", request.sha256());
  Sha256 hash;
  hash.Update(BytesOf(text));
  return "quantctl-" + hash.Finish();
}

// The upload went away, not the server: begin again.
bool IsGone(const absl::Status& status) {
  const std::string reason = ErrorReason(status);
  return reason == "UPLOAD_EXPIRED" || reason == "UPLOAD_CORRUPT";
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorUploader>> TensorUploader::Make(
    const ServerArguments& server, const Checkpoint& checkpoint,
    RunControl& control, Progress& progress) {
  QS_ASSIGN_OR_RETURN(const auto channel, MakeChannel(server));
  return std::unique_ptr<TensorUploader>(
      new TensorUploader(server, checkpoint, control, progress, channel));
}

absl::Status TensorUploader::OpenShard(int shard) {
  if (shard_ == shard) return absl::OkStatus();
  absl::StatusOr<UniqueFd> file =
      OpenRegularFile(checkpoint_.shards()[static_cast<size_t>(shard)].path());
  if (!file.ok()) return InputFault(file.status());
  file_ = *std::move(file);
  shard_ = shard;
  return absl::OkStatus();
}

absl::Status TensorUploader::ReadPiece(const SafetensorsEntry& entry,
                                       int64_t offset,
                                       std::string* data) const {
  const SafetensorsFile& shard =
      checkpoint_.shards()[static_cast<size_t>(shard_)];
  const int64_t bytes = entry.end - entry.begin;
  data->resize(static_cast<size_t>(std::min(kPieceBytes, bytes - offset)));
  return InputFault(ReadAt(
      file_, shard.path(), shard.header().data_offset + entry.begin + offset,
      {reinterpret_cast<uint8_t*>(data->data()), data->size()}));
}

absl::StatusOr<std::string> TensorUploader::DigestOf(
    const SafetensorsEntry& entry) const {
  Sha256 hash;
  std::string piece;
  for (int64_t at = 0; at < entry.end - entry.begin; at += kPieceBytes) {
    if (control_.failed()) return control_.status();
    QS_RETURN_IF_ERROR(ReadPiece(entry, at, &piece));
    hash.Update(BytesOf(piece));
  }
  return hash.Finish();
}

absl::StatusOr<UploadedTensor> TensorUploader::Upload(
    const CheckpointTensor& tensor) {
  const SafetensorsEntry& entry = tensor.entry;
  QS_RETURN_IF_ERROR(OpenShard(tensor.shard));
  v1::CreateUploadRequest request;
  request.set_tensor_name(entry.name);
  request.set_dtype(DTypeToProto(entry.dtype));
  for (const int64_t size : entry.shape) request.add_shape(size);
  QS_ASSIGN_OR_RETURN(*request.mutable_sha256(), DigestOf(entry));
  request.set_request_id(RequestId(request));
  UploadedTensor done;
  persisted_ = 0;
  for (int retries = 0;;) {
    const int64_t before = persisted_;
    const absl::Status status = Try(entry, request, &done);
    if (status.ok()) return done;
    if (control_.failed()) return control_.status();
    if (persisted_ > before) retries = 0;
    if (!IsRetryable(status) && !IsGone(status)) return status;
    if (retries >= kMaxBusyRetries) {
      return WithText(status,
                      absl::StrCat("; tried again ", retries, " times"));
    }
    const absl::Duration delay = RetryDelay(retries++);
    progress_.Note(absl::StrCat(status.message(), "; trying again (", retries,
                                " of ", kMaxBusyRetries, ")"));
    if (!WaitToRetry(*channel_, control_, delay)) return control_.status();
  }
}

absl::Status TensorUploader::Try(const SafetensorsEntry& entry,
                                 const v1::CreateUploadRequest& request,
                                 UploadedTensor* done) {
  v1::Upload upload;
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    const RunControl::Call call(control_, context);
    const grpc::Status status = stub_->CreateUpload(&context, request, &upload);
    if (!status.ok()) return FromServer(status, server_.address);
  }
  if (upload.complete()) {
    done->tensor = upload.tensor();
    progress_.AddBytes(entry.end - entry.begin - done->sent_bytes);
    return absl::OkStatus();
  }
  persisted_ = std::max(persisted_, upload.persisted_size());
  return Send(entry, upload, done);
}

absl::Status TensorUploader::Send(const SafetensorsEntry& entry,
                                  const v1::Upload& upload,
                                  UploadedTensor* done) {
  grpc::ClientContext context;
  const RunControl::Call call(control_, context);
  const auto stream = stub_->WriteTensor(&context);
  v1::WriteTensorRequest request;
  request.set_upload(upload.name());
  absl::Status read;
  const int64_t bytes = entry.end - entry.begin;
  int64_t at = upload.persisted_size();
  if (done->sent_bytes == 0) progress_.AddBytes(at);
  bool open = true;
  while (open && at < bytes) {
    read = ReadPiece(entry, at, request.mutable_data());
    if (!read.ok()) break;
    request.set_offset(at);
    request.set_crc32c(Crc32c(BytesOf(request.data())));
    open = stream->Write(request);
    const auto count = static_cast<int64_t>(request.data().size());
    at += count;
    done->sent_bytes += count;
    progress_.AddBytes(count);
    request.Clear();
  }
  if (read.ok() && open) {
    request.set_finish(true);
    stream->Write(request);
  }
  if (!read.ok()) context.TryCancel();
  stream->WritesDone();
  // The server sums up answers that wait, so they may be read at the end.
  v1::WriteTensorResponse response;
  while (stream->Read(&response)) {
    persisted_ = std::max(persisted_, response.persisted_size());
    if (response.has_tensor()) done->tensor = response.tensor();
  }
  const grpc::Status status = stream->Finish();
  QS_RETURN_IF_ERROR(read);
  if (!status.ok()) {
    // What is sent again is no progress.
    const int64_t again = std::max<int64_t>(0, at - persisted_);
    done->sent_bytes -= again;
    progress_.AddBytes(-again);
  }
  return FromServer(status, server_.address);
}

}  // namespace qs::cli
