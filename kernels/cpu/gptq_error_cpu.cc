// OutputError on CPUs: d H d^T from the blocks of H on and above the diagonal,
// products in F32 over 128 columns each, sums in F64.
// Tested by tests/kernels/gptq_differential_test.cc.
#include <algorithm>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/cpu/gptq_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/gptq_check.h"

namespace qs::gptq {
namespace {

constexpr int64_t kTileRows = 256;

class TileError {
 public:
  explicit TileError(const GptqErrorArgs& args)
      : args_(args), cols_(args.weight.cols) {}

  absl::Status Run(int64_t begin, int64_t end) {
    QS_RETURN_IF_ERROR(Allocate(begin, end));
    for (Rows& rows : groups_) Load(&rows);
    for (int64_t j = 0; j < cols_; j += kDepth) {
      const int64_t width = std::min(kDepth, cols_ - j);
      for (int64_t k = 0; k <= j; k += kDepth) {
        const int64_t depth = std::min(kDepth, cols_ - k);
        PackPanels(args_.hessian, cols_, k, depth, j, width, panels_);
        for (Rows& rows : groups_) {
          AddBlock(rows.d, k, depth, j, width, rows.error);
          if (rows.w != nullptr) {
            AddBlock(rows.w, k, depth, j, width, rows.signal);
          }
        }
      }
    }
    for (const Rows& rows : groups_) Store(rows);
    return absl::OkStatus();
  }

 private:
  struct Rows {
    int64_t first = 0;
    int64_t count = 0;
    float* d = nullptr;  // [cols][kRowGroup]
    float* w = nullptr;  // the same; null without a signal
    double error[kRowGroup] = {};
    double signal[kRowGroup] = {};
  };

  absl::Status Allocate(int64_t begin, int64_t end) {
    const int64_t count = CeilDiv(end - begin, kRowGroup);
    const int64_t each = cols_ * kRowGroup;
    const int64_t matrices = args_.signal == nullptr ? 1 : 2;
    QS_ASSIGN_OR_RETURN(memory_,
                        Buffer::Allocate((count * matrices * each +
                                          std::max(each, kDepth * kDepth) +
                                          kDepth * (kDepth + kRowGroup)) *
                                         4));
    auto* next = memory_.As<float>();
    panels_ = next;
    p_ = panels_ + kDepth * kDepth;
    decoded_ = p_ + kDepth * kRowGroup;
    next = decoded_ + std::max(each, kDepth * kDepth);
    groups_.resize(static_cast<size_t>(count));
    for (int64_t g = 0; g < count; ++g) {
      Rows& rows = groups_[static_cast<size_t>(g)];
      rows.first = begin + g * kRowGroup;
      rows.count = std::min(kRowGroup, end - rows.first);
      rows.d = next;
      next += each;
      if (args_.signal == nullptr) continue;
      rows.w = next;
      next += each;
    }
    return absl::OkStatus();
  }

  void Load(Rows* rows) {
    float* const w = rows->w == nullptr ? rows->d : rows->w;
    LoadRowGroup(args_.weight, rows->first, rows->count, nullptr, w);
    LoadRowGroup(args_.decoded, rows->first, rows->count, nullptr, decoded_);
    for (int64_t i = 0; i < cols_ * kRowGroup; ++i) {
      rows->d[i] = w[i] - decoded_[i];
    }
  }

  // Blocks beside the diagonal count twice.
  void AddBlock(const float* d, int64_t k, int64_t depth, int64_t j,
                int64_t width, double* sums) {
    const int64_t panels = CeilDiv(width, kPanel);
    std::fill_n(p_, panels * kPanel * kRowGroup, 0.0f);
    AddProduct(d + k * kRowGroup, panels_, depth, depth, panels, p_);
    AddDots(d + j * kRowGroup, p_, width, k == j ? 1 : 2, sums);
  }

  void Store(const Rows& rows) const {
    std::copy_n(rows.error, rows.count, args_.error + rows.first);
    if (args_.signal == nullptr) return;
    std::copy_n(rows.signal, rows.count, args_.signal + rows.first);
  }

  const GptqErrorArgs& args_;
  const int64_t cols_;
  Buffer memory_;
  float* panels_ = nullptr;
  float* p_ = nullptr;
  float* decoded_ = nullptr;
  std::vector<Rows> groups_;
};

}  // namespace

absl::Status OutputErrorCpu(const GptqErrorArgs& args, int threads) {
  QS_RETURN_IF_ERROR(CheckGptqError(args));
  SharedCheckpoint status(nullptr, 1);
  ParallelTiles(threads, args.weight.rows, kTileRows,
                [&](int64_t begin, int64_t end) {
                  status.Fail(TileError(args).Run(begin, end));
                });
  return status.status();
}

}  // namespace qs::gptq
