// SiteAccumulator: activations in, SiteMoments out.
//
// Tokens are summed in runs of kGramRunTokens, counted from the first, so the
// sums depend on the order of the tokens and not on how they come. A GPU copies
// the sums to its memory and back with each call, so several runs may wait for
// one: the sums are the same bytes.
// Memory: see MemoryBytes. Thread: one caller at a time.
#ifndef QS_QUANT_SITE_ACCUMULATOR_H_
#define QS_QUANT_SITE_ACCUMULATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"
#include "kernels/gram_ops.h"
#include "quant/calibration/site_moments.h"

namespace qs {

class SiteAccumulator {
 public:
  // `runs`: that wait for one call, at least 1. Errors: RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<SiteAccumulator>> Create(
      std::string site, int64_t inputs, DType dtype, int64_t runs = 1);
  // How many runs should wait where all workers are GPUs'.
  static int64_t LargeRuns(int64_t inputs, DType dtype);
  // Bytes held beside the SiteMoments that come out. `on_gpu`: a GPU may sum,
  // and then has the sums once more on the host while it does, so that a device
  // that is lost in the middle of it loses nothing.
  static int64_t MemoryBytes(int64_t inputs, DType dtype, int64_t runs = 1,
                             bool on_gpu = false);

  // Rows [tokens, inputs], after those that came before. Errors:
  // INVALID_ARGUMENT 'site "NAME": NaN|Inf at token T, input I', the first of
  // the rows that waited; it is of no more use then.
  absl::Status Add(const uint8_t* rows, int64_t tokens, Backend& backend);
  // The same of rows that are to be added next; none are taken. Rows that wait
  // are looked at when they are summed: too late for a state that is kept.
  absl::Status CheckFinite(const uint8_t* rows, int64_t tokens) const;
  // That were added.
  int64_t tokens() const { return summed_tokens_ + waiting_tokens_; }

  // Whether whole runs wait, and their sums, so that less than a run is left.
  // Errors: as Add.
  bool has_whole_runs() const { return waiting_tokens_ >= kGramRunTokens; }
  absl::Status SumWholeRuns(Backend& backend);

  // Everything that was added, StateBytes of them: the upper triangle of the
  // sums row by row, F64; sum |x|, F64; the rows that are not summed yet, as
  // they came. Restore goes on from there to the same bytes, whatever the
  // `runs` of the two. Errors: those of the argument; RESOURCE_EXHAUSTED;
  // INTERNAL — whole runs wait.
  static int64_t StateBytes(int64_t inputs, DType dtype, int64_t tokens);
  using AppendState = std::function<absl::Status(std::span<const uint8_t>)>;
  absl::Status Save(const AppendState& append) const;
  using ReadState = std::function<absl::Status(std::span<uint8_t>)>;
  static absl::StatusOr<std::unique_ptr<SiteAccumulator>> Restore(
      std::string site, int64_t inputs, DType dtype, int64_t tokens,
      const ReadState& read, int64_t runs = 1);

  // Call once. Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<SiteMoments> Finish(Backend& backend);

 private:
  SiteAccumulator(std::string site, int64_t inputs, DType dtype, int64_t runs)
      : site_(std::move(site)), inputs_(inputs), dtype_(dtype), runs_(runs) {}
  int64_t row_bytes() const { return inputs_ * DTypeBytes(dtype_); }
  // The first `tokens` that wait.
  absl::Status Sum(int64_t tokens, Backend& backend);
  // Of an element of rows of which the first is token `first`.
  absl::Status NonFiniteError(const uint8_t* rows, int64_t first,
                              int64_t index) const;
  double* sum() { return sums_.As<double>(); }
  double* abs_sum() { return sum() + inputs_ * inputs_; }
  // The parts of the state, in order.
  template <typename Part>
  absl::Status ForState(const Part& part);

  const std::string site_;
  const int64_t inputs_;
  const DType dtype_;
  const int64_t runs_;
  Buffer sums_;     // F64: [inputs, inputs], then [inputs]
  Buffer waiting_;  // [runs * kGramRunTokens, inputs]
  int64_t waiting_tokens_ = 0;
  int64_t summed_tokens_ = 0;  // whole runs, until Finish
};

}  // namespace qs

#endif  // QS_QUANT_SITE_ACCUMULATOR_H_
