// The reference and the CPU implementation against files made by
// compressed-tensors 0.20.0 (bits 2..8; packing 1..8).
#include <cstring>
#include <nlohmann/json.hpp>

#include "kernels/backend.h"
#include "kernels/base/checked_math.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/golden_file.h"

namespace qs {
namespace {

template <class T>
bool SameBytes(const std::vector<T>& got, const GoldenTensor& want) {
  return got.size() * sizeof(T) == want.bytes.size() &&
         std::memcmp(got.data(), want.bytes.data(), want.bytes.size()) == 0;
}

// Signed as in the library to unsigned as here.
std::vector<uint8_t> Unsigned(const GoldenTensor& tensor, int bits) {
  std::vector<uint8_t> out;
  for (int64_t i = 0; i < tensor.count(); ++i) {
    out.push_back(
        static_cast<uint8_t>(tensor.As<int8_t>()[i] + (1 << (bits - 1))));
  }
  return out;
}

std::vector<uint32_t> PackRows(Backend& backend,
                               const std::vector<uint8_t>& codes, int64_t rows,
                               int64_t cols, int bits) {
  std::vector<uint32_t> words(
      static_cast<size_t>(rows * CeilDiv(cols * bits, 32)));
  REQUIRE(backend.affine()
              .PackRows({codes.data(), rows, cols, bits, words.data()},
                        backend.stream())
              .ok());
  return words;
}

std::vector<uint32_t> PackColumns(Backend& backend,
                                  const std::vector<uint8_t>& codes,
                                  int64_t rows, int64_t cols, int bits) {
  std::vector<uint32_t> words(
      static_cast<size_t>(CeilDiv(rows * bits, 32) * cols));
  REQUIRE(backend.affine()
              .PackColumns({codes.data(), rows, cols, bits, words.data()},
                           backend.stream())
              .ok());
  return words;
}

void CheckRtn(Backend& backend, const GoldenFile& file) {
  const std::string text = file.metadata.at("params");
  const nlohmann::json params = nlohmann::json::parse(text);
  const GoldenTensor& weight = file.tensors.at("weight");
  const DType dtype = *ParseDType(weight.dtype);
  const int64_t rows = params.at("rows");
  const int64_t cols = params.at("cols");
  const int bits = params.at("bits");
  const bool symmetric = params.at("sym");
  const int64_t wanted = params.at("group_size");
  const int64_t group_size = wanted < 0 ? cols : wanted;
  const auto groups = static_cast<size_t>(rows * cols / group_size);

  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  std::vector<uint8_t> scales(groups * static_cast<size_t>(DTypeBytes(dtype)));
  std::vector<uint8_t> zero_points(groups);
  uint8_t* zeros = symmetric ? nullptr : zero_points.data();
  int64_t first_non_finite = 0;
  REQUIRE(backend.affine()
              .Encode({{weight.bytes.data(), dtype, rows, cols},
                       bits,
                       group_size,
                       symmetric,
                       AffineSearch::kMinMax,
                       codes.data(),
                       scales.data(),
                       zeros,
                       &first_non_finite},
                      backend.stream())
              .ok());
  CHECK(first_non_finite == -1);
  CHECK(SameBytes(scales, file.tensors.at("weight_scale")));
  CHECK(SameBytes(PackRows(backend, codes, rows, cols, bits),
                  file.tensors.at("weight_packed")));
  if (!symmetric) {
    CHECK(zero_points == Unsigned(file.tensors.at("zero_points"), bits));
    CHECK(SameBytes(
        PackColumns(backend, zero_points, rows, cols / group_size, bits),
        file.tensors.at("weight_zero_point")));
  }
  std::vector<uint8_t> decoded(weight.bytes.size());
  REQUIRE(backend.affine()
              .Decode({codes.data(),
                       scales.data(),
                       zeros,
                       bits,
                       group_size,
                       {decoded.data(), dtype, rows, cols}},
                      backend.stream())
              .ok());
  CHECK(SameBytes(decoded, file.tensors.at("dequantized")));
}

void CheckPack(Backend& backend, const GoldenFile& file) {
  const std::string text = file.metadata.at("params");
  const nlohmann::json params = nlohmann::json::parse(text);
  const int64_t rows = params.at("rows");
  const int64_t cols = params.at("cols");
  const int bits = params.at("bits");
  const std::vector<uint8_t> codes = Unsigned(file.tensors.at("codes"), bits);
  CHECK(SameBytes(PackRows(backend, codes, rows, cols, bits),
                  file.tensors.at("packed_dim1")));
  CHECK(SameBytes(PackColumns(backend, codes, rows, cols, bits),
                  file.tensors.at("packed_dim0")));
}

// Every file of a role on the reference and on every SIMD target.
template <class Check>
int ForGolden(const std::string& role, const Check& check) {
  int cases = 0;
  for (const std::string& path : GoldenPaths("golden/compressed_tensors")) {
    const GoldenFile file = ReadGolden(path);
    if (file.metadata.at("role") != role) continue;
    INFO(path);
    for (const std::string& target : SimdTargets()) {
      INFO("target " << target);
      REQUIRE(ForceSimdTargetForTest(target).ok());
      check(*NewCpuBackend(1), file);
      REQUIRE(ForceSimdTargetForTest("").ok());
    }
    check(*NewReferenceBackend(), file);
    ++cases;
  }
  return cases;
}

TEST_CASE("every golden round-to-nearest case is met byte for byte") {
  CHECK((ForGolden("case", CheckRtn) == 50 || HasOtherGoldenData()));
}

TEST_CASE("every golden packing is met byte for byte") {
  CHECK(ForGolden("pack", CheckPack) == 16);
}

}  // namespace
}  // namespace qs
