// TensorQuantizer: tiles, order, direct kernel calls, errors, sizes.
#include "quant/tensor_quantizer.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/checked_math.h"
#include "tests/quant/tensor_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using namespace testing;  // NOLINT

constexpr Profile kBoth[] = {Profile::kReference, Profile::kBest};
const std::string kName = "layers.0.up_proj.weight";

TensorInfo Info(DType dtype, std::vector<int64_t> shape) {
  return {kName, dtype, std::move(shape)};
}

// The specs that between them take every path.
std::vector<QuantSpec> AllPaths(Profile profile) {
  std::vector<QuantSpec> specs;
  for (const Preset& preset : Presets()) {
    // The other methods have tests of their own.
    if (preset.spec.nf4() == nullptr && preset.spec.rtn() == nullptr) continue;
    specs.push_back(PresetSpec(preset.name, profile));
  }
  specs.push_back(
      Rtn({.bits = 3, .group_size = 64, .symmetric = false}, profile));
  return specs;
}

void RequireSame(const QuantizedTensor& a, const QuantizedTensor& b) {
  REQUIRE(Parts(a) == Parts(b));
  const ErrorSums& ea = a.report.error;
  const ErrorSums& eb = b.report.error;
  CHECK(ea.count == eb.count);
  CHECK(ea.squared_error == eb.squared_error);
  CHECK(ea.absolute_error == eb.absolute_error);
  CHECK(ea.dot == eb.dot);
  CHECK(ea.histogram == eb.histogram);
  CHECK(a.report.rtn.squared_error == b.report.rtn.squared_error);
  REQUIRE(a.report.worst_groups.size() == b.report.worst_groups.size());
  for (size_t i = 0; i < a.report.worst_groups.size(); ++i) {
    CHECK(a.report.worst_groups[i].group == b.report.worst_groups[i].group);
  }
}

TEST_CASE("tiles cover the tensor once, in whole groups") {
  for (const QuantSpec& spec : AllPaths(Profile::kBest)) {
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      auto q = TensorQuantizer::Create(spec, Info(dtype, {1111, 1024}), {});
      REQUIRE(q.ok());
      int64_t last = 0;
      for (int64_t tile = 0; tile < (*q)->num_tiles(); ++tile) {
        const int64_t end = (*q)->tile_input_end(tile);
        CHECK(end > last);
        CHECK(end - last <= 2 * kTileBytes);
        if (tile + 1 < (*q)->num_tiles()) {
          CHECK(end % (1024 * DTypeBytes(dtype)) == 0);
        }
        last = end;
      }
      CHECK(last == 1111 * 1024 * DTypeBytes(dtype));
    }
  }
}

TEST_CASE("zero points of a tile end on a word border") {
  const QuantSpec spec =
      Rtn({.bits = 3, .group_size = 48, .symmetric = false}, Profile::kBest);
  auto q = TensorQuantizer::Create(spec, Info(DType::kBF16, {1000, 2400}), {});
  REQUIRE(q.ok());
  REQUIRE((*q)->num_tiles() > 2);
  for (int64_t tile = 0; tile + 1 < (*q)->num_tiles(); ++tile) {
    CHECK((*q)->tile_input_end(tile) % (32 * 2400 * 2) == 0);
  }
}

TEST_CASE("results do not depend on the order of tiles") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kBF16, {1111, 1024});
  const auto bytes = Gaussian(1111 * 1024, info.dtype, 7);
  for (Profile profile : kBoth) {
    for (const QuantSpec& spec : AllPaths(profile)) {
      INFO(SpecAlgorithm(spec) << " bits " << SpecBits(spec));
      const QuantizedTensor straight = Quantize(spec, info, bytes, *backend);
      auto q = MakeQuantizer(spec, info, bytes);
      std::vector<int64_t> order = TilesInOrder(*q);
      std::reverse(order.begin(), order.end());
      for (int64_t tile : order) REQUIRE(q->RunTile(tile, *backend).ok());
      if (q->has_second_round()) {
        REQUIRE(q->BetweenRounds(*backend).ok());
        for (int64_t tile : order) REQUIRE(q->RerunTile(tile, *backend).ok());
      }
      auto reversed = q->Finish(*backend);
      REQUIRE(reversed.ok());
      RequireSame(straight, *reversed);
    }
  }
}

