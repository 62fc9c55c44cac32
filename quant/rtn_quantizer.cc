// Tested by tests/quant/tensor_quantizer_test.cc and
// tests/quant/quality_test.cc.
#include "quant/rtn_quantizer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/compressed_tensors.h"

namespace qs {
namespace {

constexpr int64_t kWordBits = 32;
constexpr int64_t kWordBytes = 4;

// The tensor as RTN sees it.
struct Layout {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;
  int64_t groups = 0;  // a row
  int64_t words_per_row = 0;
  int64_t slice_rows = 0;
  int64_t tile_rows = 0;
};

Layout MakeLayout(const RtnSpec& spec, const TensorInfo& info,
                  const QuantizeOptions& options) {
  const MatrixShape shape = AsMatrix(info.shape);
  Layout layout;
  layout.rows = shape.rows;
  layout.cols = shape.cols;
  layout.group_size = spec.group_size == -1 ? shape.cols : spec.group_size;
  layout.groups = shape.cols / layout.group_size;
  layout.words_per_row = CeilDiv(shape.cols * spec.bits, kWordBits);
  const int64_t unit = spec.symmetric ? 1 : kWordBits;
  const int64_t slices = kSliceElements / (unit * shape.cols);
  layout.slice_rows = unit * std::max<int64_t>(1, slices);
  const int64_t slice_bytes =
      layout.slice_rows * shape.cols * DTypeBytes(info.dtype);
  layout.tile_rows =
      layout.slice_rows * std::max<int64_t>(1, kTileBytes / slice_bytes);
  if (options.large_tiles) layout.slice_rows = layout.tile_rows;
  return layout;
}

Partition MakePartition(const Layout& layout) {
  return {.num_elements = layout.rows * layout.cols,
          .tile_elements = layout.tile_rows * layout.cols,
          .group_size = layout.group_size};
}

int64_t ScratchBytes(const RtnSpec& spec, const Layout& layout, DType dtype) {
  const int64_t rows = std::min(layout.slice_rows, layout.rows);
  const int64_t n = rows * layout.cols;
  const int64_t groups = rows * layout.groups;
  const auto f32 = static_cast<int64_t>(sizeof(float));
  const auto f64 = static_cast<int64_t>(sizeof(double));
  const int64_t zero_points = spec.symmetric ? 0 : Scratch::Padded(groups);
  return 2 * Scratch::Padded(n) + 2 * Scratch::Padded(n * DTypeBytes(dtype)) +
         2 * zero_points + Scratch::Padded(groups * f32) +
         Scratch::Padded(groups * f64);
}

class RtnQuantizer final : public QuantizerBase {
 public:
  RtnQuantizer(const QuantSpec& spec, TensorInfo info,
               const QuantizeOptions& options, const Layout& layout)
      : QuantizerBase(spec, std::move(info), options, MakePartition(layout)),
        rtn_(*spec.rtn()),
        layout_(layout) {}

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(AllocateInput());
    if (!streams()) {
      QS_ASSIGN_OR_RETURN(words_, Buffer::Allocate(WordBytes(layout_.rows)));
    }
    QS_ASSIGN_OR_RETURN(scales_,
                        Buffer::Allocate(layout_.rows * layout_.groups *
                                         DTypeBytes(info().dtype)));
    if (rtn_.symmetric) return absl::OkStatus();
    QS_ASSIGN_OR_RETURN(
        zero_point_words_,
        Buffer::Allocate(CeilDiv(layout_.rows * rtn_.bits, kWordBits) *
                         layout_.groups * kWordBytes));
    return absl::OkStatus();
  }

 private:
  // One slice and the places of its parts.
  struct Slice {
    int64_t tile = 0;
    int64_t first_row = 0;
    int64_t rows = 0;
    TensorView weight;
    void* scales = nullptr;
    uint32_t* words = nullptr;
    uint32_t* zero_point_words = nullptr;
    // Scratch.
    uint8_t* staging = nullptr;
    uint8_t* codes = nullptr;
    uint8_t* unpacked = nullptr;
    uint8_t* zero_points = nullptr;  // null when symmetric
    uint8_t* unpacked_zero_points = nullptr;
    void* decoded = nullptr;
    float* steps = nullptr;
    double* group_errors = nullptr;
  };

  absl::Status EncodeTile(int64_t tile, int64_t begin, int64_t end,
                          Backend& backend) override;
  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend& backend) override;

  bool stages_input() const override { return true; }
  StreamedOutput streamed_output() const override {
    if (!streams()) return {};
    return {info().name + "_packed",
            DType::kI32,
            {layout_.rows, layout_.words_per_row},
            WordBytes(layout_.rows)};
  }
  int64_t WordBytes(int64_t rows) const {
    return rows * layout_.words_per_row * kWordBytes;
  }

