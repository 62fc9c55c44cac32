// TensorQuantizer when a kernel lies, fails, or the owner cancels.
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <string>

#include "kernels/base/status_macros.h"
#include "quant/quantizer_base.h"
#include "quant/tensor_quantizer.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT

const std::string kName = "a.weight";

// What happens after a kernel has run; empty functions do nothing.
struct Hooks {
  std::function<absl::Status(const Nf4EncodeArgs&)> nf4_encoded;
  std::function<void()> nested_encoded;
  std::function<void(const NestedDecodeArgs&)> nested_decoded;
  std::function<void(const NestedRefineArgs&)> nested_refined;
  std::function<void(const PackRowsArgs&)> rows_packed;
  std::function<void(const PackColumnsArgs&)> columns_packed;
  std::function<void(const PackPartsArgs&)> parts_packed;
};

class HookedNf4 final : public Nf4Ops {
 public:
  HookedNf4(Nf4Ops& ops, Hooks& hooks) : ops_(ops), hooks_(hooks) {}
  absl::Status Encode(const Nf4EncodeArgs& a, Stream& s) override {
    const absl::Status status = ops_.Encode(a, s);
    return hooks_.nf4_encoded ? hooks_.nf4_encoded(a) : status;
  }
  absl::Status Decode(const Nf4DecodeArgs& a, Stream& s) override {
    return ops_.Decode(a, s);
  }
  absl::Status NestedEncode(const NestedEncodeArgs& a, Stream& s) override {
    const absl::Status status = ops_.NestedEncode(a, s);
    if (hooks_.nested_encoded) hooks_.nested_encoded();
    return status;
  }
  absl::Status NestedDecode(const NestedDecodeArgs& a, Stream& s) override {
    const absl::Status status = ops_.NestedDecode(a, s);
    if (hooks_.nested_decoded) hooks_.nested_decoded(a);
    return status;
  }
  absl::Status NestedRefine(const NestedRefineArgs& a, Stream& s) override {
    const absl::Status status = ops_.NestedRefine(a, s);
    if (hooks_.nested_refined) hooks_.nested_refined(a);
    return status;
  }

 private:
  Nf4Ops& ops_;
  Hooks& hooks_;
};

class HookedAffine final : public AffineOps {
 public:
  HookedAffine(AffineOps& ops, Hooks& hooks) : ops_(ops), hooks_(hooks) {}
  absl::Status Encode(const AffineEncodeArgs& a, Stream& s) override {
    return ops_.Encode(a, s);
  }
  absl::Status Decode(const AffineDecodeArgs& a, Stream& s) override {
    return ops_.Decode(a, s);
  }
  absl::Status PackRows(const PackRowsArgs& a, Stream& s) override {
    const absl::Status status = ops_.PackRows(a, s);
    if (hooks_.rows_packed) hooks_.rows_packed(a);
    return status;
  }
  absl::Status UnpackRows(const UnpackRowsArgs& a, Stream& s) override {
    return ops_.UnpackRows(a, s);
  }
  absl::Status PackColumns(const PackColumnsArgs& a, Stream& s) override {
    const absl::Status status = ops_.PackColumns(a, s);
    if (hooks_.columns_packed) hooks_.columns_packed(a);
    return status;
  }
  absl::Status UnpackColumns(const UnpackColumnsArgs& a, Stream& s) override {
    return ops_.UnpackColumns(a, s);
  }
  absl::Status PackAwq(const PackAwqArgs& a, Stream& s) override {
    return ops_.PackAwq(a, s);
  }
  absl::Status UnpackAwq(const UnpackAwqArgs& a, Stream& s) override {
    return ops_.UnpackAwq(a, s);
  }
  absl::Status PackParts(const PackPartsArgs& a, Stream& s) override {
    const absl::Status status = ops_.PackParts(a, s);
    if (hooks_.parts_packed) hooks_.parts_packed(a);
    return status;
  }
  absl::Status UnpackParts(const UnpackPartsArgs& a, Stream& s) override {
    return ops_.UnpackParts(a, s);
  }

 private:
  AffineOps& ops_;
  Hooks& hooks_;
};

class HookedBackend final : public Backend {
 public:
  std::string name() const override { return "hooked"; }
  std::string description() const override { return "hooked"; }
  Stream& stream() override { return real_->stream(); }
  Nf4Ops& nf4() override { return nf4_; }
  AffineOps& affine() override { return affine_; }
  StatsOps& stats() override { return real_->stats(); }
  HqqOps& hqq() override { return real_->hqq(); }
  GramOps& gram() override { return real_->gram(); }
  GptqOps& gptq() override { return real_->gptq(); }
  AwqOps& awq() override { return real_->awq(); }