// Three threads run `step(tile, backend)` for every tile.
template <typename Step>
void RunTogether(const TensorQuantizer& q, const Step& step) {
  std::atomic<int64_t> next{0};
  std::atomic<int> failed{0};
  const auto work = [&] {
    auto own = NewCpuBackend(2);
    for (int64_t t = next++; t < q.num_tiles(); t = next++) {
      if (!step(t, *own).ok()) ++failed;
    }
  };
  std::vector<std::thread> workers;
  for (int i = 0; i < 3; ++i) workers.emplace_back(work);
  for (std::thread& worker : workers) worker.join();
  REQUIRE(failed == 0);
}

TEST_CASE("results do not depend on the threads that run tiles") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kBF16, {1111, 1024});
  const auto bytes = Gaussian(1111 * 1024, info.dtype, 8);
  std::vector<QuantSpec> specs = AllPaths(Profile::kReference);
  specs.push_back(PresetSpec("NF4-dq", Profile::kBest));
  for (const QuantSpec& spec : specs) {
    INFO(SpecAlgorithm(spec) << " best " << (spec.profile == Profile::kBest));
    const QuantizedTensor alone = Quantize(spec, info, bytes, *backend);
    auto q = MakeQuantizer(spec, info, bytes);
    RunTogether(*q,
                [&](int64_t t, Backend& own) { return q->RunTile(t, own); });
    if (q->has_second_round()) {
      REQUIRE(q->BetweenRounds(*backend).ok());
      RunTogether(
          *q, [&](int64_t t, Backend& own) { return q->RerunTile(t, own); });
    }
    auto together = q->Finish(*backend);
    REQUIRE(together.ok());
    RequireSame(alone, *together);
  }
}

// By the stream's way of memory: what of a tensor is still needed is held,
// what is not is free, and the pieces are the bytes.
TEST_CASE("both rounds work from tiles and give pieces") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kBF16, {1111, 1024});
  const auto bytes = Gaussian(1111 * 1024, info.dtype, 10);
  for (Profile profile : kBoth) {
    for (bool error_report : {false, true}) {
      INFO("best " << (profile == Profile::kBest) << " report "
                   << error_report);
      const QuantSpec spec = PresetSpec("NF4-dq", profile);
      const bool twice = profile == Profile::kBest || error_report;
      QuantizeOptions whole;
      whole.error_report = error_report;
      const QuantizedTensor straight =
          Quantize(spec, info, bytes, *backend, whole);
      QuantizeOptions options = whole;
      options.tiled_input = true;
      options.streamed_output = true;
      auto q = *TensorQuantizer::Create(spec, info, options);
      REQUIRE(q->has_second_round() == twice);
      REQUIRE(q->streamed_output().bytes == 1111 * 1024 / 2);
      int64_t at = 0;
      for (int64_t tile : TilesInOrder(*q)) {
        const int64_t end = q->tile_input_end(tile);
        std::memcpy(*q->BeginTileInput(tile), bytes.data() + at,
                    static_cast<size_t>(end - at));
        at = end;
        REQUIRE(q->RunTile(tile, *backend).ok());
      }
      auto finished = FinishRounds(*q, *backend);
      REQUIRE(finished.ok());
      std::vector<uint8_t> packed;
      for (int64_t tile : TilesInOrder(*q)) {
        const Buffer piece = q->TakeStreamed(tile);
        packed.insert(packed.end(), piece.data(), piece.data() + piece.size());
      }
      auto want = Parts(straight);
      CHECK(packed == want.at(kName));
      auto got = Parts(*finished);
      got[kName] = packed;
      CHECK(got == want);
      CHECK(finished->report.error.squared_error ==
            straight.report.error.squared_error);
      CHECK(finished->report.bytes_out == straight.report.bytes_out);
    }
  }
}

