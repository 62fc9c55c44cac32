// A "GPU" for quantd_faulty: what the host does, behind failpoints that are hit
// whenever an operation is asked for.
//
//   kernel            any operation
//   kernel.FAMILY     nf4, affine, stats, hqq, gram, gptq, awq
//   device            the same; with an errno the device is lost from then on
//
// The environment variable QS_NO_GPU says why there is none, if it is set.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/gpus.h"
#include "service/store/failpoint.h"

namespace qs {
namespace {

class FaultyBackend final : public Backend {
 public:
  explicit FaultyBackend(std::unique_ptr<Backend> host)
      : host_(std::move(host)) {}

  std::string name() const override { return "gpu:0"; }
  std::string description() const override { return "host with failpoints"; }
  Stream& stream() override { return host_->stream(); }
  Nf4Ops& nf4() override { return Hit("kernel.nf4", host_->nf4()); }
  AffineOps& affine() override { return Hit("kernel.affine", host_->affine()); }
  StatsOps& stats() override { return Hit("kernel.stats", host_->stats()); }
  HqqOps& hqq() override { return Hit("kernel.hqq", host_->hqq()); }
  GramOps& gram() override { return Hit("kernel.gram", host_->gram()); }
  GptqOps& gptq() override { return Hit("kernel.gptq", host_->gptq()); }
  AwqOps& awq() override { return Hit("kernel.awq", host_->awq()); }
  absl::Status health() const override {
    return lost_ ? absl::InternalError("gpu:0 is lost: failpoint device")
                 : absl::OkStatus();
  }

 private:
  template <typename Ops>
  Ops& Hit(const char* family, Ops& ops) {
    (void)QS_FAILPOINT("kernel");
    (void)QS_FAILPOINT(family);
    if (QS_FAILPOINT("device") != 0) lost_ = true;
    return ops;
  }

  const std::unique_ptr<Backend> host_;
  std::atomic<bool> lost_ = false;
};

class FaultyGpus final : public GpuProvider {
 public:
  absl::StatusOr<std::vector<GpuInfo>> List() const override {
    QS_RETURN_IF_ERROR(There());
    return std::vector<GpuInfo>{{0, "failpoints", "0.0", int64_t{1} << 30}};
  }
  absl::StatusOr<std::unique_ptr<Backend>> Open(int index,
                                                std::unique_ptr<Backend> host,
                                                int) const override {
    QS_RETURN_IF_ERROR(There());
    if (index != 0) return absl::NotFoundError("one, gpu:0");
    return std::make_unique<FaultyBackend>(std::move(host));
  }
  std::string VerifiedOn() const override { return "not a device"; }

 private:
  static absl::Status There() {
    const char* const why = std::getenv("QS_NO_GPU");
    return why == nullptr ? absl::OkStatus() : absl::UnavailableError(why);
  }
};

}  // namespace

const GpuProvider& Gpus() {
  static const auto* const gpus = new FaultyGpus;
  return *gpus;
}

}  // namespace qs
