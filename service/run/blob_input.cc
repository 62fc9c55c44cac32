// Tested by tests/service/checkpoint_run_test.cc.
#include "service/run/blob_input.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/safetensors.h"
#include "service/checkpoint/fault.h"
#include "service/checkpoint/header_check.h"

namespace qs {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;
// Metadata, that of all tensors' configuration, is beside it.
constexpr int64_t kMostHeader = kMaxHeaderBytes / 4 * 3;

int64_t BytesOf(const RunTensor& tensor) {
  int64_t bytes = DTypeBytes(tensor.dtype);
  for (const int64_t size : tensor.shape) bytes *= size;
  return bytes;
}

}  // namespace

BlobInput::BlobInput(BlobStore& store, const std::vector<RunTensor>& tensors,
                     int64_t shard_bytes)
    : store_(store) {
  int shard = 0;
  int64_t filled = 0;
  int64_t header = 0;
  for (const RunTensor& tensor : tensors) {
    const int64_t bytes = BytesOf(tensor);
    const int64_t entries = MostHeaderBytes(tensor.name);
    if ((filled > 0 && bytes > shard_bytes - filled) ||
        entries > kMostHeader - header) {
      ++shard;
      filled = 0;
      header = 0;
    }
    filled += bytes;
    header += entries;
    PlannedTensor& planned = tensors_.emplace_back();
    planned.entry = {tensor.name, tensor.dtype, tensor.shape, 0, bytes};
    planned.shard = shard;
    blobs_.push_back(std::make_unique<Blob>());
    blobs_.back()->digest = tensor.digest;
  }
}

absl::Status BlobInput::Open(size_t tensor, Blob& blob) {
  absl::StatusOr<std::unique_ptr<BlobReader>> reader = store_.Open(blob.digest);
  if (absl::IsNotFound(reader.status())) {
    return absl::DataLossError(absl::StrCat("blob ", blob.digest, " is gone"));
  }
  QS_RETURN_IF_ERROR(reader.status());
  const SafetensorsEntry& entry = tensors_[tensor].entry;
  if ((*reader)->info().bytes != entry.end) {
    return absl::DataLossError(
        absl::StrCat("blob ", blob.digest, ": got ", (*reader)->info().bytes,
                     " bytes, allowed ", entry.end, ", those of ", entry.name));
  }
  blob.reader = *std::move(reader);
  return absl::OkStatus();
}

absl::Status BlobInput::Read(size_t tensor, int64_t offset,
                             std::span<uint8_t> data) {
  Blob& blob = *blobs_[tensor];
  absl::MutexLock lock(&blob.mutex);
  if (blob.reader == nullptr) QS_RETURN_IF_ERROR(Open(tensor, blob));
  QS_RETURN_IF_ERROR(blob.reader->ReadAt(offset, data));
  blob.read += static_cast<int64_t>(data.size());
  if (blob.read >= tensors_[tensor].entry.end) {
    blob.reader = nullptr;
    blob.read = 0;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> BlobInput::Identity() const {
  std::string text;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const SafetensorsEntry& entry = tensors_[i].entry;
    absl::StrAppend(&text, blobs_[i]->digest, " ", DTypeName(entry.dtype), " ",
                    absl::StrJoin(entry.shape, ","), " ", tensors_[i].shard,
                    "\n");
  }
  return text;
}

std::string BlobShards::shard_name(int shard) const {
  return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, shards());
}

absl::Status BlobShards::Copy(size_t tensor, const AppendBytes& append) const {
  const int64_t bytes = tensors()[tensor].entry.end;
  std::vector<uint8_t> piece;
  for (int64_t at = 0; at < bytes; at += kPieceBytes) {
    piece.resize(static_cast<size_t>(std::min(kPieceBytes, bytes - at)));
    QS_RETURN_IF_ERROR(
        WithFault(input_.Read(tensor, at, piece), Fault::kUnexpected));
    QS_RETURN_IF_ERROR(append(piece));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> BlobShards::OpenSideFile(
    const CheckpointSideFile& file) const {
  return UnexpectedError(
      absl::StrCat("file ", file.path, ": got it beside blobs, allowed none"));
}

}  // namespace qs
