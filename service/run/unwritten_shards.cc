// Tested by tests/service/checkpoint_run_test.cc.
#include "service/run/unwritten_shards.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <utility>

#include "kernels/base/buffer.h"
#include "kernels/base/status_macros.h"

namespace qs {

UnwrittenShards::UnwrittenShards(std::string directory, ByteBudget& budget,
                                 std::vector<int64_t> missing)
    : directory_(std::move(directory)),
      budget_(budget),
      shards_(missing.size()) {
  for (size_t i = 0; i < missing.size(); ++i) shards_[i].missing = missing[i];
}

absl::StatusOr<bool> UnwrittenShards::Keep(size_t shard,
                                           std::vector<OutputTensor> tensors,
                                           bool may_hold) {
  {
    absl::MutexLock lock(&mutex_);
    if (shards_[shard].missing == 0) return false;
  }
  std::vector<SpilledTensor> outputs;
  std::vector<Reservation> rooms;
  for (OutputTensor& tensor : tensors) {
    const int64_t bytes = tensor.data.size();
    outputs.push_back({tensor.name, tensor.dtype, tensor.shape, 0, bytes,
                       std::make_shared<const Buffer>(std::move(tensor.data))});
    std::optional<Reservation> room;
    if (may_hold) room = Reserve(bytes);
    if (room) {
      rooms.push_back(*std::move(room));
    } else {
      QS_RETURN_IF_ERROR(SpillOutput(shard, &outputs.back()));
    }
  }
  return Add(shard, std::move(outputs), std::move(rooms));
}

// A part of the budget at most: batches need it more.
std::optional<Reservation> UnwrittenShards::Reserve(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (held_ + bytes > budget_.capacity() / 4) return std::nullopt;
  std::optional<Reservation> room = budget_.TryReserve(bytes);
  if (room) held_ += bytes;
  return room;
}

bool UnwrittenShards::Add(size_t shard, std::vector<SpilledTensor> outputs,
                          std::vector<Reservation> rooms) {
  absl::MutexLock lock(&mutex_);
  Shard& to = shards_[shard];
  std::move(outputs.begin(), outputs.end(),
            std::back_inserter(to.arrived.outputs));
  std::move(rooms.begin(), rooms.end(), std::back_inserter(to.rooms));
  return --to.missing == 0;
}

absl::StatusOr<std::vector<size_t>> UnwrittenShards::Spill() {
  std::vector<size_t> complete;
  size_t count = 0;
  {
    absl::MutexLock lock(&mutex_);
    count = shards_.size();
  }
  for (size_t i = 0; i < count; ++i) {
    std::vector<Reservation> rooms;
    std::vector<SpilledTensor> outputs;
    {
      absl::MutexLock lock(&mutex_);
      Shard& shard = shards_[i];
      if (shard.rooms.empty() || shard.missing == 0) continue;
      ++shard.missing;  // so that nobody takes it for complete
      rooms = std::move(shard.rooms);
      outputs = std::move(shard.arrived.outputs);
      for (const Reservation& room : rooms) held_ -= room.bytes();
    }
    for (SpilledTensor& output : outputs) {
      if (output.held == nullptr) continue;
      QS_RETURN_IF_ERROR(SpillOutput(i, &output));
    }
    if (Add(i, std::move(outputs), {})) complete.push_back(i);
  }
  return complete;
}

absl::Status UnwrittenShards::SpillOutput(size_t shard, SpilledTensor* output) {
  SpillFile* spill = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    std::unique_ptr<SpillFile>& file = shards_[shard].arrived.spill;
    if (file == nullptr) {
      QS_ASSIGN_OR_RETURN(file, SpillFile::Create(directory_));
    }
    spill = file.get();
  }
  output->offset = spill->Reserve(output->bytes);
  QS_RETURN_IF_ERROR(
      spill->Write(output->offset,
                   {output->held->data(), static_cast<size_t>(output->bytes)}));
  output->held = nullptr;
  return absl::OkStatus();
}

UnwrittenShards::Taken UnwrittenShards::Take(size_t shard) {
  absl::MutexLock lock(&mutex_);
  Taken taken;
  taken.rooms = std::move(shards_[shard].rooms);
  taken.shard = std::move(shards_[shard].arrived);
  for (const Reservation& room : taken.rooms) held_ -= room.bytes();
  return taken;
}

void UnwrittenShards::Clear() {
  std::vector<Shard> shards;
  absl::MutexLock lock(&mutex_);
  held_ = 0;
  shards = std::move(shards_);
}

}  // namespace qs
