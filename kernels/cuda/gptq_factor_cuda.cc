// Factor on a device: the ladder of gptq_ops.h over a reversed Cholesky
// factorisation in panels, from the last columns to the first; what each leaves
// is one symmetric product of cuBLAS.
//
// Where cuSOLVER is there (Blas::cholesky), a panel is a block of 2048 columns
// that it factors, and the rows above are a triangular solve of cuBLAS; without
// it, 64 columns of kernels of ours. The arithmetic is the same, and so is
// every outcome of the ladder but for rounding; only the blocks are a few long
// operations instead of many short ones that wait for each other
// (tests/bench/RESULTS.md has the estimate). Our kernels also replace pivots,
// which no library does, and take a block whose library wants more scratch than
// was estimated for it.
//
// Tested by tests/kernels/gptq_factor_cuda_test.cc.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/gptq_cuda.h"
#include "kernels/cuda/gptq_launch.h"
#include "kernels/gptq_check.h"
#include "kernels/gptq_tables.h"

namespace qs::cuda {
namespace {

using gptq::kDampingStep;
using gptq::kLeastPivotF32;
using gptq::kLeastPivotF64;
using gptq::kMaxDamping;

template <class T>
constexpr BlasType kTypeOf = BlasType::kF32;
template <>
constexpr BlasType kTypeOf<double> = BlasType::kF64;

class Ladder {
 public:
  Ladder(const GptqFactorArgs& args, SolverCall& call)
      : args_(args), n_(args.size), call_(call), facts_(*args.facts) {}

  absl::Status Run() {
    facts_ = {};
    QS_RETURN_IF_ERROR(call_.Take(n_, &device_diagonal_));
    QS_RETURN_IF_ERROR(call_.Take(2, &state_));
    QS_RETURN_IF_ERROR(ReadDiagonal());
    facts_.damping = args_.damping;
    if (!(mean_ > 0)) return DiagonalOnly();
    QS_RETURN_IF_ERROR(PrepareLibrary());
    bool factored = false;
    if (!args_.in_f64) {
      float* f32 = args_.factor;
      if (args_.hessian == args_.factor) {  // H must outlive a failure
        QS_RETURN_IF_ERROR(call_.Take(n_ * n_, &f32));
      }
      QS_RETURN_IF_ERROR(Try(f32, kLeastPivotF32, false, &factored));
      if (factored) return Store(f32);
    }
    double* f64 = nullptr;
    QS_RETURN_IF_ERROR(call_.Take(n_ * n_, &f64));
    facts_.in_f64 = true;
    QS_RETURN_IF_ERROR(Try(f64, kLeastPivotF64, false, &factored));
    for (double damping = args_.damping * kDampingStep;
         !factored && damping > 0 && damping <= kMaxDamping;
         damping *= kDampingStep) {
      facts_.damping = damping;
      ++facts_.damping_retries;
      QS_RETURN_IF_ERROR(Try(f64, kLeastPivotF64, false, &factored));
    }
    if (!factored) {
      QS_RETURN_IF_ERROR(Try(f64, kLeastPivotF64, true, &factored));
    }
    return factored ? Store(f64) : DiagonalOnly();
  }

 private:
  absl::Status ReadDiagonal() {
    HessianScanArgs scan;
    scan.hessian = args_.hessian;
    scan.order = args_.order;
    scan.size = n_;
    QS_RETURN_IF_ERROR(call_.Take(2, &scan.first_bad));
    QS_RETURN_IF_ERROR(call_.Take(n_, &scan.diagonal));
    QS_RETURN_IF_ERROR(call_.Launch("Factor scan", [&] {
      return LaunchHessianScan(scan, call_.stream());
    }));
    int64_t bad[2];
    QS_RETURN_IF_ERROR(call_.CopyOut(bad, scan.first_bad, 2));
    for (int64_t index : bad) {
      if (index < 0) continue;
      float value = 0;
      QS_RETURN_IF_ERROR(call_.CopyOut(&value, args_.hessian + index, 1));
      return HessianValueError(value, n_, index);
    }
    std::vector<float> diagonal(static_cast<size_t>(n_));
    QS_RETURN_IF_ERROR(call_.CopyOut(diagonal.data(), scan.diagonal, n_));
    undamped_.assign(diagonal.begin(), diagonal.end());
    double sum = 0;
    for (double& value : undamped_) {
      if (value == 0) {
        ++facts_.dead_columns;
        value = args_.dead_diagonal;
      }
      sum += value;
    }
    mean_ = sum / static_cast<double>(n_);
    return absl::OkStatus();
  }

  // Takes what blocks of the library need; leaves `scratch_` null where there
  // is none.
  absl::Status PrepareLibrary() {
    if (call_.cholesky() == nullptr) return absl::OkStatus();
    int64_t most = 1;
    for (int64_t columns : {std::min(n_, kTiles.factor_columns),
                            (n_ - 1) % kTiles.factor_columns + 1}) {
      for (bool in_f64 : {false, true}) {
        if (!in_f64 && args_.in_f64) continue;
        QS_ASSIGN_OR_RETURN(const int64_t bytes,
                            call_.FactorScratchBytes(in_f64, columns, n_));
        most = std::max(most, bytes);
      }
    }
    if (most > MostFactorScratch(n_, kTiles)) return absl::OkStatus();
    QS_RETURN_IF_ERROR(call_.Take(1, &info_));
    scratch_bytes_ = most;
    return call_.Take(most, &scratch_);
  }

