// GridWriter: rows in any order and cut, on every backend, give the same
// tensors; sizes are as stated; what cannot be stored is refused.
#include "quant/formats/grid_writer.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "quant/formats/compressed_tensors.h"
#include "quant/formats/stored_tensors.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

constexpr int64_t kRows = 96;
constexpr int64_t kCols = 160;

QuantSpec SpecFor(OutputFormat format, int bits, bool symmetric) {
  QuantSpec spec;
  spec.format = format;
  if (format == OutputFormat::kAwqGemm) {
    spec.method =
        AwqSpec{.bits = bits, .group_size = 32, .symmetric = symmetric};
  } else {
    spec.method =
        GptqSpec{.bits = bits, .group_size = 32, .symmetric = symmetric};
  }
  return spec;
}

// A weight of pseudo-random codes, no zero point of 0.
struct Weight {
  Weight(DType dtype, int bits, bool symmetric)
      : shape{"a.weight", dtype, kRows, kCols} {
    uint32_t state = 12345;
    const auto next = [&state] {
      return (state = state * 1664525u + 1013904223u) >> 8;
    };
    const uint32_t last = (1u << bits) - 1;
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      codes.push_back(static_cast<uint8_t>(next() & last));
    }
    const int64_t count = kRows * kCols / 32;
    scales.resize(static_cast<size_t>(count * DTypeBytes(dtype)));
    for (int64_t i = 0; i < count; ++i) {
      StoreFromFloat(scales.data(), dtype, i,
                     0x1p-10f * static_cast<float>(1 + next() % 200));
      zeros.push_back(static_cast<uint8_t>(1 + next() % last));
    }
    if (symmetric) zeros.clear();
  }

  GridRows Rows(int64_t first, int64_t count) const {
    GridRows rows;
    rows.first_row = first;
    rows.rows = count;
    rows.codes = codes.data() + first * kCols;
    rows.scales = scales.data() + first * kCols / 32 * DTypeBytes(shape.dtype);
    if (!zeros.empty()) rows.zero_points = zeros.data() + first * kCols / 32;
    return rows;
  }

  GridShape shape;
  std::vector<uint8_t> codes, scales, zeros;
};

std::unique_ptr<GridWriter> NewWriter(const QuantSpec& spec,
                                      const GridShape& shape,
                                      bool streamed = false) {
  auto writer = GridWriter::Create(spec, shape, streamed);
  INFO(writer.status());
  REQUIRE(writer.ok());
  return *std::move(writer);
}

std::vector<std::vector<uint8_t>> Finished(GridWriter& writer) {
  auto tensors = writer.Finish();
  REQUIRE(tensors.ok());
  std::vector<std::vector<uint8_t>> bytes;
  for (const OutputTensor& tensor : *tensors) {
    bytes.emplace_back(tensor.data.data(),
                       tensor.data.data() + tensor.data.size());
  }
  return bytes;
}

struct Case {
  OutputFormat format;
  int bits;
  bool symmetric;
  DType dtype;
};

std::vector<Case> Cases() {
  using enum OutputFormat;
  std::vector<Case> cases;
  for (const bool symmetric : {false, true}) {
    for (const int bits : {2, 3, 4, 8}) {
      cases.push_back({kGptq, bits, symmetric, DType::kF16});
      cases.push_back({kGptqV2, bits, symmetric, DType::kBF16});
      cases.push_back({kCompressedTensors, bits, symmetric, DType::kF32});
    }
    cases.push_back({kAwqGemm, 4, symmetric, DType::kBF16});
  }
  return cases;
}

// Packs in good order, and of what call number `lie` unpacks one value is
// wrong.
class LyingAffine final : public AffineOps {
 public:
  explicit LyingAffine(AffineOps& ops) : ops_(ops) {}
  absl::Status Encode(const AffineEncodeArgs& a, Stream& s) override {
    return ops_.Encode(a, s);
  }
  absl::Status Decode(const AffineDecodeArgs& a, Stream& s) override {
    return ops_.Decode(a, s);
  }
  absl::Status PackRows(const PackRowsArgs& a, Stream& s) override {
    return ops_.PackRows(a, s);
  }
  absl::Status UnpackRows(const UnpackRowsArgs& a, Stream& s) override {
    const absl::Status status = ops_.UnpackRows(a, s);
    if (calls++ == lie) a.codes[a.rows * a.cols - 1] ^= 1;
    return status;
  }
  absl::Status PackColumns(const PackColumnsArgs& a, Stream& s) override {
    return ops_.PackColumns(a, s);
  }
  absl::Status UnpackColumns(const UnpackColumnsArgs& a, Stream& s) override {
    const absl::Status status = ops_.UnpackColumns(a, s);
    if (calls++ == lie) a.codes[a.rows * a.cols - 1] ^= 1;
    return status;
  }
  absl::Status PackAwq(const PackAwqArgs& a, Stream& s) override {
    return ops_.PackAwq(a, s);
  }
  absl::Status UnpackAwq(const UnpackAwqArgs& a, Stream& s) override {
    const absl::Status status = ops_.UnpackAwq(a, s);
    if (calls++ == lie) a.codes[a.rows * a.cols - 1] ^= 1;
    return status;
  }
  absl::Status PackParts(const PackPartsArgs& a, Stream& s) override {
    return ops_.PackParts(a, s);
  }
  absl::Status UnpackParts(const UnpackPartsArgs& a, Stream& s) override {
    return ops_.UnpackParts(a, s);
  }

