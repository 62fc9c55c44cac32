// FakeDevice: a Device on the host emulation, with faults to order.
//
// Memory is the emulated device's, so kernels run and their accesses are
// checked; copies are made when they are enqueued, or, `lazy`, only when
// somebody waits, so that memory reused too early shows. Events and streams are
// counted, and their order is kept.
// Thread: thread-safe: one launch at a time on all of them, as the emulation
// needs it.
#ifndef QS_TESTS_TESTING_FAKE_DEVICE_H_
#define QS_TESTS_TESTING_FAKE_DEVICE_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/cuda/device.h"

namespace qs::cuda {

// Counts from now on; -1: never.
struct Faults {
  int64_t memory_bytes = int64_t{1} << 40;  // Allocate fails beyond it
  int64_t pinned_bytes = int64_t{1} << 40;  // AllocatePinned
  // That many launches go well; in the next ones, as many as the second says,
  // no kernel runs and launchers return kCudaNoMemory.
  int64_t no_memory_after_launches = -1;
  int64_t launches_without_memory = 1;
  int64_t lost_after_launches = -1;  // that many go well, then: lost
  int64_t lost_after_copies = -1;
  // What fails is enqueued like anything else, and nothing behind it is done:
  // the loss shows when somebody waits for it.
  bool lost_late = false;
  absl::Duration copy_time = absl::ZeroDuration();  // each copy takes as long
  // Called at the start of each copy and each launch, on the caller's thread;
  // what waits in them holds up that lane alone. During a launch no memory is
  // allocated.
  std::function<void()> on_copy = nullptr;
  std::function<void()> on_launch = nullptr;
};

// Of a fake device, when nothing else is said.
DeviceFacts EmulatedFacts(int index = 0);

class FakeDevice final : public Device {
 public:
  explicit FakeDevice(const Faults& faults = {}, bool lazy = false,
                      DeviceFacts facts = EmulatedFacts());
  // Everything was given back, or the test fails.
  ~FakeDevice() override;

  void SetFaults(const Faults& faults);
  int64_t launches() const;
  int64_t copies() const;
  int64_t memory_in_use() const;
  int64_t streams() const;
  bool lost() const;

  const DeviceFacts& facts() const override { return facts_; }
  absl::StatusOr<void*> Allocate(int64_t bytes) override;
  void Free(void* memory) override;
  absl::StatusOr<void*> AllocatePinned(int64_t bytes) override;
  void FreePinned(void* memory) override;
  absl::StatusOr<cudaStream_t> NewStream() override;
  void DestroyStream(cudaStream_t stream) override;
  absl::StatusOr<cudaEvent_t> NewEvent() override;
  void DestroyEvent(cudaEvent_t event) override;
  absl::Status CopyIn(void* device, const void* pinned, int64_t bytes,
                      cudaStream_t stream) override;
  absl::Status CopyOut(void* pinned, const void* device, int64_t bytes,
                       cudaStream_t stream) override;
  absl::Status Record(cudaEvent_t event, cudaStream_t stream) override;
  absl::Status Wait(cudaEvent_t event) override;
  absl::Status Synchronize(cudaStream_t stream) override;
  absl::Status Launch(absl::FunctionRef<absl::Status()> enqueue) override;

 private:
  absl::Status Alive() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Call(std::function<void()> Faults::*hook) const;
  // What its kernels return without running, if anything, of launch `number`.
  std::optional<int> Forced(int64_t number) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Copy(void* to, const void* from, int64_t bytes);
  // Makes the enqueued copies up to and with number `last`.
  void Catch(int64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Lose(const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // An enqueued operation fails: now, or for who waits.
  absl::Status Break(const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Errors: INTERNAL — operation number `last` was not done, nor any behind it.
  absl::Status WaitFor(int64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A failed operation, and what is behind it.
  void EnqueueNothing() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const DeviceFacts facts_;
  const bool lazy_;
  mutable absl::Mutex mutex_;
  Faults faults_ ABSL_GUARDED_BY(mutex_);
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  std::string broken_ ABSL_GUARDED_BY(mutex_);     // why, until somebody waits
  int64_t broken_at_ ABSL_GUARDED_BY(mutex_) = 0;  // as enqueued_
  int64_t launches_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t copies_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t enqueued_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_handle_ ABSL_GUARDED_BY(mutex_) = 1;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, int64_t> allocations_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, std::vector<uint8_t>> pinned_ ABSL_GUARDED_BY(mutex_);
  std::set<void*> streams_ ABSL_GUARDED_BY(mutex_);
  std::map<void*, int64_t> events_ ABSL_GUARDED_BY(mutex_);  // what they mark
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_FAKE_DEVICE_H_