// The bytes of a tile as they come in: cut anywhere, at any address.
class ScatteredTile {
 public:
  ScatteredTile(const TensorQuantizer& q, const std::vector<uint8_t>& bytes,
                int64_t tile) {
    const int64_t begin = tile == 0 ? 0 : q.tile_input_end(tile - 1);
    copy_.assign(1, 0);
    copy_.insert(copy_.end(), bytes.begin() + begin,
                 bytes.begin() + q.tile_input_end(tile));
    std::span<const uint8_t> rest(copy_.data() + 1, copy_.size() - 1);
    for (size_t size = 1; !rest.empty(); size = size * 3 + 2) {
      const size_t n = std::min(size, rest.size());
      pieces_.push_back(rest.first(n));
      rest = rest.subspan(n);
    }
  }
  const std::vector<InputPiece>& pieces() const { return pieces_; }

 private:
  std::vector<uint8_t> copy_;
  std::vector<InputPiece> pieces_;
};

TEST_CASE("a tile runs from pieces as from memory of its own") {
  auto backend = NewCpuBackend(1);
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    const TensorInfo info = Info(dtype, {1111, 1024});
    const auto bytes = Gaussian(1111 * 1024, dtype, 21);
    QuantizeOptions options;
    options.tiled_input = true;
    for (Profile profile : kBoth) {
      for (const QuantSpec& spec : AllPaths(profile)) {
        INFO(SpecAlgorithm(spec) << " " << DTypeName(dtype));
        auto q = *TensorQuantizer::Create(spec, info, options);
        for (int64_t tile : TilesInOrder(*q)) {
          const ScatteredTile scattered(*q, bytes, tile);
          REQUIRE(q->RunTileFrom(scattered.pieces(), tile, *backend).ok());
        }
        auto finished = FinishRounds(*q, *backend);
        REQUIRE(finished.ok());
        RequireSame(Quantize(spec, info, bytes, *backend), *finished);
      }
    }
  }
}

// Then the encoder reads them where they lie, at any address.
TEST_CASE("pieces without a report give the same bytes") {
  auto backend = NewCpuBackend(1);
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const TensorInfo info = Info(dtype, {1111, 1024});
    const auto bytes = Gaussian(1111 * 1024, dtype, 23);
    QuantizeOptions options;
    options.tiled_input = true;
    options.error_report = false;
    for (Profile profile : kBoth) {
      for (const QuantSpec& spec : AllPaths(profile)) {
        INFO(SpecAlgorithm(spec) << " " << DTypeName(dtype));
        auto q = *TensorQuantizer::Create(spec, info, options);
        for (int64_t tile : TilesInOrder(*q)) {
          const ScatteredTile scattered(*q, bytes, tile);
          REQUIRE(q->RunTileFrom(scattered.pieces(), tile, *backend).ok());
        }
        auto finished = FinishRounds(*q, *backend);
        REQUIRE(finished.ok());
        REQUIRE(Parts(Quantize(spec, info, bytes, *backend)) ==
                Parts(*finished));
      }
    }
  }
}

TEST_CASE("a bad number in pieces is named by its index in the tensor") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kBF16, {1111, 1024});
  auto bytes = Gaussian(1111 * 1024, info.dtype, 22);
  StoreFromFloat(bytes.data(), info.dtype, 1100001,
                 std::numeric_limits<float>::infinity());
  QuantizeOptions options;
  options.tiled_input = true;
  options.error_report = GENERATE(true, false);
  for (const QuantSpec& spec : AllPaths(Profile::kReference)) {
    INFO(SpecAlgorithm(spec));
    auto q = *TensorQuantizer::Create(spec, info, options);
    const int64_t tile = q->num_tiles() - 1;
    const ScatteredTile scattered(*q, bytes, tile);
    CHECK(std::string(
              q->RunTileFrom(scattered.pieces(), tile, *backend).message()) ==
          "tensor \"" + kName + "\": Inf at index 1100001");
  }
}

TEST_CASE("every backend gives the same bytes") {
  const TensorInfo info = Info(DType::kF16, {70, 384});
  const auto bytes = Gaussian(70 * 384, info.dtype, 9);
  const auto backends = AllBackends();
  REQUIRE(backends.size() >= 2);
  for (Profile profile : kBoth) {
    for (const QuantSpec& spec : AllPaths(profile)) {
      const auto first = Parts(Quantize(spec, info, bytes, *backends[0]));
      for (size_t i = 1; i < backends.size(); ++i) {
        INFO(SpecAlgorithm(spec) << " on " << backends[i]->name());
        CHECK(Parts(Quantize(spec, info, bytes, *backends[i])) == first);
      }
    }
  }
}

