// Tested by tests/kernels/cuda_backend_test.cc.
#include "kernels/cuda/cuda_backend.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/affine_cuda.h"
#include "kernels/cuda/awq_cuda.h"
#include "kernels/cuda/device_session.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gram_cuda.h"
#include "kernels/cuda/hqq_cuda.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/cuda/stats_cuda.h"
#include "kernels/cuda/workspace_scratch.h"

namespace qs::cuda {
namespace {

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<DeviceSession> session,
              absl::StatusOr<std::unique_ptr<Blas>> blas,
              std::shared_ptr<Backend> host)
      : session_(std::move(session)),
        scratch_(session_->workspace()),
        host_(std::move(host)),
        nf4_(StageNf4(*session_, NewNf4Cuda(), host_->nf4())),
        affine_(StageAffine(*session_, NewAffineCuda(), host_->affine())),
        stats_(StageStats(*session_, NewStatsCuda(scratch_), host_->stats())),
        hqq_(StageHqq(*session_, NewHqqCuda(scratch_), host_->hqq())) {
    if (!blas.ok()) {
      products_ = absl::StrCat("second moments, GPTQ and AWQ on the host: ",
                               std::string(blas.status().message()));
      return;
    }
    blas_ = *std::move(blas);
    products_ = absl::StrCat(blas_->description(), ", ",
                             blas_->cholesky() == nullptr
                                 ? "GPTQ's factor by kernels of quantd: "
                                 : "",
                             blas_->cholesky_description());
    Workspace& workspace = session_->workspace();
    gram_ = StageGram(*session_, NewGramCuda(workspace, *blas_), host_->gram());
    gptq_ = StageGptq(*session_, NewGptqCuda(workspace, *blas_), host_->gptq());
    awq_ = StageAwq(*session_, NewAwqCuda(workspace, *blas_), host_->awq());
  }

  std::string name() const override {
    return absl::StrCat("gpu:", facts().index);
  }
  std::string description() const override {
    return absl::StrCat(facts().name, ", compute capability ",
                        facts().compute_major, ".", facts().compute_minor, ", ",
                        products_, "; host: ", host_->description());
  }
  Stream& stream() override { return host_->stream(); }
  Nf4Ops& nf4() override { return *nf4_; }
  AffineOps& affine() override { return *affine_; }
  StatsOps& stats() override { return *stats_; }
  HqqOps& hqq() override { return *hqq_; }
  GramOps& gram() override { return gram_ ? *gram_ : host_->gram(); }
  GptqOps& gptq() override { return gptq_ ? *gptq_ : host_->gptq(); }
  AwqOps& awq() override { return awq_ ? *awq_ : host_->awq(); }

  bool prefers_large() const override { return true; }
  absl::Status health() const override { return session_->health(); }
  DeviceMemoryUse memory() const override {
    const MemoryLedger& ledger = session_->ledger();
    return {.cap = ledger.cap(),
            .used = ledger.used(),
            .high_water = ledger.high_water(),
            .host_calls = session_->host_calls(),
            .host_reason = session_->host_reason()};
  }

  int lanes() const override { return 1 + static_cast<int>(others_.size()); }
  Backend& lane(int index) override {
    if (index == 0) return *this;
    return *others_[static_cast<size_t>(index) - 1];
  }

  // Before any thread computes.
  void AddLane(std::unique_ptr<CudaBackend> lane) {
    others_.push_back(std::move(lane));
  }

 private:
  const DeviceFacts& facts() const { return session_->device().facts(); }

  const std::unique_ptr<DeviceSession> session_;
  WorkspaceScratch scratch_;
  const std::shared_ptr<Backend> host_;
  std::unique_ptr<Blas> blas_;
  std::string products_;  // who multiplies matrices
  const std::unique_ptr<Nf4Ops> nf4_;
  const std::unique_ptr<AffineOps> affine_;
  const std::unique_ptr<StatsOps> stats_;
  const std::unique_ptr<HqqOps> hqq_;
  std::unique_ptr<GramOps> gram_;  // null: the host's
  std::unique_ptr<GptqOps> gptq_;
  std::unique_ptr<AwqOps> awq_;
  std::vector<std::unique_ptr<CudaBackend>> others_;  // lanes from 1 on
};

// Kernels are compiled for it and what came after it. An older device would be
// lost at its first launch, with error 209.
constexpr int kLeastComputeMajor = 8;

absl::Status CheckComputeCapability(const DeviceFacts& facts) {
  if (facts.compute_major >= kLeastComputeMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      facts.name, ": compute capability: got ", facts.compute_major, ".",
      facts.compute_minor, ", allowed ", kLeastComputeMajor, ".0 and up"));
}

using SharedHost = std::shared_ptr<Backend>;

absl::StatusOr<std::unique_ptr<CudaBackend>> NewLane(
    const std::shared_ptr<SharedDevice>& device,
    absl::StatusOr<std::unique_ptr<Blas>> blas, const SharedHost& host) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<DeviceSession> session,
                      DeviceSession::Create(device));
  return std::make_unique<CudaBackend>(std::move(session), std::move(blas),
                                       host);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    std::shared_ptr<Device> device, const BlasSource& new_blas,
    std::unique_ptr<Backend> host, int64_t memory_cap, int lanes) {
  QS_RETURN_IF_ERROR(CheckComputeCapability(device->facts()));
  const auto shared =
      std::make_shared<SharedDevice>(std::move(device), memory_cap);
  const SharedHost shared_host = std::move(host);
  QS_ASSIGN_OR_RETURN(std::unique_ptr<CudaBackend> backend,
                      NewLane(shared, new_blas(), shared_host));
  for (int i = 1; i < lanes; ++i) {
    absl::StatusOr<std::unique_ptr<CudaBackend>> lane =
        NewLane(shared, new_blas(), shared_host);
    if (absl::IsResourceExhausted(lane.status())) break;
    if (!lane.ok()) return lane.status();
    // Every lane does what the first does, with the same libraries.
    if ((*lane)->description() != backend->description()) break;
    backend->AddLane(*std::move(lane));
  }
  return backend;
}

absl::StatusOr<std::unique_ptr<Backend>> NewCudaBackend(
    std::shared_ptr<Device> device, absl::StatusOr<std::unique_ptr<Blas>> blas,
    std::unique_ptr<Backend> host, int64_t memory_cap) {
  return NewCudaBackend(
      std::move(device), [&blas] { return std::move(blas); }, std::move(host),
      memory_cap, /*lanes=*/1);
}

}  // namespace qs::cuda