  int calls = 0;
  int lie = -1;

 private:
  AffineOps& ops_;
};

class LyingBackend final : public Backend {
 public:
  std::string name() const override { return "lying"; }
  std::string description() const override { return "lying"; }
  Stream& stream() override { return real_->stream(); }
  Nf4Ops& nf4() override { return real_->nf4(); }
  AffineOps& affine() override { return lying; }
  StatsOps& stats() override { return real_->stats(); }
  HqqOps& hqq() override { return real_->hqq(); }
  GramOps& gram() override { return real_->gram(); }
  GptqOps& gptq() override { return real_->gptq(); }
  AwqOps& awq() override { return real_->awq(); }

 private:
  const std::unique_ptr<Backend> real_ = NewReferenceBackend();

 public:
  LyingAffine lying{real_->affine()};
};

}  // namespace

TEST_CASE("codes and zero points that do not read back", "[grid_writer]") {
  for (const Case& item : Cases()) {
    const QuantSpec spec = SpecFor(item.format, item.bits, item.symmetric);
    const Weight weight(StoredScaleOf(item.format, item.dtype).dtype, item.bits,
                        item.symmetric);
    LyingBackend backend;
    const auto add = [&] {
      backend.lying.calls = 0;
      return NewWriter(spec, weight.shape)
          ->AddRows(weight.Rows(0, kRows), backend);
    };
    REQUIRE(add().ok());
    const int calls = backend.lying.calls;
    // A symmetric grid of compressed-tensors has no zero points.
    const bool zeros =
        item.format != OutputFormat::kCompressedTensors || !item.symmetric;
    CHECK(calls >= (zeros ? 2 : 1));
    bool told = false;
    for (backend.lying.lie = 0; backend.lying.lie < calls;
         ++backend.lying.lie) {
      const absl::Status status = add();
      INFO(static_cast<int>(item.format) << " " << item.bits << " call "
                                         << backend.lying.lie << " " << status);
      CHECK(absl::IsInternal(status));
      const absl::string_view text = status.message();
      told = told || text.find("zero_point") != text.npos ||
             text.find("qzeros") != text.npos;
    }
    CHECK(told == zeros);
  }
}

