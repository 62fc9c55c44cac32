// A backend whose solvers run on the emulated device; the rest is the
// reference's.
#ifndef QS_TESTS_TESTING_EMULATED_BACKEND_H_
#define QS_TESTS_TESTING_EMULATED_BACKEND_H_

#include <memory>
#include <string>
#include <utility>

#include "kernels/backend.h"
#include "tests/testing/emulated_awq.h"
#include "tests/testing/emulated_gptq.h"

namespace qs::cuda {

class EmulatedBackend final : public Backend {
 public:
  EmulatedBackend() = default;
  // GPTQ on these libraries.
  explicit EmulatedBackend(std::unique_ptr<Blas> blas)
      : gptq_(std::move(blas)) {}

  std::string name() const override { return "emulated"; }
  std::string description() const override { return "host emulation"; }
  Stream& stream() override { return stream_; }
  Nf4Ops& nf4() override { return reference_->nf4(); }
  AffineOps& affine() override { return reference_->affine(); }
  StatsOps& stats() override { return reference_->stats(); }
  HqqOps& hqq() override { return reference_->hqq(); }
  GramOps& gram() override { return reference_->gram(); }
  GptqOps& gptq() override { return gptq_; }
  AwqOps& awq() override { return awq_; }

 private:
  Stream stream_;
  const std::unique_ptr<Backend> reference_ = NewReferenceBackend();
  EmulatedGptq gptq_;
  EmulatedAwq awq_;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_EMULATED_BACKEND_H_
