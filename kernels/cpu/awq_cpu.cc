// AwqOps on CPUs: cuts matrices into tiles; differences from the inner loops,
// products from OpenBLAS on one thread, tiles in parallel.
// Tested by tests/kernels/awq_differential_test.cc.
#include <cblas.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/awq_check.h"
#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/cpu/awq_simd.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/parallel.h"
#include "kernels/factories.h"

namespace qs {
namespace {

using awq::Limits;

// A tile of differences: large against the packing of the other factor in a
// matrix product, small against the cache that cores share.
constexpr int64_t kTileElements = int64_t{1} << 21;
constexpr int64_t kMostTileRows = 512;
// Columns of a product at once. With a triangular factor a block reads only the
// rows above its end, so narrow blocks save work and wide ones packing.
constexpr int64_t kBlockCols = 512;
// Differences of a tile of the clip search.
constexpr int64_t kClipElements = int64_t{1} << 17;
constexpr int64_t kQuantizeElements = int64_t{1} << 18;
// Multiplications between two calls of a checkpoint, a thread: 0.1 s.
constexpr double kCheckedWork = 5e9;

int64_t RowsOf(int64_t elements, int64_t cols, int64_t most) {
  return std::clamp<int64_t>(elements / cols, 1, most);
}

void Product(int64_t rows, int64_t cols, int64_t depth, const float* a,
             int64_t a_stride, const float* b, int64_t b_stride, float* c) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans,
              static_cast<blasint>(rows), static_cast<blasint>(cols),
              static_cast<blasint>(depth), 1.0f, a,
              static_cast<blasint>(a_stride), b, static_cast<blasint>(b_stride),
              0.0f, c, static_cast<blasint>(cols));
}

absl::Status Check(const PanelCheck& checkpoint, double done) {
  return checkpoint == nullptr ? absl::OkStatus() : checkpoint(done);
}

absl::Status NoMemory(int64_t floats) {
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot allocate a scratch of ", 4 * floats, " bytes"));
}

// The loss of candidates over tiles of rows.
class ScaleLoss {
 public:
  ScaleLoss(const AwqScaleLossArgs& args, int threads)
      : args_(args),
        threads_(threads),
        cols_(args.weights.front().cols),
        tile_rows_(RowsOf(kTileElements, cols_, kMostTileRows)) {
    const double work =
        static_cast<double>(tile_rows_ * cols_) * static_cast<double>(cols_);
    chunk_rows_ =
        tile_rows_ * threads_ *
        std::max<int64_t>(1, static_cast<int64_t>(kCheckedWork / work));
  }

