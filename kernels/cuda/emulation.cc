// Tested by tests/kernels/emulation_test.cc.
#include "kernels/cuda/emulation.h"

#include <ucontext.h>

#include <algorithm>
#include <random>

// GCC defines the one, clang has the other.
#if defined(__SANITIZE_ADDRESS__)
#define QS_FIBERS_UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define QS_FIBERS_UNDER_ASAN 1
#endif
#endif

#if defined(QS_FIBERS_UNDER_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace qs::cuda {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int64_t kMaxSharedBytes = 48 << 10;
constexpr size_t kWarp = 32;
constexpr size_t kGuardBytes = 128;  // behind shared memory

struct LaunchStopped {};

// Stack `i` of the fibers of the one block that runs at a time.
uint8_t* FiberStack(size_t i) {
  static auto* stacks = new std::vector<std::unique_ptr<uint8_t[]>>;
  while (stacks->size() <= i) {
    stacks->push_back(std::make_unique_for_overwrite<uint8_t[]>(kStackBytes));
  }
  uint8_t* stack = (*stacks)[i].get();
#if defined(QS_FIBERS_UNDER_ASAN)
  // The frames of a fiber that ended here are never returned from.
  ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
#endif
  return stack;
}

}  // namespace

EmulatedDevice& EmulatedDevice::Get() {
  static EmulatedDevice device;
  return device;
}

void* EmulatedDevice::Allocate(int64_t bytes, int64_t misalign) {
  auto block =
      std::make_unique<uint8_t[]>(static_cast<size_t>(bytes + misalign + 512));
  auto address = reinterpret_cast<uintptr_t>(block.get());
  address = (address + 255) / 256 * 256 + static_cast<uintptr_t>(misalign);
  std::memset(reinterpret_cast<void*>(address), 0xff,
              static_cast<size_t>(bytes));
  memory_[address] = {bytes, std::move(block)};
  return reinterpret_cast<void*>(address);
}

void EmulatedDevice::Free(void* address) {
  memory_.erase(reinterpret_cast<uintptr_t>(address));
}

void EmulatedDevice::FreeAll() { memory_.clear(); }

std::string EmulatedDevice::TakeError() {
  std::string taken;
  taken.swap(error_);
  return taken;
}

void EmulatedDevice::RecordError(const std::string& what) {
  if (error_.empty()) error_ = what + " (seed " + std::to_string(seed_) + ")";
}

void EmulatedDevice::Fail(const std::string& what) {
  RecordError(what);
  throw LaunchStopped{};
}

int64_t EmulatedDevice::BytesFrom(const void* address) const {
  const auto at = reinterpret_cast<uintptr_t>(address);
  auto it = memory_.upper_bound(at);
  if (it == memory_.begin()) return -1;
  --it;
  const int64_t offset = static_cast<int64_t>(at - it->first);
  return offset > it->second.first ? -1 : it->second.first - offset;
}

// The fibers of one block and who waits for what.
class EmulatedBlock {
 public:
  using Body = std::function<void(EmulatedThread&, void*)>;

  EmulatedBlock(int size, int64_t index, int64_t grid, void* shared,
                const Body& body, std::mt19937_64& random)
      : shared_(shared),
        body_(body),
        random_(random),
        fibers_(static_cast<size_t>(size)),
        ready_(fibers_.size() / kWarp) {
    for (size_t i = 0; i < fibers_.size(); ++i) {
      fibers_[i].thread = std::make_unique<EmulatedThread>(
          *this, static_cast<int>(i), index, size, grid);
      fibers_[i].stack = FiberStack(i);
      Prepare(i);
      SetReady(i);
    }
  }

  // False after an error.
  bool Run() {
    while (!stopped_) {
      const bool waits = ready_[focus_].empty() && !ReleaseWarp(focus_);
      if (waits || random_() % 256 == 0) {
        if (!ChooseWarp() && !ReleaseBlock()) break;
        continue;
      }
      std::vector<size_t>& ready = ready_[focus_];
      std::swap(ready[random_() % ready.size()], ready.back());
      const size_t next = ready.back();
      ready.pop_back();
      Resume(next);
    }
    return !stopped_;
  }

  void WaitBarrier() { Wait(State::kBarrier); }

  uint64_t Shuffle(int thread, uint64_t bits, int source) {
    Fiber& me = fibers_[static_cast<size_t>(thread)];
    me.bits = bits;
    me.source = source;
    Wait(State::kShuffle);
    return me.bits;
  }

 private:
  enum class State { kReady, kBarrier, kShuffle, kDone };
  struct Fiber {
    ucontext_t context;
    uint8_t* stack = nullptr;
    std::unique_ptr<EmulatedThread> thread;
    State state = State::kReady;
    uint64_t bits = 0;
    int source = 0;
    void* fake_stack = nullptr;
  };

  static void Enter(unsigned high, unsigned low) {
    auto* block = reinterpret_cast<EmulatedBlock*>(
        (static_cast<uintptr_t>(high) << 32) | low);
    block->Main();
  }

  void Main() {
    FinishSwitch(nullptr);
    Fiber& me = fibers_[current_];
    try {
      body_(*me.thread, shared_);
    } catch (const LaunchStopped&) {
      stopped_ = true;
    }
    me.state = State::kDone;
    SwitchToScheduler(nullptr);
  }

