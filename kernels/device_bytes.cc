// Each function names the arrays in the order in which the operation takes
// them (kernels/cuda/staged_*.cc, then *_cuda.cc).
// Tested by tests/quant/device_estimate_test.cc.
#include "kernels/device_bytes.h"

#include "kernels/awq_math.h"
#include "kernels/awq_pieces.h"
#include "kernels/base/checked_math.h"
#include "kernels/gptq_tables.h"
#include "kernels/hqq_sums.h"

namespace qs {
namespace {

constexpr int64_t kF32 = 4;
constexpr int64_t kI32 = 4;
constexpr int64_t kF64 = 8;
constexpr int64_t kIndex = 8;

// What a workspace takes for arrays, each aligned.
class Arrays {
 public:
  Arrays& Add(int64_t count, int64_t size) {
    constexpr int64_t kAlignment = 256;
    taken_ +=
        CeilDiv(std::max<int64_t>(count * size, 1), kAlignment) * kAlignment;
    return *this;
  }
  Arrays& Add(const TensorView& view) {
    return Add(view.num_elements(), DTypeBytes(view.dtype));
  }
  Arrays& Add(const Arrays& others) {
    taken_ += others.taken_;
    return *this;
  }
  // [cols, cols] F32, as an argument with the number `id`.
  Arrays& AddSquare(int64_t cols, ContentId id) {
    if (id == 0) return Add(cols * cols, kF32);
    kept_ += cols * cols * kF32;
    return *this;
  }
  operator DeviceBytes() const { return {taken_, kept_}; }