  absl::Status Run() {
    for (int64_t c = 0; c < args_.candidates; ++c) {
      double loss = 0;
      for (const TensorView& weight : args_.weights) {
        QS_RETURN_IF_ERROR(AddWeight(c, weight, &loss));
      }
      args_.losses[c] = loss;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status AddWeight(int64_t c, const TensorView& weight, double* loss) {
    const int64_t rows = CeilDiv(weight.rows, args_.row_stride);
    std::vector<double> tiles(static_cast<size_t>(CeilDiv(rows, tile_rows_)));
    std::atomic<bool> failed{false};
    for (int64_t first = 0; first < rows; first += chunk_rows_) {
      QS_RETURN_IF_ERROR(Check(
          args_.checkpoint,
          static_cast<double>(c) / static_cast<double>(args_.candidates)));
      const int64_t count = std::min(chunk_rows_, rows - first);
      ParallelTiles(
          threads_, count, tile_rows_, [&](int64_t begin, int64_t end) {
            const int64_t at = first + begin;
            if (!TileLoss(c, weight, at, end - begin,
                          &tiles[static_cast<size_t>(at / tile_rows_)])) {
              failed = true;
            }
          });
      if (failed) return NoMemory(tile_rows_ * (cols_ + kBlockCols));
    }
    *loss = std::accumulate(tiles.begin(), tiles.end(), *loss);
    return absl::OkStatus();
  }

  // What solved codes can be expected to leave.
  void ExpectedLoss(int64_t c, const TensorView& weight, int64_t first,
                    int64_t rows, double* loss) const {
    const float* s = args_.scales + c * cols_;
    const int64_t size = args_.grid.group_size;
    std::vector<double> costs(static_cast<size_t>(cols_ / size));
    for (int64_t k = 0; k < cols_; ++k) {
      costs[static_cast<size_t>(k / size)] +=
          static_cast<double>(args_.curvature[k]) / s[k] / s[k];
    }
    std::vector<double> steps(costs.size());
    for (int64_t r = first; r < first + rows; ++r) {
      awq::SquaredSteps(args_.grid, weight, s, r * args_.row_stride,
                        steps.data());
      for (size_t g = 0; g < costs.size(); ++g) {
        *loss += steps[g] / 12 * costs[g];
      }
    }
  }

  // False: no memory.
  bool TileLoss(int64_t c, const TensorView& weight, int64_t first,
                int64_t rows, double* loss) const {
    if (args_.curvature != nullptr) {
      ExpectedLoss(c, weight, first, rows, loss);
      return true;
    }
    auto delta = Buffer::Allocate(rows * cols_ * 4);
    auto product = Buffer::Allocate(rows * kBlockCols * 4);
    if (!delta.ok() || !product.ok()) return false;
    float* const d = delta->As<float>();
    float* const p = product->As<float>();
    awq::DeltaRows(args_.grid, weight, args_.scales + c * cols_,
                   first * args_.row_stride, rows, args_.row_stride, d);
    const float* matrix =
        args_.factor != nullptr ? args_.factor : args_.second_moment;
    for (int64_t col = 0; col < cols_; col += kBlockCols) {
      const int64_t width = std::min(kBlockCols, cols_ - col);
      const int64_t depth = args_.factor != nullptr ? col + width : cols_;
      Product(rows, width, depth, d, cols_, matrix + col, cols_, p);
      for (int64_t r = 0; r < rows; ++r) {
        const float* with =
            args_.factor != nullptr ? p + r * width : d + r * cols_ + col;
        *loss += awq::DotRow(p + r * width, with, width);
      }
    }
    return true;
  }

  const AwqScaleLossArgs& args_;
  const int threads_;
  const int64_t cols_;
  const int64_t tile_rows_;
  int64_t chunk_rows_ = 0;
};

// The clip search of one group of columns over a tile of rows.
class ClipTile {
 public:
  ClipTile(const AwqClipArgs& args, const float* block, int64_t group,
           int64_t first_row, int64_t rows)
      : args_(args),
        block_(block),
        size_(args.grid.group_size),
        group_(group),
        first_row_(first_row),
        rows_(rows) {}

  static int64_t Floats(int64_t rows, int64_t size) {
    return rows * (awq::PaddedCount(size) + 2 * awq::kClipSteps * size) + 16;
  }

  void Run(float* scratch) {
    weights_ = scratch;
    deltas_ = weights_ + rows_ * awq::PaddedCount(size_);
    // Padding of the last row of differences ends in what is still unwritten.
    products_ = deltas_ + rows_ * awq::kClipSteps * size_ + 16;
    Prepare();
    Round(0, awq::kClipSteps);
    if (args_.grid.rule == AwqRule::kBest) {
      for (int round = 1; round < awq::kClipRounds; ++round) {
        Round(round, awq::kClipMoves);
      }
    }
    const int64_t groups = args_.weight.cols / size_;
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t at = (first_row_ + r) * groups + group_;
      args_.low[at] = best_[static_cast<size_t>(r)].low;
      args_.high[at] = best_[static_cast<size_t>(r)].high;
    }
  }

 private:
  const float* Row(int64_t r) const {
    return weights_ + r * awq::PaddedCount(size_);
  }

  void Prepare() {
    ranges_.resize(static_cast<size_t>(rows_));
    for (int64_t r = 0; r < rows_; ++r) {
      awq::ScaleColumns(args_.grid, args_.weight, args_.scales, first_row_ + r,
                        group_ * size_, size_,
                        weights_ + r * awq::PaddedCount(size_));
      const Limits range = awq::FindRange(Row(r), size_);
      ranges_[static_cast<size_t>(r)] = {std::min(0.0f, range.low),
                                         std::max(0.0f, range.high)};
    }
    best_.resize(static_cast<size_t>(rows_));
    errors_.assign(static_cast<size_t>(rows_), INFINITY);
  }

  Limits Candidate(int round, int k, const Limits& range,
                   const Limits& start) const {
    if (round > 0) {
      return awq::MoveLimits(args_.grid, round, k, range.low, range.high,
                             start);
    }
    const float factor = awq::ClipFactor(k);
    const bool automatic = args_.grid.rule == AwqRule::kAutoAwq;
    if (!automatic && !args_.grid.symmetric) {
      return {range.low * factor, range.high * factor};
    }
    float top = std::max(-range.low, range.high) * factor;
    if (automatic) top = affine::RoundTo(args_.weight.dtype, top);
    return {-top, top};
  }

  void Round(int round, int candidates) {
    std::vector<Limits> limits(static_cast<size_t>(rows_ * candidates));
    for (int64_t r = 0; r < rows_; ++r) {
      Limits* own = limits.data() + r * candidates;
      for (int k = 0; k < candidates; ++k) {
        own[k] = Candidate(round, k, ranges_[static_cast<size_t>(r)],
                           best_[static_cast<size_t>(r)]);
      }
      awq::ClipDeltas(args_.grid, Row(r), size_, own, candidates,
                      deltas_ + r * candidates * size_);
    }
    Product(rows_ * candidates, size_, size_, deltas_, size_, block_, size_,
            products_);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int k = 0; k < candidates; ++k) {
        const int64_t at = r * candidates + k;
        const double error =
            awq::DotRow(deltas_ + at * size_, products_ + at * size_, size_);
        const bool first = round == 0 && k == 0;
        if (!first && !(error < errors_[static_cast<size_t>(r)])) continue;
        errors_[static_cast<size_t>(r)] = error;
        best_[static_cast<size_t>(r)] = limits[static_cast<size_t>(at)];
      }
    }
  }

  const AwqClipArgs& args_;
  const float* const block_;  // the group's, of the scaled input
  const int64_t size_;
  const int64_t group_;
  const int64_t first_row_;
  const int64_t rows_;
  float* weights_ = nullptr;
  float* deltas_ = nullptr;
  float* products_ = nullptr;
  std::vector<Limits> ranges_;
  std::vector<Limits> best_;
  std::vector<double> errors_;
};

