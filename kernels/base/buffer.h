// Buffer: move-only owner of 64-byte aligned bytes in host memory.
//
// Large buffers (1 MiB and more) are rounded to 2 MiB and ask the kernel for
// huge pages, because the first touch of 4 KiB pages is slower than every
// kernel here (2 GB/s against 9 GB/s), and are kept for reuse by a small
// process-wide cache (see kernels/base/buffer.cc for its cap).
#ifndef QS_KERNELS_BASE_BUFFER_H_
#define QS_KERNELS_BASE_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "absl/status/statusor.h"

namespace qs {

class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept { Swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer taken(std::move(other));
    Swap(taken);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Contents are indeterminate. `bytes` may be 0.
  // Errors: RESOURCE_EXHAUSTED — the allocation failed.
  static absl::StatusOr<Buffer> Allocate(int64_t bytes);

  uint8_t* data() { return data_; }
  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  template <typename T>
  T* As() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* As() const {
    return reinterpret_cast<const T*>(data_);
  }
  std::span<const uint8_t> bytes() const {
    return {data_, static_cast<size_t>(size_)};
  }

 private:
  void Swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  uint8_t* data_ = nullptr;
  int64_t size_ = 0;
  int64_t capacity_ = 0;
};

// Gives the cached large buffers back to the system. Thread-safe.
void ReleaseCachedBuffers();

}  // namespace qs

#endif  // QS_KERNELS_BASE_BUFFER_H_