  // One factorisation with facts_.damping, in `a`.
  template <class T>
  absl::Status Try(T* a, double least, bool replace, bool* factored) {
    std::vector<double> damped = undamped_;
    for (double& d : damped) d += facts_.damping * mean_;
    QS_RETURN_IF_ERROR(call_.CopyIn(device_diagonal_, damped.data(), n_));
    int32_t state[2] = {0, 0};
    QS_RETURN_IF_ERROR(call_.CopyIn(state_, state, 2));
    FactorPanelArgs<T> panel;
    panel.matrix = {a, n_};
    panel.diagonal = device_diagonal_;
    panel.rule = {least, mean_, replace};
    panel.state = state_;
    QS_RETURN_IF_ERROR(call_.Launch("Factor fill", [&] {
      return LaunchFactorFill(FactorFillArgs<T>{panel.matrix, args_.hessian,
                                                args_.order, device_diagonal_},
                              call_.stream());
    }));
    const bool by_library = scratch_ != nullptr && !replace;
    const int64_t width = by_library ? kTiles.factor_columns : kFactorPanel;
    bool goes_on = true;
    for (panel.end = n_; panel.end > 0 && goes_on; panel.end = panel.begin) {
      panel.begin = (panel.end - 1) / width * width;
      QS_RETURN_IF_ERROR(call_.Check(
          args_.checkpoint,
          static_cast<double>(n_ - panel.end) / static_cast<double>(n_)));
      if (by_library) {
        QS_RETURN_IF_ERROR(AddBlock(panel, &goes_on));
      } else {
        QS_RETURN_IF_ERROR(AddPanel(panel));
      }
    }
    QS_RETURN_IF_ERROR(call_.CopyOut(state, state_, 2));
    *factored = state[0] == 0;
    facts_.dropped_pivots = state[1];
    return absl::OkStatus();
  }

  template <class T>
  absl::Status AddPanel(const FactorPanelArgs<T>& panel) {
    QS_RETURN_IF_ERROR(call_.Launch("Factor panel", [&] {
      return LaunchFactorPanel(panel, call_.stream());
    }));
    return SubtractPanel(panel);
  }

  // The same by libraries. `goes_on`: out, whether no pivot was lost.
  template <class T>
  absl::Status AddBlock(const FactorPanelArgs<T>& panel, bool* goes_on) {
    T* const a = panel.matrix.a;
    const int64_t columns = panel.end - panel.begin;
    T* const block = a + panel.begin * (n_ + 1);
    const auto mirror = [&] {
      return LaunchFactorMirror(
          FactorMirrorArgs<T>{panel.matrix, panel.begin, panel.end},
          call_.stream());
    };
    QS_RETURN_IF_ERROR(call_.Launch("Factor mirror", mirror));
    QS_RETURN_IF_ERROR(call_.Factor(
        {sizeof(T) == 8, columns, block, n_, scratch_, scratch_bytes_, info_}));
    QS_RETURN_IF_ERROR(call_.Launch("Factor mirror", mirror));
    QS_RETURN_IF_ERROR(call_.Launch("Factor roots", [&] {
      return LaunchFactorRoots(FactorRootsArgs<T>{panel, info_},
                               call_.stream());
    }));
    if (panel.begin == 0) return absl::OkStatus();
    int32_t failed = 0;
    QS_RETURN_IF_ERROR(call_.CopyOut(&failed, state_, 1));
    *goes_on = failed == 0;
    if (!*goes_on) return absl::OkStatus();
    QS_RETURN_IF_ERROR(call_.Trsm(
        {kTypeOf<T>, columns, panel.begin, block, n_, a + panel.begin, n_}));
    return SubtractPanel(panel);
  }

  // From the columns before it. Row-major columns of the panel are a
  // column-major [panel, rows]; the upper triangle is the lower one.
  template <class T>
  absl::Status SubtractPanel(const FactorPanelArgs<T>& panel) {
    if (panel.begin == 0) return absl::OkStatus();
    T* const a = panel.matrix.a;
    return call_.Syrk({kTypeOf<T>, panel.begin, panel.end - panel.begin, -1,
                       a + panel.begin, n_, 1, a, n_});
  }

  absl::Status DiagonalOnly() {
    facts_.diagonal_only = true;
    std::vector<float> roots;
    for (double value : undamped_) {
      const double d = value + facts_.damping * mean_;
      roots.push_back(d > 0 ? static_cast<float>(std::sqrt(d)) : 1.0f);
    }
    float* diagonal = nullptr;
    QS_RETURN_IF_ERROR(call_.TakeCopy(roots.data(), n_, &diagonal));
    return call_.Launch("Factor diagonal", [&] {
      return LaunchFactorDiagonal(diagonal, n_, args_.factor, call_.stream());
    });
  }

  template <class T>
  absl::Status Store(T* a) {
    return call_.Launch("Factor store", [&] {
      return LaunchFactorStore(FactorStoreArgs<T>{{a, n_}, args_.factor},
                               call_.stream());
    });
  }

  const GptqFactorArgs& args_;
  const int64_t n_;
  SolverCall& call_;
  GptqFactorFacts& facts_;
  std::vector<double> undamped_;  // the diagonal, by position
  double mean_ = 0;
  double* device_diagonal_ = nullptr;
  int32_t* state_ = nullptr;
  uint8_t* scratch_ = nullptr;  // of the library; null: without it
  int64_t scratch_bytes_ = 0;
  int32_t* info_ = nullptr;
};

}  // namespace

absl::Status FactorCuda(const GptqFactorArgs& args, SolverCall& call) {
  GptqFactorArgs checked = args;
  checked.order = nullptr;  // is not the host's
  QS_RETURN_IF_ERROR(CheckGptqFactor(checked));
  return Ladder(args, call).Run();
}

}  // namespace qs::cuda
