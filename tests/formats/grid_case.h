// Golden weights of the grid formats, and what GridWriter makes of them.
#ifndef QS_TESTS_FORMATS_GRID_CASE_H_
#define QS_TESTS_FORMATS_GRID_CASE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/dtype.h"
#include "quant/formats/grid_writer.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs::testing {

inline nlohmann::json Params(const GoldenFile& file) {
  return nlohmann::json::parse(file.metadata.at("params").get<std::string>());
}

inline std::vector<std::string> GoldenPathsIfAny(const std::string& folder) {
  if (!std::filesystem::exists(DataPath(folder))) return {};
  return GoldenPaths(folder);
}

inline std::vector<uint8_t> BytesOf(const Buffer& buffer) {
  return {buffer.data(), buffer.data() + buffer.size()};
}

// I32 values of 0 to 255 as bytes.
inline std::vector<uint8_t> AsUnsignedBytes(const GoldenTensor& tensor) {
  const auto* values = tensor.As<int32_t>();
  return {values, values + tensor.count()};
}

// F16 [groups, rows], as files have it, to [rows, groups].
inline std::vector<uint8_t> TransposedHalves(const GoldenTensor& tensor) {
  const int64_t groups = tensor.shape[0], rows = tensor.shape[1];
  std::vector<uint16_t> halves(static_cast<size_t>(groups * rows));
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t r = 0; r < rows; ++r) {
      halves[static_cast<size_t>(r * groups + g)] =
          tensor.As<uint16_t>()[g * rows + r];
    }
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(halves.data());
  return {bytes, bytes + halves.size() * 2};
}

// Equal F16 bits, but for the sign of a zero: a library that multiplies by a
// negative difference of 0 writes it.
inline bool SameHalves(const std::vector<uint8_t>& a,
                       const std::vector<uint8_t>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); i += 2) {
    uint16_t x, y;
    std::memcpy(&x, a.data() + i, 2);
    std::memcpy(&y, b.data() + i, 2);
    if (x != y && ((x | y) & 0x7fff) != 0) return false;
  }
  return true;
}

// The codes, zero points and scales of a golden file, an F16 weight "a.weight".
struct GridCase {
  explicit GridCase(const GoldenFile& file)
      : rows(file.tensors.at("codes").shape[0]),
        cols(file.tensors.at("codes").shape[1]),
        codes(file.tensors.at("codes").bytes),
        zeros(AsUnsignedBytes(file.tensors.at("zeros"))),
        scales(TransposedHalves(file.tensors.at("scales"))) {}

  // Hands rows [first, first + count) to the writer.
  absl::Status Add(const GridSpec& grid, int64_t first, int64_t count,
                   GridWriter& writer, Backend& backend) const {
    const int64_t groups = writer.groups();
    GridRows part;
    part.first_row = first;
    part.rows = count;
    part.codes = codes.data() + first * cols;
    part.scales = scales.data() + first * groups * 2;
    if (!grid.symmetric) part.zero_points = zeros.data() + first * groups;
    return writer.AddRows(part, backend);
  }

  int64_t rows;
  int64_t cols;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> zeros;
  std::vector<uint8_t> scales;
};

inline absl::StatusOr<std::unique_ptr<GridWriter>> WriterFor(
    const QuantSpec& spec, const GridCase& item) {
  return GridWriter::Create(spec,
                            {"a.weight", DType::kF16, item.rows, item.cols});
}

// All rows at once; the writer's verdict.
inline absl::Status AddGolden(const QuantSpec& spec, const GoldenFile& file) {
  const GridCase item(file);
  const auto writer = WriterFor(spec, item);
  REQUIRE(writer.ok());
  const std::unique_ptr<Backend> backend = NewCpuBackend(1);
  return item.Add(SpecGrid(spec), 0, item.rows, **writer, *backend);
}

// In pieces of kGridRowUnit rows, the last first.
inline std::vector<OutputTensor> WriteGolden(const QuantSpec& spec,
                                             const GoldenFile& file,
                                             const GoldenTensor* g_idx) {
  const GridCase item(file);
  const auto writer = WriterFor(spec, item);
  INFO(writer.status());
  REQUIRE(writer.ok());
  if (g_idx != nullptr) {
    REQUIRE((*writer)
                ->SetGroupIndex(
                    {g_idx->As<int32_t>(), static_cast<size_t>(g_idx->count())})
                .ok());
  }
  const std::unique_ptr<Backend> backend = NewCpuBackend(1);
  for (int64_t end = item.rows; end > 0;) {
    const int64_t first = (end - 1) / kGridRowUnit * kGridRowUnit;
    const absl::Status status =
        item.Add(SpecGrid(spec), first, end - first, **writer, *backend);
    INFO(status);
    REQUIRE(status.ok());
    end = first;
  }
  auto tensors = (*writer)->Finish();
  REQUIRE(tensors.ok());
  return *std::move(tensors);
}

}  // namespace qs::testing

#endif  // QS_TESTS_FORMATS_GRID_CASE_H_
