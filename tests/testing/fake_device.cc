#include "tests/testing/fake_device.h"

#include <cstring>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/emulation.h"
#include "tests/testing/catch_compat.h"

namespace qs::cuda {
namespace {

// All fake devices share the emulated one. Taken before a device's own; again
// by operations that take memory while they launch.
std::recursive_mutex& EmulationMutex() {
  static auto* const mutex = new std::recursive_mutex;
  return *mutex;
}

using EmulationLock = std::lock_guard<std::recursive_mutex>;

}  // namespace

DeviceFacts EmulatedFacts(int index) {
  return {.index = index,
          .name = "host emulation",
          .compute_major = 9,
          .compute_minor = 0,
          .memory_bytes = int64_t{1} << 40,
          .multiprocessors = 1};
}

FakeDevice::FakeDevice(const Faults& faults, bool lazy, DeviceFacts facts)
    : facts_(std::move(facts)), lazy_(lazy), faults_(faults) {}

FakeDevice::~FakeDevice() {
  absl::MutexLock lock(&mutex_);
  CHECK(allocations_.empty());
  CHECK(pinned_.empty());
  CHECK(streams_.empty());
  CHECK(events_.empty());
}

void FakeDevice::SetFaults(const Faults& faults) {
  absl::MutexLock lock(&mutex_);
  faults_ = faults;
  launches_ = 0;
  copies_ = 0;
}

int64_t FakeDevice::launches() const {
  absl::MutexLock lock(&mutex_);
  return launches_;
}

int64_t FakeDevice::copies() const {
  absl::MutexLock lock(&mutex_);
  return copies_;
}

int64_t FakeDevice::memory_in_use() const {
  absl::MutexLock lock(&mutex_);
  return used_;
}

int64_t FakeDevice::streams() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(streams_.size());
}

bool FakeDevice::lost() const {
  absl::MutexLock lock(&mutex_);
  return lost_;
}

absl::Status FakeDevice::Alive() const {
  if (!lost_) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("gpu:", facts_.index, " is lost: CUDA error 700"));
}

absl::Status FakeDevice::Lose(const std::string& why) {
  lost_ = true;
  queue_.clear();
  return absl::InternalError(
      absl::StrCat("gpu:", facts_.index, " is lost: ", why));
}

void FakeDevice::EnqueueNothing() {
  ++enqueued_;
  queue_.push_back([] {});
}

absl::Status FakeDevice::Break(const std::string& why) {
  if (!faults_.lost_late) return Lose(why);
  EnqueueNothing();
  broken_ = why;
  broken_at_ = enqueued_;
  return absl::OkStatus();
}

absl::Status FakeDevice::WaitFor(int64_t last) {
  QS_RETURN_IF_ERROR(Alive());
  if (!broken_.empty() && last >= broken_at_) return Lose(broken_);
  Catch(last);
  return absl::OkStatus();
}

absl::StatusOr<void*> FakeDevice::Allocate(int64_t bytes) {
  const EmulationLock emulation(EmulationMutex());
  absl::MutexLock lock(&mutex_);
  QS_RETURN_IF_ERROR(Alive());
  if (bytes > faults_.memory_bytes - used_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "gpu:", facts_.index, ": no memory for ", bytes, " bytes"));
  }
  void* const memory = EmulatedDevice::Get().Allocate(bytes);
  allocations_[memory] = bytes;
  used_ += bytes;
  return memory;
}

void FakeDevice::Free(void* memory) {
  const EmulationLock emulation(EmulationMutex());
  absl::MutexLock lock(&mutex_);
  Catch(enqueued_);
  const auto found = allocations_.find(memory);
  REQUIRE(found != allocations_.end());
  used_ -= found->second;
  allocations_.erase(found);
  EmulatedDevice::Get().Free(memory);
}

absl::StatusOr<void*> FakeDevice::AllocatePinned(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  QS_RETURN_IF_ERROR(Alive());
  int64_t used = 0;
  for (const auto& [address, memory] : pinned_) {
    used += static_cast<int64_t>(memory.size());
  }
  if (bytes > faults_.pinned_bytes - used) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "gpu:", facts_.index, ": no pinned memory for ", bytes, " bytes"));
  }
  std::vector<uint8_t> memory(static_cast<size_t>(bytes));
  void* const address = memory.data();
  pinned_[address] = std::move(memory);
  return address;
}