  Hooks hooks;

 private:
  const std::unique_ptr<Backend> real_ = NewReferenceBackend();
  HookedNf4 nf4_{real_->nf4(), hooks};
  HookedAffine affine_{real_->affine(), hooks};
};

absl::Status FirstTile(const QuantSpec& spec, Backend& backend) {
  const auto bytes = Gaussian(64 * 128, DType::kBF16, 21);
  return MakeQuantizer(spec, {kName, DType::kBF16, {64, 128}}, bytes)
      ->RunTile(0, backend);
}

// A tensor with all that it takes.
absl::Status Whole(const QuantSpec& spec, Backend& backend) {
  const auto bytes = Gaussian(64 * 128, DType::kBF16, 21);
  const auto q = MakeQuantizer(spec, {kName, DType::kBF16, {64, 128}}, bytes);
  const absl::Status tile = q->RunTile(0, backend);
  return tile.ok() ? q->Finish(backend).status() : tile;
}

TEST_CASE("hqq's elements that were packed wrong do not count as done") {
  for (const int bits : {8, 4, 3, 2, 1}) {
    HookedBackend backend;
    const QuantSpec spec = {HqqSpec{.bits = bits}, Profile::kBest,
                            OutputFormat::kHqq};
    REQUIRE(Whole(spec, backend).ok());
    backend.hooks.parts_packed = [](const PackPartsArgs& a) {
      static_cast<uint8_t*>(a.packed)[a.part - 1] ^= 1;
    };
    const absl::Status status = Whole(spec, backend);
    INFO(bits << " bits: " << status);
    CHECK(absl::IsInternal(status));
  }
}

TEST_CASE("output that was packed wrong does not count as done") {
  HookedBackend backend;
  const QuantSpec nf4 = PresetSpec("NF4", Profile::kReference);
  const QuantSpec rtn = PresetSpec("W4A16", Profile::kBest);
  const QuantSpec asymmetric = Rtn({4, 64, false}, Profile::kBest);
  REQUIRE(FirstTile(nf4, backend).ok());
  REQUIRE(FirstTile(rtn, backend).ok());
  REQUIRE(FirstTile(asymmetric, backend).ok());

  SECTION("swapped nibbles") {
    backend.hooks.nf4_encoded = [](const Nf4EncodeArgs& a) {
      for (int64_t i = 0; i < a.weight.num_elements() / 2; ++i) {
        a.packed[i] = static_cast<uint8_t>(a.packed[i] << 4 | a.packed[i] >> 4);
      }
      return absl::OkStatus();
    };
    CHECK(absl::IsInternal(FirstTile(nf4, backend)));
  }
  SECTION("absmax of the neighbour block") {
    backend.hooks.nf4_encoded = [](const Nf4EncodeArgs& a) {
      for (int i = 0; i < 32; ++i) a.absmax[i] *= 2;
      return absl::OkStatus();
    };
    CHECK(absl::IsInternal(FirstTile(nf4, backend)));
  }
  SECTION("one flipped bit of a word") {
    backend.hooks.rows_packed = [](const PackRowsArgs& a) { a.words[77] ^= 8; };
    CHECK(absl::IsInternal(FirstTile(rtn, backend)));
  }
  SECTION("one flipped bit of a zero point") {
    backend.hooks.columns_packed = [](const PackColumnsArgs& a) {
      a.words[3] ^= 1;
    };
    CHECK(absl::IsInternal(FirstTile(asymmetric, backend)));
  }
}

// To the neighbouring level, the least that can go wrong.
void FlipCode(uint8_t* packed, int64_t i) {
  packed[i / 2] = static_cast<uint8_t>(packed[i / 2] ^ (i % 2 == 0 ? 16 : 1));
}

// The first and the last places, each of a block's, and some of each slice.
std::vector<int64_t> Places(int64_t count) {
  std::vector<int64_t> places = {count - 1, count - 2};
  for (int64_t i = 0; i < 64; ++i) places.push_back(i);
  for (int64_t i = 4093; i < count; i += 4093) places.push_back(i);
  return places;
}

