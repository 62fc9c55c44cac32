// Tested by tests/kernels/emulation_test.cc.
#include "kernels/cuda/emulation.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <thread>

#include "kernels/cuda/fiber.h"

namespace qs::cuda {
namespace {

constexpr int64_t kMaxSharedBytes = 48 << 10;
constexpr size_t kWarp = 32;
constexpr size_t kGuardBytes = 128;  // behind shared memory
// More than one only where races between blocks are looked for.
constexpr size_t kMultiprocessors = kFibersAreTraced ? 4 : 1;

struct LaunchStopped {};

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

void EmulatedDevice::NoteRun(const char* file, const char* kernel) {
  if (forced_) return;
  const std::string path = file;
  kernels_run_.insert(path.substr(path.rfind('/') + 1) + ":" + kernel);
}

std::string EmulatedDevice::TakeError() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string taken;
  taken.swap(error_);
  return taken;
}

void EmulatedDevice::RecordError(const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex_);
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

// One block: its threads, who of them waits for what, and who runs next.
class EmulatedBlock {
 public:
  using Body = std::function<void(EmulatedThread&, void*)>;

  // Runs on the first `size` fibers, which have nothing else to do.
  EmulatedBlock(int size, int64_t index, int64_t grid, void* shared,
                const Body& body, const std::vector<Fiber*>& fibers,
                std::mt19937_64& random)
      : shared_(shared),
        body_(body),
        random_(random),
        members_(static_cast<size_t>(size)),
        ready_(members_.size() / kWarp),
        warp_orders_(ready_.size()) {
    for (size_t i = 0; i < members_.size(); ++i) {
      members_[i].thread = std::make_unique<EmulatedThread>(
          *this, static_cast<int>(i), index, size, grid);
      members_[i].fiber = fibers[i];
      members_[i].fiber->Start(RunMember, this, i);
      SetReady(i);
    }
  }

  // False after an error.
  bool Run() {
    Release(&begin_);
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
      members_[next].fiber->Resume();
    }
    if (stopped_) LetAllLeave();
    Acquire(&end_);
    return !stopped_;
  }

  // The functions of the running thread, number `thread`.
  void WaitBarrier(int thread) {
    WaitInOrder(static_cast<size_t>(thread), State::kBarrier, block_order_);
  }
  // A shuffle that orders.
  QS_NOT_TRACED void WaitWarpBarrier(int thread) {
    const auto me = static_cast<size_t>(thread);
    members_[me].source = 0;
    WaitInOrder(me, State::kShuffle, warp_orders_[me / kWarp]);
  }
  QS_NOT_TRACED uint64_t Shuffle(int thread, uint64_t bits, int source) {
    Member& me = members_[static_cast<size_t>(thread)];
    me.bits = bits;
    me.source = source;
    Wait(me, State::kShuffle);
    return me.bits;
  }

 private:
  enum class State { kReady, kBarrier, kShuffle, kDone };
  struct Member {
    Fiber* fiber = nullptr;
    std::unique_ptr<EmulatedThread> thread;
    State state = State::kReady;
    uint64_t bits = 0;
    int source = 0;
  };
  // What a barrier orders hangs on one of `sides`: who is early at the next
  // barrier must not seem to be before who is late in leaving this one, so
  // they alternate.
  struct Order {
    char sides[2] = {0, 0};
    int passed = 0;  // barriers, or shuffles
  };

  QS_NOT_TRACED static void RunMember(void* block, size_t i) {
    auto& self = *static_cast<EmulatedBlock*>(block);
    Acquire(&self.begin_);
    if (!self.stopped_ && !self.RunBody(i)) self.stopped_ = true;
    Release(&self.end_);
    self.members_[i].state = State::kDone;
  }

  bool RunBody(size_t i) {
    try {
      body_(*members_[i].thread, shared_);
    } catch (const LaunchStopped&) {
      return false;
    }
    return true;
  }

  QS_NOT_TRACED void Wait(Member& me, State state) {
    me.state = state;
    me.fiber->Yield();
    if (stopped_) throw LaunchStopped{};
  }

  QS_NOT_TRACED void WaitInOrder(size_t i, State state, Order& order) {
    char* const side = &order.sides[order.passed % 2];
    Release(side);
    Wait(members_[i], state);
    Acquire(side);
  }

  // After an error: whoever waits throws, and its fiber is free again.
  void LetAllLeave() {
    for (Member& member : members_) {
      while (member.state != State::kDone) member.fiber->Resume();
    }
  }

  void SetReady(size_t i) {
    members_[i].state = State::kReady;
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
    return std::count_if(members_.begin(), members_.end(),
                         [=](const Member& m) { return m.state == state; });
  }

