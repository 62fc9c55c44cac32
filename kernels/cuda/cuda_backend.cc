// Tested by tests/kernels/cuda_backend_test.cc.
#include "kernels/cuda/cuda_backend.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/device_session.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/cuda/staged_ops.h"

namespace qs::cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<DeviceSession> session,
              std::unique_ptr<Backend> host)
      : session_(std::move(session)),
        host_(std::move(host)),
        nf4_(StageNf4(*session_, NewNf4Cuda(), host_->nf4())) {}

  std::string name() const override {
    return absl::StrCat("gpu:", facts().index);
  }
  std::string description() const override {
    return absl::StrCat(facts().name, ", compute capability ",
                        facts().compute_major, ".", facts().compute_minor,
                        "; host: ", host_->description());
  }
  Stream& stream() override { return host_->stream(); }
  Nf4Ops& nf4() override { return *nf4_; }
  AffineOps& affine() override { return host_->affine(); }
  StatsOps& stats() override { return host_->stats(); }
  HqqOps& hqq() override { return host_->hqq(); }
  GramOps& gram() override { return host_->gram(); }
  GptqOps& gptq() override { return host_->gptq(); }
  AwqOps& awq() override { return host_->awq(); }

  absl::Status health() const override { return session_->health(); }
  DeviceMemoryUse memory() const override {
    const MemoryLedger& ledger = session_->ledger();
    return {.cap = ledger.cap(),
            .used = ledger.used(),
            .high_water = ledger.high_water(),
            .host_calls = session_->host_calls()};
  }

 private:
  const DeviceFacts& facts() const { return session_->device().facts(); }

  const std::unique_ptr<DeviceSession> session_;
  const std::unique_ptr<Backend> host_;
  const std::unique_ptr<Nf4Ops> nf4_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    std::shared_ptr<Device> device, std::unique_ptr<Backend> host,
    int64_t memory_cap) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<DeviceSession> session,
                      DeviceSession::Create(std::move(device), memory_cap));
  return std::make_unique<CudaBackend>(std::move(session), std::move(host));
}

}  // namespace qs::cuda
