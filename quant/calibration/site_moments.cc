// Tested by tests/quant/site_moments_test.cc.
#include "quant/calibration/site_moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

// A tile and its mirror image fit the L1 cache together.
constexpr int64_t kTile = 32;

// How far (i, j) and (j, i) may differ, of the larger diagonal element.
constexpr float kAsymmetry = 1e-3f;
// Cauchy-Schwarz with room for rounding, and for diagonals that underflow.
constexpr float kCauchySlack = 1.01f;
constexpr float kCauchyFloor = 1e-6f;

absl::Status Bad(const std::string& site, const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("site ", QuoteForError(site), ": ", text));
}

absl::Status BadElement(const std::string& site, int64_t i, int64_t j,
                        float got, const std::string& allowed) {
  return Bad(site, absl::StrCat("second_moment[", i, ", ", j, "]: got ", got,
                                ", allowed ", allowed));
}

// A tile's elements, read row by row, so that its columns can be read without
// touching memory at a stride of whole rows.
struct Tile {
  float at[kTile][kTile];

  void Read(const float* from, int64_t stride, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(at[i], from + i * stride,
                  sizeof(float) * static_cast<size_t>(cols));
    }
  }
};

// Calls `body(i, j, rows, cols)` for the tiles on and right of the diagonal.
template <typename Body>
void ForUpperTiles(int64_t n, const Body& body) {
  for (int64_t i = 0; i < n; i += kTile) {
    for (int64_t j = i; j < n; j += kTile) {
      body(i, j, std::min(kTile, n - i), std::min(kTile, n - j));
    }
  }
}

void MirrorUpper(float* matrix, int64_t n) {
  Tile tile;
  ForUpperTiles(n, [&](int64_t i, int64_t j, int64_t rows, int64_t cols) {
    tile.Read(matrix + i * n + j, n, rows, cols);
    for (int64_t c = 0; c < cols; ++c) {
      float* out = matrix + (j + c) * n + i;
      const int64_t below = i == j ? c : rows;
      for (int64_t r = 0; r < below; ++r) out[r] = tile.at[r][c];
    }
  });
}

// What the elements of a row of the upper triangle are compared with.
struct Limits {
  std::vector<float> diagonal;
  std::vector<float> root;

  float Asymmetry(int64_t i, int64_t j) const {
    return kAsymmetry * std::max(diagonal[i], diagonal[j]);
  }
  float Size(int64_t i, int64_t j) const {
    return kCauchySlack * root[i] * root[j] +
           kCauchyFloor * std::max(diagonal[i], diagonal[j]);
  }
};

// How many pairs of row `i` are wrong; NaN and infinity fail each comparison.
// `mirror` holds the elements (j + c, i), one a column.
int CountBad(const Limits& limits, const float* row, const float* mirror,
             int64_t i, int64_t j, int64_t cols) {
  const float diagonal = limits.diagonal[i];
  const float root = kCauchySlack * limits.root[i];
  const float* diagonals = limits.diagonal.data() + j;
  const float* roots = limits.root.data() + j;
  int bad = 0;
  for (int64_t c = 0; c < cols; ++c) {
    const float larger = std::max(diagonal, diagonals[c]);
    const float gap = std::fabs(row[c] - mirror[c]);
    const float most = root * roots[c] + kCauchyFloor * larger;
    // Not short-circuited: the loop has no branch.
    bad += static_cast<int>(!(gap <= kAsymmetry * larger)) |
           static_cast<int>(!(std::fabs(row[c]) <= most));
  }
  return bad;
}

}  // namespace

absl::StatusOr<SiteMoments> SiteMoments::CreateUnfilled(std::string site,
                                                        int64_t inputs) {
  if (inputs < 1 || inputs > kMaxSiteInputs) {
    return Bad(site, absl::StrCat("inputs: got ", inputs, ", allowed 1 to ",
                                  kMaxSiteInputs));
  }
  constexpr int64_t kFloat = sizeof(float);
  SiteMoments moments;
  moments.site_ = std::move(site);
  moments.inputs_ = inputs;
  QS_ASSIGN_OR_RETURN(moments.second_moment_,
                      Buffer::Allocate(inputs * inputs * kFloat));
  QS_ASSIGN_OR_RETURN(moments.abs_sum_, Buffer::Allocate(inputs * kFloat));
  return moments;
}

absl::StatusOr<SiteMoments> SiteMoments::Create(std::string site,
                                                int64_t inputs) {
  QS_ASSIGN_OR_RETURN(SiteMoments moments,
                      CreateUnfilled(std::move(site), inputs));
  std::fill_n(moments.second_moment(), inputs * inputs, 0.0f);
  std::fill_n(moments.abs_sum(), inputs, 0.0f);
  return moments;
}

void SiteMoments::FillFromPacked(const float* packed) {
  float* out = second_moment();
  for (int64_t i = 0; i < inputs_; ++i) {
    std::copy_n(packed, inputs_ - i, out + i * inputs_ + i);
    packed += inputs_ - i;
  }
  MirrorUpper(out, inputs_);
}

void SiteMoments::CopyToPacked(float* packed) const {
  for (int64_t i = 0; i < inputs_; ++i) {
    packed = std::copy_n(PackedRow(i), inputs_ - i, packed);
  }
}

// Row by row towards the front: row i of the triangle lies at or behind its
// place in the square, and the place ends before row i + 1 of the triangle.
void SiteMoments::ExpandPackedStorage() {
  const float* packed = packed_storage();
  for (int64_t i = 0; i < inputs_; ++i) {
    const int64_t length = inputs_ - i;
    std::memmove(second_moment() + i * inputs_ + i, packed,
                 sizeof(float) * static_cast<size_t>(length));
    packed += length;
  }
  MirrorUpper(second_moment(), inputs_);
}

