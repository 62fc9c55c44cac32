// Tested by tests/quant/site_accumulator_test.cc.
#include "quant/site_accumulator.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/finite_ops.h"

namespace qs {
namespace {

// Of the rows that wait for one call, at most.
constexpr int64_t kMostWaitingBytes = int64_t{512} << 20;

int64_t SumBytes(int64_t inputs) { return 8 * inputs * (inputs + 1); }

int64_t RunBytes(int64_t inputs, DType dtype) {
  return kGramRunTokens * inputs * DTypeBytes(dtype);
}

}  // namespace

int64_t SiteAccumulator::LargeRuns(int64_t inputs, DType dtype) {
  // A call's rows take as long to copy as its sums do, there and back.
  const int64_t bytes = std::min(2 * SumBytes(inputs), kMostWaitingBytes);
  return std::max<int64_t>(1, bytes / RunBytes(inputs, dtype));
}

int64_t SiteAccumulator::MemoryBytes(int64_t inputs, DType dtype, int64_t runs,
                                     bool on_gpu) {
  return (on_gpu ? 2 : 1) * SumBytes(inputs) + runs * RunBytes(inputs, dtype);
}

absl::StatusOr<std::unique_ptr<SiteAccumulator>> SiteAccumulator::Create(
    std::string site, int64_t inputs, DType dtype, int64_t runs) {
  std::unique_ptr<SiteAccumulator> made(
      new SiteAccumulator(std::move(site), inputs, dtype, runs));
  QS_ASSIGN_OR_RETURN(made->sums_, Buffer::Allocate(SumBytes(inputs)));
  QS_ASSIGN_OR_RETURN(made->waiting_,
                      Buffer::Allocate(runs * RunBytes(inputs, dtype)));
  std::memset(made->sums_.data(), 0, static_cast<size_t>(SumBytes(inputs)));
  return made;
}

absl::Status SiteAccumulator::Add(const uint8_t* rows, int64_t tokens,
                                  Backend& backend) {
  const int64_t room = runs_ * kGramRunTokens;
  while (tokens > 0) {
    const int64_t n = std::min(tokens, room - waiting_tokens_);
    std::memcpy(waiting_.data() + waiting_tokens_ * row_bytes(), rows,
                static_cast<size_t>(n * row_bytes()));
    waiting_tokens_ += n;
    rows += n * row_bytes();
    tokens -= n;
    if (waiting_tokens_ == room) QS_RETURN_IF_ERROR(SumWholeRuns(backend));
  }
  return absl::OkStatus();
}

absl::Status SiteAccumulator::CheckFinite(const uint8_t* rows,
                                          int64_t tokens) const {
  const int64_t index = FirstNonFinite({rows, dtype_, tokens, inputs_});
  return index < 0 ? absl::OkStatus()
                   : NonFiniteError(rows, this->tokens(), index);
}

absl::Status SiteAccumulator::SumWholeRuns(Backend& backend) {
  if (!has_whole_runs()) return absl::OkStatus();
  return Sum(waiting_tokens_ - waiting_tokens_ % kGramRunTokens, backend);
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
  return visit(waiting_.data(), waiting_tokens_ * row_bytes());
}

absl::Status SiteAccumulator::Save(const AppendState& append) const {
  if (has_whole_runs()) {
    return absl::InternalError(
        absl::StrCat("site \"", site_, "\": got ", waiting_tokens_,
                     " tokens that are not summed, allowed less than a run"));
  }
  // ForState gives what may be written to; `append` only reads.
  return const_cast<SiteAccumulator*>(this)->ForState(append);
}

absl::StatusOr<std::unique_ptr<SiteAccumulator>> SiteAccumulator::Restore(
    std::string site, int64_t inputs, DType dtype, int64_t tokens,
    const ReadState& read, int64_t runs) {
  QS_ASSIGN_OR_RETURN(std::unique_ptr<SiteAccumulator> made,
                      Create(std::move(site), inputs, dtype, runs));
  // Whole runs were summed, and nothing else was.
  made->waiting_tokens_ = tokens % kGramRunTokens;
  made->summed_tokens_ = tokens - made->waiting_tokens_;
  QS_RETURN_IF_ERROR(made->ForState(read));
  return made;
}

absl::Status SiteAccumulator::Sum(int64_t tokens, Backend& backend) {
  int64_t first_non_finite = -1;
  GramAccumulateArgs args;
  args.activations = {waiting_.data(), dtype_, tokens, inputs_};
  args.sum = sum();
  args.abs_sum = abs_sum();
  args.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.gram().Accumulate(args, backend.stream()));
  if (first_non_finite >= 0) {
    return NonFiniteError(waiting_.data(), summed_tokens_, first_non_finite);
  }
  summed_tokens_ += tokens;
  waiting_tokens_ -= tokens;
  std::memmove(waiting_.data(), waiting_.data() + tokens * row_bytes(),
               static_cast<size_t>(waiting_tokens_ * row_bytes()));
  return absl::OkStatus();
}

absl::Status SiteAccumulator::NonFiniteError(const uint8_t* rows, int64_t first,
                                             int64_t index) const {
  const float value = LoadAsFloat(rows, dtype_, index);
  return absl::InvalidArgumentError(absl::StrCat(
      "site \"", site_, "\": ", std::isnan(value) ? "NaN" : "Inf", " at token ",
      first + index / inputs_, ", input ", index % inputs_));
}

absl::StatusOr<SiteMoments> SiteAccumulator::Finish(Backend& backend) {
  if (waiting_tokens_ > 0) QS_RETURN_IF_ERROR(Sum(waiting_tokens_, backend));
  waiting_ = Buffer();
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
