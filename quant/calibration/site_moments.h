// SiteMoments: what a calibration knows of one input site — an input that one
// or more linears read — and nothing else of the activations.
//
//   second_moment = sum over tokens of x x^T     [inputs, inputs]
//   abs_sum       = sum over tokens of |x|       [inputs]
//
// Raw sums: not divided by the number of tokens, not damped, no mean taken off.
// They add: Merge of two shards is the calibration of both.
//
// Thread: immutable once shared; build it, then hand it out as a shared_ptr to
// const.
#ifndef QS_QUANT_CALIBRATION_SITE_MOMENTS_H_
#define QS_QUANT_CALIBRATION_SITE_MOMENTS_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"

namespace qs {

class SiteMoments {
 public:
  // Zeros. Errors: INVALID_ARGUMENT — inputs below 1 or above kMaxSiteInputs;
  // RESOURCE_EXHAUSTED — no memory.
  static absl::StatusOr<SiteMoments> Create(std::string site, int64_t inputs);
  // The same with indeterminate contents, for who fills all of it.
  static absl::StatusOr<SiteMoments> CreateUnfilled(std::string site,
                                                    int64_t inputs);

  const std::string& site() const { return site_; }
  void set_site(std::string site) { site_ = std::move(site); }
  int64_t inputs() const { return inputs_; }
  int64_t tokens() const { return tokens_; }
  void set_tokens(int64_t tokens) { tokens_ = tokens; }
  // Tokens' worth of a pool that BlendIn has added.
  double pooled_tokens() const { return pooled_tokens_; }

  // F32 [inputs, inputs], row-major, both triangles filled.
  float* second_moment() {
    return reinterpret_cast<float*>(second_moment_.data());
  }
  const float* second_moment() const {
    return reinterpret_cast<const float*>(second_moment_.data());
  }
  // F32 [inputs].
  float* abs_sum() { return reinterpret_cast<float*>(abs_sum_.data()); }
  const float* abs_sum() const {
    return reinterpret_cast<const float*>(abs_sum_.data());
  }

  // The packed upper triangle, row by row: (0,0) (0,1) ... (0,n-1) (1,1) ...
  static int64_t PackedElements(int64_t inputs) {
    return inputs * (inputs + 1) / 2;
  }
  void FillFromPacked(const float* packed);
  void CopyToPacked(float* packed) const;
  // Without a second buffer: fill packed_storage() (PackedElements values, the
  // end of second_moment's memory), then call ExpandPackedStorage.
  float* packed_storage() {
    return second_moment() + inputs_ * inputs_ - PackedElements(inputs_);
  }
  void ExpandPackedStorage();
  // Row `row` of the packed triangle: (row, row) ... (row, n-1). Its length is
  // inputs - row.
  const float* PackedRow(int64_t row) const {
    return second_moment() + row * inputs_ + row;
  }

  // Whether a solver may use it. Errors: INVALID_ARGUMENT naming the site and
  // what is wrong — no tokens; NaN or Inf with its place; not symmetric (above
  // one part in 10^3 of the larger diagonal element: shards summed in another
  // order differ in the last bits); a negative diagonal element; an element
  // above the product of its diagonals' roots, which no sum of x x^T has;
  // abs_sum negative; nothing but zeros.
  absl::Status Check() const;

  // this += other. Errors: INVALID_ARGUMENT — another number of inputs, or more
  // tokens than 64 bits count.
  absl::Status Merge(const SiteMoments& other);

  // Adds `weight` times the pool, tokens unchanged: for a site that saw too
  // few tokens of its own. Errors: INVALID_ARGUMENT — another number of inputs;
  // a weight that is negative or not finite.
  absl::Status BlendIn(const SiteMoments& pool, double weight);

 private:
  SiteMoments() = default;
  absl::Status CheckSums() const;
  absl::Status CheckPairs() const;

  std::string site_;
  int64_t inputs_ = 0;
  int64_t tokens_ = 0;
  double pooled_tokens_ = 0;
  Buffer second_moment_;
  Buffer abs_sum_;
};

// 16 GiB of second moment. The widest input of published models is the 53248
// of Llama 3.1 405B's down_proj.
constexpr int64_t kMaxSiteInputs = 65536;

// How much of the pool a site with `tokens` tokens needs so that its effective
// number reaches 4 * inputs; 0 when it has them. At most 1: more of a small
// pool would only repeat it.
double PoolWeight(int64_t tokens, int64_t pool_tokens, int64_t inputs);

}  // namespace qs

#endif  // QS_QUANT_CALIBRATION_SITE_MOMENTS_H_
