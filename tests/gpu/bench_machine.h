// What gpu_bench measures on: a device, its matrix products, and memory that
// rows put their data in before the clock starts.
#ifndef QS_TESTS_GPU_BENCH_MACHINE_H_
#define QS_TESTS_GPU_BENCH_MACHINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/workspace.h"

namespace qs::cuda {

// Where a device comes from: the CUDA runtime, or the emulation in the test.
struct BenchParts {
  std::shared_ptr<Device> device;
  // Called with the device current.
  std::function<absl::StatusOr<std::unique_ptr<Blas>>()> new_blas;
  // Enqueues a copy inside the device, which is current.
  std::function<absl::Status(void* to, const void* from, int64_t bytes,
                             cudaStream_t stream)>
      copy;
  int64_t memory_bytes = 0;  // that may be taken
  bool emulated = false;     // times then say nothing of a device
};

// Thread: one.
class BenchMachine final : public Scratch {
 public:
  // Errors: as Device; UNAVAILABLE — no matrix products, and why.
  static absl::StatusOr<std::unique_ptr<BenchMachine>> Open(BenchParts parts);

  Device& device() { return *parts_.device; }
  Blas& blas() { return *blas_; }
  Workspace& workspace() { return *workspace_; }
  bool emulated() const { return parts_.emulated; }

  // With the device current and its stream.
  absl::Status Launch(absl::FunctionRef<absl::Status(Stream&)> enqueue);
  // Enqueued.
  absl::Status Copy(void* to, const void* from, int64_t bytes);
  // For host memory, with a device of its own memory's worth.
  absl::StatusOr<std::unique_ptr<Backend>> NewBackend();

  absl::StatusOr<void*> Take(int64_t bytes) override {
    return workspace_->Take(bytes);
  }
  absl::Status CopyOut(void* host, const void* device, int64_t bytes,
                       Stream&) override {
    return workspace_->CopyOut(host, device, bytes);
  }

 private:
  explicit BenchMachine(BenchParts parts)
      : parts_(std::move(parts)), ledger_(parts_.memory_bytes) {}
  absl::StatusOr<std::unique_ptr<Blas>> NewBlas();

  const BenchParts parts_;
  MemoryLedger ledger_;
  std::unique_ptr<Blas> blas_;
  std::unique_ptr<Workspace> workspace_;
};

// Device memory of one family's rows, freed with it. The first error is kept;
// pointers are null from then on.
class BenchMemory {
 public:
  explicit BenchMemory(BenchMachine& machine) : machine_(machine) {}
  ~BenchMemory();
  BenchMemory(const BenchMemory&) = delete;
  BenchMemory& operator=(const BenchMemory&) = delete;

  absl::Status status() const { return status_; }
  void* Bytes(int64_t bytes);
  template <typename T>
  T* New(int64_t count) {
    return static_cast<T*>(Bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  // A copy of host memory.
  template <typename T>
  T* Copy(const T* host, int64_t count) {
    T* const memory = New<T>(count);
    CopyIn(memory, host, count * static_cast<int64_t>(sizeof(T)));
    return memory;
  }
  void Zero(void* memory, int64_t bytes);
  void CopyIn(void* memory, const void* host, int64_t bytes);

 private:
  BenchMachine& machine_;
  std::vector<void*> memory_;
  absl::Status status_;
};

// BF16 [rows, cols], several times over, so that taking turns leaves nothing of
// a matrix in the second-level cache until it is read again.
class TurningWeights {
 public:
  static constexpr int64_t kCopies = 3;
  // Normal numbers of the size of weights.
  TurningWeights(BenchMemory& memory, int64_t rows, int64_t cols);
  TensorView At(int64_t call) const {
    return {data_ + call % kCopies * rows_ * cols_, DType::kBF16, rows_, cols_};
  }

 private:
  const int64_t rows_;
  const int64_t cols_;
  uint16_t* data_;
};

// BF16, normal with this deviation, the same for the same seed.
Buffer NormalWeights(int64_t count, float deviation, uint64_t seed);
// BF16 [tokens, inputs]: neighbours correlated, every 500th input loud.
Buffer LikeActivations(int64_t tokens, int64_t inputs, uint64_t seed);

}  // namespace qs::cuda

#endif  // QS_TESTS_GPU_BENCH_MACHINE_H_
