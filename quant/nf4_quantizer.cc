// Tested by tests/quant/tensor_quantizer_test.cc and
// tests/quant/quality_test.cc.
#include "quant/nf4_quantizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/nf4_verify_ops.h"
#include "quant/formats/bitsandbytes.h"

namespace qs {
namespace {

// The longest text of a positive nested_offset is as long as this one's.
constexpr float kLongestOffset = 0.00012345679f;

int64_t TileElements(DType dtype) { return kTileBytes / DTypeBytes(dtype); }

Partition MakePartition(const Nf4Spec& spec, DType dtype, int64_t n) {
  return {.num_elements = n,
          .tile_elements = TileElements(dtype),
          .group_size = spec.block_size};
}

// Of slices of at most `slice` elements.
int64_t ScratchBytes(const Nf4Spec& spec, DType dtype, int64_t slice) {
  return 2 * Scratch::Padded(slice * DTypeBytes(dtype)) +
         Scratch::Padded(CeilDiv(slice, spec.block_size) *
                         static_cast<int64_t>(sizeof(double))) +
         Scratch::Padded(CeilDiv(slice, spec.block_size) *
                         static_cast<int64_t>(sizeof(float)));
}

class Nf4Quantizer final : public QuantizerBase {
 public:
  Nf4Quantizer(const QuantSpec& spec, TensorInfo info,
               const QuantizeOptions& options, int64_t n)
      : QuantizerBase(spec, info, options,
                      MakePartition(*spec.nf4(), info.dtype, n)),
        nf4_(*spec.nf4()),
        num_blocks_(CeilDiv(n, nf4_.block_size)),
        slice_elements_(Nf4SliceElements(this->info(), options.large_tiles)) {}

  absl::Status AllocateAll() {
    QS_RETURN_IF_ERROR(AllocateInput());
    if (!streams()) {
      QS_ASSIGN_OR_RETURN(packed_, Buffer::Allocate(packed_bytes()));
    }
    QS_ASSIGN_OR_RETURN(absmax_, AllocateFloats(num_blocks_));
    return absl::OkStatus();
  }

 private:
  // One slice and the places of its parts.
  struct Slice {
    int64_t tile = 0;
    int64_t begin = 0;  // element
    int64_t count = 0;
    int64_t first_block = 0;
    TensorView weight;
    uint8_t* packed = nullptr;
    float* absmax = nullptr;
    float* coded_by = nullptr;  // NestedRefine's
    MutableTensorView decoded;
    double* group_errors = nullptr;
  };

  static absl::StatusOr<Buffer> AllocateFloats(int64_t count) {
    return Buffer::Allocate(count * static_cast<int64_t>(sizeof(float)));
  }

  // Calls `body(const Slice&)` for the slices of [begin, end) in order; their
  // codes go to `packed` and on.
  template <typename Body>
  absl::Status ForSlices(int64_t tile, int64_t begin, int64_t end,
                         uint8_t* packed, Body body);

  absl::Status EncodeTile(int64_t tile, int64_t begin, int64_t end,
                          Backend& backend) override;
  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend& backend) override;

  absl::Status EncodeSlice(const Slice& slice, Backend& backend);
  absl::Status Encode(const Slice& slice, Backend& backend) const;
  absl::Status Refine(const Slice& slice, Backend& backend);
  absl::Status Decode(const Slice& slice, Backend& backend) const;
  // That the slice's codes are those of `absmax`.
  absl::Status Check(const Slice& slice, const float* absmax) const;
  absl::Status Measure(const Slice& slice, Backend& backend);
  // The absmax that a reader finds, where it is not stored itself.
  std::span<const float> NestedAbsmax() const {
    if (!nf4_.double_quant) return {};
    return {absmax_.As<float>(), static_cast<size_t>(num_blocks_)};
  }
  // Codes absmax into pieces_; then the decoded values are in absmax_, which
  // for BEST its second round does.
  absl::Status NestAbsmax(Backend& backend);
  absl::Status PrepareRefine(Backend& backend) override {
    return NestAbsmax(backend);
  }
  absl::Status RefineTile(int64_t tile, int64_t begin, int64_t end,
                          Backend& backend) override;
  absl::Status RefineSlice(const Slice& slice, Backend& backend);
  StreamedOutput streamed_output() const override {
    if (!streams()) return {};
    return {info().name, DType::kU8, {packed_bytes(), 1}, packed_bytes()};
  }
  int64_t packed_bytes() const { return (partition().num_elements + 1) / 2; }
  bool stages_input() const override { return true; }
  bool best() const { return spec().profile == Profile::kBest; }
  bool has_second_round() const override {
    return Nf4HasSecondRound(spec(), options());
  }

