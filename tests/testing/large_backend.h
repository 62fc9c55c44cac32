// LargeBackend: a CPU that wants much at once, as a GPU does, and remembers the
// tokens of each call that sums second moments.
// Thread: one, but for the calls.
#ifndef QS_TESTS_TESTING_LARGE_BACKEND_H_
#define QS_TESTS_TESTING_LARGE_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"

namespace qs::testing {

// Thread: thread-safe.
class GramCalls {
 public:
  void Add(int64_t tokens) {
    absl::MutexLock lock(&mutex_);
    tokens_.push_back(tokens);
  }
  std::vector<int64_t> tokens() const {
    absl::MutexLock lock(&mutex_);
    return tokens_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<int64_t> tokens_;
};

class LargeBackend final : public Backend {
 public:
  // `calls` must outlive it. `device_bytes`: that it says it has of its own.
  explicit LargeBackend(GramCalls& calls, int64_t device_bytes = 0)
      : device_bytes_(device_bytes),
        host_(NewCpuBackend(1)),
        gram_(*host_, calls) {}

  std::string name() const override { return "large"; }
  std::string description() const override { return "a CPU, counted"; }
  bool prefers_large() const override { return true; }
  DeviceMemoryUse memory() const override { return {.cap = device_bytes_}; }
  qs::Stream& stream() override { return host_->stream(); }
  Nf4Ops& nf4() override { return host_->nf4(); }
  AffineOps& affine() override { return host_->affine(); }
  StatsOps& stats() override { return host_->stats(); }
  HqqOps& hqq() override { return host_->hqq(); }
  GramOps& gram() override { return gram_; }
  GptqOps& gptq() override { return host_->gptq(); }
  AwqOps& awq() override { return host_->awq(); }

 private:
  class Gram final : public GramOps {
   public:
    Gram(Backend& host, GramCalls& calls) : host_(host), calls_(calls) {}
    absl::Status Accumulate(const GramAccumulateArgs& args,
                            qs::Stream& s) override {
      calls_.Add(args.activations.rows);
      return host_.gram().Accumulate(args, s);
    }
    absl::Status Finish(const GramFinishArgs& args, qs::Stream& s) override {
      return host_.gram().Finish(args, s);
    }

   private:
    Backend& host_;
    GramCalls& calls_;
  };

  const int64_t device_bytes_;
  const std::unique_ptr<Backend> host_;
  Gram gram_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_LARGE_BACKEND_H_