TEST_CASE("one wrong code anywhere does not count as done") {
  HookedBackend backend;
  constexpr int64_t kCount = kSliceElements + 4 * 64 + 37;
  for (const std::string name : {"NF4", "FP4", "NF4-dq"}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const auto bytes = Gaussian(kCount, dtype, 24);
      const auto q = MakeQuantizer(PresetSpec(name, Profile::kReference),
                                   {kName, dtype, {kCount}}, bytes);
      backend.hooks.nf4_encoded = {};
      REQUIRE(q->RunTile(0, backend).ok());
      for (const int64_t place : Places(kCount)) {
        int64_t begin = 0;
        backend.hooks.nf4_encoded = [&](const Nf4EncodeArgs& a) {
          *a.first_non_finite = -1;
          const int64_t count = a.weight.num_elements();
          if (place >= begin && place < begin + count) {
            FlipCode(a.packed, place - begin);
          }
          begin += count;
          return absl::OkStatus();
        };
        const absl::Status status = q->RunTile(0, backend);
        INFO(name << " " << DTypeName(dtype) << ", code " << place << ": "
                  << status.ToString());
        REQUIRE(absl::IsInternal(status));
        REQUIRE(std::string(status.message())
                    .ends_with(" " + std::to_string(place)));
      }
    }
  }
}

TEST_CASE("... nor does one of the second round") {
  HookedBackend backend;
  constexpr int64_t kCount = 64 * 64 + 5;
  const auto bytes = Gaussian(kCount, DType::kBF16, 25);
  const auto q = MakeQuantizer(PresetSpec("NF4-dq", Profile::kBest),
                               {kName, DType::kBF16, {kCount}}, bytes);
  REQUIRE(q->RunTile(0, backend).ok());
  REQUIRE(q->BetweenRounds(backend).ok());
  REQUIRE(q->RerunTile(0, backend).ok());
  for (const int64_t place : Places(kCount)) {
    backend.hooks.nested_refined = [&](const NestedRefineArgs& a) {
      FlipCode(a.packed, place);
    };
    INFO(place);
    REQUIRE(absl::IsInternal(q->RerunTile(0, backend)));
  }
}

// Weights with blocks of zeros, which double quantization gives an absmax that
// is not 0.
std::vector<uint8_t> Pruned(int64_t count, DType dtype) {
  auto bytes = Gaussian(count, dtype, 27);
  for (int64_t i = 0; i < count; ++i) {
    if (i / 64 % 3 == 1) StoreFromFloat(bytes.data(), dtype, i, 0);
  }
  return bytes;
}

// To a level that is not 0, whatever code of 0 was there.
void BreakCode(uint8_t* packed, int64_t i) {
  packed[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? packed[i / 2] | 0xf0
                                                  : packed[i / 2] | 0x0f);
}

TEST_CASE("... nor does one of a pruned block") {
  HookedBackend backend;
  constexpr int64_t kCount = 8 * 64 - 1;  // the last block is pruned, and short
  for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      for (const Profile profile : {Profile::kReference, Profile::kBest}) {
        QuantSpec spec = PresetSpec("NF4-dq", profile);
        std::get<Nf4Spec>(spec.method).codebook = codebook;
        std::get<Nf4Spec>(spec.method).rule = rule;
        const auto q = MakeQuantizer(spec, {kName, DType::kBF16, {kCount}},
                                     Pruned(kCount, DType::kBF16));
        int64_t place = -1;
        const auto run = [&] {
          backend.hooks = {};
          if (profile == Profile::kReference) {
            backend.hooks.nf4_encoded = [&](const Nf4EncodeArgs& a) {
              *a.first_non_finite = -1;
              if (place >= 0) BreakCode(a.packed, place);
              return absl::OkStatus();
            };
          }
          backend.hooks.nested_refined = [&](const NestedRefineArgs& a) {
            if (place >= 0) BreakCode(a.packed, place);
          };
          QS_RETURN_IF_ERROR(q->RunTile(0, backend));
          QS_RETURN_IF_ERROR(q->BetweenRounds(backend));
          return q->RerunTile(0, backend);
        };
        INFO((codebook == Codebook::kNf4 ? "NF4" : "FP4")
             << (rule == Nf4Rule::kCuda ? ", cuda" : ", cpu")
             << (profile == Profile::kBest ? ", BEST" : ""));
        REQUIRE(run().ok());
        for (place = 0; place < kCount; ++place) {
          if (place / 64 % 3 != 1) continue;
          const absl::Status status = run();
          INFO("code " << place << ": " << status.ToString());
          REQUIRE(absl::IsInternal(status));
        }
      }
    }
  }
}

// What a reader would refuse.
TEST_CASE("... nor does the nibble behind an odd number of codes") {
  HookedBackend backend;
  constexpr int64_t kCount = 64 * 64 + 5;
  const auto bytes = Gaussian(kCount, DType::kBF16, 26);
  const auto q = MakeQuantizer(PresetSpec("NF4", Profile::kReference),
                               {kName, DType::kBF16, {kCount}}, bytes);
  REQUIRE(q->RunTile(0, backend).ok());
  backend.hooks.nf4_encoded = [](const Nf4EncodeArgs& a) {
    FlipCode(a.packed, a.weight.num_elements());
    return absl::OkStatus();
  };
  CHECK(absl::IsInternal(q->RunTile(0, backend)));
}

