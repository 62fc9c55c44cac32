// CountingDevice: a FakeDevice that tells what it was asked to copy and launch.
// Thread: one.
#ifndef QS_TESTS_TESTING_COUNTING_DEVICE_H_
#define QS_TESTS_TESTING_COUNTING_DEVICE_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/testing/fake_device.h"

namespace qs::cuda {

class CountingDevice final : public Device {
 public:
  // Copies to the device of that many bytes. One larger than a workspace's slot
  // is several.
  int64_t CopiesIn(int64_t bytes) const {
    return std::count(copies_in_.begin(), copies_in_.end(), bytes);
  }
  // Of all copies, in both directions.
  int64_t bytes_copied() const { return bytes_copied_; }
  // Copies and launches.
  int64_t operations() const { return operations_; }
  // Times that somebody waited for all of them: once for each call, and for
  // what a call needs to know on its way.
  int64_t waits() const { return waits_; }

  const DeviceFacts& facts() const override { return device_.facts(); }
  absl::StatusOr<void*> Allocate(int64_t bytes) override {
    return device_.Allocate(bytes);
  }
  void Free(void* memory) override { device_.Free(memory); }
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override {
    return device_.AllocatePinned(bytes);
  }
  void FreePinned(void* memory) override { device_.FreePinned(memory); }
  absl::StatusOr<cudaStream_t> NewStream() override {
    return device_.NewStream();
  }
  void DestroyStream(cudaStream_t stream) override {
    device_.DestroyStream(stream);
  }
  absl::StatusOr<cudaEvent_t> NewEvent() override { return device_.NewEvent(); }
  void DestroyEvent(cudaEvent_t event) override { device_.DestroyEvent(event); }
  absl::Status CopyIn(void* device, const void* pinned, int64_t bytes,
                      cudaStream_t stream) override {
    copies_in_.push_back(bytes);
    Count(bytes);
    return device_.CopyIn(device, pinned, bytes, stream);
  }
  absl::Status CopyOut(void* pinned, const void* device, int64_t bytes,
                       cudaStream_t stream) override {
    Count(bytes);
    return device_.CopyOut(pinned, device, bytes, stream);
  }
  absl::Status Record(cudaEvent_t event, cudaStream_t stream) override {
    return device_.Record(event, stream);
  }
  absl::Status Wait(cudaEvent_t event) override { return device_.Wait(event); }
  absl::Status Synchronize(cudaStream_t stream) override {
    ++waits_;
    return device_.Synchronize(stream);
  }
  absl::Status Launch(absl::FunctionRef<absl::Status()> enqueue) override {
    Count(0);
    return device_.Launch(enqueue);
  }

 private:
  void Count(int64_t bytes) {
    ++operations_;
    bytes_copied_ += bytes;
  }

  FakeDevice device_;
  std::vector<int64_t> copies_in_;
  int64_t bytes_copied_ = 0;
  int64_t operations_ = 0;
  int64_t waits_ = 0;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_COUNTING_DEVICE_H_
