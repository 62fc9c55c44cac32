// Methods that work in slices, with the slice a tile (large_tiles): the same
// bytes and reports as in small ones.
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT: the test's own vocabulary

const std::string kName = "w.weight";
// Several tiles of several slices each, for every type; all end short.
constexpr int64_t kRows = 1111;
constexpr int64_t kCols = 1024;

std::vector<QuantSpec> Specs() {
  const auto bitsandbytes = OutputFormat::kBitsandbytes;
  const auto compressed = OutputFormat::kCompressedTensors;
  const Nf4Spec fp4 = {.codebook = Codebook::kFp4, .block_size = 4096};
  const Nf4Spec nested = {.double_quant = true};
  return {{Nf4Spec{}, Profile::kReference, bitsandbytes},
          {fp4, Profile::kBest, bitsandbytes},
          {nested, Profile::kReference, bitsandbytes},
          {nested, Profile::kBest, bitsandbytes},
          {RtnSpec{4, 64, false}, Profile::kReference, compressed},
          {HqqSpec{}, Profile::kReference, compressed},
          {HqqSpec{}, Profile::kReference, OutputFormat::kHqq}};
}

// A tile's bytes as they may come in, in two pieces at odd addresses.
class Pieces {
 public:
  Pieces(const TensorQuantizer& q, const std::vector<uint8_t>& bytes,
         int64_t tile) {
    const int64_t begin = tile == 0 ? 0 : q.tile_input_end(tile - 1);
    const int64_t end = q.tile_input_end(tile);
    copy_.assign(1, 0);
    copy_.insert(copy_.end(), bytes.begin() + begin, bytes.begin() + end);
    const InputPiece all(copy_.data() + 1, copy_.size() - 1);
    const size_t first = all.size() / 3;
    pieces_ = {all.first(first), all.subspan(first)};
  }
  std::span<const InputPiece> pieces() const { return pieces_; }

 private:
  std::vector<uint8_t> copy_;
  std::vector<InputPiece> pieces_;
};

absl::StatusOr<QuantizedTensor> FromPieces(const QuantSpec& spec,
                                           const TensorInfo& info,
                                           const std::vector<uint8_t>& bytes,
                                           Backend& backend) {
  QuantizeOptions options;
  options.tiled_input = true;
  options.large_tiles = true;
  auto q = *TensorQuantizer::Create(spec, info, options);
  for (const int64_t tile : TilesInOrder(*q)) {
    const Pieces pieces(*q, bytes, tile);
    const absl::Status status = q->RunTileFrom(pieces.pieces(), tile, backend);
    if (!status.ok()) return status;
  }
  return FinishRounds(*q, backend);
}

// Sums of F64 in another order: an addition for each of some 10^6 elements.
void RequireNear(double a, double b) {
  CHECK(std::abs(a - b) <= 1e6 * 0x1p-53 * std::abs(a));
}

void RequireSameReports(const TensorReport& a, const TensorReport& b) {
  CHECK(a.error.count == b.error.count);
  CHECK(a.error.max_absolute_error == b.error.max_absolute_error);
  CHECK(a.error.histogram == b.error.histogram);
  RequireNear(a.error.squared_error, b.error.squared_error);
  RequireNear(a.error.absolute_error, b.error.absolute_error);
  RequireNear(a.rtn.squared_error, b.rtn.squared_error);
  REQUIRE(a.worst_groups.size() == b.worst_groups.size());
  for (size_t i = 0; i < a.worst_groups.size(); ++i) {
    CHECK(a.worst_groups[i].group == b.worst_groups[i].group);
    CHECK(a.worst_groups[i].mean_squared_error ==
          b.worst_groups[i].mean_squared_error);
  }
}

TEST_CASE("large slices: the same bytes and reports") {
  const auto backend = NewCpuBackend(1);
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const TensorInfo info = {kName, dtype, {kRows, kCols}};
    const auto bytes = Gaussian(kRows * kCols, dtype, 11);
    for (const QuantSpec& spec : Specs()) {
      INFO(SpecAlgorithm(spec) << " " << DTypeName(dtype));
      const QuantizedTensor small = Quantize(spec, info, bytes, *backend);
      QuantizeOptions options;
      options.large_tiles = true;
      const QuantizedTensor large =
          Quantize(spec, info, bytes, *backend, options);
      CHECK(Parts(large) == Parts(small));
      RequireSameReports(large.report, small.report);
      const auto pieces = FromPieces(spec, info, bytes, *backend);
      REQUIRE(pieces.ok());
      CHECK(Parts(*pieces) == Parts(small));
      RequireSameReports(pieces->report, small.report);
    }
  }
}

TEST_CASE("large slices: a bad number is named by its index in the tensor") {
  const auto backend = NewCpuBackend(1);
  const TensorInfo info = {kName, DType::kBF16, {kRows, kCols}};
  auto bytes = Gaussian(kRows * kCols, info.dtype, 12);
  for (const int64_t index : {1100001, 1100002}) {  // the first is told
    StoreFromFloat(bytes.data(), info.dtype, index,
                   std::numeric_limits<float>::infinity());
  }
  for (const QuantSpec& spec : Specs()) {
    INFO(SpecAlgorithm(spec));
    CHECK(std::string(
              FromPieces(spec, info, bytes, *backend).status().message()) ==
          "tensor \"" + kName + "\": Inf at index 1100001");
  }
}

// Scratch of 1 MiB and more lies in huge pages.
TEST_CASE("large slices: the estimate counts all memory of the scratch") {
  const TensorInfo info = {kName, DType::kBF16, {8192, kCols}};
  QuantizeOptions options;
  options.tiled_input = true;
  options.large_tiles = true;
  for (const QuantSpec& spec : Specs()) {
    if (spec.hqq() != nullptr) continue;  // packs in a buffer of its own
    if (spec.nf4() != nullptr && spec.nf4()->double_quant) continue;
    INFO(SpecAlgorithm(spec));
    const int64_t one = *EstimateMemoryBytes(spec, info, options, 1);
    const int64_t two = *EstimateMemoryBytes(spec, info, options, 2);
    const int64_t scratch = two - one - Buffer::BytesTaken(kTileBytes);
    CHECK(scratch >= 2 * kTileBytes);  // decoded, and staged
    CHECK(Buffer::BytesTaken(scratch) == scratch);
  }
}

}  // namespace
}  // namespace qs