  void Prepare(size_t i) {
    Fiber& fiber = fibers_[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = &scheduler_;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(Enter), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
  }

  void Resume(size_t i) {
    current_ = i;
#if defined(QS_FIBERS_UNDER_ASAN)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fibers_[i].stack, kStackBytes);
    swapcontext(&scheduler_, &fibers_[i].context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    swapcontext(&scheduler_, &fibers_[i].context);
#endif
  }

  void SwitchToScheduler([[maybe_unused]] void** fake) {
#if defined(QS_FIBERS_UNDER_ASAN)
    __sanitizer_start_switch_fiber(fake, scheduler_stack_, scheduler_bytes_);
#endif
    swapcontext(&fibers_[current_].context, &scheduler_);
  }

  void FinishSwitch([[maybe_unused]] void* fake) {
#if defined(QS_FIBERS_UNDER_ASAN)
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack_, &scheduler_bytes_);
#endif
  }

  void Wait(State state) {
    const size_t me = current_;
    fibers_[me].state = state;
    SwitchToScheduler(&fibers_[me].fake_stack);
    FinishSwitch(fibers_[me].fake_stack);
    if (stopped_) throw LaunchStopped{};
  }

  void SetReady(size_t i) {
    fibers_[i].state = State::kReady;
    ready_[i / kWarp].push_back(i);
  }

  // Warps run apart: one goes on, through its shuffles, until all of it waits
  // at a barrier, but for a switch now and then. False when none is ready.
  bool ChooseWarp() {
    std::vector<size_t> warps;
    for (size_t warp = 0; warp < ready_.size(); ++warp) {
      if (!ready_[warp].empty() || ReleaseWarp(warp)) warps.push_back(warp);
    }
    if (warps.empty()) return false;
    focus_ = warps[random_() % warps.size()];
    return true;
  }

  int64_t CountIn(State state) const {
    return std::count_if(fibers_.begin(), fibers_.end(),
                         [=](const Fiber& f) { return f.state == state; });
  }

  // Lets the block go on when all of it is at the barrier. False when it is
  // done or stuck.
  bool ReleaseBlock() {
    const auto size = static_cast<int64_t>(fibers_.size());
    if (CountIn(State::kDone) == size) return false;
    if (CountIn(State::kBarrier) == size) {
      for (size_t i = 0; i < fibers_.size(); ++i) SetReady(i);
      return true;
    }
    stopped_ = true;
    EmulatedDevice::Get().RecordError(
        "divergence: " + std::to_string(CountIn(State::kBarrier)) +
        " threads wait at a barrier, " +
        std::to_string(CountIn(State::kShuffle)) + " at a shuffle, " +
        std::to_string(CountIn(State::kDone)) + " have left the kernel, of " +
        std::to_string(size));
    return false;
  }

  // The same for a warp at a shuffle.
  bool ReleaseWarp(size_t warp) {
    const size_t first = warp * kWarp;
    uint64_t bits[kWarp];
    for (size_t i = 0; i < kWarp; ++i) {
      const Fiber& fiber = fibers_[first + i];
      if (fiber.state != State::kShuffle ||
          fiber.source != fibers_[first].source) {
        return false;
      }
      bits[i] = fiber.bits;
    }
    for (size_t i = 0; i < kWarp; ++i) {
      Fiber& fiber = fibers_[first + i];
      const auto source = static_cast<size_t>(fiber.source);
      fiber.bits = bits[source < kFromLane ? i ^ source : source - kFromLane];
      SetReady(first + i);
    }
    return true;
  }

  void* const shared_;
  const Body& body_;
  std::mt19937_64& random_;
  std::vector<Fiber> fibers_;
  std::vector<std::vector<size_t>> ready_;  // by warp
  size_t focus_ = 0;                        // the warp that runs
  ucontext_t scheduler_;
  [[maybe_unused]] const void* scheduler_stack_ = nullptr;
  [[maybe_unused]] size_t scheduler_bytes_ = 0;
  size_t current_ = 0;
  bool stopped_ = false;
};

void EmulatedThread::Barrier() { block_.WaitBarrier(); }

uint64_t EmulatedThread::ShuffleBits(uint64_t bits, int source) {
  return block_.Shuffle(index_, bits, source);
}

int EmulateLaunch(int64_t grid, int block, int64_t shared_bytes,
                  const EmulatedBlock::Body& body) {
  EmulatedDevice& device = EmulatedDevice::Get();
  if (grid < 1 || grid > 0x7fffffff || block < 1 || block > 1024 ||
      block % static_cast<int>(kWarp) != 0 || shared_bytes > kMaxSharedBytes) {
    device.RecordError("launch of " + std::to_string(grid) + " blocks of " +
                       std::to_string(block) + " threads with " +
                       std::to_string(shared_bytes) +
                       " bytes of shared memory is beyond a limit");
    return 1;
  }
  std::mt19937_64 random(device.seed());
  std::vector<int64_t> order(static_cast<size_t>(grid));
  for (int64_t i = 0; i < grid; ++i) order[static_cast<size_t>(i)] = i;
  std::shuffle(order.begin(), order.end(), random);
  const auto bytes = static_cast<size_t>(shared_bytes);
  std::vector<uint8_t> memory(bytes + kGuardBytes + 128);
  void* shared = memory.data();
  size_t space = memory.size();
  std::align(128, bytes + kGuardBytes, shared, space);
  auto* guard = static_cast<uint8_t*>(shared) + bytes;
  for (int64_t index : order) {
    std::memset(shared, 0xff, bytes + kGuardBytes);
    EmulatedBlock emulated(block, index, grid, shared, body, random);
    if (!emulated.Run()) return 1;
    if (std::any_of(guard, guard + kGuardBytes,
                    [](uint8_t byte) { return byte != 0xff; })) {
      device.RecordError("a kernel wrote beyond its shared memory");
      return 1;
    }
  }
  return 0;
}

}  // namespace qs::cuda
