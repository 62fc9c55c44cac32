// Tested by tests/kernels/base_test.cc.
#include "kernels/base/buffer.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace qs {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kHalfPage = kHugePage / 2;
// What the cache may hold when nothing is in use; it counts as fixed memory of
// the process beside the tensors in flight.
constexpr int64_t kCacheBytes = int64_t{64} << 20;

// A new block of huge pages, or null.
uint8_t* Map(int64_t capacity) {
  // Map one page more than asked and trim, so that the block starts on a huge
  // page.
  const size_t mapped = static_cast<size_t>(capacity + kHugePage);
  void* raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  uint8_t* begin = static_cast<uint8_t*>(raw);
  const auto address = reinterpret_cast<uintptr_t>(raw);
  const size_t lead = (kHugePage - address % kHugePage) % kHugePage;
  if (lead > 0) munmap(begin, lead);
  if (const size_t tail = mapped - lead - static_cast<size_t>(capacity)) {
    munmap(begin + lead + capacity, tail);
  }
  madvise(begin + lead, static_cast<size_t>(capacity), MADV_HUGEPAGE);
  ASAN_POISON_MEMORY_REGION(begin + lead, static_cast<size_t>(capacity));
  return begin + lead;
}

void Unmap(uint8_t* data, int64_t capacity) {
  ASAN_UNPOISON_MEMORY_REGION(data, static_cast<size_t>(capacity));
  munmap(data, static_cast<size_t>(capacity));
}

// Large blocks: whole huge pages, and halves of one. Free ones are kept up to
// kCacheBytes; a half whose other half is in use cannot be given back with its
// page, so beyond that only its memory is. AddressSanitizer sees what is free,
// and what of a block is not of its Buffer.
class LargeBlocks {
 public:
  // A block for `bytes`. Null: no memory.
  uint8_t* Allocate(int64_t bytes) {
    const int64_t capacity = Buffer::BytesTaken(bytes);
    uint8_t* const data =
        capacity == kHalfPage ? AllocateHalf() : AllocatePages(capacity);
    if (data != nullptr) {
      ASAN_UNPOISON_MEMORY_REGION(data, static_cast<size_t>(bytes));
    }
    return data;
  }

  void Free(uint8_t* data, int64_t capacity) {
    ASAN_POISON_MEMORY_REGION(data, static_cast<size_t>(capacity));
    if (capacity == kHalfPage) {
      data = FreeHalf(data);
      if (data == nullptr) return;
      capacity = kHugePage;
    }
    if (!Keep(data, capacity)) Unmap(data, capacity);
  }

  void ReleaseCached() {
    absl::MutexLock lock(&mutex_);
    for (auto& [data, capacity] : free_) Unmap(data, capacity);
    free_.clear();
    held_ = 0;
    for (auto& [half, resident] : free_halves_) {
      if (resident) Drop(half);
      resident = false;
    }
  }

 private:
  static uint8_t* OtherHalf(uint8_t* half) {
    const bool second = reinterpret_cast<uintptr_t>(half) % kHugePage != 0;
    return second ? half - kHalfPage : half + kHalfPage;
  }

  static void Drop(uint8_t* half) {
    madvise(half, static_cast<size_t>(kHalfPage), MADV_DONTNEED);
  }

  uint8_t* AllocatePages(int64_t capacity) {
    {
      absl::MutexLock lock(&mutex_);
      if (uint8_t* const data = TakeCached(capacity)) return data;
    }
    return Map(capacity);
  }

  uint8_t* TakeCached(int64_t capacity) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (size_t i = free_.size(); i-- > 0;) {
      if (free_[i].second == capacity) {
        uint8_t* data = free_[i].first;
        free_.erase(free_.begin() + static_cast<int64_t>(i));
        held_ -= capacity;
        return data;
      }
    }
    return nullptr;
  }

  bool Keep(uint8_t* data, int64_t capacity) {
    absl::MutexLock lock(&mutex_);
    if (held_ + capacity > kCacheBytes) return false;
    free_.emplace_back(data, capacity);
    held_ += capacity;
    return true;
  }

  uint8_t* AllocateHalf() {
    absl::MutexLock lock(&mutex_);
    if (!free_halves_.empty()) {
      const auto lowest = free_halves_.begin();  // so that high pages empty
      uint8_t* const half = lowest->first;
      if (lowest->second) held_ -= kHalfPage;
      free_halves_.erase(lowest);
      return half;
    }
    uint8_t* page = TakeCached(kHugePage);
    if (page == nullptr) page = Map(kHugePage);
    if (page == nullptr) return nullptr;
    // A first touch of the page makes both resident.
    KeepHalf(page + kHalfPage);
    return page;
  }

  // Gives back the page if both its halves are free now, else null.
  uint8_t* FreeHalf(uint8_t* half) {
    absl::MutexLock lock(&mutex_);
    const auto other = free_halves_.find(OtherHalf(half));
    if (other == free_halves_.end()) {
      KeepHalf(half);
      return nullptr;
    }
    uint8_t* const page = std::min(half, other->first);
    if (other->second) held_ -= kHalfPage;
    free_halves_.erase(other);
    return page;
  }

  // Rather than its memory, which would split the page, the oldest whole block
  // goes.
  void KeepHalf(uint8_t* half) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (held_ + kHalfPage > kCacheBytes && !free_.empty()) {
      Unmap(free_.front().first, free_.front().second);
      held_ -= free_.front().second;
      free_.erase(free_.begin());
    }
    const bool resident = held_ + kHalfPage <= kCacheBytes;
    if (resident) held_ += kHalfPage;
    if (!resident) Drop(half);
    free_halves_.emplace(half, resident);
  }

  absl::Mutex mutex_;
  // Whole pages, newest last, and their bytes.
  std::vector<std::pair<uint8_t*, int64_t>> free_ ABSL_GUARDED_BY(mutex_);
  // Whose other half is in use, and whether they count in held_.
  std::map<uint8_t*, bool> free_halves_ ABSL_GUARDED_BY(mutex_);
  int64_t held_ ABSL_GUARDED_BY(mutex_) = 0;
};

LargeBlocks& GlobalBlocks() {
  static LargeBlocks* blocks = new LargeBlocks;  // outlives every Buffer
  return *blocks;
}

int64_t RoundUp(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

int64_t Buffer::BytesTaken(int64_t bytes) {
  if (bytes < kLarge) return RoundUp(bytes, kAlignment);
  return bytes <= kHalfPage ? kHalfPage : RoundUp(bytes, kHugePage);
}

absl::StatusOr<Buffer> Buffer::Allocate(int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  if (bytes < 0 || bytes > (int64_t{1} << 46)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  buffer.capacity_ = BytesTaken(bytes);
  buffer.data_ = bytes >= kLarge
                     ? GlobalBlocks().Allocate(bytes)
                     : static_cast<uint8_t*>(std::aligned_alloc(
                           kAlignment, static_cast<size_t>(buffer.capacity_)));
  if (buffer.data_ == nullptr) {
    buffer.capacity_ = 0;
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  buffer.size_ = bytes;
  return buffer;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (size_ < kLarge) {
    std::free(data_);
  } else {
    GlobalBlocks().Free(data_, capacity_);
  }
}

void ReleaseCachedBuffers() { GlobalBlocks().ReleaseCached(); }

}  // namespace qs
