// The packings that one file format each has: words worked by hand, every SIMD
// target against the reference, arguments that are refused. hqq's and AWQ's own
// bytes: tests/formats/hqq_format_test.cc, packing_vectors_test.cc.
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/testing/pack_cases.h"

namespace qs {
namespace {

TEST_CASE("AWQ's words worked by hand") {
  for (const auto& backend : AllBackends()) {
    INFO(backend->name());
    // Two columns of sixteen rows: row i has i, and 15 - i.
    std::vector<uint8_t> codes;
    for (int i = 0; i < 16; ++i) {
      codes.push_back(static_cast<uint8_t>(i));
      codes.push_back(static_cast<uint8_t>(15 - i));
    }
    std::vector<uint32_t> words(6, 0xdeadbeefu);
    REQUIRE(
        backend->affine()
            .PackAwq({codes.data(), 16, 2, words.data(), 3}, backend->stream())
            .ok());
    CHECK(words == std::vector<uint32_t>{0x75316420u, 0xfdb9eca8u, 0xdeadbeefu,
                                         0x8ace9bdfu, 0x02461357u,
                                         0xdeadbeefu});
    std::vector<uint8_t> again(codes.size());
    REQUIRE(backend->affine()
                .UnpackAwq({words.data(), 16, 2, 3, again.data()},
                           backend->stream())
                .ok());
    CHECK(again == codes);
  }
}

TEST_CASE("hqq's elements worked by hand") {
  for (const auto& backend : AllBackends()) {
    INFO(backend->name());
    const auto packed = [&](std::vector<uint8_t> codes, int bits, int64_t part,
                            auto zero) {
      std::vector<decltype(zero)> elements(static_cast<size_t>(part));
      const auto count = static_cast<int64_t>(codes.size());
      REQUIRE(backend->affine()
                  .PackParts({codes.data(), count, bits, part, elements.data()},
                             backend->stream())
                  .ok());
      std::vector<uint8_t> again(codes.size());
      REQUIRE(
          backend->affine()
              .UnpackParts({elements.data(), count, bits, part, again.data()},
                           backend->stream())
              .ok());
      CHECK(again == codes);
      return elements;
    };
    using Bytes = std::vector<uint8_t>;
    CHECK(packed({200, 7, 255}, 8, 3, uint8_t{}) == Bytes{200, 7, 255});
    CHECK(packed({1, 2, 3, 4}, 4, 2, uint8_t{}) == Bytes{0x13, 0x24});
    CHECK(packed({1, 2, 3, 0}, 2, 1, uint8_t{}) == Bytes{0x6c});
    CHECK(packed({1, 0, 1, 1, 0, 0, 1, 0}, 1, 1, uint8_t{}) == Bytes{0xb2});
    // Codes 0, 2, ... 10 and 1, 3, ... 9 from bit 27 down.
    CHECK(packed({1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4}, 3, 2, uint32_t{}) ==
          std::vector<uint32_t>{0x0bbd4000u, 0x14c58000u});
  }
}

// Calls body(backend, what) for every SIMD target, and for two threads.
template <class Body>
void ForCpus(const Body& body) {
  for (const std::string& target : SimdTargets()) {
    REQUIRE(ForceSimdTargetForTest(target).ok());
    body(*NewCpuBackend(1), target);
    REQUIRE(ForceSimdTargetForTest("").ok());
  }
  body(*NewCpuBackend(2), "2 threads");
}

TEST_CASE("AWQ's words on every SIMD target") {
  const auto reference = NewReferenceBackend();
  const auto check = [&](const AwqPackCase& c) {
    const AwqPackResult want = RunAwqPacking(reference->affine(), c);
    ForCpus([&](Backend& cpu, const std::string& what) {
      INFO(c.Describe() << " on " << what);
      REQUIRE(RunAwqPacking(cpu.affine(), c) == want);
    });
  };
  ForAwqPackCases(check);
  check({1032, 700, 130});  // several tiles of threads
}

TEST_CASE("hqq's elements on every SIMD target") {
  const auto reference = NewReferenceBackend();
  const auto check = [&](const PartsCase& c) {
    const PartsResult want = RunPartsPacking(reference->affine(), c);
    ForCpus([&](Backend& cpu, const std::string& what) {
      INFO(c.Describe() << " on " << what);
      REQUIRE(RunPartsPacking(cpu.affine(), c) == want);
    });
  };
  ForPartsCases(check);
  for (const int bits : {8, 4, 3, 2, 1}) {
    check({bits, 300007, 300007 * PackedParts(bits) - 400000 / bits});
  }
}

TEST_CASE("nothing is written where there is nothing") {
  for (const auto& backend : AllBackends()) {
    AffineOps& ops = backend->affine();
    Stream& stream = backend->stream();
    for (const int64_t rows : {0, 8}) {
      const int64_t cols = rows == 0 ? 5 : 0;
      CHECK(ops.PackAwq({nullptr, rows, cols, nullptr, 1}, stream).ok());
      CHECK(ops.UnpackAwq({nullptr, rows, cols, 1, nullptr}, stream).ok());
    }
    for (const int bits : {8, 4, 3, 2, 1}) {
      CHECK(ops.PackParts({nullptr, 0, bits, 0, nullptr}, stream).ok());
      CHECK(ops.UnpackParts({nullptr, 0, bits, 0, nullptr}, stream).ok());
    }
  }
}

TEST_CASE("wrong arguments are refused") {
  const auto message = [](const absl::Status& status) {
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  for (const auto& backend : AllBackends()) {
    AffineOps& ops = backend->affine();
    Stream& stream = backend->stream();
    struct Shape {
      int64_t rows, cols, stride;
    };
    for (const Shape& s :
         {Shape{12, 4, 2}, Shape{16, 4, 1}, Shape{-8, 4, 2}, Shape{8, -1, 2}}) {
      CHECK(message(ops.PackAwq({nullptr, s.rows, s.cols, nullptr, s.stride},
                                stream))
                .find("shape: got [") == 0);
      CHECK(message(ops.UnpackAwq({nullptr, s.rows, s.cols, s.stride, nullptr},
                                  stream))
                .find("shape: got [") == 0);
    }
    for (const int bits : {-1, 0, 5, 6, 7, 9}) {
      CHECK(message(ops.PackParts({nullptr, 0, bits, 0, nullptr}, stream))
                .find("bits: got ") == 0);
    }
    CHECK(message(ops.PackParts({nullptr, 21, 3, 2, nullptr}, stream)) ==
          "count: got 21 codes in parts of 2, allowed 0 or more, of at most 10 "
          "parts");
    CHECK(message(ops.UnpackParts({nullptr, 1, 4, 0, nullptr}, stream))
              .find("count: got 1 ") == 0);
    CHECK(message(ops.UnpackParts({nullptr, -1, 4, 1, nullptr}, stream))
              .find("count: got -1 ") == 0);
  }
}

}  // namespace
}  // namespace qs