  Slice TakeScratch(int64_t tile, Scratch* scratch) const;
  void MoveTo(int64_t first_row, int64_t rows, Slice* slice);  // but `words`
  absl::Status RunSlice(const Slice& slice, Backend& backend);
  absl::Status Encode(const Slice& slice, Backend& backend) const;
  absl::Status PackAndCheck(const Slice& slice, Backend& backend);
  absl::Status PackAndCheckZeroPoints(const Slice& slice, Backend& backend);
  absl::Status Measure(const Slice& slice, Backend& backend);

  const RtnSpec rtn_;
  const Layout layout_;
  Buffer words_;
  Buffer scales_;
  Buffer zero_point_words_;
};

RtnQuantizer::Slice RtnQuantizer::TakeScratch(int64_t tile,
                                              Scratch* scratch) const {
  const int64_t rows = std::min(layout_.slice_rows, layout_.rows);
  const int64_t n = rows * layout_.cols;
  const int64_t groups = rows * layout_.groups;
  Slice slice;
  slice.tile = tile;
  slice.codes = scratch->Take<uint8_t>(n);
  slice.unpacked = scratch->Take<uint8_t>(n);
  slice.decoded = scratch->Take<uint8_t>(n * DTypeBytes(info().dtype));
  slice.staging = scratch->Take<uint8_t>(n * DTypeBytes(info().dtype));
  slice.steps = scratch->Take<float>(groups);
  slice.group_errors = scratch->Take<double>(groups);
  if (!rtn_.symmetric) {
    slice.zero_points = scratch->Take<uint8_t>(groups);
    slice.unpacked_zero_points = scratch->Take<uint8_t>(groups);
  }
  return slice;
}

void RtnQuantizer::MoveTo(int64_t first_row, int64_t rows, Slice* slice) {
  slice->first_row = first_row;
  slice->rows = rows;
  slice->weight =
      StagedInput(first_row * layout_.cols, rows, layout_.cols, slice->staging);
  slice->scales =
      scales_.data() + first_row * layout_.groups * DTypeBytes(info().dtype);
  if (!rtn_.symmetric) {
    slice->zero_point_words =
        zero_point_words_.As<uint32_t>() +
        first_row * rtn_.bits / kWordBits * layout_.groups;
  }
}

absl::Status RtnQuantizer::EncodeTile(int64_t tile, int64_t begin, int64_t end,
                                      Backend& backend) {
  QS_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Allocate(ScratchBytes(
                                           rtn_, layout_, info().dtype)));
  Slice slice = TakeScratch(tile, &scratch);
  const int64_t first_row = begin / layout_.cols;
  const int64_t end_row = end / layout_.cols;
  uint8_t* words = words_.data() + WordBytes(first_row);
  if (streams()) {
    QS_ASSIGN_OR_RETURN(words,
                        BeginTileOutput(tile, WordBytes(end_row - first_row)));
  }
  for (int64_t row = first_row; row < end_row; row += layout_.slice_rows) {
    QS_RETURN_IF_ERROR(CheckCancelled());
    MoveTo(row, std::min(layout_.slice_rows, end_row - row), &slice);
    slice.words =
        reinterpret_cast<uint32_t*>(words + WordBytes(row - first_row));
    QS_RETURN_IF_ERROR(RunSlice(slice, backend));
  }
  return absl::OkStatus();
}

absl::Status RtnQuantizer::RunSlice(const Slice& slice, Backend& backend) {
  clock(slice.tile).Enter(Phase::kEncode);
  QS_RETURN_IF_ERROR(Encode(slice, backend));
  QS_RETURN_IF_ERROR(PackAndCheck(slice, backend));
  if (!rtn_.symmetric) {
    QS_RETURN_IF_ERROR(PackAndCheckZeroPoints(slice, backend));
  }
  if (!options().error_report) return absl::OkStatus();
  clock(slice.tile).Enter(Phase::kReport);
  return Measure(slice, backend);
}

absl::Status RtnQuantizer::Encode(const Slice& slice, Backend& backend) const {
  int64_t first_non_finite = -1;
  AffineEncodeArgs args;
  args.weight = slice.weight;
  args.bits = rtn_.bits;
  args.group_size = layout_.group_size;
  args.symmetric = rtn_.symmetric;
  args.search = spec().profile == Profile::kBest ? AffineSearch::kBestRange
                                                 : AffineSearch::kMinMax;
  args.codes = slice.codes;
  args.scales = slice.scales;
  args.zero_points = slice.zero_points;
  args.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.affine().Encode(args, backend.stream()));
  return first_non_finite < 0 ? absl::OkStatus()
                              : NonFiniteError(slice.first_row * layout_.cols +
                                               first_non_finite);
}

