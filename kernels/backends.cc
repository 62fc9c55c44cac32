// The only list of the backends in this build.
#include <hwy/highway.h>
#include <hwy/targets.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/factories.h"

namespace qs {
namespace {

class HostBackend final : public Backend {
 public:
  HostBackend(std::string name, std::string description,
              std::unique_ptr<Nf4Ops> nf4, std::unique_ptr<AffineOps> affine,
              std::unique_ptr<StatsOps> stats)
      : name_(std::move(name)),
        description_(std::move(description)),
        nf4_(std::move(nf4)),
        affine_(std::move(affine)),
        stats_(std::move(stats)) {}

  std::string name() const override { return name_; }
  std::string description() const override { return description_; }
  Stream& stream() override { return stream_; }
  Nf4Ops& nf4() override { return *nf4_; }
  AffineOps& affine() override { return *affine_; }
  StatsOps& stats() override { return *stats_; }

 private:
  const std::string name_;
  const std::string description_;
  Stream stream_;
  const std::unique_ptr<Nf4Ops> nf4_;
  const std::unique_ptr<AffineOps> affine_;
  const std::unique_ptr<StatsOps> stats_;
};

// As people call it: Highway's AVX3 is AVX-512.
std::string InstructionSet() {
  const std::string target = SimdTargets().front();
  return target.substr(0, 4) == "AVX3" ? "AVX-512" : target;
}

}  // namespace

std::unique_ptr<Backend> NewReferenceBackend() {
  return std::make_unique<HostBackend>("reference", "scalar definition",
                                       NewNf4Reference(), NewAffineReference(),
                                       NewStatsReference());
}

std::unique_ptr<Backend> NewCpuBackend(int threads) {
  return std::make_unique<HostBackend>(
      "cpu",
      absl::StrCat(InstructionSet(), ", ", threads,
                   threads == 1 ? " thread" : " threads"),
      NewNf4Cpu(threads), NewAffineCpu(threads), NewStatsCpu(threads));
}

std::vector<std::unique_ptr<Backend>> AllBackends() {
  std::vector<std::unique_ptr<Backend>> all;
  all.push_back(NewReferenceBackend());
  all.push_back(NewCpuBackend(1));
  return all;
}

std::vector<std::string> SimdTargets() {
  std::vector<std::string> names;
  // Lower bits are better targets; the supported set was cut to what this
  // build compiled.
  for (int64_t targets = hwy::SupportedTargets() & HWY_TARGETS; targets != 0;
       targets &= targets - 1) {
    names.emplace_back(hwy::TargetName(targets & -targets));
  }
  return names;
}

absl::Status ForceSimdTargetForTest(std::string_view name) {
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
  if (name.empty()) return absl::OkStatus();
  for (int64_t targets = hwy::SupportedTargets() & HWY_TARGETS; targets != 0;
       targets &= targets - 1) {
    const int64_t target = targets & -targets;
    if (hwy::TargetName(target) == name) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().DeInit();  // the next dispatch chooses again
      return absl::OkStatus();
    }
  }
  return absl::NotFoundError(
      absl::StrCat("no SIMD target ", std::string(name), " on this machine"));
}

}  // namespace qs
