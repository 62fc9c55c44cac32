#include "tests/gpu/bench_machine.h"

#include <cmath>
#include <utility>

#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"

namespace qs::cuda {

absl::StatusOr<std::unique_ptr<BenchMachine>> BenchMachine::Open(
    BenchParts parts) {
  std::unique_ptr<BenchMachine> machine(new BenchMachine(std::move(parts)));
  QS_ASSIGN_OR_RETURN(machine->blas_, machine->NewBlas());
  QS_ASSIGN_OR_RETURN(machine->workspace_,
                      Workspace::Create(machine->device(), machine->ledger_));
  return machine;
}

absl::StatusOr<std::unique_ptr<Blas>> BenchMachine::NewBlas() {
  absl::StatusOr<std::unique_ptr<Blas>> blas =
      absl::InternalError("no launch was made");
  QS_RETURN_IF_ERROR(device().Launch([&] {
    blas = parts_.new_blas();
    return absl::OkStatus();
  }));
  return blas;
}

absl::Status BenchMachine::Launch(
    absl::FunctionRef<absl::Status(Stream&)> enqueue) {
  return device().Launch([&] { return enqueue(workspace_->stream()); });
}

absl::Status BenchMachine::Copy(void* to, const void* from, int64_t bytes) {
  return device().Launch(
      [&] { return parts_.copy(to, from, bytes, workspace_->native()); });
}

absl::StatusOr<std::unique_ptr<Backend>> BenchMachine::NewBackend() {
  workspace_->Trim();
  return NewCudaBackend(parts_.device, NewBlas(), NewCpuBackend(1),
                        parts_.memory_bytes);
}

BenchMemory::~BenchMemory() {
  for (void* const memory : memory_) machine_.device().Free(memory);
}

void* BenchMemory::Bytes(int64_t bytes) {
  if (!status_.ok()) return nullptr;
  absl::StatusOr<void*> memory = machine_.device().Allocate(bytes);
  status_ = memory.status();
  if (!memory.ok()) return nullptr;
  memory_.push_back(*memory);
  return *memory;
}

void BenchMemory::CopyIn(void* memory, const void* host, int64_t bytes) {
  if (!status_.ok()) return;
  status_ = machine_.workspace().CopyIn(memory, host, bytes);
}

void BenchMemory::Zero(void* memory, int64_t bytes) {
  const std::vector<uint8_t> zeros(static_cast<size_t>(bytes));
  CopyIn(memory, zeros.data(), bytes);
}

TurningWeights::TurningWeights(BenchMemory& memory, int64_t rows, int64_t cols)
    : rows_(rows),
      cols_(cols),
      data_(memory.New<uint16_t>(kCopies * rows * cols)) {
  const Buffer host = NormalWeights(rows * cols, 0.02f, 1);
  for (int64_t i = 0; i < kCopies; ++i) {
    memory.CopyIn(data_ + i * rows * cols, host.data(), host.size());
  }
}

namespace {

// Sums of four uniform numbers, which are normal enough, at 1 ns each: half a
// billion are wanted.
class FastNormal {
 public:
  explicit FastNormal(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  float Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    int sum = 0;
    for (int part = 0; part < 4; ++part) {
      sum += static_cast<int>((state_ >> (16 * part)) & 0xffff);
    }
    // Of deviation 1: four times 2^32 / 12.
    return static_cast<float>(sum - 2 * 0xffff) / 37837.2f;
  }

 private:
  uint64_t state_;
};

Buffer NewBf16(int64_t count) {
  return *Buffer::Allocate(count * DTypeBytes(DType::kBF16));
}

}  // namespace

Buffer NormalWeights(int64_t count, float deviation, uint64_t seed) {
  Buffer weights = NewBf16(count);
  FastNormal normal(seed);
  for (int64_t i = 0; i < count; ++i) {
    weights.As<uint16_t>()[i] = FloatToBf16(deviation * normal.Next());
  }
  return weights;
}

Buffer LikeActivations(int64_t tokens, int64_t inputs, uint64_t seed) {
  Buffer activations = NewBf16(tokens * inputs);
  FastNormal normal(seed);
  float last = 0;
  for (int64_t i = 0; i < tokens * inputs; ++i) {
    last = 0.7f * last + normal.Next();
    const bool loud = i % inputs % 500 == 7;
    activations.As<uint16_t>()[i] = FloatToBf16(loud ? 10 * last : last);
  }
  return activations;
}

}  // namespace qs::cuda