TEST_CASE("an absmax that a reader does not find never counts as done") {
  HookedBackend backend;
  const auto bytes = Gaussian(64 * 128, DType::kBF16, 23);
  QuantizeOptions options;
  options.error_report = false;  // codes stay as they are
  const auto finish = [&] {
    const auto q =
        MakeQuantizer(PresetSpec("NF4-dq", Profile::kReference),
                      {kName, DType::kBF16, {64, 128}}, bytes, options);
    REQUIRE(q->RunTile(0, backend).ok());
    return q->Finish(backend).status();
  };
  REQUIRE(finish().ok());
  backend.hooks.nested_decoded = [](const NestedDecodeArgs& a) {
    a.absmax[77] = std::nextafter(a.absmax[77], 1.0f);
  };
  const absl::Status status = finish();
  CHECK(absl::IsInternal(status));
  CHECK(std::string(status.message()).find("absmax does not read back") !=
        std::string::npos);
}

TEST_CASE("a kernel's error comes through") {
  HookedBackend backend;
  backend.hooks.nf4_encoded = [](const Nf4EncodeArgs&) {
    return absl::DataLossError("device gone");
  };
  const absl::Status status =
      FirstTile(PresetSpec("NF4", Profile::kBest), backend);
  CHECK(absl::IsDataLoss(status));
  CHECK(std::string(status.message()) == "device gone");
}

TEST_CASE("a set flag stops the next tile, round and Finish") {
  auto backend = NewCpuBackend(1);
  constexpr int64_t kRows = 2 * kTileBytes / (1024 * 2);  // two tiles
  const auto bytes = Gaussian(kRows * 1024, DType::kBF16, 22);
  for (const std::string name : {"NF4", "NF4-dq", "W4A16"}) {
    std::atomic<bool> cancelled{false};
    QuantizeOptions options;
    options.cancelled = &cancelled;
    auto q =
        MakeQuantizer(PresetSpec(name, Profile::kReference),
                      {kName, DType::kBF16, {kRows, 1024}}, bytes, options);
    REQUIRE(q->num_tiles() == 2);
    REQUIRE(q->RunTile(0, *backend).ok());
    cancelled = true;
    CHECK(absl::IsCancelled(q->RunTile(1, *backend)));
    cancelled = false;
    REQUIRE(q->RunTile(1, *backend).ok());
    if (q->has_second_round()) {
      cancelled = true;
      CHECK(absl::IsCancelled(q->BetweenRounds(*backend)));
      cancelled = false;
      REQUIRE(q->BetweenRounds(*backend).ok());
      REQUIRE(q->RerunTile(1, *backend).ok());
      cancelled = true;
      CHECK(absl::IsCancelled(q->RerunTile(0, *backend)));
    }
    cancelled = true;
    CHECK(absl::IsCancelled(q->Finish(*backend).status()));
  }
}

TEST_CASE(
    "a flag set while a tile runs, in either round, stops it at the next "
    "slice") {
  HookedBackend backend;
  std::atomic<bool> cancelled{false};
  QuantizeOptions options;
  options.cancelled = &cancelled;
  const auto bytes = Gaussian(256 * 1024, DType::kBF16, 23);
  const TensorInfo info{kName, DType::kBF16, {256, 1024}};
  const QuantSpec spec = PresetSpec("NF4-dq", Profile::kBest);
  int calls = 0;
  SECTION("tile") {
    backend.hooks.nf4_encoded = [&](const Nf4EncodeArgs& a) {
      *a.first_non_finite = -1;
      ++calls;
      cancelled = true;
      return absl::OkStatus();
    };
    auto q = MakeQuantizer(spec, info, bytes, options);
    CHECK(absl::IsCancelled(q->RunTile(0, backend)));
  }
  SECTION("second round") {
    auto q = MakeQuantizer(spec, info, bytes, options);
    REQUIRE(q->RunTile(0, backend).ok());
    REQUIRE(q->BetweenRounds(backend).ok());
    backend.hooks.nested_refined = [&](const NestedRefineArgs&) {
      ++calls;
      cancelled = true;
    };
    CHECK(absl::IsCancelled(q->RerunTile(0, backend)));
  }
  CHECK(calls == 1);
}

}  // namespace
}  // namespace qs