  // Lets the block go on when all of it is at the barrier. False when it is
  // done or stuck.
  bool ReleaseBlock() {
    const auto size = static_cast<int64_t>(members_.size());
    if (CountIn(State::kDone) == size) return false;
    if (CountIn(State::kBarrier) == size) {
      ++block_order_.passed;
      for (size_t i = 0; i < members_.size(); ++i) SetReady(i);
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

  // The same for all lanes of one shuffle.
  static int KindOf(int source) { return std::min(source, kLookup); }

  // The same for a warp at a shuffle.
  bool ReleaseWarp(size_t warp) {
    const size_t first = warp * kWarp;
    uint64_t bits[kWarp];
    for (size_t i = 0; i < kWarp; ++i) {
      const Member& member = members_[first + i];
      if (member.state != State::kShuffle ||
          KindOf(member.source) != KindOf(members_[first].source)) {
        return false;
      }
      bits[i] = member.bits;
    }
    ++warp_orders_[warp].passed;
    for (size_t i = 0; i < kWarp; ++i) {
      Member& member = members_[first + i];
      const auto source = static_cast<size_t>(member.source);
      member.bits = bits[source < kFromLane ? i ^ source : source % kWarp];
      SetReady(first + i);
    }
    return true;
  }

  void* const shared_;
  const Body& body_;
  std::mt19937_64& random_;
  std::vector<Member> members_;
  std::vector<std::vector<size_t>> ready_;  // by warp
  size_t focus_ = 0;                        // the warp that runs
  Order block_order_;
  std::vector<Order> warp_orders_;
  char begin_ = 0;  // what is before all of the block hangs on it
  char end_ = 0;    // and what all of the block is before
  bool stopped_ = false;
};

void EmulatedThread::Barrier() { block_.WaitBarrier(index_); }

void EmulatedThread::WarpBarrier() { block_.WaitWarpBarrier(index_); }

uint64_t EmulatedThread::ShuffleBits(uint64_t bits, int source) {
  return block_.Shuffle(index_, bits, source);
}

namespace {

struct EmulatedGrid {
  int64_t blocks;
  int block_size;
  size_t shared_bytes;
  const EmulatedBlock::Body& body;
  std::vector<int64_t> order;  // of blocks
  uint64_t seed;
};

// The first `count` fibers of a multiprocessor.
std::vector<Fiber*>& FibersOf(size_t multiprocessor, size_t count) {
  static auto& all = *new std::array<std::vector<Fiber*>, kMultiprocessors>;
  std::vector<Fiber*>& fibers = all[multiprocessor];
  while (fibers.size() < count) fibers.push_back(new Fiber);
  return fibers;
}

// One block after the other, of those dealt to one multiprocessor, until
// `failed`, which an error sets.
void RunBlocks(const EmulatedGrid& grid, size_t multiprocessor,
               std::mt19937_64 random, std::atomic<bool>& failed) {
  const std::vector<Fiber*>& fibers =
      FibersOf(multiprocessor, static_cast<size_t>(grid.block_size));
  std::vector<uint8_t> memory(grid.shared_bytes + kGuardBytes + 128);
  void* shared = memory.data();
  size_t space = memory.size();
  std::align(128, grid.shared_bytes + kGuardBytes, shared, space);
  auto* guard = static_cast<uint8_t*>(shared) + grid.shared_bytes;
  for (size_t i = multiprocessor; i < grid.order.size();
       i += kMultiprocessors) {
    if (failed.load(std::memory_order_relaxed)) return;
    std::memset(shared, 0xff, grid.shared_bytes + kGuardBytes);
    EmulatedBlock block(grid.block_size, grid.order[i], grid.blocks, shared,
                        grid.body, fibers, random);
    bool good = block.Run();
    if (good && std::any_of(guard, guard + kGuardBytes,
                            [](uint8_t byte) { return byte != 0xff; })) {
      EmulatedDevice::Get().RecordError(
          "a kernel wrote beyond its shared memory");
      good = false;
    }
    if (!good) failed.store(true, std::memory_order_relaxed);
  }
}

// Every multiprocessor on a thread of its own, the first on this one.
bool RunGrid(const EmulatedGrid& grid, const std::mt19937_64& random) {
  std::atomic<bool> failed = false;
  std::vector<std::thread> others;
  const size_t busy = std::min(kMultiprocessors, grid.order.size());
  for (size_t i = 1; i < busy; ++i) {
    others.emplace_back([&grid, &failed, i] {
      RunBlocks(grid, i, std::mt19937_64(grid.seed ^ (i << 32)), failed);
    });
  }
  RunBlocks(grid, 0, random, failed);
  for (std::thread& other : others) other.join();
  return !failed;
}

}  // namespace

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
  if (device.forced()) return *device.forced();
  std::mt19937_64 random(device.seed());
  std::vector<int64_t> order(static_cast<size_t>(grid));
  for (int64_t i = 0; i < grid; ++i) order[static_cast<size_t>(i)] = i;
  std::shuffle(order.begin(), order.end(), random);
  const EmulatedGrid launched{grid,
                              block,
                              static_cast<size_t>(shared_bytes),
                              body,
                              std::move(order),
                              device.seed()};
  return RunGrid(launched, random) ? 0 : 1;
}

}  // namespace qs::cuda
