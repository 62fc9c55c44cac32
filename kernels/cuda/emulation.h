// Host emulation of the kernel vocabulary, for tests only: it looks for the
// bugs that a GPU forgives.
//
//   * Threads of a block run as fibers in a random order between barriers and
//     shuffles, and one warp often far ahead of the others; blocks run in a
//     random order. The seed is in every error text.
//   * Shared memory and fresh device memory hold NaN bytes (0xff); a write
//     shortly beyond shared memory is an error.
//   * A barrier or shuffle that not every thread (of the block, of the warp)
//     reaches is an error, as are mixed ones.
//   * Every access to global memory is checked against the allocation it was
//     made from: bounds and alignment.
//   * Limits of a launch are enforced: 1024 threads, whole warps, 48 KiB of
//     static shared memory, a grid of 2^31 - 1.
//   * Under ThreadSanitizer every emulated thread is one to it, and the blocks
//     of a launch run on four real threads at a time. It reports a race of
//     shared or global memory whatever the order of this run:
//       - of a block's threads, unless a barrier of the block or the warp is
//         between them (a shuffle is none, as in CUDA);
//       - of blocks, unless both sides are atomic: of two in a launch of up to
//         four, of three pairs in four in a larger one, by the seed, since two
//         blocks that one thread runs are ordered for it.
//     A report fails the process. Atomics are the host's in every build.
//     Tests that run so: gpu_small_test and those of
//     tests/kernels_race.cmake.
//
// An error stops the launch, which then returns 1 like a sticky CUDA error;
// EmulatedDevice::TakeError tells what it was.
// Thread: one launch at a time.
#ifndef QS_KERNELS_CUDA_EMULATION_H_
#define QS_KERNELS_CUDA_EMULATION_H_

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#define QS_KERNEL inline
#define QS_UNROLL
#define QS_NO_UNROLL

namespace qs::cuda {

// The memory of the emulated device and the state of its launches.
class EmulatedDevice {
 public:
  static EmulatedDevice& Get();

  // Memory of exactly `bytes`, filled with 0xff, `misalign` bytes off a
  // 256-byte border.
  void* Allocate(int64_t bytes, int64_t misalign = 0);
  void Free(void* address);
  void FreeAll();

  void Seed(uint64_t seed) { seed_ = seed; }
  uint64_t seed() const { return seed_; }
  // Launches from now on run nothing and return `result`; empty: they run.
  void ForceLaunches(std::optional<int> result) { forced_ = result; }
  std::optional<int> forced() const { return forced_; }
  // Kernels that have run, "file.cu:Kernel", whatever their template arguments.
  const std::set<std::string>& kernels_run() const { return kernels_run_; }
  void NoteRun(const char* file, const char* kernel);
  // The first error since the last call, empty when none.
  std::string TakeError();
  // Called by the checks; stops the running thread's launch.
  [[noreturn]] void Fail(const std::string& what);
  void RecordError(const std::string& what);

  // Bytes from `address` to the end of its allocation, -1 when in none.
  int64_t BytesFrom(const void* address) const;

 private:
  std::map<uintptr_t, std::pair<int64_t, std::unique_ptr<uint8_t[]>>> memory_;
  std::mutex mutex_;
  std::string error_;  // guarded by mutex_
  uint64_t seed_ = 1;
  std::optional<int> forced_;
  std::set<std::string> kernels_run_;
};

template <class T>
class CheckedPointer {
 public:
  CheckedPointer(T* data, int64_t count) : data_(data), count_(count) {
    if (count == 0) return;
    const int64_t there = EmulatedDevice::Get().BytesFrom(data);
    if (there < count * static_cast<int64_t>(sizeof(T))) {
      EmulatedDevice::Get().Fail(
          "a kernel was told of " + std::to_string(count) + " elements of " +
          std::to_string(sizeof(T)) + " bytes, the allocation has " +
          std::to_string(there) + " bytes");
    }
  }

