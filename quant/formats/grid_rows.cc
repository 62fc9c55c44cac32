// Tested by tests/formats/grid_writer_test.cc.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "quant/formats/grid_pieces.h"

namespace qs::grid {

absl::Status PutScales(const GridRows& rows, DType from, int64_t groups,
                       const GridShape& shape, uint16_t* to) {
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const float scale = LoadAsFloat(rows.scales, from, r * groups + g);
      const uint16_t half = FloatToF16(scale);
      if (!(scale > 0) || F16ToFloat(half) != scale || std::isinf(scale)) {
        return absl::InternalError(absl::StrCat(
            "tensor \"", shape.name, "\": scale of row ", rows.first_row + r,
            ", group ", g, ": got ", scale,
            ", allowed are positive numbers of ", DTypeName(DType::kF16)));
      }
      to[g * shape.rows + rows.first_row + r] = half;
    }
  }
  return absl::OkStatus();
}

absl::Status MismatchError(const std::string& name, int64_t first_row) {
  return absl::InternalError(
      absl::StrCat("tensor \"", name, "\": what was packed from row ",
                   first_row, " on differs from its codes"));
}

absl::Status CheckRows(const GridRows& rows, const GridSpec& grid,
                       const GridShape& shape) {
  const int64_t end = rows.first_row + rows.rows;
  const bool cut = rows.rows > 0 && rows.first_row >= 0 && end <= shape.rows &&
                   rows.first_row % kGridRowUnit == 0 &&
                   (end == shape.rows || end % kGridRowUnit == 0);
  const bool zeros = grid.symmetric == (rows.zero_points == nullptr);
  if (cut && zeros && rows.codes != nullptr && rows.scales != nullptr) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      "tensor \"", shape.name, "\": got rows ", rows.first_row, " to ", end,
      zeros ? "" : " with the zero points of another scheme",
      ", allowed are multiples of ", kGridRowUnit, " up to ", shape.rows));
}

int64_t SlabRows(int64_t rows, int64_t cols, int64_t least,
                 const Backend& backend) {
  constexpr int64_t kLargeElements = int64_t{1} << 22;
  const int64_t most =
      backend.prefers_large()
          ? std::max(least, kLargeElements / (cols * least) * least)
          : least;
  return std::min(most, rows);
}

absl::Status PackRows(Backend& backend, const uint8_t* codes, int64_t rows,
                      int64_t cols, int bits, uint32_t* words) {
  PackRowsArgs args;
  args.codes = codes;
  args.rows = rows;
  args.cols = cols;
  args.bits = bits;
  args.words = words;
  return backend.affine().PackRows(args, backend.stream());
}

absl::Status UnpackRows(Backend& backend, const uint32_t* words, int64_t rows,
                        int64_t cols, int bits, uint8_t* codes) {
  UnpackRowsArgs args;
  args.words = words;
  args.rows = rows;
  args.cols = cols;
  args.bits = bits;
  args.codes = codes;
  return backend.affine().UnpackRows(args, backend.stream());
}

}  // namespace qs::grid
