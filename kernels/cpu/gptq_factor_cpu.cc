// Factor on CPUs: F32, then F64, then more damping, then pivots replaced.
// Tested by tests/kernels/gptq_differential_test.cc.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/cpu/gptq_factor_layout.h"
#include "kernels/cpu/gptq_factorization.h"
#include "kernels/cpu/parallel.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"

namespace qs::gptq {
namespace {

class Ladder {
 public:
  Ladder(const GptqFactorArgs& args, int threads)
      : args_(args),
        n_(args.size),
        threads_(threads),
        facts_(*args.facts),
        checkpoint_(args.checkpoint, CeilDiv(n_, kFactorPanel)) {}

  absl::Status Run() {
    facts_ = {};
    QS_RETURN_IF_ERROR(ReadDiagonal());
    facts_.damping = args_.damping;
    if (!(mean_ > 0)) return DiagonalOnly();
    if (args_.in_f64) {
      if (in_place()) FillInPlace();
    } else if (TryF32()) {
      return Finish(nullptr);
    }
    QS_RETURN_IF_ERROR(checkpoint_.status());
    QS_ASSIGN_OR_RETURN(Buffer f64,
                        Buffer::Allocate(Strips<double>::Elements(n_) * 8));
    const Strips<double> a(f64.As<double>(), n_);
    facts_.in_f64 = true;
    bool factored = TryF64(a, OnLostPivot::kFail);
    for (double damping = args_.damping * kDampingStep;
         !factored && checkpoint_.status().ok() && damping > 0 &&
         damping <= kMaxDamping;
         damping *= kDampingStep) {
      facts_.damping = damping;
      ++facts_.damping_retries;
      factored = TryF64(a, OnLostPivot::kFail);
    }
    if (!factored && checkpoint_.status().ok()) {
      factored = TryF64(a, OnLostPivot::kReplace);
    }
    QS_RETURN_IF_ERROR(checkpoint_.status());
    return factored ? Finish(&a) : DiagonalOnly();
  }

 private:
  int64_t Column(int64_t position) const {
    return args_.order == nullptr ? position : args_.order[position];
  }

  absl::Status ReadDiagonal() {
    const TensorView h = {args_.hessian, DType::kF32, n_, n_};
    const int64_t bad = FirstNonFinite(h, threads_);
    if (bad >= 0) return HessianError(args_.hessian, n_, bad);
    undamped_.resize(static_cast<size_t>(n_));
    double sum = 0;
    for (int64_t p = 0; p < n_; ++p) {
      const int64_t at = Column(p) * (n_ + 1);
      double value = args_.hessian[at];
      if (value < 0) return HessianError(args_.hessian, n_, at);
      if (value == 0) {
        ++facts_.dead_columns;
        value = args_.dead_diagonal;
      }
      undamped_[static_cast<size_t>(p)] = value;
      sum += value;
    }
    mean_ = sum / static_cast<double>(n_);
    return absl::OkStatus();
  }

  bool in_place() const { return args_.hessian == args_.factor; }

  void Damp() {
    damped_ = undamped_;
    for (double& d : damped_) d += facts_.damping * mean_;
  }

  // The upper triangle of P H P^T, damped.
  template <class T, template <class> class Layout>
  void Fill(const Layout<T>& a) {
    Damp();
    ParallelTiles(threads_, n_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* const from = args_.hessian + Column(i) * n_;
        for (int64_t first = i + 1; first < n_;) {
          T* const to = a.At(i, first);
          const int64_t last = a.RunEnd(first);
          for (int64_t j = first; j < last; ++j) {
            to[j - first] = static_cast<T>(from[Column(j)]);
          }
          first = last;
        }
        *a.At(i, i) = static_cast<T>(damped_[static_cast<size_t>(i)]);
      }
    });
  }

  // The same where H is in the factor's memory: permuted there for F32. What
  // that leaves below the diagonal is P H P^T still.
  void FillInPlace() {
    Damp();
    PermuteInPlace(args_.factor, n_, args_.order, threads_);
    for (int64_t i = 0; i < n_; ++i) {
      args_.factor[i * (n_ + 1)] =
          static_cast<float>(damped_[static_cast<size_t>(i)]);
    }
  }
  void FillFromBelow(const Strips<double>& a) {
    Damp();
    // Column j above the diagonal is row j below it.
    ParallelTiles(threads_, n_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < n_; ++j) {
        for (int64_t i = begin; i < std::min(end, j); ++i) {
          *a.At(i, j) = args_.factor[j * n_ + i];
        }
      }
      for (int64_t i = begin; i < end; ++i) {
        *a.At(i, i) = damped_[static_cast<size_t>(i)];
      }
    });
  }

  bool TryF32() {
    const Square<float> a(args_.factor, n_);
    if (in_place()) {
      FillInPlace();
    } else {
      Fill(a);
    }
    return Factorization<float, Square>(a, n_, damped_, kLeastPivotF32,
                                        threads_, checkpoint_)
        .Run(OnLostPivot::kFail, mean_, nullptr);
  }

  bool TryF64(const Strips<double>& a, OnLostPivot rule) {
    if (in_place()) {
      FillFromBelow(a);
    } else {
      Fill(a);
    }
    return Factorization<double, Strips>(a, n_, damped_, kLeastPivotF64,
                                         threads_, checkpoint_)
        .Run(rule, mean_, &facts_.dropped_pivots);
  }

  absl::Status DiagonalOnly() {
    facts_.diagonal_only = true;
    std::fill_n(args_.factor, n_ * n_, 0.0f);
    for (int64_t p = 0; p < n_; ++p) {
      const double d =
          undamped_[static_cast<size_t>(p)] + facts_.damping * mean_;
      args_.factor[p * (n_ + 1)] =
          d > 0 ? static_cast<float>(std::sqrt(d)) : 1.0f;
    }
    return absl::OkStatus();
  }

  // Zeros below the diagonal, and the F64 result rounded.
  absl::Status Finish(const Strips<double>* f64) {
    ParallelTiles(threads_, n_, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* const row = args_.factor + i * n_;
        std::fill_n(row, i, 0.0f);
        if (f64 == nullptr) continue;
        for (int64_t j = i; j < n_; ++j) {
          row[j] = static_cast<float>(*f64->At(i, j));
        }
      }
    });
    return absl::OkStatus();
  }

  const GptqFactorArgs& args_;
  const int64_t n_;
  const int threads_;
  GptqFactorFacts& facts_;
  SharedCheckpoint checkpoint_;
  std::vector<double> undamped_;  // the diagonal, by position
  std::vector<double> damped_;
  double mean_ = 0;
};

}  // namespace

absl::Status FactorCpu(const GptqFactorArgs& args, int threads) {
  QS_RETURN_IF_ERROR(CheckGptqFactor(args));
  UseOneBlasThread();
  return Ladder(args, threads).Run();
}

}  // namespace qs::gptq