void CheckNf4AgainstKernel(int64_t count, Profile profile, Codebook codebook) {
  INFO("count " << count << " best " << (profile == Profile::kBest));
  const TensorInfo info = Info(DType::kBF16, {count});
  const auto bytes = Gaussian(count, info.dtype, 11);
  auto backend = NewCpuBackend(1);
  Nf4Spec nf4;
  nf4.codebook = codebook;
  std::vector<uint8_t> packed(static_cast<size_t>((count + 1) / 2));
  std::vector<float> absmax(static_cast<size_t>(CeilDiv(count, 64)));
  int64_t bad = 0;
  Nf4EncodeArgs args;
  args.weight = {bytes.data(), info.dtype, 1, count};
  args.codebook = codebook;
  args.search =
      profile == Profile::kBest ? Nf4Search::kBestScale : Nf4Search::kNone;
  args.packed = packed.data();
  args.absmax = absmax.data();
  args.first_non_finite = &bad;
  REQUIRE(backend->nf4().Encode(args, backend->stream()).ok());
  REQUIRE(bad == -1);

  const QuantizedTensor result =
      Quantize(Nf4(nf4, profile), info, bytes, *backend);
  auto parts = Parts(result);
  CHECK(parts.at(kName) == packed);
  const auto& stored = parts.at(kName + ".absmax");
  REQUIRE(stored.size() == absmax.size() * sizeof(float));
  CHECK(std::memcmp(stored.data(), absmax.data(), stored.size()) == 0);
}

TEST_CASE("nf4 in tiles equals one call on the whole tensor") {
  for (Profile profile : kBoth) {
    for (int64_t count : {1, 63, 65, 4097, 524288, 524289, 1200001}) {
      CheckNf4AgainstKernel(count, profile, Codebook::kNf4);
    }
    CheckNf4AgainstKernel(70001, profile, Codebook::kFp4);
  }
}

void CheckRtnAgainstKernels(const RtnSpec& rtn, int64_t rows, int64_t cols) {
  INFO("bits " << rtn.bits << " group " << rtn.group_size << " rows " << rows);
  const TensorInfo info = Info(DType::kBF16, {rows, cols});
  const auto bytes = Gaussian(rows * cols, info.dtype, 12);
  auto backend = NewCpuBackend(1);
  const int64_t group = rtn.group_size == -1 ? cols : rtn.group_size;
  const int64_t groups = cols / group;
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  std::vector<uint8_t> scales(static_cast<size_t>(rows * groups * 2));
  std::vector<uint8_t> zeros(static_cast<size_t>(rows * groups));
  int64_t bad = 0;
  AffineEncodeArgs args;
  args.weight = {bytes.data(), info.dtype, rows, cols};
  args.bits = rtn.bits;
  args.group_size = group;
  args.symmetric = rtn.symmetric;
  args.search = AffineSearch::kBestRange;
  args.codes = codes.data();
  args.scales = scales.data();
  args.zero_points = rtn.symmetric ? nullptr : zeros.data();
  args.first_non_finite = &bad;
  REQUIRE(backend->affine().Encode(args, backend->stream()).ok());

  std::vector<uint32_t> words(
      static_cast<size_t>(rows * CeilDiv(cols * rtn.bits, 32)));
  REQUIRE(backend->affine()
              .PackRows({codes.data(), rows, cols, rtn.bits, words.data()},
                        backend->stream())
              .ok());
  std::vector<uint32_t> zero_words(
      static_cast<size_t>(CeilDiv(rows * rtn.bits, 32) * groups));
  REQUIRE(backend->affine()
              .PackColumns(
                  {zeros.data(), rows, groups, rtn.bits, zero_words.data()},
                  backend->stream())
              .ok());

  auto parts = Parts(Quantize(Rtn(rtn, Profile::kBest), info, bytes, *backend));
  const auto same = [&parts](const std::string& part, const void* want,
                             size_t size) {
    const auto& got = parts.at(kName + part);
    return got.size() == size && std::memcmp(got.data(), want, size) == 0;
  };
  CHECK(same("_packed", words.data(), words.size() * 4));
  CHECK(same("_scale", scales.data(), scales.size()));
  CHECK(parts.count(kName + "_zero_point") == (rtn.symmetric ? 0 : 1));
  if (!rtn.symmetric) {
    CHECK(same("_zero_point", zero_words.data(), zero_words.size() * 4));
  }
}

