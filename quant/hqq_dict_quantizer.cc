// Tested by tests/quant/hqq_quantizer_test.cc.
#include <algorithm>
#include <cstring>
#include <utility>

#include "quant/formats/hqq_format.h"
#include "quant/hqq_base.h"

namespace qs::hqq {
namespace {

// hqq's own format: the codes wait for their packing.
class DictQuantizer final : public QuantizerOfGroups {
 public:
  DictQuantizer(const QuantSpec& spec, TensorInfo info,
                const QuantizeOptions& options, const Cut& cut)
      : QuantizerOfGroups(spec, info, options, cut),
        layout_(HqqLayoutOf(*spec.hqq(), info.name, info.dtype, cut.rows,
                            cut.cols)) {}

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(CheckHqqLayout(layout_));
    QS_RETURN_IF_ERROR(AllocateBooks());
    QS_ASSIGN_OR_RETURN(codes_, Buffer::Allocate(cut().elements()));
    const int64_t side = cut().groups() * element();
    QS_ASSIGN_OR_RETURN(scales_, Buffer::Allocate(side));
    QS_ASSIGN_OR_RETURN(zeros_, Buffer::Allocate(side));
    return absl::OkStatus();
  }

 private:
  absl::Status EncodeTile(int64_t tile, int64_t begin, int64_t end,
                          Backend& backend) override {
    QS_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Allocate(ScratchBytes(
                                             spec(), cut(), info().dtype)));
    const Measuring measuring = TakeMeasuring(&scratch);
    if (cut().whole) {
      QS_RETURN_IF_ERROR(Encode(At(begin, end), tile, backend));
    }
    return ForSlices(begin, end, [&](int64_t from, int64_t to) {
      const Slice slice = At(from, to);
      if (!cut().whole) QS_RETURN_IF_ERROR(Encode(slice, tile, backend));
      return options().error_report
                 ? MeasureSlice(slice, tile, measuring, backend)
                 : absl::OkStatus();
    });
  }

  Slice At(int64_t begin, int64_t end) {
    const int64_t side = begin / cut().group_size * element();
    Slice slice;
    slice.begin = begin;
    slice.count = end - begin;
    slice.weight = InputView(begin, 1, end - begin);
    slice.codes = codes_.data() + begin;
    slice.scales = scales_.data() + side;
    slice.zeros = zeros_.data() + side;
    return slice;
  }

  // `slice` stands for its groups, which with axis 0 lie elsewhere.
  absl::Status MeasureSlice(const Slice& slice, int64_t tile,
                            const Measuring& measuring, Backend& backend) {
    clock(tile).Enter(Phase::kReport);
    TensorView weight = slice.weight;
    HqqDecodeArgs decode;
    decode.codes = slice.codes;
    decode.scales = slice.scales;
    decode.zeros = slice.zeros;
    decode.group_size = cut().group_size;
    decode.weight = {measuring.decoded, info().dtype, 1, slice.count};
    if (hqq().axis == 0) {
      Gather(slice, measuring);
      weight.data = measuring.weight;
      decode.codes = measuring.codes;
    }
    QS_RETURN_IF_ERROR(backend.hqq().Decode(decode, backend.stream()));
    return Measure(tile, slice.begin / cut().group_size, weight, decode.weight,
                   slice.scales, measuring, backend);
  }

  // The elements of the slice's groups, group by group.
  void Gather(const Slice& slice, const Measuring& measuring) const {
    const auto bytes = static_cast<size_t>(element());
    const auto* weight =
        static_cast<const uint8_t*>(InputView(0, 1, cut().elements()).data);
    const int64_t first = slice.begin / cut().group_size;
    const int64_t last = first + slice.count / cut().group_size;
    int64_t to = 0;
    for (int64_t g = first; g < last; ++g) {
      for (int64_t k = 0; k < cut().group_size; ++k, ++to) {
        const int64_t from = k * cut().groups() + g;
        measuring.codes[to] = codes_.data()[from];
        std::memcpy(measuring.weight + to * element(),
                    weight + from * element(), bytes);
      }
    }
  }

  absl::StatusOr<std::vector<OutputTensor>> Assemble(
      Backend& backend) override {
    ReleaseInput();
    HqqPieces pieces;
    QS_ASSIGN_OR_RETURN(pieces.packed,
                        Buffer::Allocate(HqqPackedBytes(layout_)));
    QS_RETURN_IF_ERROR(
        PackHqqCodes(layout_, codes_.data(), backend, pieces.packed.data()));
    whole_clock().Enter(Phase::kVerify);
    QS_ASSIGN_OR_RETURN(Buffer unpacked, Buffer::Allocate(cut().elements()));
    QS_RETURN_IF_ERROR(UnpackHqqCodes(layout_, pieces.packed.data(), backend,
                                      unpacked.data()));
    const uint8_t* end = codes_.data() + cut().elements();
    const auto differs = std::mismatch(
        static_cast<const uint8_t*>(codes_.data()), end, unpacked.data());
    if (differs.first != end) {
      return VerificationError(differs.first - codes_.data());
    }
    whole_clock().Enter(Phase::kPack);
    codes_ = Buffer();
    pieces.scales = std::move(scales_);
    pieces.zeros = std::move(zeros_);
    return HqqTensors(layout_, std::move(pieces));
  }

  const HqqLayout layout_;
  Buffer codes_;  // U8, the weight's flat order
  Buffer scales_;
  Buffer zeros_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewDictQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  const Cut cut = MakeCut(spec, info, options.large_tiles);
  auto quantizer =
      std::make_unique<DictQuantizer>(spec, std::move(info), options, cut);
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  return quantizer;
}

}  // namespace qs::hqq