absl::Status RtnQuantizer::PackAndCheck(const Slice& slice, Backend& backend) {
  clock(slice.tile).Enter(Phase::kPack);
  PackRowsArgs pack;
  pack.codes = slice.codes;
  pack.rows = slice.rows;
  pack.cols = layout_.cols;
  pack.bits = rtn_.bits;
  pack.words = slice.words;
  QS_RETURN_IF_ERROR(backend.affine().PackRows(pack, backend.stream()));
  clock(slice.tile).Enter(Phase::kVerify);
  UnpackRowsArgs unpack;
  unpack.words = slice.words;
  unpack.rows = slice.rows;
  unpack.cols = layout_.cols;
  unpack.bits = rtn_.bits;
  unpack.codes = slice.unpacked;
  QS_RETURN_IF_ERROR(backend.affine().UnpackRows(unpack, backend.stream()));
  const auto n = static_cast<size_t>(slice.rows * layout_.cols);
  return std::memcmp(slice.codes, slice.unpacked, n) == 0
             ? absl::OkStatus()
             : VerificationError(slice.first_row * layout_.cols);
}

absl::Status RtnQuantizer::PackAndCheckZeroPoints(const Slice& slice,
                                                  Backend& backend) {
  clock(slice.tile).Enter(Phase::kPack);
  PackColumnsArgs pack;
  pack.codes = slice.zero_points;
  pack.rows = slice.rows;
  pack.cols = layout_.groups;
  pack.bits = rtn_.bits;
  pack.words = slice.zero_point_words;
  QS_RETURN_IF_ERROR(backend.affine().PackColumns(pack, backend.stream()));
  clock(slice.tile).Enter(Phase::kVerify);
  UnpackColumnsArgs unpack;
  unpack.words = slice.zero_point_words;
  unpack.rows = slice.rows;
  unpack.cols = layout_.groups;
  unpack.bits = rtn_.bits;
  unpack.codes = slice.unpacked_zero_points;
  QS_RETURN_IF_ERROR(backend.affine().UnpackColumns(unpack, backend.stream()));
  const auto n = static_cast<size_t>(slice.rows * layout_.groups);
  return std::memcmp(slice.zero_points, slice.unpacked_zero_points, n) == 0
             ? absl::OkStatus()
             : VerificationError(slice.first_row * layout_.cols);
}

absl::Status RtnQuantizer::Measure(const Slice& slice, Backend& backend) {
  AffineDecodeArgs decode;
  decode.codes = slice.unpacked;
  decode.scales = slice.scales;
  decode.zero_points = slice.unpacked_zero_points;
  decode.bits = rtn_.bits;
  decode.group_size = layout_.group_size;
  decode.weight = {slice.decoded, info().dtype, slice.rows, layout_.cols};
  QS_RETURN_IF_ERROR(backend.affine().Decode(decode, backend.stream()));
  for (int64_t g = 0; g < slice.rows * layout_.groups; ++g) {
    slice.steps[g] = LoadAsFloat(slice.scales, info().dtype, g);
  }
  return errors().Measure(slice.tile,
                          {.weight = slice.weight,
                           .decoded = decode.weight,
                           .steps = slice.steps,
                           .first_group = slice.first_row * layout_.groups,
                           .group_errors = slice.group_errors},
                          backend);
}

absl::StatusOr<std::vector<OutputTensor>> RtnQuantizer::Assemble(Backend&) {
  ReleaseInput();
  AffinePieces pieces;
  pieces.words = std::move(words_);
  pieces.scales = std::move(scales_);
  pieces.zero_point_words = std::move(zero_point_words_);
  return CompressedTensors(SpecGrid(spec()), info().name, info().dtype,
                           layout_.rows, layout_.cols, std::move(pieces));
}

}  // namespace

TensorSizes RtnSizes(const RtnSpec& spec, const TensorInfo& info,
                     const QuantizeOptions& options) {
  const Layout layout = MakeLayout(spec, info, options);
  TensorSizes sizes;
  // weight_packed, weight_scale, weight_shape (two I64).
  sizes.output = layout.rows * layout.words_per_row * kWordBytes +
                 layout.rows * layout.groups * DTypeBytes(info.dtype) + 16;
  if (!spec.symmetric) {
    sizes.output += CeilDiv(layout.rows * spec.bits, kWordBits) *
                    layout.groups * kWordBytes;
  }
  sizes.tile_input = std::min(layout.tile_rows, layout.rows) * layout.cols *
                     DTypeBytes(info.dtype);
  sizes.tile_scratch =
      Buffer::BytesTaken(ScratchBytes(spec, layout, info.dtype));
  return sizes;
}

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewRtnQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  const Layout layout = MakeLayout(*spec.rtn(), info, options);
  auto quantizer =
      std::make_unique<RtnQuantizer>(spec, std::move(info), options, layout);
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  return quantizer;
}

}  // namespace qs
