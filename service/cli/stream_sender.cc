// Tested by tests/e2e/quantctl_test.py and quantctl_calibration_test.py.
#include "service/cli/stream_sender.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status_macros.h"
#include "service/checkpoint/slice_reader.h"
#include "service/cli/exit_code.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

void Describe(const SafetensorsEntry& entry, v1::TensorBegin* begin) {
  begin->set_name(entry.name);
  begin->set_dtype(DTypeToProto(entry.dtype));
  begin->mutable_shape()->Add(entry.shape.begin(), entry.shape.end());
}

void Describe(const SafetensorsEntry& entry, v1::GroupTensor* tensor) {
  tensor->set_name(entry.name);
  tensor->set_dtype(DTypeToProto(entry.dtype));
  tensor->mutable_shape()->Add(entry.shape.begin(), entry.shape.end());
}

}  // namespace

StreamSender::StreamSender(QuantizeStream& stream,
                           const PlannedCheckpoint& checkpoint,
                           const Calibration* calibration, int64_t chunk_bytes,
                           Progress& progress)
    : stream_(stream),
      checkpoint_(checkpoint),
      calibration_(calibration),
      chunk_bytes_(chunk_bytes),
      progress_(progress),
      next_handle_(TensorHandle(checkpoint.tensors().size())) {}

absl::Status StreamSender::Send(const WorkBatch& batch, bool* written) {
  std::optional<int64_t> group;
  if (!batch.sites.empty()) {
    group = next_handle_++;
    WriteGroup(batch, *group);
  }
  absl::Status status;
  for (size_t i = 0; status.ok() && written_ && i < batch.sites.size(); ++i) {
    status = SendSite(batch.sites[i], *group);
  }
  for (size_t i = 0; status.ok() && written_ && i < batch.tensors.size(); ++i) {
    status = SendTensor(batch.tensors[i], batch.rule, group);
  }
  *written = written_;
  return status;
}

void StreamSender::WriteGroup(const WorkBatch& batch, int64_t handle) {
  v1::GroupBegin* begin = request_.mutable_group();
  begin->Clear();
  begin->set_handle(handle);
  begin->set_name(batch.name);
  begin->set_rule(batch.rule);
  for (const BatchSite& site : batch.sites) {
    *begin->add_sites() = site.declared;
  }
  for (const BatchTensor& tensor : batch.tensors) {
    v1::GroupTensor* added = begin->add_tensors();
    Describe(checkpoint_.tensors()[tensor.tensor].entry, added);
    added->set_site(tensor.site);
    added->set_role(tensor.fold_only ? v1::GroupTensor::FOLD_ONLY
                                     : v1::GroupTensor::QUANTIZE);
  }
  Write();
}

// A pool is needed by one site of its layer after the other.
absl::StatusOr<std::shared_ptr<const SiteMoments>> StreamSender::Load(
    const BatchSite& site) {
  if (pool_ != nullptr && pool_->site() == site.match.name) return pool_;
  absl::StatusOr<SiteMoments> loaded = calibration_->index.Load(site.match);
  if (!loaded.ok()) return InputFault(loaded.status());
  auto moments = std::make_shared<const SiteMoments>(*std::move(loaded));
  if (calibration_->match.pools.contains(site.match.name)) pool_ = moments;
  return moments;
}

absl::Status StreamSender::SendSite(const BatchSite& site, int64_t group) {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<const SiteMoments> moments,
                      Load(site));
  v1::SiteBegin* begin = request_.mutable_site();
  begin->Clear();
  begin->set_handle(next_handle_++);
  begin->set_group(group);
  begin->set_name(site.declared.name());
  begin->set_form(v1::SiteBegin::SECOND_MOMENT);
  begin->set_token_count(moments->tokens());
  const int64_t handle = begin->handle();
  Write();
  WriteMoments(*moments, handle);
  return absl::OkStatus();
}

void StreamSender::WriteMoments(const SiteMoments& moments, int64_t handle) {
  const int64_t inputs = moments.inputs();
  const int64_t total = 4 * (SiteMoments::PackedElements(inputs) + inputs);
  v1::Chunk* chunk = request_.mutable_chunk();
  chunk->Clear();
  chunk->set_handle(handle);
  for (int64_t row = 0; written_ && row < inputs; ++row) {
    AppendFloats(moments.PackedRow(row), inputs - row, total);
  }
  AppendFloats(moments.abs_sum(), inputs, total);
}

// Adds to the chunk, and writes it whenever it is full or all is there.
void StreamSender::AppendFloats(const float* values, int64_t count,
                                int64_t total) {
  v1::Chunk* chunk = request_.mutable_chunk();
  const auto* bytes = reinterpret_cast<const char*>(values);
  for (int64_t rest = 4 * count; written_ && rest > 0;) {
    std::string* data = chunk->mutable_data();
    const int64_t n =
        std::min(rest, chunk_bytes_ - static_cast<int64_t>(data->size()));
    data->append(bytes, static_cast<size_t>(n));
    bytes += n;
    rest -= n;
    const int64_t held = static_cast<int64_t>(data->size());
    const int64_t end = chunk->offset() + held;
    if (held < chunk_bytes_ && end < total) continue;
    WriteChunk(end == total);
    data->clear();
    chunk->set_offset(end);
  }
}

void StreamSender::WriteChunk(bool last) {
  v1::Chunk* chunk = request_.mutable_chunk();
  const std::string& data = chunk->data();
  chunk->set_crc32c(
      Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()}));
  chunk->set_last(last);
  Write();
}

absl::StatusOr<int> StreamSender::InputOf(int shard) {
  if (shard != input_shard_) {
    absl::StatusOr<UniqueFd> fd = OpenRegularFile(
        checkpoint_.shards()[static_cast<size_t>(shard)].path());
    if (!fd.ok()) return InputFault(fd.status());
    input_ = *std::move(fd);
    input_shard_ = shard;
  }
  return input_.get();
}

absl::Status StreamSender::SendTensor(const BatchTensor& tensor, int rule,
                                      std::optional<int64_t> group) {
  const PlannedTensor& source = checkpoint_.tensors()[tensor.tensor];
  const SafetensorsFile& file =
      checkpoint_.shards()[static_cast<size_t>(source.shard)];
  QS_ASSIGN_OR_RETURN(const int fd, InputOf(source.shard));
  v1::TensorBegin* begin = request_.mutable_tensor();
  begin->Clear();
  begin->set_handle(TensorHandle(tensor.tensor));
  Describe(source.entry, begin);
  begin->set_rule(rule);
  if (group) begin->set_group(*group);
  Write();
  v1::Chunk* chunk = request_.mutable_chunk();
  chunk->set_handle(TensorHandle(tensor.tensor));
  const int64_t size = source.entry.end - source.entry.begin;
  SliceReader reader(fd, file, source);
  for (int64_t offset = 0; written_ && offset < size; offset += chunk_bytes_) {
    const int64_t bytes = std::min(chunk_bytes_, size - offset);
    chunk->mutable_data()->resize(static_cast<size_t>(bytes));
    QS_RETURN_IF_ERROR(
        reader.Read(offset, bytes, chunk->mutable_data()->data()));
    chunk->set_offset(offset);
    WriteChunk(offset + bytes == size);
    if (!written_) break;
    sent_bytes_ += bytes;
    progress_.AddBytes(bytes);
  }
  return absl::OkStatus();
}

}  // namespace qs::cli
