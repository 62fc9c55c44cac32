// Tested by tests/quant/site_accumulator_test.cc.
#include "quant/site_accumulator.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/gram_ops.h"

namespace qs {
namespace {

int64_t SumBytes(int64_t inputs) { return 8 * inputs * (inputs + 1); }

int64_t RunBytes(int64_t inputs, DType dtype) {
  return kGramRunTokens * inputs * DTypeBytes(dtype);
}

}  // namespace

int64_t SiteAccumulator::MemoryBytes(int64_t inputs, DType dtype) {
  return SumBytes(inputs) + RunBytes(inputs, dtype);
}

absl::StatusOr<std::unique_ptr<SiteAccumulator>> SiteAccumulator::Create(
    std::string site, int64_t inputs, DType dtype) {
  std::unique_ptr<SiteAccumulator> made(
      new SiteAccumulator(std::move(site), inputs, dtype));
  QS_ASSIGN_OR_RETURN(made->sums_, Buffer::Allocate(SumBytes(inputs)));
  QS_ASSIGN_OR_RETURN(made->run_, Buffer::Allocate(RunBytes(inputs, dtype)));
  std::memset(made->sums_.data(), 0, static_cast<size_t>(SumBytes(inputs)));
  return made;
}

absl::Status SiteAccumulator::Add(const uint8_t* rows, int64_t tokens,
                                  Backend& backend) {
  const int64_t row_bytes = inputs_ * DTypeBytes(dtype_);
  while (tokens > 0) {
    const int64_t n = std::min(tokens, kGramRunTokens - run_tokens_);
    std::memcpy(run_.data() + run_tokens_ * row_bytes, rows,
                static_cast<size_t>(n * row_bytes));
    run_tokens_ += n;
    rows += n * row_bytes;
    tokens -= n;
    if (run_tokens_ == kGramRunTokens) QS_RETURN_IF_ERROR(SumRun(backend));
  }
  return absl::OkStatus();
}

int64_t SiteAccumulator::StateBytes(int64_t inputs, DType dtype,
                                    int64_t tokens) {
  return 8 * (SiteMoments::PackedElements(inputs) + inputs) +
         tokens % kGramRunTokens * inputs * DTypeBytes(dtype);
}

template <typename Part>
absl::Status SiteAccumulator::ForState(const Part& part) {
  const auto visit = [&part](void* data, int64_t bytes) {
    return part(
        std::span(static_cast<uint8_t*>(data), static_cast<size_t>(bytes)));
  };
  for (int64_t row = 0; row < inputs_; ++row) {
    QS_RETURN_IF_ERROR(visit(sum() + row * inputs_ + row, 8 * (inputs_ - row)));
  }
  QS_RETURN_IF_ERROR(visit(abs_sum(), 8 * inputs_));
  return visit(run_.data(), run_tokens_ * inputs_ * DTypeBytes(dtype_));
}

absl::Status SiteAccumulator::Save(const AppendState& append) const {
  // ForState gives what may be written to; `append` only reads.
  return const_cast<SiteAccumulator*>(this)->ForState(append);
}

absl::StatusOr<std::unique_ptr<SiteAccumulator>> SiteAccumulator::Restore(
    std::string site, int64_t inputs, DType dtype, int64_t tokens,
    const ReadState& read) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<SiteAccumulator> made,
                      Create(std::move(site), inputs, dtype));
  // A run is summed when it is full, and only then.
  made->run_tokens_ = tokens % kGramRunTokens;
  made->summed_tokens_ = tokens - made->run_tokens_;
  QS_RETURN_IF_ERROR(made->ForState(read));
  return made;
}

absl::Status SiteAccumulator::SumRun(Backend& backend) {
  int64_t first_non_finite = -1;
  GramAccumulateArgs args;
  args.activations = {run_.data(), dtype_, run_tokens_, inputs_};
  args.sum = sum();
  args.abs_sum = abs_sum();
  args.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.gram().Accumulate(args, backend.stream()));
  if (first_non_finite >= 0) return NonFiniteError(first_non_finite);
  summed_tokens_ += std::exchange(run_tokens_, 0);
  return absl::OkStatus();
}

absl::Status SiteAccumulator::NonFiniteError(int64_t index) const {
  const float value = LoadAsFloat(run_.data(), dtype_, index);
  return absl::InvalidArgumentError(absl::StrCat(
      "site \"", site_, "\": ", std::isnan(value) ? "NaN" : "Inf", " at token ",
      summed_tokens_ + index / inputs_, ", input ", index % inputs_));
}

absl::StatusOr<SiteMoments> SiteAccumulator::Finish(Backend& backend) {
  if (run_tokens_ > 0) QS_RETURN_IF_ERROR(SumRun(backend));
  run_ = Buffer();
  QS_ASSIGN_OR_RETURN(SiteMoments moments, SiteMoments::Create(site_, inputs_));
  GramFinishArgs args;
  args.sum = sum();
  args.abs_sum = abs_sum();
  args.inputs = inputs_;
  args.second_moment = moments.second_moment();
  args.abs_sum_f32 = moments.abs_sum();
  QS_RETURN_IF_ERROR(backend.gram().Finish(args, backend.stream()));
  moments.set_tokens(summed_tokens_);
  return moments;
}

}  // namespace qs
