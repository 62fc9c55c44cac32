// Tested by tests/kernels/base_test.cc.
#include "kernels/base/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace qs {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLarge = int64_t{1} << 20;
constexpr int64_t kHugePage = int64_t{2} << 20;
// What the cache may hold when nothing is in use; it counts as fixed memory of
// the process beside the tensors in flight.
constexpr int64_t kCacheBytes = int64_t{64} << 20;

// Free large blocks, newest last.
class Cache {
 public:
  uint8_t* Take(int64_t capacity) {
    absl::MutexLock lock(&mutex_);
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

  void Release() {
    absl::MutexLock lock(&mutex_);
    for (auto& [data, capacity] : free_) {
      munmap(data, static_cast<size_t>(capacity));
    }
    free_.clear();
    held_ = 0;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::pair<uint8_t*, int64_t>> free_ ABSL_GUARDED_BY(mutex_);
  int64_t held_ ABSL_GUARDED_BY(mutex_) = 0;
};

Cache& GlobalCache() {
  static Cache* cache = new Cache;  // outlives every Buffer
  return *cache;
}

uint8_t* AllocateLarge(int64_t capacity) {
  if (uint8_t* cached = GlobalCache().Take(capacity)) return cached;
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
  return begin + lead;
}

}  // namespace

absl::StatusOr<Buffer> Buffer::Allocate(int64_t bytes) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  if (bytes < 0 || bytes > (int64_t{1} << 46)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes"));
  }
  const int64_t unit = bytes >= kLarge ? kHugePage : kAlignment;
  buffer.capacity_ = (bytes + unit - 1) / unit * unit;
  buffer.data_ = bytes >= kLarge
                     ? AllocateLarge(buffer.capacity_)
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
  } else if (!GlobalCache().Keep(data_, capacity_)) {
    munmap(data_, static_cast<size_t>(capacity_));
  }
}

void ReleaseCachedBuffers() { GlobalCache().Release(); }

}  // namespace qs