TEST_CASE("any cut, on any backend and several threads, gives the same bytes",
          "[grid_writer]") {
  for (const Case& item : Cases()) {
    const QuantSpec spec = SpecFor(item.format, item.bits, item.symmetric);
    const Weight weight(StoredScaleOf(item.format, item.dtype).dtype, item.bits,
                        item.symmetric);
    INFO(static_cast<int>(item.format) << " " << item.bits);
    const auto reference = NewReferenceBackend();
    const auto whole = NewWriter(spec, weight.shape);
    REQUIRE(whole->AddRows(weight.Rows(0, kRows), *reference).ok());
    const auto want = Finished(*whole);
    int64_t bytes = 0;
    for (const auto& part : want) bytes += static_cast<int64_t>(part.size());
    CHECK(bytes == GridOutputBytes(spec, weight.shape));

    const auto cpu = NewCpuBackend(1);
    const auto parts = NewWriter(spec, weight.shape);
    std::vector<std::thread> threads;
    std::vector<absl::Status> results(3);
    for (int64_t i = 0; i < 3; ++i) {
      threads.emplace_back([&, i] {
        results[static_cast<size_t>(i)] =
            parts->AddRows(weight.Rows(32 * i, 32), *cpu);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const absl::Status& result : results) CHECK(result.ok());
    const bool same = Finished(*parts) == want;
    CHECK(same);
  }
}

TEST_CASE("compressed-tensors may stream its words", "[grid_writer]") {
  for (const bool symmetric : {false, true}) {
    const QuantSpec spec =
        SpecFor(OutputFormat::kCompressedTensors, 3, symmetric);
    const Weight weight(DType::kBF16, 3, symmetric);
    const auto backend = NewCpuBackend(1);
    const auto kept = NewWriter(spec, weight.shape);
    REQUIRE(kept->AddRows(weight.Rows(0, kRows), *backend).ok());
    auto want = Finished(*kept);
    const auto writer = NewWriter(spec, weight.shape, true);
    CHECK(writer->streams());
    CHECK(writer->StreamedBytes(kRows) == static_cast<int64_t>(want[0].size()));
    std::vector<uint32_t> words(want[0].size() / 4);
    GridRows rows = weight.Rows(0, kRows);
    CHECK(!writer->AddRows(rows, *backend).ok());
    rows.words = words.data();
    REQUIRE(writer->AddRows(rows, *backend).ok());
    CHECK(std::memcmp(words.data(), want[0].data(), want[0].size()) == 0);
    auto rest = Finished(*writer);
    CHECK(rest[0].empty());
    rest[0] = want[0];
    CHECK(rest == want);
  }
}

TEST_CASE("scales that a file cannot hold", "[grid_writer]") {
  const auto backend = NewCpuBackend(1);
  for (const OutputFormat format :
       {OutputFormat::kGptq, OutputFormat::kAwqGemm}) {
    Weight weight(DType::kBF16, 4, true);
    const QuantSpec spec = SpecFor(format, 4, true);
    const StoredScale stored = StoredScaleOf(format, DType::kBF16);
    REQUIRE(stored.dtype == DType::kBF16);
    const auto with = [&](float scale) {
      StoreFromFloat(weight.scales.data(), DType::kBF16, 7, scale);
      return NewWriter(spec, weight.shape)
          ->AddRows(weight.Rows(0, kRows), *backend);
    };
    // Every BF16 number of the smallest binade is one of F16.
    for (int i = 0; i < 128; ++i) {
      CHECK(with(stored.min * (1 + static_cast<float>(i) / 128)).ok());
    }
    for (const float bad : {0.0f, -1.0f, 0x1p16f, 0x1.02p-18f,
                            std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
      const absl::Status status = with(bad);
      INFO(bad << " " << status);
      CHECK(absl::IsInternal(status));
      CHECK(status.message().find("row 1, group 2") != absl::string_view::npos);
    }
  }
}

TEST_CASE("rows that are cut wrongly", "[grid_writer]") {
  const QuantSpec spec = SpecFor(OutputFormat::kGptqV2, 4, true);
  const Weight weight(DType::kF16, 4, true);
  const auto backend = NewCpuBackend(1);
  const auto writer = NewWriter(spec, weight.shape);
  const auto add = [&](int64_t first, int64_t rows) {
    GridRows part = weight.Rows(0, kRows);
    part.first_row = first;
    part.rows = rows;
    return writer->AddRows(part, *backend);
  };
  for (const auto& [first, rows] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 0}, {0, 16}, {16, 32}, {-32, 32}, {64, 64}, {96, 32}}) {
    INFO(first << " " << rows);
    CHECK(absl::IsInternal(add(first, rows)));
  }
  GridRows zeros = weight.Rows(0, kRows);
  const std::vector<uint8_t> eights(kRows * kCols / 32, 8);
  zeros.zero_points = eights.data();
  CHECK(absl::IsInternal(writer->AddRows(zeros, *backend)));
}

TEST_CASE("shapes and names that a format cannot hold", "[grid_writer]") {
  const auto create = [](OutputFormat format, int bits, int64_t rows,
                         int64_t cols, const char* name = "a.weight") {
    return GridWriter::Create(SpecFor(format, bits, true),
                              {name, DType::kF16, rows, cols})
        .status();
  };
  using enum OutputFormat;
  CHECK(create(kGptq, 4, 8, 64).ok());
  CHECK(IsInvalid(create(kGptq, 4, 12, 64), "multiples of 8 in both"));
  CHECK(IsInvalid(create(kGptq, 3, 32, 40), "multiples of 32 in both"));
  CHECK(IsInvalid(create(kAwqGemm, 4, 12, 64), "rows in multiples of 8"));
  CHECK(IsInvalid(create(kAwqGemm, 4, 16, 40), "group_size 32"));
  for (const OutputFormat format : {kGptq, kAwqGemm, kCompressedTensors}) {
    CHECK(IsInvalid(create(format, 4, 32, 64, "a.kernel"), ".weight"));
    CHECK(IsInvalid(create(format, 4, 32, 64, ".weight"), ".weight"));
  }
}

}  // namespace qs::testing