TEST_CASE("rtn in tiles equals one call on the whole tensor") {
  CheckRtnAgainstKernels({4, 128, true}, 1111, 1024);
  CheckRtnAgainstKernels({8, -1, true}, 700, 1000);
  CheckRtnAgainstKernels({3, 32, false}, 1111, 1024);
  CheckRtnAgainstKernels({5, -1, false}, 33, 37);
  CheckRtnAgainstKernels({4, 1, false}, 1, 8);
  CheckRtnAgainstKernels({2, 64, true}, 1, 640);
}

TEST_CASE("a convolution is a matrix [d0, rest]") {
  const MatrixShape conv = AsMatrix({8, 3, 5, 5});
  CHECK(conv.rows == 8);
  CHECK(conv.cols == 75);
  CHECK(AsMatrix({9}).rows == 1);
  CHECK(AsMatrix({9}).cols == 9);
  CHECK(AsMatrix({2, 9}).rows == 2);

  auto backend = NewCpuBackend(1);
  const auto bytes = Gaussian(8 * 75, DType::kF32, 13);
  const QuantSpec spec = PresetSpec("W8A16", Profile::kBest);
  const auto conv_parts =
      Parts(Quantize(spec, Info(DType::kF32, {8, 3, 5, 5}), bytes, *backend));
  const auto flat_parts =
      Parts(Quantize(spec, Info(DType::kF32, {8, 75}), bytes, *backend));
  CHECK(conv_parts.at(kName + "_packed") == flat_parts.at(kName + "_packed"));
}

TEST_CASE("a bad number is named by its index in the tensor") {
  auto backend = NewCpuBackend(1);
  const TensorInfo info = Info(DType::kF32, {600, 1024});
  for (const QuantSpec& spec : AllPaths(Profile::kBest)) {
    INFO(SpecAlgorithm(spec));
    auto bytes = Gaussian(600 * 1024, info.dtype, 14);
    StoreFromFloat(bytes.data(), info.dtype, 500001,
                   std::numeric_limits<float>::quiet_NaN());
    StoreFromFloat(bytes.data(), info.dtype, 500000,
                   -std::numeric_limits<float>::infinity());
    auto q = MakeQuantizer(spec, info, bytes);
    int refused = 0;
    for (int64_t tile = 0; tile < q->num_tiles(); ++tile) {
      const absl::Status status = q->RunTile(tile, *backend);
      if (status.ok()) continue;
      ++refused;
      CHECK(absl::IsInvalidArgument(status));
      CHECK(std::string(status.message()) ==
            "tensor \"" + kName + "\": Inf at index 500000");
    }
    CHECK(refused == 1);
  }
  auto bytes = Gaussian(1024, info.dtype, 14);
  StoreFromFloat(bytes.data(), info.dtype, 1023,
                 std::numeric_limits<float>::quiet_NaN());
  auto q = MakeQuantizer(PresetSpec("NF4", Profile::kReference),
                         Info(DType::kF32, {1024}), bytes);
  CHECK(std::string(q->RunTile(0, *backend).message()) ==
        "tensor \"" + kName + "\": NaN at index 1023");
}

TEST_CASE("extreme but finite weights pass the check") {
  auto backend = NewCpuBackend(1);
  const float top = std::numeric_limits<float>::max();
  const float low = std::numeric_limits<float>::denorm_min();
  for (float value :
       {0.0f, -0.0f, low, 1e-38f, 1e-20f, 0x1p125f, 0x1p127f, top}) {
    for (Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      for (Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
        for (Profile profile : kBoth) {
          Nf4Spec nf4;
          nf4.rule = rule;
          nf4.codebook = codebook;
          std::vector<uint8_t> bytes = Gaussian(256, DType::kF32, 15, 1.0);
          for (int64_t i = 0; i < 256; ++i) {
            const float unit = LoadAsFloat(bytes.data(), DType::kF32, i) / 8;
            StoreFromFloat(bytes.data(), DType::kF32, i, unit * value);
          }
          INFO("value " << value);
          Quantize(Nf4(nf4, profile), Info(DType::kF32, {256}), bytes,
                   *backend);
        }
      }
    }
  }
}

