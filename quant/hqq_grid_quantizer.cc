// Tested by tests/quant/hqq_quantizer_test.cc.
#include <algorithm>
#include <utility>

#include "kernels/base/checked_math.h"
#include "quant/formats/grid_writer.h"
#include "quant/hqq_base.h"

namespace qs::hqq {
namespace {

constexpr int64_t kWordBits = 32;

// Rows of codes with integer zero points.
class GridQuantizer final : public QuantizerOfGroups {
 public:
  GridQuantizer(const QuantSpec& spec, TensorInfo info,
                const QuantizeOptions& options, const Cut& cut)
      : QuantizerOfGroups(spec, std::move(info), options, cut) {}

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(AllocateBooks());
    QS_ASSIGN_OR_RETURN(writer_, GridWriter::Create(spec(),
                                                    {info().name, info().dtype,
                                                     cut().rows, cut().cols},
                                                    streams()));
    return absl::OkStatus();
  }

 private:
  absl::Status EncodeTile(int64_t tile, int64_t begin, int64_t end,
                          Backend& backend) override {
    QS_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Allocate(ScratchBytes(
                                             spec(), cut(), info().dtype)));
    const Measuring measuring = TakeMeasuring(&scratch);
    const int64_t encoded =
        cut().whole ? cut().elements() : cut().slice_elements();
    Slice all;
    all.codes = scratch.Take<uint8_t>(encoded);
    all.scales = scratch.Take<uint8_t>(encoded / cut().group_size * element());
    all.zero_points = scratch.Take<uint8_t>(encoded / cut().group_size);
    uint8_t* words = nullptr;
    if (writer_->streams()) {
      QS_ASSIGN_OR_RETURN(
          words, BeginTileOutput(
                     tile, writer_->StreamedBytes((end - begin) / cut().cols)));
    }
    if (cut().whole) {
      all.weight = InputView(begin, cut().rows, cut().cols);
      QS_RETURN_IF_ERROR(Encode(all, tile, backend));
    }
    return ForSlices(begin, end, [&](int64_t from, int64_t to) {
      Slice slice = all;
      if (cut().whole) MoveTo(from, &slice);
      slice.begin = from;
      slice.count = to - from;
      slice.weight = InputView(from, slice.count / cut().cols, cut().cols);
      uint8_t* at =
          words == nullptr
              ? nullptr
              : words + writer_->StreamedBytes((from - begin) / cut().cols);
      return RunSlice(slice, tile, at, measuring, backend);
    });
  }

  void MoveTo(int64_t from, Slice* slice) const {
    slice->codes += from;
    slice->scales += from / cut().group_size * element();
    slice->zero_points += from / cut().group_size;
  }

  absl::Status RunSlice(const Slice& slice, int64_t tile, uint8_t* words,
                        const Measuring& measuring, Backend& backend) {
    if (!cut().whole) QS_RETURN_IF_ERROR(Encode(slice, tile, backend));
    GridRows rows;
    rows.first_row = slice.begin / cut().cols;
    rows.rows = slice.count / cut().cols;
    rows.codes = slice.codes;
    rows.scales = slice.scales;
    rows.zero_points = slice.zero_points;
    rows.words = reinterpret_cast<uint32_t*>(words);
    rows.clock = &clock(tile);
    QS_RETURN_IF_ERROR(writer_->AddRows(rows, backend));
    if (!options().error_report) return absl::OkStatus();
    clock(tile).Enter(Phase::kReport);
    AffineDecodeArgs decode;
    decode.codes = slice.codes;
    decode.scales = slice.scales;
    decode.zero_points = slice.zero_points;
    decode.bits = hqq().bits;
    decode.group_size = cut().group_size;
    decode.weight = {measuring.decoded, info().dtype, rows.rows, cut().cols};
    QS_RETURN_IF_ERROR(backend.affine().Decode(decode, backend.stream()));
    return Measure(tile, slice.begin / cut().group_size, slice.weight,
                   decode.weight, slice.scales, measuring, backend);
  }

  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend&) override {
    ReleaseInput();
    return writer_->Finish();
  }

  StreamedOutput streamed_output() const override {
    if (!writer_->streams()) return {};
    return {info().name + "_packed",
            DType::kI32,
            {cut().rows, CeilDiv(cut().cols * hqq().bits, kWordBits)},
            writer_->StreamedBytes(cut().rows)};
  }

  std::unique_ptr<GridWriter> writer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewGridQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  const Cut cut = MakeCut(spec, info, options.large_tiles);
  auto quantizer =
      std::make_unique<GridQuantizer>(spec, std::move(info), options, cut);
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  return quantizer;
}

}  // namespace qs::hqq