  const Nf4Spec nf4_;
  const int64_t num_blocks_;
  const int64_t slice_elements_;
  Buffer packed_;
  Buffer absmax_;  // F32
  Nf4Pieces pieces_;
};

template <typename Body>
absl::Status Nf4Quantizer::ForSlices(int64_t tile, int64_t begin, int64_t end,
                                     uint8_t* packed, Body body) {
  const int64_t most = std::min(end - begin, slice_elements_);
  QS_ASSIGN_OR_RETURN(Scratch scratch, Scratch::Allocate(ScratchBytes(
                                           nf4_, info().dtype, most)));
  Slice slice;
  slice.tile = tile;
  slice.decoded.data = scratch.Take<uint8_t>(most * DTypeBytes(info().dtype));
  slice.decoded.dtype = info().dtype;
  slice.decoded.rows = 1;
  slice.group_errors = scratch.Take<double>(CeilDiv(most, nf4_.block_size));
  slice.coded_by = scratch.Take<float>(CeilDiv(most, nf4_.block_size));
  uint8_t* const staging =
      scratch.Take<uint8_t>(most * DTypeBytes(info().dtype));
  for (int64_t at = begin; at < end; at += slice_elements_) {
    QS_RETURN_IF_ERROR(CheckCancelled());
    slice.begin = at;
    slice.count = std::min(slice_elements_, end - at);
    slice.first_block = at / nf4_.block_size;
    // Measuring needs the type's alignment, encoding does not.
    slice.weight = StagedInput(at, 1, slice.count, staging,
                               /*any_address=*/!options().error_report);
    slice.packed = packed + (at - begin) / 2;
    slice.absmax = absmax_.As<float>() + slice.first_block;
    slice.decoded.cols = slice.count;
    QS_RETURN_IF_ERROR(body(std::as_const(slice)));
  }
  return absl::OkStatus();
}

absl::Status Nf4Quantizer::EncodeTile(int64_t tile, int64_t begin, int64_t end,
                                      Backend& backend) {
  uint8_t* packed = packed_.data() + begin / 2;
  if (streams()) {
    QS_ASSIGN_OR_RETURN(packed, BeginTileOutput(tile, (end - begin + 1) / 2));
  }
  return ForSlices(tile, begin, end, packed, [&](const Slice& slice) {
    return EncodeSlice(slice, backend);
  });
}

absl::Status Nf4Quantizer::EncodeSlice(const Slice& slice, Backend& backend) {
  PhaseClock& clock = this->clock(slice.tile);
  clock.Enter(Phase::kEncode);  // codes are packed as they are found
  QS_RETURN_IF_ERROR(Encode(slice, backend));
  clock.Enter(Phase::kVerify);
  QS_RETURN_IF_ERROR(Check(slice, slice.absmax));
  if (!options().error_report || nf4_.double_quant) return absl::OkStatus();
  clock.Enter(Phase::kReport);
  QS_RETURN_IF_ERROR(Decode(slice, backend));
  return Measure(slice, backend);
}

absl::Status Nf4Quantizer::Encode(const Slice& slice, Backend& backend) const {
  int64_t first_non_finite = -1;
  Nf4EncodeArgs args;
  args.weight = slice.weight;
  args.block_size = nf4_.block_size;
  args.codebook = nf4_.codebook;
  args.rule = nf4_.rule;
  // With double quantization the search comes when its choices are known.
  args.search =
      best() && !nf4_.double_quant ? Nf4Search::kBestScale : Nf4Search::kNone;
  args.packed = slice.packed;
  args.absmax = slice.absmax;
  args.first_non_finite = &first_non_finite;
  QS_RETURN_IF_ERROR(backend.nf4().Encode(args, backend.stream()));
  return first_non_finite < 0 ? absl::OkStatus()
                              : NonFiniteError(slice.begin + first_non_finite);
}

absl::Status Nf4Quantizer::Refine(const Slice& slice, Backend& backend) {
  NestedRefineArgs args;
  args.weight = slice.weight;
  args.block_size = nf4_.block_size;
  args.codebook = nf4_.codebook;
  args.first_block = slice.first_block % kNestedBlockSize;
  args.nested_absmax =
      pieces_.nested_absmax.As<float>() + slice.first_block / kNestedBlockSize;
  args.offset = &pieces_.nested_offset;
  args.codes = pieces_.absmax.data() + slice.first_block;
  args.absmax = slice.absmax;
  args.packed = slice.packed;
  args.coded_by = slice.coded_by;
  return backend.nf4().NestedRefine(args, backend.stream());
}

absl::Status Nf4Quantizer::Decode(const Slice& slice, Backend& backend) const {
  Nf4DecodeArgs args;
  args.packed = slice.packed;
  args.absmax = slice.absmax;
  args.block_size = nf4_.block_size;
  args.codebook = nf4_.codebook;
  args.weight = slice.decoded;
  return backend.nf4().Decode(args, backend.stream());
}

absl::Status Nf4Quantizer::Check(const Slice& slice,
                                 const float* absmax) const {
  Nf4VerifyArgs args;
  args.weight = slice.weight;
  args.block_size = nf4_.block_size;
  args.codebook = nf4_.codebook;
  args.packed = slice.packed;
  args.absmax = absmax;
  if (nf4_.double_quant) args.nested_rule = nf4_.rule;
  const int64_t wrong = FindWrongNf4Code(args);
  return wrong < 0 ? absl::OkStatus() : VerificationError(slice.begin + wrong);
}

absl::Status Nf4Quantizer::Measure(const Slice& slice, Backend& backend) {
  return errors().Measure(slice.tile,
                          {.weight = slice.weight,
                           .decoded = slice.decoded,
                           .steps = slice.absmax,
                           .first_group = slice.first_block,
                           .group_errors = slice.group_errors},
                          backend);
}

absl::StatusOr<std::vector<OutputTensor>> Nf4Quantizer::Assemble(
    Backend& backend) {
  if (!nf4_.double_quant) {
    pieces_.absmax = std::move(absmax_);
  } else if (!has_second_round()) {
    QS_RETURN_IF_ERROR(NestAbsmax(backend));
    whole_clock().Enter(Phase::kPack);
  }
  ReleaseInput();
  pieces_.packed = std::move(packed_);
  QS_ASSIGN_OR_RETURN(std::vector<OutputTensor> tensors,
                      BitsandbytesTensors(nf4_, info().name, info().dtype,
                                          info().shape, std::move(pieces_)));
  QS_RETURN_IF_ERROR(VerifyBitsandbytes(tensors, nf4_, info().dtype,
                                        info().shape, NestedAbsmax()));
  absmax_ = Buffer();
  tensors.front().shape = {packed_bytes(), 1};  // its bytes may have left
  return tensors;
}

absl::Status Nf4Quantizer::NestAbsmax(Backend& backend) {
  whole_clock().Enter(Phase::kEncode);
  QS_ASSIGN_OR_RETURN(pieces_.absmax, Buffer::Allocate(num_blocks_));
  QS_ASSIGN_OR_RETURN(pieces_.nested_absmax,
                      AllocateFloats(CeilDiv(num_blocks_, kNestedBlockSize)));
  NestedEncodeArgs encode;
  encode.absmax = absmax_.As<float>();
  encode.num_blocks = num_blocks_;
  encode.rule = nf4_.rule;
  encode.codes = pieces_.absmax.data();
  encode.nested_absmax = pieces_.nested_absmax.As<float>();
  encode.offset = &pieces_.nested_offset;
  QS_RETURN_IF_ERROR(backend.nf4().NestedEncode(encode, backend.stream()));

  if (!std::isfinite(pieces_.nested_offset)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor \"", info().name,
        "\": got a mean absmax beyond F32, allowed with double_quant: finite"));
  }

  if (best()) return absl::OkStatus();
  NestedDecodeArgs decode;
  decode.codes = encode.codes;
  decode.nested_absmax = encode.nested_absmax;
  decode.offset = encode.offset;
  decode.num_blocks = num_blocks_;
  decode.absmax = absmax_.As<float>();
  return backend.nf4().NestedDecode(decode, backend.stream());
}

