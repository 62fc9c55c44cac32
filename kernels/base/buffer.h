// Buffer: move-only owner of 64-byte aligned bytes in host memory.
//
// Large buffers lie in huge pages of 2 MiB, because the first touch of 4 KiB
// pages is slower than every kernel here (2 GB/s against 9 GB/s): those of 1
// MiB two in a page, all others in whole pages. A small process-wide cache
// keeps them for reuse (see kernels/base/buffer.cc for its cap).
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

  // What a Buffer of `bytes` takes: what to charge for it.
  static int64_t BytesTaken(int64_t bytes);
  // From this size on it is large: BytesTaken is up to kMostRounding more.
  static constexpr int64_t kLarge = int64_t{1} << 20;
  static constexpr int64_t kMostRounding = int64_t{2} << 20;

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