TEST_CASE("nested absmax whose mean overflows is refused, not crashed on") {
  auto backend = NewCpuBackend(1);
  std::vector<uint8_t> bytes(4096 * 4);
  for (int64_t i = 0; i < 4096; ++i) {
    StoreFromFloat(bytes.data(), DType::kF32, i, i % 2 == 0 ? 3.4e38f : -3e38f);
  }
  for (Profile profile : kBoth) {
    auto q = MakeQuantizer(PresetSpec("NF4-dq", profile),
                           Info(DType::kF32, {4096}), bytes);
    REQUIRE(q->RunTile(0, *backend).ok());
    const absl::Status status = FinishRounds(*q, *backend).status();
    CHECK(absl::IsInvalidArgument(status));
    CHECK(std::string(status.message()) ==
          "tensor \"" + kName +
              "\": got a mean absmax beyond F32, allowed with double_quant: "
              "finite");
  }
}

void RequireCreateRefused(const QuantSpec& spec, const TensorInfo& info,
                          const std::string& words) {
  const absl::Status status = TensorQuantizer::Create(spec, info, {}).status();
  INFO(status.ToString());
  CHECK(absl::IsInvalidArgument(status));
  CHECK(std::string(status.message()).find(words) != std::string::npos);
  CHECK(EstimateMemoryBytes(spec, info).status() == status);
  CHECK(OutputBytes(spec, info).status() == status);
}

TEST_CASE("what Create refuses") {
  const QuantSpec nf4 = PresetSpec("NF4", Profile::kBest);
  const QuantSpec rtn = PresetSpec("W4A16", Profile::kBest);
  RequireCreateRefused(nf4, Info(DType::kBF16, {}), "1 to 8 dimensions");
  RequireCreateRefused(nf4, Info(DType::kBF16, {1, 1, 1, 1, 1, 1, 1, 1, 1}),
                       "1 to 8 dimensions");
  RequireCreateRefused(nf4, Info(DType::kBF16, {4, 0}), "at least 1");
  RequireCreateRefused(nf4, Info(DType::kBF16, {4, -1}), "at least 1");
  RequireCreateRefused(nf4, Info(DType::kI32, {4}), "got dtype I32");
  RequireCreateRefused(nf4,
                       Info(DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}),
                       "allowed at most");
  RequireCreateRefused(rtn, Info(DType::kBF16, {8, 100}), "rtn.group_size");
  RequireCreateRefused(rtn, {"w", DType::kBF16, {8, 128}}, ".weight");
  QuantSpec bad = nf4;
  bad.format = OutputFormat::kCompressedTensors;
  RequireCreateRefused(bad, Info(DType::kBF16, {8}), "format:");
}

// While it lives the process can take `bytes` of address space more: what
// overcommits would give any size otherwise.
class AddressSpaceLimit {
 public:
  explicit AddressSpaceLimit(uint64_t bytes) {
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    REQUIRE(pages > 0);
    REQUIRE(getrlimit(RLIMIT_AS, &before_) == 0);
    rlimit limit = before_;
    limit.rlim_cur = std::min<rlim_t>(
        limit.rlim_max,
        pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + bytes);
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
  }
  ~AddressSpaceLimit() { setrlimit(RLIMIT_AS, &before_); }
  AddressSpaceLimit(const AddressSpaceLimit&) = delete;
  AddressSpaceLimit& operator=(const AddressSpaceLimit&) = delete;

 private:
  rlimit before_{};
};

TEST_CASE("what cannot be allocated is RESOURCE_EXHAUSTED") {
  const TensorInfo info = Info(DType::kBF16, {int64_t{1} << 41});
  for (const char* preset : {"NF4", "NF4-dq"}) {
    absl::Status status;
    {
      const AddressSpaceLimit limit(uint64_t{1} << 40);
      status =
          TensorQuantizer::Create(PresetSpec(preset, Profile::kBest), info, {})
              .status();
    }
    CHECK(absl::IsResourceExhausted(status));
    CHECK(std::string(status.message()) ==
          "cannot allocate 4398046511104 bytes");
  }
}

}  // namespace
}  // namespace qs
