// Nf4Ops for host memory on the emulated device: copies in, runs the CUDA
// kernels, copies out. Every buffer has exactly its size, so that an access
// beyond it is an error, and the alignment that the test asks for.
#ifndef QS_TESTS_TESTING_EMULATED_NF4_H_
#define QS_TESTS_TESTING_EMULATED_NF4_H_

#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/emulation.h"
#include "kernels/cuda/nf4_cuda.h"
#include "tests/testing/catch_compat.h"

namespace qs {

// Bytes off a 256-byte border.
struct Alignment {
  int64_t weight = 0;
  int64_t packed = 0;
  int64_t absmax = 0;

  // Half of the seeds are aligned throughout.
  static Alignment FromSeed(uint64_t seed, DType dtype) {
    if (seed % 2 == 0) return {};
    const auto pick = [seed](int64_t unit, uint64_t mix) {
      return unit * static_cast<int64_t>((seed / 2 * mix) % 8);
    };
    return {pick(DTypeBytes(dtype), 1), pick(1, 3), pick(4, 5)};
  }
  std::string Describe() const {
    std::ostringstream text;
    text << weight << " " << packed << " " << absmax;
    return text.str();
  }
};

class EmulatedNf4 final : public Nf4Ops {
 public:
  explicit EmulatedNf4(const Alignment& alignment)
      : alignment_(alignment), ops_(NewNf4Cuda()) {}

  const Alignment& alignment() const { return alignment_; }

  absl::Status Encode(const Nf4EncodeArgs& host, Stream& stream) override {
    Nf4EncodeArgs args = host;
    const int64_t n = host.weight.num_elements();
    Begin();
    args.weight.data =
        In(host.weight.data, host.weight.num_bytes(), alignment_.weight);
    args.packed = Out(host.packed, (n + 1) / 2, alignment_.packed);
    args.absmax =
        Out(host.absmax, CeilDiv(n, host.block_size), alignment_.absmax);
    args.first_non_finite = Out(host.first_non_finite, 1, 0);
    return End(ops_->Encode(args, stream));
  }

  absl::Status Decode(const Nf4DecodeArgs& host, Stream& stream) override {
    Nf4DecodeArgs args = host;
    const int64_t n = host.weight.num_elements();
    Begin();
    args.packed = In(host.packed, (n + 1) / 2, alignment_.packed);
    args.absmax =
        In(host.absmax, CeilDiv(n, host.block_size) * 4, alignment_.absmax);
    args.weight.data =
        Out(static_cast<uint8_t*>(host.weight.data),
            n * DTypeBytes(host.weight.dtype), alignment_.weight);
    return End(ops_->Decode(args, stream));
  }

  absl::Status NestedEncode(const NestedEncodeArgs& host,
                            Stream& stream) override {
    NestedEncodeArgs args = host;
    Begin();
    args.absmax = In(host.absmax, host.num_blocks * 4, alignment_.absmax);
    args.codes = Out(host.codes, host.num_blocks, alignment_.packed);
    args.nested_absmax =
        Out(host.nested_absmax, CeilDiv(host.num_blocks, kNestedBlockSize),
            alignment_.absmax);
    args.offset = Out(host.offset, 1, alignment_.absmax);
    return End(ops_->NestedEncode(args, stream));
  }

  absl::Status NestedDecode(const NestedDecodeArgs& host,
                            Stream& stream) override {
    NestedDecodeArgs args = host;
    Begin();
    args.codes = In(host.codes, host.num_blocks, alignment_.packed);
    args.nested_absmax =
        In(host.nested_absmax, CeilDiv(host.num_blocks, kNestedBlockSize) * 4,
           alignment_.absmax);
    args.offset = In(host.offset, 4, alignment_.absmax);
    args.absmax = Out(host.absmax, host.num_blocks, alignment_.absmax);
    return End(ops_->NestedDecode(args, stream));
  }

  absl::Status NestedRefine(const NestedRefineArgs& host,
                            Stream& stream) override {
    NestedRefineArgs args = host;
    const int64_t n = host.weight.num_elements();
    const int64_t blocks = CeilDiv(n, host.block_size);
    Begin();
    args.weight.data =
        In(host.weight.data, host.weight.num_bytes(), alignment_.weight);
    args.nested_absmax =
        In(host.nested_absmax,
           CeilDiv(host.first_block + blocks, kNestedBlockSize) * 4,
           alignment_.absmax);
    args.offset = In(host.offset, 4, alignment_.absmax);
    args.codes = InOut(host.codes, blocks, alignment_.packed);
    args.absmax = InOut(host.absmax, blocks, alignment_.absmax);
    args.packed = InOut(host.packed, (n + 1) / 2, alignment_.packed);
    args.coded_by = Out(host.coded_by, blocks, alignment_.absmax);
    return End(ops_->NestedRefine(args, stream));
  }

 private:
  struct Copy {
    void* host;
    const void* device;
    int64_t bytes;
  };

  void Begin() {
    cuda::EmulatedDevice::Get().FreeAll();
    outputs_.clear();
  }
  template <class T>
  T* In(const T* host, int64_t bytes, int64_t misalign) {
    void* device = cuda::EmulatedDevice::Get().Allocate(bytes, misalign);
    std::memcpy(device, host, static_cast<size_t>(bytes));
    return static_cast<T*>(device);
  }
  template <class T>
  T* Out(T* host, int64_t count, int64_t misalign) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    void* device = cuda::EmulatedDevice::Get().Allocate(bytes, misalign);
    outputs_.push_back({host, device, bytes});
    return static_cast<T*>(device);
  }
  template <class T>
  T* InOut(T* host, int64_t count, int64_t misalign) {
    T* device = Out(host, count, misalign);
    std::memcpy(device, host, static_cast<size_t>(count) * sizeof(T));
    return device;
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

  const Alignment alignment_;
  const std::unique_ptr<Nf4Ops> ops_;
  std::vector<Copy> outputs_;
};

}  // namespace qs

#endif  // QS_TESTS_TESTING_EMULATED_NF4_H_
