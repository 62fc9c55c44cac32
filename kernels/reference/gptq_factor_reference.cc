// The definition of the reversed Cholesky factor, in F64.
// Tested by tests/kernels/gptq_reference_test.cc.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"
#include "kernels/reference/gptq_reference.h"

namespace qs::gptq {
namespace {

enum class OnLostPivot { kFail, kReplace };

class Matrix {
 public:
  explicit Matrix(int64_t size)
      : size_(size), values_(static_cast<size_t>(size * size)) {}
  double& At(int64_t i, int64_t j) {
    return values_[static_cast<size_t>(i * size_ + j)];
  }

 private:
  int64_t size_;
  std::vector<double> values_;
};

// P H P^T with dead columns replaced, undamped.
Matrix Permuted(const GptqFactorArgs& args, int64_t* dead) {
  const int64_t n = args.size;
  Matrix h(n);
  *dead = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = args.order == nullptr ? i : args.order[i];
    for (int64_t j = 0; j < n; ++j) {
      const int64_t column = args.order == nullptr ? j : args.order[j];
      h.At(i, j) = args.hessian[row * n + column];
    }
    if (h.At(i, i) != 0) continue;
    ++*dead;
    h.At(i, i) = args.dead_diagonal;
  }
  return h;
}

double MeanDiagonal(Matrix& h, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += h.At(i, i);
  return sum / static_cast<double>(n);
}

// h -> R in its upper triangle, column by column from the last. False when a
// pivot is lost and `rule` is kFail.
bool Factorize(Matrix& h, int64_t n, double mean, OnLostPivot rule,
               int64_t* dropped) {
  for (int64_t c = n - 1; c >= 0; --c) {
    const double diagonal = h.At(c, c);
    double pivot = diagonal;
    for (int64_t k = c + 1; k < n; ++k) pivot -= h.At(c, k) * h.At(c, k);
    if (!(pivot > kLeastPivotF64 * diagonal)) {
      if (rule == OnLostPivot::kFail) return false;
      pivot = kLeastPivotF64 * std::max(diagonal, mean);
      ++*dropped;
    }
    const double r = std::sqrt(pivot);
    h.At(c, c) = r;
    for (int64_t i = c - 1; i >= 0; --i) {
      double sum = h.At(i, c);
      for (int64_t k = c + 1; k < n; ++k) sum -= h.At(i, k) * h.At(c, k);
      h.At(i, c) = sum / r;
    }
  }
  return true;
}

bool TryFactor(const Matrix& undamped, double damping, double mean, int64_t n,
               OnLostPivot rule, Matrix* r, int64_t* dropped) {
  *r = undamped;
  for (int64_t i = 0; i < n; ++i) r->At(i, i) += damping * mean;
  return Factorize(*r, n, mean, rule, dropped);
}

void Store(Matrix& r, int64_t n, float* factor) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      factor[i * n + j] = j < i ? 0.0f : static_cast<float>(r.At(i, j));
    }
  }
}

absl::Status CheckHessian(const float* h, int64_t n) {
  for (int64_t i = 0; i < n * n; ++i) {
    if (!std::isfinite(h[i])) return HessianError(h, n, i);
  }
  for (int64_t i = 0; i < n; ++i) {
    if (h[i * n + i] < 0) return HessianError(h, n, i * n + i);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FactorReference(const GptqFactorArgs& args) {
  QS_RETURN_IF_ERROR(CheckGptqFactor(args));
  QS_RETURN_IF_ERROR(CheckHessian(args.hessian, args.size));
  const int64_t n = args.size;
  GptqFactorFacts& facts = *args.facts;
  facts = {};
  Matrix undamped = Permuted(args, &facts.dead_columns);
  const double mean = MeanDiagonal(undamped, n);
  Matrix r(n);
  const auto attempt = [&](OnLostPivot rule) {
    return mean > 0 && TryFactor(undamped, facts.damping, mean, n, rule, &r,
                                 &facts.dropped_pivots);
  };
  facts.damping = args.damping;
  bool factored = attempt(OnLostPivot::kFail);
  for (double damping = args.damping * kDampingStep;
       !factored && mean > 0 && damping > 0 && damping <= kMaxDamping;
       damping *= kDampingStep) {
    facts.damping = damping;
    ++facts.damping_retries;
    factored = attempt(OnLostPivot::kFail);
  }
  if (!factored) factored = attempt(OnLostPivot::kReplace);
  if (!factored) {
    facts.diagonal_only = true;
    r = Matrix(n);
    for (int64_t i = 0; i < n; ++i) {
      const double d = undamped.At(i, i) + facts.damping * mean;
      r.At(i, i) = d > 0 ? std::sqrt(d) : 1;
    }
  }
  Store(r, n, args.factor);
  return args.checkpoint ? args.checkpoint(1) : absl::OkStatus();
}

}  // namespace qs::gptq
