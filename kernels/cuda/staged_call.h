// StagedCall: one operation on host memory, done on a device.
//
//   StagedCall call(workspace);
//   XArgs args = host_args;
//   args.weight.data = call.In(host.weight.data, bytes);
//   args.codes = call.Out(host.codes, count);
//   return call.Run([&](Stream& s) { return device_ops.Encode(args, s); });
//
// What goes in is copied when it is named; what goes out, after the operation.
// An operation that failed can be done again elsewhere: what goes in and out is
// only written when everything was done. A null pointer stays null. The first
// error is kept for Run.
// Thread: of its workspace; one at a time on it.
#ifndef QS_KERNELS_CUDA_STAGED_CALL_H_
#define QS_KERNELS_CUDA_STAGED_CALL_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/base/buffer.h"
#include "kernels/base/tensor_view.h"
#include "kernels/cuda/workspace.h"

namespace qs::cuda {

class StagedCall {
 public:
  explicit StagedCall(Workspace& workspace) : workspace_(workspace) {}
  ~StagedCall() { workspace_.GiveBack(); }
  StagedCall(const StagedCall&) = delete;
  StagedCall& operator=(const StagedCall&) = delete;

  const void* InBytes(const void* host, int64_t bytes);
  // The same for memory that does not change, with its number (workspace.h);
  // 0: it has none.
  const void* InBytes(const void* host, int64_t bytes, uint64_t id);
  void* OutBytes(void* host, int64_t bytes);
  void* InOutBytes(void* host, int64_t bytes);

  template <typename T>
  const T* In(const T* host, int64_t count) {
    return static_cast<const T*>(InBytes(host, count * Size<T>()));
  }
  template <typename T>
  const T* In(const T* host, int64_t count, uint64_t id) {
    return static_cast<const T*>(InBytes(host, count * Size<T>(), id));
  }
  template <typename T>
  T* Out(T* host, int64_t count) {
    return static_cast<T*>(OutBytes(host, count * Size<T>()));
  }
  template <typename T>
  T* InOut(T* host, int64_t count) {
    return static_cast<T*>(InOutBytes(host, count * Size<T>()));
  }
  TensorView In(const TensorView& host) {
    TensorView view = host;
    view.data = InBytes(host.data, host.num_bytes());
    return view;
  }
  // Rows of all pieces, one after the other, in one matrix. REQUIRES: there is
  // a piece, all have its type and columns.
  TensorView InRows(std::span<const TensorView> pieces);
  MutableTensorView Out(const MutableTensorView& host) {
    MutableTensorView view = host;
    view.data = OutBytes(host.data, TensorView(host).num_bytes());
    return view;
  }

  // Errors: the device's; `operation`'s.
  absl::Status Run(absl::FunctionRef<absl::Status(Stream&)> operation);
  // The same for operations that launch by themselves, because they wait for
  // results in between.
  absl::Status RunSteps(absl::FunctionRef<absl::Status(Stream&)> operation);

 private:
  struct Result {
    void* host = nullptr;
    const void* device = nullptr;
    int64_t bytes = 0;
    Buffer kept;  // what goes in and out waits here until all is there
  };

  template <typename T>
  static constexpr int64_t Size() {
    return static_cast<int64_t>(sizeof(T));
  }
  void* Take(int64_t bytes);
  absl::Status CopyResults();

  Workspace& workspace_;
  std::vector<Result> results_;
  absl::Status status_;
};

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_STAGED_CALL_H_