// The group's diagonal block of S^-1 H S^-1.
void ScaledBlock(const AwqClipArgs& args, int64_t group, float* block) {
  const int64_t size = args.grid.group_size;
  const int64_t first = group * size;
  for (int64_t i = 0; i < size; ++i) {
    const float* h =
        args.second_moment + (first + i) * args.weight.cols + first;
    for (int64_t j = 0; j < size; ++j) {
      block[i * size + j] =
          args.scales == nullptr
              ? h[j]
              : h[j] / args.scales[first + i] / args.scales[first + j];
    }
  }
}

class AwqCpu final : public AwqOps {
 public:
  explicit AwqCpu(int threads) : threads_(threads) { UseOneBlasThread(); }

  absl::Status Statistics(const AwqStatisticsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(
        CheckAwqWeights(args.weights, {.group_size = args.group_size}));
    const int64_t cols = args.weights.front().cols;
    int64_t rows = 0;
    for (const TensorView& weight : args.weights) rows += weight.rows;
    std::vector<double> sums(static_cast<size_t>(cols));
    ParallelTiles(threads_, cols, args.group_size,
                  [&](int64_t begin, int64_t end) {
                    for (const TensorView& weight : args.weights) {
                      awq::AddColumnMeans(weight, begin, end - begin,
                                          sums.data() + begin);
                    }
                  });
    for (int64_t col = 0; col < cols; ++col) {
      args.w_mean[col] =
          affine::RoundTo(args.weights.front().dtype,
                          static_cast<float>(sums[static_cast<size_t>(col)] /
                                             static_cast<double>(rows)));
    }
    return absl::OkStatus();
  }

  absl::Status ScaleLosses(const AwqScaleLossArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqScaleLosses(args));
    return ScaleLoss(args, threads_).Run();
  }

  absl::Status ClipSearch(const AwqClipArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(args.weight, args.grid));
    const int64_t size = args.grid.group_size;
    const int64_t groups = args.weight.cols / size;
    QS_ASSIGN_OR_RETURN(Buffer block, Buffer::Allocate(size * size * 4));
    for (int64_t group = 0; group < groups; ++group) {
      QS_RETURN_IF_ERROR(
          Check(args.checkpoint,
                static_cast<double>(group) / static_cast<double>(groups)));
      ScaledBlock(args, group, block.As<float>());
      QS_RETURN_IF_ERROR(ClipGroup(args, group, block.As<float>()));
    }
    return absl::OkStatus();
  }

  absl::Status Quantize(const AwqQuantizeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAwqGrid(args.weight, args.grid));
    ParallelTiles(
        threads_, args.weight.rows,
        RowsOf(kQuantizeElements, args.weight.cols, kQuantizeElements),
        [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            awq::QuantizeRow(args, row);
          }
        });
    return absl::OkStatus();
  }

 private:
  absl::Status ClipGroup(const AwqClipArgs& args, int64_t group,
                         const float* block) const {
    const int64_t size = args.grid.group_size;
    const int64_t tile =
        RowsOf(kClipElements, size * awq::kClipSteps, kMostTileRows);
    std::atomic<bool> failed{false};
    ParallelTiles(
        threads_, args.weight.rows, tile, [&](int64_t begin, int64_t end) {
          const int64_t rows = end - begin;
          auto scratch =
              Buffer::Allocate((ClipTile::Floats(rows, size) + 16) * 4);
          if (!scratch.ok()) {
            failed = true;
            return;
          }
          ClipTile(args, block, group, begin, rows).Run(scratch->As<float>());
        });
    return failed ? NoMemory(ClipTile::Floats(tile, size)) : absl::OkStatus();
  }

  const int threads_;
};

}  // namespace

std::unique_ptr<AwqOps> NewAwqCpu(int threads) {
  return std::make_unique<AwqCpu>(threads);
}

}  // namespace qs
