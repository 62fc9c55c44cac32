// The only list of the backends in this build.
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/factories.h"

namespace qs {
namespace {

// One line a family, here and where a backend is made.
struct Families {
  std::unique_ptr<Nf4Ops> nf4;
  std::unique_ptr<AffineOps> affine;
  std::unique_ptr<StatsOps> stats;
  std::unique_ptr<HqqOps> hqq;
  std::unique_ptr<GramOps> gram;
  std::unique_ptr<GptqOps> gptq;
  std::unique_ptr<AwqOps> awq;
};

class HostBackend final : public Backend {
 public:
  HostBackend(std::string name, std::string description, Families families)
      : name_(std::move(name)),
        description_(std::move(description)),
        families_(std::move(families)) {}

  std::string name() const override { return name_; }
  std::string description() const override { return description_; }
  Stream& stream() override { return stream_; }
  Nf4Ops& nf4() override { return *families_.nf4; }
  AffineOps& affine() override { return *families_.affine; }
  StatsOps& stats() override { return *families_.stats; }
  HqqOps& hqq() override { return *families_.hqq; }
  GramOps& gram() override { return *families_.gram; }
  GptqOps& gptq() override { return *families_.gptq; }
  AwqOps& awq() override { return *families_.awq; }

 private:
  const std::string name_;
  const std::string description_;
  Stream stream_;
  const Families families_;
};

// As people call it: Highway's AVX3 is AVX-512.
std::string InstructionSet() {
  const std::string target = SimdTargets().front();
  return target.substr(0, 4) == "AVX3" ? "AVX-512" : target;
}

}  // namespace

std::unique_ptr<Backend> NewReferenceBackend() {
  return std::make_unique<HostBackend>("reference", "scalar definition",
                                       Families{.nf4 = NewNf4Reference(),
                                                .affine = NewAffineReference(),
                                                .stats = NewStatsReference(),
                                                .hqq = NewHqqReference(),
                                                .gram = NewGramReference(),
                                                .gptq = NewGptqReference(),
                                                .awq = NewAwqReference()});
}

std::unique_ptr<Backend> NewCpuBackend(int threads) {
  return NewCpuBackend(threads, threads);
}

std::unique_ptr<Backend> NewCpuBackend(int threads, int solver_threads) {
  return std::make_unique<HostBackend>(
      "cpu",
      absl::StrCat(InstructionSet(), ", ", threads,
                   threads == 1 ? " thread" : " threads"),
      Families{.nf4 = NewNf4Cpu(threads),
               .affine = NewAffineCpu(threads),
               .stats = NewStatsCpu(threads),
               .hqq = NewHqqCpu(threads),
               .gram = NewGramCpu(solver_threads),
               .gptq = NewGptqCpu(solver_threads),
               .awq = NewAwqCpu(solver_threads)});
}

std::vector<std::unique_ptr<Backend>> NewCpuBackends(int count, int threads) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < count; ++i) {
    backends.push_back(NewCpuBackend(threads, count * threads));
  }
  return backends;
}

std::vector<std::unique_ptr<Backend>> AllBackends() {
  std::vector<std::unique_ptr<Backend>> all;
  all.push_back(NewReferenceBackend());
  all.push_back(NewCpuBackend(1));
  return all;
}

}  // namespace qs
