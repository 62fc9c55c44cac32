// NF4 and FP4 on 16.8 M bf16 weights (4096 x 4096), one thread, every SIMD
// target of the machine.
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "kernels/nf4_verify_ops.h"
#include "tests/bench/bench.h"

namespace qs {
namespace {

constexpr int64_t kWeights = int64_t{4096} * 4096;
constexpr int64_t kBlock = 64;
constexpr int64_t kBlocks = kWeights / kBlock;

struct Data {
  Buffer weight = *Buffer::Allocate(kWeights * 2);
  Buffer decoded = *Buffer::Allocate(kWeights * 2);
  Buffer packed = *Buffer::Allocate(kWeights / 2);
  Buffer absmax = *Buffer::Allocate(kBlocks * 4);
  Buffer decoded_absmax = *Buffer::Allocate(kBlocks * 4);
  Buffer coded_by = *Buffer::Allocate(kBlocks * 4);
  Buffer codes = *Buffer::Allocate(kBlocks);
  Buffer rule_codes = *Buffer::Allocate(kBlocks);
  Buffer nested = *Buffer::Allocate(kBlocks / kNestedBlockSize * 4);

  Data() {
    std::mt19937 random(1);
    std::normal_distribution<float> gauss(0.0f, 0.02f);
    for (int64_t i = 0; i < kWeights; ++i) {
      weight.As<uint16_t>()[i] = FloatToBf16(gauss(random));
    }
  }
  // One block in a hundred becomes zero, anywhere.
  void Prune() {
    std::mt19937 random(2);
    for (int64_t b = 0; b < kBlocks; ++b) {
      if (random() % 100 != 0) continue;
      std::memset(weight.As<uint16_t>() + b * kBlock, 0, kBlock * 2);
    }
  }
  TensorView View() const { return {weight.data(), DType::kBF16, 4096, 4096}; }
};

void Encode(Backend& backend, Data& data, Codebook codebook, Nf4Search search) {
  int64_t first_non_finite = -1;
  (void)backend.nf4().Encode(
      {data.View(), kBlock, codebook, Nf4Rule::kCuda, search,
       data.packed.data(), data.absmax.As<float>(), &first_non_finite},
      backend.stream());
}

// Double quantization as a whole: absmax to 8 bits and back, then the codes
// chosen again against the decoded absmax.
float Nest(Backend& backend, Data& data) {
  float offset = 0;
  (void)backend.nf4().NestedEncode(
      {data.absmax.As<float>(), kBlocks, Nf4Rule::kCuda, data.rule_codes.data(),
       data.nested.As<float>(), &offset},
      backend.stream());
  return offset;
}

// BEST's second round: from REFERENCE's codes the first time, and from its own,
// which take as long, later.
void Refine(Backend& backend, Data& data, Codebook codebook, float offset) {
  std::memcpy(data.codes.data(), data.rule_codes.data(), kBlocks);
  std::memcpy(data.decoded_absmax.data(), data.absmax.data(), kBlocks * 4);
  (void)backend.nf4().NestedRefine(
      {data.View(), kBlock, codebook, 0, data.nested.As<float>(), &offset,
       data.codes.data(), data.decoded_absmax.As<float>(), data.packed.data(),
       data.coded_by.As<float>()},
      backend.stream());
}

void Decode(Backend& backend, Data& data) {
  (void)backend.nf4().Decode({data.packed.data(),
                              data.absmax.As<float>(),
                              kBlock,
                              Codebook::kNf4,
                              {data.decoded.data(), DType::kBF16, 4096, 4096}},
                             backend.stream());
}

// As a quantizer does: a slice at a time, which a core's cache has still.
void Verify(Data& data) {
  constexpr int64_t kSlice = int64_t{1} << 16;
  for (int64_t i = 0; i < kWeights; i += kSlice) {
    const int64_t wrong =
        FindWrongNf4Code({{data.weight.data(), DType::kBF16, 1, kSlice},
                          kBlock,
                          Codebook::kNf4,
                          data.packed.data(),
                          data.absmax.As<float>()});
    if (wrong >= 0) std::abort();
  }
}

constexpr int64_t kEncodeBytes = kWeights * 2 + kWeights / 2 + kBlocks * 4;

void Rows(Bench& bench, Backend& backend, Data& data,
          const std::string& where) {
  const auto row = [&](const char* name, int64_t bytes, auto body) {
    bench.Row("nf4/" + where + "/" + name, kWeights, bytes, body);
  };
  row("encode_reference", kEncodeBytes,
      [&] { Encode(backend, data, Codebook::kNf4, Nf4Search::kNone); });
  row("encode_fp4", kEncodeBytes,
      [&] { Encode(backend, data, Codebook::kFp4, Nf4Search::kNone); });
  row("encode_best", kEncodeBytes,
      [&] { Encode(backend, data, Codebook::kNf4, Nf4Search::kBestScale); });
  row("decode", kEncodeBytes, [&] { Decode(backend, data); });
  Encode(backend, data, Codebook::kNf4, Nf4Search::kNone);
  row("verify", kEncodeBytes, [&] { Verify(data); });
  row("nested_encode", kBlocks * 5, [&] { Nest(backend, data); });
  const auto refine_row = [&](const char* name, Codebook codebook) {
    Encode(backend, data, codebook, Nf4Search::kNone);
    const float offset = Nest(backend, data);
    row(name, kEncodeBytes + kBlocks * 6,
        [&] { Refine(backend, data, codebook, offset); });
  };
  refine_row("nested_refine", Codebook::kNf4);
  refine_row("nested_refine_fp4", Codebook::kFp4);
}

// Pruned or padded weights.
void PrunedRows(Bench& bench, Backend& backend, Data& data,
                const std::string& where) {
  const auto row = [&](const char* name, int64_t bytes, auto body) {
    bench.Row("nf4/" + where + "/" + name, kWeights, bytes, body);
  };
  row("encode_best_pruned", kEncodeBytes,
      [&] { Encode(backend, data, Codebook::kNf4, Nf4Search::kBestScale); });
  row("encode_reference_pruned", kEncodeBytes,
      [&] { Encode(backend, data, Codebook::kNf4, Nf4Search::kNone); });
  Encode(backend, data, Codebook::kNf4, Nf4Search::kNone);
  row("verify_pruned", kEncodeBytes, [&] { Verify(data); });
  const float offset = Nest(backend, data);
  row("nested_refine_pruned", kEncodeBytes + kBlocks * 6,
      [&] { Refine(backend, data, Codebook::kNf4, offset); });
}

}  // namespace

void BenchNf4(Bench& bench) {
  Data data;
  Data pruned;
  pruned.Prune();
  // What the other rows read, should a filter leave this one out.
  Encode(*NewCpuBackend(1), data, Codebook::kNf4, Nf4Search::kNone);
  ForCpuBackends([&](Backend& backend, const std::string& where) {
    Rows(bench, backend, data, where);
    PrunedRows(bench, backend, pruned, where);
  });
}

}  // namespace qs
