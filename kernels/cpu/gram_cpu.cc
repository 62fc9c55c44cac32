// Second moments on CPUs: tiles of the upper triangle, each a product in F32
// over the tokens of a run, then added to the F64 sum.
// Tested by tests/kernels/gram_test.cc.
#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/gptq_cpu.h"
#include "kernels/cpu/gram_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/factories.h"
#include "kernels/gptq_check.h"

namespace qs {
namespace {

// Columns of a tile.
constexpr int64_t kTile = 512;
constexpr int64_t kConvertTokens = 16;
constexpr int64_t kAbsColumns = 256;

// F32 [tokens, inputs].
struct Run {
  const float* x = nullptr;
  int64_t tokens = 0;
  int64_t inputs = 0;
};

class GramCpu final : public GramOps {
 public:
  explicit GramCpu(int threads) : threads_(threads) { UseOneBlasThread(); }

  absl::Status Accumulate(const GramAccumulateArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGramAccumulate(args));
    const TensorView& view = args.activations;
    *args.first_non_finite = gptq::FirstNonFinite(view, threads_);
    if (*args.first_non_finite >= 0) return absl::OkStatus();
    const int64_t longest = std::min(view.rows, kGramRunTokens);
    Buffer converted;
    if (view.dtype != DType::kF32) {
      QS_ASSIGN_OR_RETURN(converted, Buffer::Allocate(longest * view.cols * 4));
    }
    const int64_t tiles = CeilDiv(view.cols, kTile);
    const int64_t slots = std::max(threads_, 1);
    QS_ASSIGN_OR_RETURN(Buffer products,
                        Buffer::Allocate(slots * kTile * kTile * 4));
    for (int64_t begin = 0; begin < view.rows; begin += kGramRunTokens) {
      Run run;
      run.tokens = std::min(kGramRunTokens, view.rows - begin);
      run.inputs = view.cols;
      run.x = Converted(view, begin, run.tokens, converted.As<float>());
      AddAbs(run, args.abs_sum);
      AddTiles(run, tiles, products.As<float>(), args.sum);
    }
    return absl::OkStatus();
  }

  absl::Status Finish(const GramFinishArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckGramFinish(args));
    const int64_t n = args.inputs;
    for (int64_t i = 0; i < n; ++i) {
      args.abs_sum_f32[i] = static_cast<float>(args.abs_sum[i]);
    }
    const int64_t tiles = CeilDiv(n, kMirrorTile);
    ParallelTiles(threads_, tiles, 1, [&](int64_t tile, int64_t) {
      for (int64_t j = tile; j < tiles; ++j) Mirror(args, tile, j);
    });
    return absl::OkStatus();
  }

 private:
  static constexpr int64_t kMirrorTile = 64;

  const float* Converted(const TensorView& view, int64_t begin, int64_t tokens,
                         float* converted) const {
    if (view.dtype == DType::kF32) {
      return static_cast<const float*>(view.data) + begin * view.cols;
    }
    ParallelTiles(threads_, tokens, kConvertTokens,
                  [&](int64_t first, int64_t last) {
                    gram::ConvertToF32(view, (begin + first) * view.cols,
                                       (last - first) * view.cols,
                                       converted + first * view.cols);
                  });
    return converted;
  }

  void AddAbs(const Run& run, double* abs_sum) const {
    ParallelTiles(threads_, run.inputs, kAbsColumns,
                  [&](int64_t begin, int64_t end) {
                    gram::AddAbsColumns(run.x + begin, run.inputs, run.tokens,
                                        end - begin, abs_sum + begin);
                  });
  }

  // Threads take the tiles in turn; each has its own product.
  void AddTiles(const Run& run, int64_t tiles, float* products,
                double* sum) const {
    const int64_t count = tiles * (tiles + 1) / 2;
    const int64_t slots = std::min<int64_t>(std::max(threads_, 1), count);
    std::atomic<int64_t> next{0};
    ParallelTiles(threads_, slots, 1, [&](int64_t slot, int64_t) {
      float* const product = products + slot * kTile * kTile;
      for (int64_t t = next++; t < count; t = next++) {
        int64_t i = 0;
        int64_t rest = t;
        while (rest >= tiles - i) rest -= tiles - i++;
        AddTile(run, i * kTile, (i + rest) * kTile, product, sum);
      }
    });
  }

  static void AddTile(const Run& run, int64_t i, int64_t j, float* product,
                      double* sum) {
    const int64_t rows = std::min(kTile, run.inputs - i);
    const int64_t cols = std::min(kTile, run.inputs - j);
    const int m = static_cast<int>(rows);
    const int n = static_cast<int>(cols);
    const int k = static_cast<int>(run.tokens);
    const int ld = static_cast<int>(run.inputs);
    if (i == j) {
      cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, m, k, 1.0f, run.x + i,
                  ld, 0.0f, product, n);
    } else {
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, n, k, 1.0f,
                  run.x + i, ld, run.x + j, ld, 0.0f, product, n);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t first = i == j ? r : 0;
      gram::AddToF64(product + r * cols + first, cols - first,
                     sum + (i + r) * run.inputs + j + first);
    }
  }

  static void Mirror(const GramFinishArgs& args, int64_t ti, int64_t tj) {
    const int64_t n = args.inputs;
    const int64_t row_end = std::min((ti + 1) * kMirrorTile, n);
    const int64_t col_end = std::min((tj + 1) * kMirrorTile, n);
    for (int64_t i = ti * kMirrorTile; i < row_end; ++i) {
      for (int64_t j = std::max(tj * kMirrorTile, i); j < col_end; ++j) {
        const auto value = static_cast<float>(args.sum[i * n + j]);
        args.second_moment[i * n + j] = value;
        args.second_moment[j * n + i] = value;
      }
    }
  }

  const int threads_;
};

}  // namespace

std::unique_ptr<GramOps> NewGramCpu(int threads) {
  return std::make_unique<GramCpu>(threads);
}

}  // namespace qs