 private:
  int64_t taken_ = 0;
  int64_t kept_ = 0;
};

// NF4 weight, codes and scales.
Arrays Nf4Arrays(int64_t count, DType dtype, int64_t block_size) {
  return Arrays()
      .Add(count, DTypeBytes(dtype))
      .Add((count + 1) / 2, 1)
      .Add(CeilDiv(count, block_size), kF32);
}

Arrays NestedArrays(int64_t blocks) {
  return Arrays()
      .Add(blocks, kF32)
      .Add(blocks, 1)
      .Add(CeilDiv(blocks, kNestedBlockSize), kF32)
      .Add(1, kF32);
}

Arrays AffineArrays(int64_t count, DType dtype, int64_t group_size) {
  const int64_t groups = count / group_size;
  return Arrays()
      .Add(count, DTypeBytes(dtype))
      .Add(count, 1)
      .Add(groups, DTypeBytes(dtype))
      .Add(groups, 1);
}

// Runs of `length` codes packed, `count` of them.
Arrays PackArrays(int64_t count, int64_t length, int bits) {
  return Arrays()
      .Add(count * length, 1)
      .Add(count * CeilDiv(length * bits, 32), kI32);
}

int64_t Padded(int64_t rows, int64_t tile) {
  return CeilDiv(rows, tile) * tile;
}

// Codes and grids as stored.
Arrays GptqCodes(int64_t rows, int64_t cols, const GptqGrid& grid) {
  const int64_t groups = rows * CeilDiv(cols, grid.group_size);
  return Arrays()
      .Add(rows * cols, 1)
      .Add(groups, DTypeBytes(grid.scale_dtype))
      .Add(groups, 1);
}

// A tile of differences, and its product.
Arrays ErrorTiles(int64_t cols, const DeviceTiles& tiles) {
  return Arrays()
      .Add(tiles.solve_rows * cols, kF32)
      .Add(tiles.solve_rows * cols, kF32);
}

// Columns whose ranges one block of Solve finds: as many positions as groups
// that begin in it have.
int64_t WidestWindow(int64_t cols, int64_t group_size) {
  return std::min(cols, gptq::kBlock + group_size);
}

int64_t TileRows(int64_t elements, int64_t per_row) {
  return std::max<int64_t>(1, elements / per_row);
}

}  // namespace

// ------------------------------------------------------------------------ NF4

DeviceBytes DeviceBytesOf(const Nf4EncodeArgs& a) {
  return Nf4Arrays(a.weight.num_elements(), a.weight.dtype, a.block_size)
      .Add(1, kIndex);
}

DeviceBytes DeviceBytesOf(const Nf4DecodeArgs& a) {
  return Nf4Arrays(a.weight.num_elements(), a.weight.dtype, a.block_size);
}

DeviceBytes DeviceBytesOf(const NestedEncodeArgs& a) {
  return NestedArrays(a.num_blocks);
}

DeviceBytes DeviceBytesOf(const NestedDecodeArgs& a) {
  return NestedArrays(a.num_blocks);
}

DeviceBytes DeviceBytesOf(const NestedRefineArgs& a) {
  const int64_t n = a.weight.num_elements();
  const int64_t blocks = CeilDiv(n, a.block_size);
  return Nf4Arrays(n, a.weight.dtype, a.block_size)
      .Add(CeilDiv(a.first_block + blocks, kNestedBlockSize), kF32)
      .Add(1, kF32)
      .Add(blocks, 1)
      .Add(blocks, kF32);
}

// --------------------------------------------------------------------- affine

DeviceBytes DeviceBytesOf(const AffineEncodeArgs& a) {
  return AffineArrays(a.weight.num_elements(), a.weight.dtype, a.group_size)
      .Add(1, kIndex);
}

DeviceBytes DeviceBytesOf(const AffineDecodeArgs& a) {
  return AffineArrays(a.weight.num_elements(), a.weight.dtype, a.group_size);
}

DeviceBytes DeviceBytesOf(const PackRowsArgs& a) {
  return PackArrays(a.rows, a.cols, a.bits);
}

DeviceBytes DeviceBytesOf(const UnpackRowsArgs& a) {
  return PackArrays(a.rows, a.cols, a.bits);
}

DeviceBytes DeviceBytesOf(const PackColumnsArgs& a) {
  return PackArrays(a.cols, a.rows, a.bits);
}

DeviceBytes DeviceBytesOf(const UnpackColumnsArgs& a) {
  return PackArrays(a.cols, a.rows, a.bits);
}

DeviceBytes DeviceBytesOf(const PackAwqArgs& a) {
  return PackArrays(a.cols, a.rows, 4);
}

DeviceBytes DeviceBytesOf(const UnpackAwqArgs& a) {
  return PackArrays(a.cols, a.rows, 4);
}

DeviceBytes DeviceBytesOf(const PackPartsArgs& a) {
  return Arrays().Add(a.count, 1).Add(a.part, PackedPartBytes(a.bits));
}

DeviceBytes DeviceBytesOf(const UnpackPartsArgs& a) {
  return Arrays().Add(a.count, 1).Add(a.part, PackedPartBytes(a.bits));
}

// ---------------------------------------------------------- statistics and HQQ

DeviceBytes DeviceBytesOf(const ErrorSumsArgs& a) {
  // Of a run: two times its sums, and a histogram; of a group: its step.
  constexpr int64_t kRunBytes = 2 * 64 + kHistogramBins * kF32;
  constexpr int64_t kMeasureBytes = 16;
  const int64_t n = a.weight.num_elements();
  const int64_t groups = CeilDiv(n, a.group_size);
  return Arrays()
      .Add(a.weight)
      .Add(a.decoded)
      .Add(groups, kF32)
      .Add(1, sizeof(ErrorSums))
      .Add(groups, kF64)
      .Add(1, sizeof(ErrorSums))
      .Add(CeilDiv(n, kStatsRun) * kRunBytes + groups * kMeasureBytes, 1);
}

DeviceBytes DeviceBytesOf(const HqqEncodeArgs& a) {
  constexpr int64_t kMostKept = 20;  // iterations whose sums are there at once
  constexpr int64_t kColumnCount = 32;
  const int64_t n = a.weight.num_elements();
  const int64_t groups = n / a.group_size;
  const int power = hqq::CascadePower(n / kColumnCount);
  const int64_t blocks = n / kColumnCount >> (2 * power);
  return Arrays()
      .Add(a.weight)
      .Add(n, 1)
      .Add(groups, DTypeBytes(a.stored))
      .Add(groups, DTypeBytes(a.stored))
      .Add(groups, 1)
      .Add(1, kIndex)
      .Add(Arrays()
               .Add(256, 1)
               .Add(groups, kF32)
               .Add(groups, kF32)
               .Add(groups, kI32)
               .Add(kMostKept, kF32)
               .Add(kMostKept * blocks * kColumnCount, kF32)
               .Add(kMostKept * 2 * kColumnCount, kF32));
}

DeviceBytes DeviceBytesOf(const HqqDecodeArgs& a) {
  const int64_t n = a.weight.num_elements();
  const int64_t groups = n / a.group_size;
  return Arrays()
      .Add(n, 1)
      .Add(groups, DTypeBytes(a.weight.dtype))
      .Add(groups, DTypeBytes(a.weight.dtype))
      .Add(a.weight);
}

// -------------------------------------------------------------- second moments

DeviceBytes DeviceBytesOf(const GramAccumulateArgs& a,
                          const DeviceTiles& tiles) {
  constexpr int64_t kTokensPerSum = 128;
  const int64_t inputs = a.activations.cols;
  return Arrays()
      .Add(a.activations)
      .Add(inputs * inputs, kF64)
      .Add(inputs, kF64)
      .Add(1, kIndex)
      .Add(CeilDiv(a.activations.rows, kTokensPerSum) * inputs, kF64)
      .Add(inputs * std::min(inputs, tiles.gram_columns), kF32);
}

DeviceBytes DeviceBytesOf(const GramFinishArgs& a) {
  return Arrays()
      .Add(a.inputs * a.inputs, kF64)
      .Add(a.inputs, kF64)
      .Add(a.inputs * a.inputs, kF32)
      .Add(a.inputs, kF32);
}

// ----------------------------------------------------------------------- GPTQ

DeviceBytes DeviceBytesOf(const GptqFactorArgs& a, const DeviceTiles& tiles) {
  const int64_t n = a.size;
  const bool in_place = a.factor != nullptr && a.hessian == a.factor;
  Arrays sum;
  sum.Add(n, kI32).Add(n * n, kF32);
  // The result beside the input, or F32's attempt, which must not lose it.
  if (!in_place || !a.in_f64) sum.Add(n * n, kF32);
  return sum.Add(n, kF64)
      .Add(2, kI32)
      .Add(2, kIndex)
      .Add(n, kF32)
      .Add(MostFactorScratch(n, tiles), 1)
      .Add(1, kI32)
      .Add(n * n, kF64)
      .Add(n, kF32);
}

DeviceBytes DeviceBytesOf(const GptqSolveArgs& a, const DeviceTiles& tiles) {
  const int64_t rows = a.weight.rows;
  const int64_t cols = a.weight.cols;
  const bool factored = a.factor != nullptr || a.factor_id != 0;
  const bool ranges_first = a.static_groups || a.grid.group_size == cols;
  const int64_t padded = Padded(rows, tiles.solve_rows);
  const int64_t grids = padded * CeilDiv(cols, a.grid.group_size);
  Arrays sum;
  sum.Add(a.weight);
  if (factored) sum.AddSquare(cols, a.factor_id);
  sum.Add(cols, kI32)
      .Add(cols, kI32)
      .Add(cols, 1)
      .Add(GptqCodes(rows, cols, a.grid))
      .Add(rows, kF64)
      .Add(1, kIndex);
  for (int plan = 0; plan < 4; ++plan) sum.Add(cols, kI32);
  sum.Add(padded * cols, kF32)
      .Add(padded * cols, kF32)
      .Add(padded * cols, 1)
      .Add(grids, kF32)
      .Add(grids, kF32);
  if (!factored || ranges_first) return sum;
  return sum.Add(padded * WidestWindow(cols, a.grid.group_size), kF32);
}

DeviceBytes DeviceBytesOf(const GptqRefineArgs& a, const DeviceTiles& tiles) {
  const int64_t rows = a.weight.rows;
  const int64_t cols = a.weight.cols;
  const int64_t padded = Padded(rows, tiles.solve_rows);
  const int64_t tile = tiles.solve_rows * cols;
  Arrays sum;
  sum.Add(a.weight)
      .AddSquare(cols, a.hessian_id)
      .Add(GptqCodes(rows, cols, a.grid))
      .Add(rows, kF64)
      .Add(padded * cols, kF32)
      .Add(rows, kI32)
      .Add(rows, kI32)
      .Add(1, kI32)
      .Add(padded * gptq::kBlock, kF32)
      .Add(tile, kF32);
  if (a.grid.group_size > gptq::kBlock && a.refit_scales) {
    sum.Add(tile, kF32)
        .Add(tile, kF32)
        .Add(tiles.solve_rows * CeilDiv(cols, a.grid.group_size), kF32);
  }
  return sum.Add(2, kIndex)
      .Add(cols, kF32)
      .Add(rows * cols, DTypeBytes(a.grid.decoded_dtype))
      .Add(ErrorTiles(cols, tiles));
}

DeviceBytes DeviceBytesOf(const GptqDecodeArgs& a) {
  return GptqCodes(a.weight.rows, a.weight.cols, a.grid)
      .Add(a.weight.cols, kI32)
      .Add(a.weight);
}

DeviceBytes DeviceBytesOf(const GptqErrorArgs& a, const DeviceTiles& tiles) {
  return Arrays()
      .Add(a.weight)
      .Add(a.decoded)
      .AddSquare(a.weight.cols, a.hessian_id)
      .Add(a.weight.rows, kF64)
      .Add(a.weight.rows, kF64)
      .Add(ErrorTiles(a.weight.cols, tiles));
}

// ------------------------------------------------------------------------ AWQ

DeviceBytes DeviceBytesOf(const AwqStatisticsArgs& a) {
  const int64_t cols = a.weights.front().cols;
  Arrays sum;
  ForAwqRuns(a.weights, true,
             [&](std::span<const TensorView> run, int64_t rows) {
               sum.Add(rows * cols, DTypeBytes(run.front().dtype))
                   .Add(rows * (cols / a.group_size), kF32);
             });
  return sum.Add(cols, kF64);
}

DeviceBytes DeviceBytesOf(const AwqScaleLossArgs& a, const DeviceTiles& tiles) {
  const int64_t cols = a.weights.front().cols;
  const int64_t tile_rows = TileRows(tiles.loss_elements, cols);
  Arrays sum;
  int64_t products = 0;
  int64_t most = 1;
  const auto add = [&](std::span<const TensorView> run, int64_t all_rows) {
    sum.Add(all_rows * cols, DTypeBytes(run.front().dtype));
    const int64_t rows = CeilDiv(all_rows, a.row_stride);
    most = std::max(most, std::min(rows, tile_rows));
    products += CeilDiv(std::max<int64_t>(rows, 1), tile_rows) *
                CeilDiv(cols, tiles.loss_columns);
  };
  ForAwqRuns(a.weights, a.row_stride == 1, add);
  sum.Add(cols, kF32)
      .Add(a.candidates * cols, kF32)
      .Add(products * tiles.loss_parts, kF64);
  if (a.curvature != nullptr) return sum.Add(cols, kF64);
  return sum.AddSquare(cols, a.matrix_id)
      .Add(most * cols, kF32)
      .Add(most * std::min(cols, tiles.loss_columns), kF32)
      .Add(cols * cols, kF32);
}

DeviceBytes DeviceBytesOf(const AwqClipArgs& a, const DeviceTiles& tiles) {
  const int64_t cols = a.weight.cols;
  const int64_t groups = a.weight.rows * (cols / a.grid.group_size);
  const int64_t tests = tiles.clip_rows * awq::kClipSteps * cols;
  return Arrays()
      .Add(a.weight)
      .AddSquare(cols, a.second_moment_id)
      .Add(groups, kF32)
      .Add(groups, kF32)
      .Add(cols, kF32)
      .Add(cols * a.grid.group_size, kF32)
      .Add(tests, kF32)
      .Add(tests, kF32)
      .Add(groups, kF64);
}

DeviceBytes DeviceBytesOf(const AwqQuantizeArgs& a) {
  const int64_t n = a.weight.num_elements();
  const int64_t groups = n / a.grid.group_size;
  return Arrays()
      .Add(a.weight)
      .Add(groups, kF32)
      .Add(groups, kF32)
      .Add(n, 1)
      .Add(groups, DTypeBytes(a.grid.scale_dtype))
      .Add(groups, 1)
      .Add(a.decoded == nullptr ? 0 : n, kF32)
      .Add(a.weight.cols, kF32);
}

}  // namespace qs