absl::Status SiteMoments::CheckSums() const {
  if (tokens_ < 0 || (tokens_ == 0 && pooled_tokens_ == 0)) {
    return Bad(site_, absl::StrCat("token_count: got ", tokens_,
                                   ", allowed at least 1"));
  }
  bool any = false;
  for (int64_t i = 0; i < inputs_; ++i) {
    const float sum = abs_sum()[i];
    if (!(sum >= 0 && std::isfinite(sum))) {
      return Bad(site_, absl::StrCat("abs_sum[", i, "]: got ", sum,
                                     ", allowed finite and not negative"));
    }
    const float square = second_moment()[i * inputs_ + i];
    if (!(square >= 0 && std::isfinite(square))) {
      return BadElement(site_, i, i, square,
                        "finite and not negative: it is a sum of squares");
    }
    any = any || square > 0;
  }
  if (any) return absl::OkStatus();
  return Bad(site_, "second_moment: got zeros only, allowed a sum of x x^T");
}

// Every pair (i, j), (j, i) in one pass over both triangles.
absl::Status SiteMoments::CheckPairs() const {
  const float* matrix = second_moment();
  Limits limits;
  for (int64_t i = 0; i < inputs_; ++i) {
    limits.diagonal.push_back(matrix[i * inputs_ + i]);
    limits.root.push_back(std::sqrt(limits.diagonal.back()));
  }
  // Of the first bad pair in row order.
  std::optional<std::pair<int64_t, int64_t>> first;
  Tile mirror;
  ForUpperTiles(inputs_, [&](int64_t i, int64_t j, int64_t rows, int64_t cols) {
    for (int64_t c = 0; c < cols; ++c) {
      const float* from = matrix + (j + c) * inputs_ + i;
      for (int64_t r = 0; r < rows; ++r) mirror.at[r][c] = from[r];
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = matrix + (i + r) * inputs_ + j;
      if (CountBad(limits, row, mirror.at[r], i + r, j, cols) == 0) continue;
      for (int64_t c = 0; c < cols; ++c) {
        if (CountBad(limits, row + c, mirror.at[r] + c, i + r, j + c, 1) == 0) {
          continue;
        }
        const auto place = std::pair(i + r, j + c);
        first = first ? std::min(*first, place) : place;
        break;
      }
    }
  });
  if (!first) return absl::OkStatus();
  const auto [i, j] = *first;
  const float upper = matrix[i * inputs_ + j];
  const float lower = matrix[j * inputs_ + i];
  for (const float value : {upper, lower}) {
    if (!std::isfinite(value)) {
      const bool swap = std::isfinite(upper);
      return BadElement(site_, swap ? j : i, swap ? i : j, value, "finite");
    }
  }
  if (!(std::fabs(upper - lower) <= limits.Asymmetry(i, j))) {
    return BadElement(site_, i, j, upper,
                      absl::StrCat("its mirror image ", lower,
                                   " within one part in 1000 of the diagonal"));
  }
  return BadElement(
      site_, i, j, upper,
      absl::StrCat("at most ", limits.Size(i, j),
                   " in size, from its diagonal elements: no sum of x x^T"));
}

absl::Status SiteMoments::Check() const {
  QS_RETURN_IF_ERROR(CheckSums());
  return CheckPairs();
}

absl::Status SiteMoments::Merge(const SiteMoments& other) {
  if (other.inputs_ != inputs_) {
    return Bad(site_, absl::StrCat("merge: got a site of ", other.inputs_,
                                   " inputs, allowed ", inputs_));
  }
  const std::optional<int64_t> tokens = CheckedAdd(tokens_, other.tokens_);
  if (!tokens) {
    return Bad(site_,
               absl::StrCat("merge: got ", tokens_, " and ", other.tokens_,
                            " tokens, allowed what 64 bits count"));
  }
  tokens_ = *tokens;
  pooled_tokens_ += other.pooled_tokens_;
  for (int64_t i = 0; i < inputs_ * inputs_; ++i) {
    second_moment()[i] += other.second_moment()[i];
  }
  for (int64_t i = 0; i < inputs_; ++i) abs_sum()[i] += other.abs_sum()[i];
  return absl::OkStatus();
}

absl::Status SiteMoments::BlendIn(const SiteMoments& pool, double weight) {
  if (pool.inputs_ != inputs_) {
    return Bad(site_, absl::StrCat("pool ", QuoteForError(pool.site_), ": got ",
                                   pool.inputs_, " inputs, allowed ", inputs_));
  }
  if (!(weight >= 0 && std::isfinite(weight))) {
    return Bad(site_, absl::StrCat("pool weight: got ", weight,
                                   ", allowed finite and not negative"));
  }
  const float factor = static_cast<float>(weight);
  for (int64_t i = 0; i < inputs_ * inputs_; ++i) {
    second_moment()[i] += factor * pool.second_moment()[i];
  }
  for (int64_t i = 0; i < inputs_; ++i) {
    abs_sum()[i] += factor * pool.abs_sum()[i];
  }
  pooled_tokens_ += weight * static_cast<double>(pool.tokens_);
  return absl::OkStatus();
}

double PoolWeight(int64_t tokens, int64_t pool_tokens, int64_t inputs) {
  const double wanted = 4.0 * static_cast<double>(inputs);
  const double missing = wanted - static_cast<double>(tokens);
  if (missing <= 0 || pool_tokens <= 0) return 0;
  return std::min(1.0, missing / static_cast<double>(pool_tokens));
}

}  // namespace qs
