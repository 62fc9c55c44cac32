// Tested by tests/kernels/cuda_workspace_test.cc.
#include "kernels/cuda/workspace.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"

namespace qs::cuda {

absl::Status MemoryLedger::Take(int64_t bytes) {
  int64_t used = used_;
  do {
    if (bytes > cap_ - used) {
      return absl::ResourceExhaustedError(
          absl::StrCat("device memory: got ", bytes, " bytes more, ", used,
                       " are in use, allowed ", cap_));
    }
  } while (!used_.compare_exchange_weak(used, used + bytes));
  Need(bytes);
  return absl::OkStatus();
}

void MemoryLedger::Need(int64_t bytes) {
  const int64_t needed = needed_ += bytes;
  int64_t high = high_water_;
  while (high < needed && !high_water_.compare_exchange_weak(high, needed)) {
  }
}

absl::StatusOr<std::unique_ptr<Workspace>> Workspace::Create(
    Device& device, MemoryLedger& ledger) {
  std::unique_ptr<Workspace> workspace(new Workspace(device, ledger));
  QS_RETURN_IF_ERROR(workspace->Open());
  return workspace;
}

absl::Status Workspace::Open() {
  QS_ASSIGN_OR_RETURN(stream_.native, device_.NewStream());
  for (Slot& slot : slots_) {
    QS_ASSIGN_OR_RETURN(slot.pinned, device_.AllocatePinned(kSlotBytes));
    QS_ASSIGN_OR_RETURN(slot.free, device_.NewEvent());
  }
  return absl::OkStatus();
}

Workspace::~Workspace() {
  // Copies may still use the slots.
  if (stream_.native != nullptr) device_.Synchronize(native()).IgnoreError();
  GiveBack();
  Trim();
  for (Slot& slot : slots_) {
    if (slot.free != nullptr) device_.DestroyEvent(slot.free);
    if (slot.pinned != nullptr) device_.FreePinned(slot.pinned);
  }
  if (stream_.native != nullptr) device_.DestroyStream(native());
}

absl::StatusOr<void*> Workspace::Allocate(int64_t bytes) {
  while (true) {
    absl::Status status = ledger_.Take(bytes);
    if (status.ok()) {
      absl::StatusOr<void*> data = device_.Allocate(bytes);
      if (data.ok()) return data;
      ledger_.Give(bytes);
      status = data.status();
    }
    if (!absl::IsResourceExhausted(status) || !DropOneCopy()) return status;
  }
}

void Workspace::Deallocate(void* memory, int64_t bytes) {
  device_.Free(memory);
  ledger_.Give(bytes);
}

bool Workspace::DropOneCopy() {
  const auto oldest = std::min_element(
      copies_.begin(), copies_.end(), [](const auto& a, const auto& b) {
        return a.second.last_call < b.second.last_call;
      });
  if (oldest == copies_.end() || oldest->second.last_call == call_) {
    return false;
  }
  device_.Free(oldest->second.data);
  ledger_.GiveSpare(oldest->second.bytes);
  copies_.erase(oldest);
  return true;
}

absl::Status Workspace::AddChunk(int64_t bytes) {
  QS_ASSIGN_OR_RETURN(void* const data, Allocate(bytes));
  chunks_.push_back({static_cast<uint8_t*>(data), bytes});
  return absl::OkStatus();
}

absl::StatusOr<const void*> Workspace::Resident(uint64_t id, const void* host,
                                                int64_t bytes) {
  const auto found = copies_.find(id);
  if (found != copies_.end()) {
    Copy& copy = found->second;
    if (copy.last_call != call_) ledger_.Need(copy.bytes);
    copy.last_call = call_;
    return copy.data;
  }
  QS_ASSIGN_OR_RETURN(void* const data, Allocate(std::max<int64_t>(bytes, 1)));
  const absl::Status copied = CopyIn(data, host, bytes);
  if (!copied.ok()) {
    Deallocate(data, std::max<int64_t>(bytes, 1));
    return copied;
  }
  copies_[id] = {data, std::max<int64_t>(bytes, 1), call_};
  return data;
}

void Workspace::Expect(int64_t bytes) {
  if (chunks_.size() == 1 && chunks_.front().bytes >= bytes) return;
  FreeChunks();
  // Without room the call takes what it can in pieces.
  AddChunk(std::max(bytes, kLeastChunk)).IgnoreError();
}

int64_t Workspace::kept() const {
  int64_t bytes = 0;
  for (const auto& [id, copy] : copies_) bytes += copy.bytes;
  return bytes;
}

absl::StatusOr<void*> Workspace::Take(int64_t bytes) {
  const int64_t padded =
      CeilDiv(std::max<int64_t>(bytes, 1), kAlignment) * kAlignment;
  while (chunk_ < chunks_.size() && padded > chunks_[chunk_].bytes - used_) {
    ++chunk_;
    used_ = 0;
  }
  if (chunk_ == chunks_.size()) {
    const absl::Status roomy = AddChunk(std::max(padded, kLeastChunk));
    if (!roomy.ok()) {
      if (!absl::IsResourceExhausted(roomy)) return roomy;
      QS_RETURN_IF_ERROR(AddChunk(padded));
    }
  }
  uint8_t* const taken = chunks_[chunk_].data + used_;
  used_ += padded;
  taken_ += padded;
  most_taken_ = std::max(most_taken_, taken_);
  return taken;
}

void Workspace::GiveBack() {
  const bool in_pieces = chunks_.size() > 1;
  const int64_t bytes = taken_;
  chunk_ = 0;
  used_ = 0;
  taken_ = 0;
  for (const auto& [id, copy] : copies_) {
    if (copy.last_call == call_) ledger_.Spare(copy.bytes);
  }
  ++call_;
  if (!in_pieces) return;
  FreeChunks();
  // Without room for one piece the next call takes it in pieces again.
  AddChunk(std::max(bytes, kLeastChunk)).IgnoreError();
}

void Workspace::Trim() {
  FreeChunks();
  while (DropOneCopy()) {
  }
}

void Workspace::FreeChunks() {
  for (const Chunk& chunk : chunks_) Deallocate(chunk.data, chunk.bytes);
  chunks_.clear();
  chunk_ = 0;
  used_ = 0;
}

Workspace::Slot& Workspace::NextSlot() {
  Slot& slot = slots_[next_slot_];
  next_slot_ = (next_slot_ + 1) % slots_.size();
  return slot;
}

absl::Status Workspace::CopyIn(void* device, const void* host, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kSlotBytes) {
    const int64_t count = std::min(kSlotBytes, bytes - at);
    Slot& slot = NextSlot();
    QS_RETURN_IF_ERROR(device_.Wait(slot.free));
    std::memcpy(slot.pinned, static_cast<const uint8_t*>(host) + at,
                static_cast<size_t>(count));
    QS_RETURN_IF_ERROR(device_.CopyIn(static_cast<uint8_t*>(device) + at,
                                      slot.pinned, count, native()));
    QS_RETURN_IF_ERROR(device_.Record(slot.free, native()));
  }
  return absl::OkStatus();
}

absl::Status Workspace::CopyOut(void* host, const void* device, int64_t bytes) {
  // One slot is on its way while the one before it is emptied.
  struct Part {
    Slot* slot;
    int64_t at;
    int64_t count;
  };
  Part before = {};
  const auto empty = [&](const Part& part) -> absl::Status {
    if (part.slot == nullptr) return absl::OkStatus();
    QS_RETURN_IF_ERROR(device_.Wait(part.slot->free));
    std::memcpy(static_cast<uint8_t*>(host) + part.at, part.slot->pinned,
                static_cast<size_t>(part.count));
    return absl::OkStatus();
  };
  for (int64_t at = 0; at < bytes; at += kSlotBytes) {
    const Part part = {&NextSlot(), at, std::min(kSlotBytes, bytes - at)};
    QS_RETURN_IF_ERROR(device_.Wait(part.slot->free));
    QS_RETURN_IF_ERROR(device_.CopyOut(part.slot->pinned,
                                       static_cast<const uint8_t*>(device) + at,
                                       part.count, native()));
    QS_RETURN_IF_ERROR(device_.Record(part.slot->free, native()));
    QS_RETURN_IF_ERROR(empty(before));
    before = part;
  }
  return empty(before);
}

}  // namespace qs::cuda