void FakeDevice::FreePinned(void* memory) {
  absl::MutexLock lock(&mutex_);
  Catch(enqueued_);
  REQUIRE(pinned_.erase(memory) == 1);
}

absl::StatusOr<cudaStream_t> FakeDevice::NewStream() {
  absl::MutexLock lock(&mutex_);
  QS_RETURN_IF_ERROR(Alive());
  void* const handle = reinterpret_cast<void*>(next_handle_++);
  streams_.insert(handle);
  return static_cast<cudaStream_t>(handle);
}

void FakeDevice::DestroyStream(cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  REQUIRE(streams_.erase(stream) == 1);
}

absl::StatusOr<cudaEvent_t> FakeDevice::NewEvent() {
  absl::MutexLock lock(&mutex_);
  QS_RETURN_IF_ERROR(Alive());
  void* const handle = reinterpret_cast<void*>(next_handle_++);
  events_[handle] = 0;
  return static_cast<cudaEvent_t>(handle);
}

void FakeDevice::DestroyEvent(cudaEvent_t event) {
  absl::MutexLock lock(&mutex_);
  REQUIRE(events_.erase(event) == 1);
}

void FakeDevice::Catch(int64_t last) {
  while (!queue_.empty() &&
         enqueued_ - static_cast<int64_t>(queue_.size()) < last) {
    queue_.front()();
    queue_.pop_front();
  }
}

void FakeDevice::Call(std::function<void()> Faults::*hook) const {
  std::function<void()> call;
  {
    absl::MutexLock lock(&mutex_);
    call = faults_.*hook;
  }
  if (call) call();
}

absl::Status FakeDevice::Copy(void* to, const void* from, int64_t bytes) {
  Call(&Faults::on_copy);
  absl::Duration time;
  {
    absl::MutexLock lock(&mutex_);
    QS_RETURN_IF_ERROR(Alive());
    if (copies_++ == faults_.lost_after_copies) return Break("a copy failed");
    if (!broken_.empty()) {
      EnqueueNothing();
      return absl::OkStatus();
    }
    ++enqueued_;
    queue_.push_back([to, from, bytes] {
      std::memcpy(to, from, static_cast<size_t>(bytes));
    });
    if (!lazy_) Catch(enqueued_);
    time = faults_.copy_time;
  }
  absl::SleepFor(time);
  return absl::OkStatus();
}

absl::Status FakeDevice::CopyIn(void* device, const void* pinned, int64_t bytes,
                                cudaStream_t) {
  return Copy(device, pinned, bytes);
}

absl::Status FakeDevice::CopyOut(void* pinned, const void* device,
                                 int64_t bytes, cudaStream_t) {
  return Copy(pinned, device, bytes);
}

absl::Status FakeDevice::Record(cudaEvent_t event, cudaStream_t) {
  absl::MutexLock lock(&mutex_);
  QS_RETURN_IF_ERROR(Alive());
  events_.at(event) = enqueued_;
  return absl::OkStatus();
}

absl::Status FakeDevice::Wait(cudaEvent_t event) {
  absl::MutexLock lock(&mutex_);
  return WaitFor(events_.at(event));
}

absl::Status FakeDevice::Synchronize(cudaStream_t) {
  absl::MutexLock lock(&mutex_);
  return WaitFor(enqueued_);
}

std::optional<int> FakeDevice::Forced(int64_t number) const {
  if (!broken_.empty()) return 0;
  const int64_t first = faults_.no_memory_after_launches;
  if (first < 0 || number < first ||
      number >= first + faults_.launches_without_memory) {
    return std::nullopt;
  }
  return kCudaNoMemory;
}

absl::Status FakeDevice::Launch(absl::FunctionRef<absl::Status()> enqueue) {
  const EmulationLock emulation(EmulationMutex());
  Call(&Faults::on_launch);
  {
    absl::MutexLock lock(&mutex_);
    QS_RETURN_IF_ERROR(Alive());
    Catch(enqueued_);
    const int64_t number = launches_++;
    if (number == faults_.lost_after_launches) {
      QS_RETURN_IF_ERROR(Break("a kernel failed"));
    }
    EmulatedDevice::Get().ForceLaunches(Forced(number));
  }
  const absl::Status status = enqueue();
  EmulatedDevice::Get().ForceLaunches(std::nullopt);
  const std::string error = EmulatedDevice::Get().TakeError();
  if (error.empty()) return status;
  absl::MutexLock lock(&mutex_);
  return Lose(error);
}

}  // namespace qs::cuda