absl::Status Nf4Quantizer::RefineTile(int64_t tile, int64_t begin, int64_t end,
                                      Backend& backend) {
  uint8_t* const packed =
      streams() ? TileOutput(tile) : packed_.data() + begin / 2;
  return ForSlices(tile, begin, end, packed, [&](const Slice& slice) {
    return RefineSlice(slice, backend);
  });
}

absl::Status Nf4Quantizer::RefineSlice(const Slice& slice, Backend& backend) {
  PhaseClock& clock = this->clock(slice.tile);
  if (best()) {
    clock.Enter(Phase::kRefine);
    QS_RETURN_IF_ERROR(Refine(slice, backend));
    clock.Enter(Phase::kVerify);
    QS_RETURN_IF_ERROR(Check(slice, slice.coded_by));
  }
  if (!options().error_report) return absl::OkStatus();
  clock.Enter(Phase::kReport);
  QS_RETURN_IF_ERROR(Decode(slice, backend));
  return Measure(slice, backend);
}

}  // namespace

bool Nf4HasSecondRound(const QuantSpec& spec, const QuantizeOptions& options) {
  return spec.nf4()->double_quant &&
         (spec.profile == Profile::kBest || options.error_report);
}

int64_t Nf4SliceElements(const TensorInfo& info, bool large) {
  return large ? TileElements(info.dtype) : kSliceElements;
}

