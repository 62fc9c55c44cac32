// The writers of the packed formats on 16.8 M codes (4096 x 4096), groups of
// 128, one thread: packing, unpacking again and comparing, as a tile of a
// quantizer does; and hqq's packer alone, which works on whole tensors.
#include <memory>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "quant/formats/grid_writer.h"
#include "quant/formats/hqq_format.h"
#include "tests/bench/bench.h"

namespace qs {
namespace {

constexpr int64_t kSide = 4096;
constexpr int64_t kWeights = kSide * kSide;
constexpr int64_t kGroup = 128;
constexpr int64_t kGroups = kWeights / kGroup;

struct Data {
  Buffer codes = *Buffer::Allocate(kWeights);
  Buffer packed = *Buffer::Allocate(kWeights);
  Buffer scales = *Buffer::Allocate(kGroups * 2);
  Buffer zero_points = *Buffer::Allocate(kGroups);

  explicit Data(int bits) {
    std::mt19937 random(1);
    const uint32_t last = (1u << bits) - 1;
    for (int64_t i = 0; i < kWeights; ++i) {
      codes.data()[i] = static_cast<uint8_t>(random() & last);
    }
    for (int64_t i = 0; i < kGroups; ++i) {
      scales.As<uint16_t>()[i] = FloatToF16(0.01f);
      zero_points.data()[i] = static_cast<uint8_t>(1 + random() % last);
    }
  }
};

QuantSpec SpecOf(OutputFormat format, int bits) {
  QuantSpec spec;
  spec.format = format;
  if (format == OutputFormat::kAwqGemm) {
    spec.method = AwqSpec{.bits = bits, .symmetric = false};
  } else {
    spec.method = GptqSpec{.bits = bits, .symmetric = false};
  }
  return spec;
}

void Write(GridWriter& writer, const Data& data, Backend& backend) {
  GridRows rows;
  rows.rows = kSide;
  rows.codes = data.codes.data();
  rows.scales = data.scales.data();
  rows.zero_points = data.zero_points.data();
  (void)writer.AddRows(rows, backend);
}

void BenchWriter(Bench& bench, const std::string& name, OutputFormat format,
                 int bits) {
  const Data data(bits);
  const auto backend = NewCpuBackend(1);
  const auto writer = GridWriter::Create(
      SpecOf(format, bits), {"a.weight", DType::kF16, kSide, kSide});
  if (!writer.ok()) return;
  bench.Row("write_" + name + "_" + std::to_string(bits), kWeights,
            kWeights + kWeights * bits / 8,
            [&] { Write(**writer, data, *backend); });
}

void BenchHqq(Bench& bench, int bits) {
  Data data(bits);
  HqqLayout layout{"a.weight", DType::kF16, kSide, kSide};
  layout.bits = bits;
  layout.group_size = 64;
  const int64_t bytes = kWeights + HqqPackedBytes(layout);
  const auto backend = NewCpuBackend(1);
  const std::string end = absl::StrCat("_", bits);
  bench.Row("pack_hqq" + end, kWeights, bytes, [&] {
    (void)PackHqqCodes(layout, data.codes.data(), *backend, data.packed.data());
  });
  bench.Row("unpack_hqq" + end, kWeights, bytes, [&] {
    (void)UnpackHqqCodes(layout, data.packed.data(), *backend,
                         data.codes.data());
  });
}

}  // namespace

void BenchFormats(Bench& bench) {
  for (const int bits : {4, 3, 8}) {
    BenchWriter(bench, "gptq", OutputFormat::kGptqV2, bits);
    BenchWriter(bench, "compressed_tensors", OutputFormat::kCompressedTensors,
                bits);
  }
  BenchWriter(bench, "awq", OutputFormat::kAwqGemm, 4);
  for (const int bits : {4, 3, 2, 1}) BenchHqq(bench, bits);
}

}  // namespace qs