  std::remove_const_t<T> Get(int64_t i) const {
    Check(i, 1, alignof(T));
    std::remove_const_t<T> value;
    std::memcpy(&value, data_ + i, sizeof(T));
    return value;
  }
  template <class V>
  void Set(int64_t i, V value) const {
    Check(i, 1, alignof(T));
    const T narrowed = static_cast<T>(value);
    std::memcpy(const_cast<std::remove_const_t<T>*>(data_ + i), &narrowed,
                sizeof(T));
  }
  template <class Vector>
  Vector GetVector(int64_t i) const {
    Check(i, sizeof(Vector) / sizeof(T), sizeof(Vector));
    Vector value;
    std::memcpy(&value, data_ + i, sizeof(Vector));
    return value;
  }
  template <class Vector>
  void SetVector(int64_t i, Vector value) const {
    Check(i, sizeof(Vector) / sizeof(T), sizeof(Vector));
    std::memcpy(const_cast<std::remove_const_t<T>*>(data_ + i), &value,
                sizeof(Vector));
  }
  void AtomicMin(int64_t i, T value) const {
    const std::atomic_ref<T> there = Atomic(i);
    T before = there.load(std::memory_order_relaxed);
    while (value < before && !there.compare_exchange_weak(
                                 before, value, std::memory_order_relaxed)) {
    }
  }
  void AtomicMax(int64_t i, T value) const {
    const std::atomic_ref<T> there = Atomic(i);
    T before = there.load(std::memory_order_relaxed);
    while (before < value && !there.compare_exchange_weak(
                                 before, value, std::memory_order_relaxed)) {
    }
  }
  void AtomicAdd(int64_t i, T value) const {
    Atomic(i).fetch_add(value, std::memory_order_relaxed);
  }

 private:
  std::atomic_ref<T> Atomic(int64_t i) const {
    Check(i, 1, std::atomic_ref<T>::required_alignment);
    return std::atomic_ref<T>(data_[i]);
  }
  void Check(int64_t i, int64_t n, size_t alignment) const {
    if (i < 0 || i + n > count_) {
      EmulatedDevice::Get().Fail("element " + std::to_string(i) + " + " +
                                 std::to_string(n) + " of " +
                                 std::to_string(count_));
    }
    if (reinterpret_cast<uintptr_t>(data_ + i) % alignment != 0) {
      EmulatedDevice::Get().Fail("element " + std::to_string(i) +
                                 " is not aligned to " +
                                 std::to_string(alignment));
    }
  }

  T* data_;
  int64_t count_;
};

template <class T>
using GlobalMemory = CheckedPointer<T>;

class EmulatedBlock;

// Where a shuffle takes its value from: the lane with these bits flipped, or,
// from here on, lane number source - kFromLane, or, from here on, lane number
// source - kLookup, which the lanes of the warp may have different ones of.
constexpr int kFromLane = 32;
constexpr int kLookup = 64;

// What a kernel gets as its thread.
class EmulatedThread {
 public:
  EmulatedThread(EmulatedBlock& block, int index, int64_t block_index,
                 int block_size, int64_t grid_size)
      : block_(block),
        index_(index),
        block_index_(block_index),
        block_size_(block_size),
        grid_size_(grid_size) {}

  int ThreadIndex() const { return index_; }
  int64_t BlockIndex() const { return block_index_; }
  int BlockSize() const { return block_size_; }
  int64_t GridSize() const { return grid_size_; }
  void Barrier();
  template <class T>
  T ShuffleXor(T value, int mask) {
    return Exchange(value, mask);
  }
  template <class T>
  T ShuffleFrom(T value, int lane) {
    return Exchange(value, kFromLane + lane);
  }
  template <class T>
  T Lookup(T value, uint32_t index) {
    return Exchange(value, kLookup + static_cast<int>(index % 32));
  }
  bool AnyInWarp(bool value) {
    int any = value ? 1 : 0;
    for (int mask = 1; mask < 32; mask *= 2) any |= ShuffleXor(any, mask);
    return any != 0;
  }
  void WarpBarrier();
  template <class T>
  CheckedPointer<T> Global(T* data, int64_t count) const {
    return CheckedPointer<T>(data, count);
  }

 private:
  template <class T>
  T Exchange(T value, int source) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = ShuffleBits(bits, source);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
  }
  uint64_t ShuffleBits(uint64_t bits, int source);

  EmulatedBlock& block_;
  const int index_;
  const int64_t block_index_;
  const int block_size_;
  const int64_t grid_size_;
};

// Runs `body(thread, shared)` for every thread of every block; `shared_bytes`
// of NaN-filled memory a block. Returns 0, or 1 after an error, or what
// ForceLaunches says.
int EmulateLaunch(
    int64_t grid, int block, int64_t shared_bytes,
    const std::function<void(EmulatedThread&, void* shared)>& body);

}  // namespace qs::cuda

#define QS_DEFINE_ENTRY(kernel, Shared)
#define QS_DEFINE_LARGE_ENTRY(kernel, Shared)

#define QS_LAUNCH(kernel, Shared, args, grid, block, stream)     \
  ((void)(stream),                                               \
   ::qs::cuda::EmulatedDevice::Get().NoteRun(__FILE__, #kernel), \
   ::qs::cuda::EmulateLaunch(                                    \
       grid, block, sizeof(Shared),                              \
       [&](::qs::cuda::EmulatedThread& thread, void* shared) {   \
         kernel(thread, *static_cast<Shared*>(shared), args);    \
       }))

#endif  // QS_KERNELS_CUDA_EMULATION_H_