TensorSizes Nf4Sizes(const Nf4Spec& spec, const TensorInfo& info,
                     const QuantizeOptions& options, int64_t num_elements) {
  const auto f32 = static_cast<int64_t>(sizeof(float));
  const int64_t blocks = CeilDiv(num_elements, spec.block_size);
  const int64_t packed = (num_elements + 1) / 2;
  const auto json = static_cast<int64_t>(
      QuantStateJson(spec, info.dtype, info.shape, kLongestOffset).size());
  TensorSizes sizes;
  sizes.output = packed + 16 * f32 + json;
  if (spec.double_quant) {
    sizes.output +=
        blocks + CeilDiv(blocks, kNestedBlockSize) * f32 + 256 * f32;
    sizes.extra = blocks * f32;
  } else {
    sizes.output += blocks * f32;
  }
  sizes.tile_input =
      std::min(num_elements * DTypeBytes(info.dtype), kTileBytes);
  sizes.tile_scratch = Buffer::BytesTaken(ScratchBytes(
      spec, info.dtype,
      std::min(num_elements, Nf4SliceElements(info, options.large_tiles))));
  return sizes;
}

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewNf4Quantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options,
    int64_t num_elements) {
  auto quantizer = std::make_unique<Nf4Quantizer>(spec, std::move(info),
                                                  options, num_elements);
  QS_RETURN_IF_ERROR(quantizer->AllocateAll());
  return quantizer;
}

}  // namespace qs
