// Dense packing: worked words, and every width forth and back.
#include <random>

#include "kernels/backend.h"
#include "tests/testing/affine_cases.h"

namespace qs {
namespace {

AffineResult Packed(Backend& backend, std::vector<uint8_t> codes, int64_t rows,
                    int bits) {
  AffineResult r;
  r.codes = std::move(codes);
  RunPacking(backend.affine(), rows,
             static_cast<int64_t>(r.codes.size()) / rows, bits, &r);
  return r;
}

TEST_CASE("words worked by hand") {
  for (const auto& backend : AllBackends()) {
    INFO(backend->name());
    CHECK(Packed(*backend, {1, 2, 3, 4, 5, 6, 7, 8, 9}, 1, 4).words ==
          std::vector<uint32_t>{0x87654321u, 0x9u});
    CHECK(Packed(*backend, {0x11, 0x22, 0x33, 0x44, 0x55}, 1, 8).words ==
          std::vector<uint32_t>{0x44332211u, 0x55u});
    // Code 10 of 3 bits straddles two words: bits 30, 31 and 32.
    std::vector<uint8_t> codes(11, 0);
    codes[0] = 5;
    codes[10] = 6;
    CHECK(Packed(*backend, codes, 1, 3).words ==
          std::vector<uint32_t>{0x80000005u, 0x1u});
    // The published vector: zero points n + 1 of eight rows, along the rows.
    CHECK(Packed(*backend, {1, 2, 3, 4, 5, 6, 7, 8}, 8, 4).column_words ==
          std::vector<uint32_t>{0x87654321u});
  }
}

TEST_CASE("every width comes back, whatever ends a row") {
  std::mt19937 random(4);
  const auto reference = NewReferenceBackend();
  for (int bits = 1; bits <= 8; ++bits) {
    for (int64_t rows : {1, 2, 31, 32, 33, 70}) {
      for (int64_t cols : {1, 3, 7, 8, 9, 31, 32, 33, 64, 100, 257}) {
        INFO("bits " << bits << " [" << rows << ", " << cols << "]");
        std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
        for (uint8_t& code : codes) {
          code = static_cast<uint8_t>(random() & ((1u << bits) - 1));
        }
        const AffineResult want = Packed(*reference, codes, rows, bits);
        REQUIRE(want.unpacked == codes);
        REQUIRE(want.column_unpacked == codes);
        for (const std::string& target : SimdTargets()) {
          INFO("target " << target);
          REQUIRE(ForceSimdTargetForTest(target).ok());
          REQUIRE(Packed(*NewCpuBackend(1), codes, rows, bits) == want);
          REQUIRE(ForceSimdTargetForTest("").ok());
        }
      }
    }
  }
}

TEST_CASE("nothing is written for an empty matrix") {
  for (const auto& backend : AllBackends()) {
    for (int64_t rows : {0, 5}) {
      CHECK(backend->affine()
                .PackRows({nullptr, rows, 0, 4, nullptr}, backend->stream())
                .ok());
      CHECK(
          backend->affine()
              .UnpackColumns({nullptr, 0, rows, 4, nullptr}, backend->stream())
              .ok());
    }
  }
}

}  // namespace
}  // namespace qs
