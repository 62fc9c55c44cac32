// Backend: one device and its implementation of every operation family.
//
// The only kernels/ header, beside the *_ops.h and base/, that quant/ may
// include. A backend is chosen once per worker and belongs to that worker's
// thread; the CPU and reference ones hold no mutable state and may be shared.
#ifndef QS_KERNELS_BACKEND_H_
#define QS_KERNELS_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/affine_ops.h"
#include "kernels/awq_ops.h"
#include "kernels/gptq_ops.h"
#include "kernels/gram_ops.h"
#include "kernels/hqq_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"
#include "kernels/stream.h"

namespace qs {

struct DeviceMemoryUse {
  int64_t cap = 0;  // bytes that it takes at most
  int64_t used = 0;
  int64_t high_water = 0;        // the most ever needed at once, of `used`
  int64_t host_calls = 0;        // operations that the host did instead
  std::string host_reason = {};  // why, the last of them
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;         // "cpu"
  virtual std::string description() const = 0;  // "AVX3, 2 threads"
  virtual Stream& stream() = 0;
  virtual Nf4Ops& nf4() = 0;
  virtual AffineOps& affine() = 0;
  virtual StatsOps& stats() = 0;
  virtual HqqOps& hqq() = 0;
  virtual GramOps& gram() = 0;
  virtual GptqOps& gptq() = 0;
  virtual AwqOps& awq() = 0;

  // INTERNAL once its device is lost: the host does everything from then on,
  // and a worker should leave the work to others. Thread-safe.
  virtual absl::Status health() const { return absl::OkStatus(); }
  // Of its device's own memory; zeros on a host. Thread-safe.
  virtual DeviceMemoryUse memory() const { return {}; }

  // Whether one operation should get as much as there is: a device does little
  // of a small one in the time that the call takes. Else as much as a core's
  // cache holds.
  virtual bool prefers_large() const { return false; }

  // Threads that may compute on it at once, each on a lane of its own, so that
  // one copies or works on the host while another's kernels run. Lanes give the
  // same bytes, and share health, memory and name; lane 0 is the backend
  // itself, and all live as long as it. Thread-safe.
  virtual int lanes() const { return 1; }
  // `index` below lanes().
  virtual Backend& lane(int /*index*/) { return *this; }
};

// The definition: plain loops, no threads. Slow; for tests.
std::unique_ptr<Backend> NewReferenceBackend();

// SIMD by run-time dispatch. `threads` > 1 splits large operations over that
// many threads of oneTBB; 1 runs on the caller's thread.
std::unique_ptr<Backend> NewCpuBackend(int threads);
// The same with `solver_threads` for second moments, GPTQ and AWQ: workers that
// each quantize on one thread may all wait for one factorisation, which then
// takes every core.
std::unique_ptr<Backend> NewCpuBackend(int threads, int solver_threads);
// As many, for as many workers: each solves with the threads of all.
std::vector<std::unique_ptr<Backend>> NewCpuBackends(int count, int threads);

struct GpuInfo {
  int index = 0;
  std::string name;                // "NVIDIA H200"
  std::string compute_capability;  // "9.0"
  int64_t memory_bytes = 0;
};

// Where GPUs come from, so that a program chooses at link time (and a test at
// run time) what there is. Thread-safe.
class GpuProvider {
 public:
  virtual ~GpuProvider() = default;
  // Not empty. Errors: UNIMPLEMENTED — the build has no CUDA; UNAVAILABLE — why
  // there is none: no driver, too old a driver, no device.
  virtual absl::StatusOr<std::vector<GpuInfo>> List() const = 0;
  // On the GPU `index` of the list, with `lanes` lanes, at least 1, or fewer
  // where there is no memory for so many; `host` does what it cannot, for all
  // of them, so it must hold no mutable state.
  // Errors: as List; NOT_FOUND — no such index; FAILED_PRECONDITION — its
  // compute capability is below 8.0; RESOURCE_EXHAUSTED — no memory for one
  // lane; INTERNAL — the device failed.
  virtual absl::StatusOr<std::unique_ptr<Backend>> Open(
      int index, std::unique_ptr<Backend> host, int lanes) const = 0;
  // On which devices, when, with which driver, and what of the kernels of this
  // build was proved; empty: no device has run them, or it has none.
  virtual std::string VerifiedOn() const = 0;
};

// Every implementation present in this build, for the differential test.
std::vector<std::unique_ptr<Backend>> AllBackends();

// CPU time-to-run names of the SIMD targets of this machine, best first, and a
// switch for tests (empty: back to automatic). Unknown names are NOT_FOUND.
std::vector<std::string> SimdTargets();
absl::Status ForceSimdTargetForTest(std::string_view name);

}  // namespace qs

#endif  // QS_KERNELS_BACKEND_H_
