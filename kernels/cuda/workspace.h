// Workspace: what one worker keeps on its device between calls — a stream, a
// ring of pinned slots that copies go through, and memory that calls take from
// the front and give back all at once.
//
// Memory grows to the largest call and stays; what was not expected, and taken
// in pieces, is one piece in the next call. Copies of host memory that does not
// change stay, too, while there is room. Trim gives all of it back. Every byte
// of the device is in the ledger, which has a cap. Thread: one thread at a
// time, but for the ledger's figures.
#ifndef QS_KERNELS_CUDA_WORKSPACE_H_
#define QS_KERNELS_CUDA_WORKSPACE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/stream.h"

namespace qs::cuda {

// Bytes of one device that are taken, and the most that were needed at once:
// what is kept only while there is room (spare) is taken and not needed.
class MemoryLedger {
 public:
  // `cap`: bytes, at least 0.
  explicit MemoryLedger(int64_t cap) : cap_(cap) {}
  // Errors: RESOURCE_EXHAUSTED — more than the cap.
  absl::Status Take(int64_t bytes);
  void Give(int64_t bytes) {
    used_ -= bytes;
    needed_ -= bytes;
  }
  // Of what was taken: no longer needed, needed again, given from the spare.
  void Spare(int64_t bytes) { needed_ -= bytes; }
  void Need(int64_t bytes);
  void GiveSpare(int64_t bytes) { used_ -= bytes; }

  int64_t cap() const { return cap_; }
  int64_t used() const { return used_; }
  int64_t high_water() const { return high_water_; }

 private:
  const int64_t cap_;
  std::atomic<int64_t> used_ = 0;
  std::atomic<int64_t> needed_ = 0;
  std::atomic<int64_t> high_water_ = 0;  // of needed_
};

class Workspace {
 public:
  static constexpr int64_t kSlotBytes = int64_t{4} << 20;
  static constexpr int kSlots = 4;
  static constexpr int64_t kAlignment = 256;
  static constexpr int64_t kLeastChunk = int64_t{32} << 20;

  // Both must outlive it. Errors: as Device.
  static absl::StatusOr<std::unique_ptr<Workspace>> Create(
      Device& device, MemoryLedger& ledger);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  Device& device() { return device_; }
  MemoryLedger& ledger() { return ledger_; }
  Stream& stream() { return stream_; }
  cudaStream_t native() const {
    return static_cast<cudaStream_t>(stream_.native);
  }

  // What will be taken before the next GiveBack, at most: makes it one piece
  // where there is room for it. Nothing may be taken.
  void Expect(int64_t bytes);
  // Device memory until GiveBack, aligned to kAlignment. `bytes` may be 0.
  // Errors: RESOURCE_EXHAUSTED — the device's or the ledger's.
  absl::StatusOr<void*> Take(int64_t bytes);
  // All that was taken.
  void GiveBack();
  // Nothing may be taken.
  void Trim();

  // `bytes` of host memory that never change and have the number `id` (not 0)
  // for as long as the process lives: copied once, then found again, until
  // other calls need the room. Stays at least until GiveBack.
  // Errors: as Take.
  absl::StatusOr<const void*> Resident(uint64_t id, const void* host,
                                       int64_t bytes);

  // Host memory of any kind; CopyIn may return before the copy was made, but
  // `host` is free then; CopyOut returns when `host` is written, and everything
  // enqueued before is done.
  absl::Status CopyIn(void* device, const void* host, int64_t bytes);
  absl::Status CopyOut(void* host, const void* device, int64_t bytes);
  // The most that was taken until one GiveBack, and what Resident keeps now.
  int64_t most_taken() const { return most_taken_; }
  int64_t kept() const;
  absl::Status Synchronize() { return device_.Synchronize(native()); }

 private:
  struct Chunk {
    uint8_t* data = nullptr;
    int64_t bytes = 0;
  };
  struct Copy {  // what Resident keeps
    void* data = nullptr;
    int64_t bytes = 0;
    int64_t last_call = 0;
  };
  struct Slot {
    void* pinned = nullptr;
    cudaEvent_t free = nullptr;
  };

  Workspace(Device& device, MemoryLedger& ledger)
      : device_(device), ledger_(ledger) {}
  absl::Status Open();
  absl::Status AddChunk(int64_t bytes);
  // As the device's and the ledger's; drops copies until there is room.
  absl::StatusOr<void*> Allocate(int64_t bytes);
  void Deallocate(void* memory, int64_t bytes);
  void FreeChunks();
  // The copy that was not used for longest, unless this call uses it.
  bool DropOneCopy();
  Slot& NextSlot();

  Device& device_;
  MemoryLedger& ledger_;
  Stream stream_;
  std::array<Slot, kSlots> slots_;
  size_t next_slot_ = 0;
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;   // that is being taken from
  int64_t used_ = 0;   // of it
  int64_t taken_ = 0;  // since GiveBack
  int64_t most_taken_ = 0;
  std::map<uint64_t, Copy> copies_;  // by id
  int64_t call_ = 0;                 // calls given back
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_WORKSPACE_H_
