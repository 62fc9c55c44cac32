#include "service/checkpoint/slice_reader.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <vector>

#include "quant/formats/posix_file.h"
#include "service/cli/exit_code.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

constexpr int64_t kExperts = 3;
constexpr int64_t kRows = 70;  // more than a strip
constexpr int64_t kCols = 12;

// A stack of numbers: value [e, i, j] is (e * kRows + i) * kCols + j.
template <typename T>
struct Stack {
  explicit Stack(DType dtype) {
    std::vector<T> values(kExperts * kRows * kCols);
    std::iota(values.begin(), values.end(), T{0});
    const std::span<const uint8_t> bytes(
        reinterpret_cast<const uint8_t*>(values.data()),
        values.size() * sizeof(T));
    // Behind another tensor, so that it does not begin at 0.
    REQUIRE(
        WriteSafetensors(path,
                         {{"a", dtype, {5}, bytes.subspan(0, 5 * sizeof(T))},
                          {"b", dtype, {kExperts, kRows, kCols}, bytes}},
                         {})
            .ok());
    auto opened = SafetensorsFile::Open(path);
    REQUIRE(opened.ok());
    file.emplace(*std::move(opened));
    auto opened_fd = OpenRegularFile(path);
    REQUIRE(opened_fd.ok());
    fd = *std::move(opened_fd);
  }

  PlannedTensor Slice(const StackSlice& from, int64_t rows, int64_t cols) {
    PlannedTensor tensor;
    tensor.entry.name = "slice";
    tensor.entry.dtype = file->header().tensors[1].dtype;
    tensor.entry.shape = {rows, cols};
    tensor.entry.end = rows * cols * static_cast<int64_t>(sizeof(T));
    tensor.slice = from;
    tensor.slice->begin = file->header().tensors[1].begin;
    tensor.slice->matrix_rows = kRows;
    tensor.slice->matrix_cols = kCols;
    return tensor;
  }

  TemporaryDirectory dir;
  std::string path = dir.path() + "/model.safetensors";
  std::optional<SafetensorsFile> file;
  UniqueFd fd;
};

template <typename T>
void CheckSlices(DType dtype) {
  Stack<T> stack(dtype);
  REQUIRE(stack.file->header().tensors[1].name == "b");
  for (const bool transposed : {false, true}) {
    for (const int64_t step : {1, 2, 3}) {
      for (const int64_t first : {0, 1}) {
        const int64_t lines = transposed ? kCols : kRows;
        const int64_t cols = transposed ? kRows : kCols;
        const int64_t rows = (lines - first - 1) / step + 1;
        const PlannedTensor tensor =
            stack.Slice({0, 2, 0, 0, first, step, transposed}, rows, cols);
        std::vector<T> want;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < cols; ++c) {
            const int64_t line = first + r * step;
            const int64_t i = transposed ? c : line;
            const int64_t j = transposed ? line : c;
            want.push_back(static_cast<T>((2 * kRows + i) * kCols + j));
          }
        }
        const int64_t row_bytes = cols * static_cast<int64_t>(sizeof(T));
        // Less than a row, a few rows, all; in chunks of odd sizes.
        for (const int64_t tile :
             {int64_t{1}, 3 * row_bytes, 1000 * row_bytes}) {
          SliceReader reader(stack.fd.get(), *stack.file, tensor, tile);
          std::vector<T> got(want.size());
          auto* to = reinterpret_cast<char*>(got.data());
          const int64_t size = tensor.entry.end;
          for (int64_t at = 0; at < size; at += 100) {
            REQUIRE(reader.Read(at, std::min<int64_t>(100, size - at), to + at)
                        .ok());
          }
          CAPTURE(transposed, step, first, tile);
          CHECK(got == want);
        }
      }
    }
  }
}

TEST_CASE("a slice has the stack's values, whatever the tile") {
  CheckSlices<uint16_t>(DType::kBF16);
  CheckSlices<uint32_t>(DType::kF32);
}

TEST_CASE("a whole tensor is read where it lies") {
  Stack<uint16_t> stack(DType::kF16);
  PlannedTensor tensor;
  tensor.entry = stack.file->header().tensors[1];
  SliceReader reader(stack.fd.get(), *stack.file, tensor);
  uint16_t got[2] = {};
  REQUIRE(reader.Read(20, 4, reinterpret_cast<char*>(got)).ok());
  CHECK(got[0] == 10);
  CHECK(got[1] == 11);
}

TEST_CASE("a file that has shrunk is an error") {
  Stack<uint16_t> stack(DType::kBF16);
  std::filesystem::resize_file(stack.path, 400);
  const PlannedTensor tensor =
      stack.Slice({0, 2, 0, 0, 0, 1, true}, kCols, kRows);
  SliceReader reader(stack.fd.get(), *stack.file, tensor);
  std::vector<char> got(static_cast<size_t>(tensor.entry.end));
  const absl::Status status = reader.Read(0, tensor.entry.end, got.data());
  CHECK(ExitCodeOf(status) == ExitCode::kBadInput);
  CHECK_THAT(std::string(status.message()),
             Catch::Matchers::Contains("earlier end"));
}

}  // namespace
}  // namespace qs::cli
