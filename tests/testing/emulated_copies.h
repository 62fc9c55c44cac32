// Copies between host memory and the emulated device, for families on host
// memory there. Every buffer has exactly its size, so that an access beyond it
// is an error, and the misalignment that the test asks for.
#ifndef QS_TESTS_TESTING_EMULATED_COPIES_H_
#define QS_TESTS_TESTING_EMULATED_COPIES_H_

#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/emulation.h"
#include "kernels/cuda/scratch.h"
#include "tests/testing/catch_compat.h"

namespace qs {

// Memory of the emulated device, which EmulatedCopies::Begin gives back.
class EmulatedScratch final : public cuda::Scratch {
 public:
  absl::StatusOr<void*> Take(int64_t bytes) override {
    return cuda::EmulatedDevice::Get().Allocate(bytes);
  }
  absl::Status CopyOut(void* host, const void* device, int64_t bytes,
                       Stream&) override {
    std::memcpy(host, device, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
};

class EmulatedCopies {
 public:
  // Buffers lie off a 256-byte border by elements that `seed` picks; half of
  // the seeds are aligned throughout.
  explicit EmulatedCopies(uint64_t seed) : seed_(seed) {}

  void Begin() {
    cuda::EmulatedDevice::Get().FreeAll();
    outputs_.clear();
    buffers_ = 0;
  }
  const void* InBytes(const void* host, int64_t bytes, int64_t element) {
    if (host == nullptr) return nullptr;
    void* device = Allocate(bytes, element);
    std::memcpy(device, host, static_cast<size_t>(bytes));
    return device;
  }
  void* OutBytes(void* host, int64_t bytes, int64_t element) {
    if (host == nullptr) return nullptr;
    void* device = Allocate(bytes, element);
    outputs_.push_back({host, device, bytes});
    return device;
  }
  template <class T>
  const T* In(const T* host, int64_t count) {
    constexpr auto kSize = static_cast<int64_t>(sizeof(T));
    return static_cast<const T*>(InBytes(host, count * kSize, kSize));
  }
  template <class T>
  T* Out(T* host, int64_t count) {
    constexpr auto kSize = static_cast<int64_t>(sizeof(T));
    return static_cast<T*>(OutBytes(host, count * kSize, kSize));
  }
  absl::Status End(absl::Status status) {
    for (const Copy& copy : outputs_) {
      std::memcpy(copy.host, copy.device, static_cast<size_t>(copy.bytes));
    }
    const std::string error = cuda::EmulatedDevice::Get().TakeError();
    INFO("emulation: " << error);
    CHECK(error.empty());
    return status;
  }

 private:
  struct Copy {
    void* host;
    const void* device;
    int64_t bytes;
  };

  void* Allocate(int64_t bytes, int64_t element) {
    const uint64_t mix = 2 * buffers_++ + 1;
    const auto off = static_cast<int64_t>(seed_ / 2 * mix % 8);
    return cuda::EmulatedDevice::Get().Allocate(
        bytes, seed_ % 2 == 0 ? 0 : off * element);
  }

  const uint64_t seed_;
  uint64_t buffers_ = 0;
  std::vector<Copy> outputs_;
};

}  // namespace qs

#endif  // QS_TESTS_TESTING_EMULATED_COPIES_H_
