// HQQ on 16.8 M bf16 weights (4096 x 4096), one thread on every SIMD target of
// the machine, then all threads.
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "tests/bench/bench.h"

namespace qs {
namespace {

constexpr int64_t kSide = 4096;
constexpr int64_t kWeights = kSide * kSide;
constexpr int64_t kSmallestGroup = 16;

struct Data {
  Buffer weight = *Buffer::Allocate(kWeights * 2);
  Buffer wide = *Buffer::Allocate(kWeights * 2);  // errors above 0.17
  Buffer decoded = *Buffer::Allocate(kWeights * 2);
  Buffer codes = *Buffer::Allocate(kWeights);
  Buffer scales = *Buffer::Allocate(kWeights / kSmallestGroup * 2);
  Buffer zeros = *Buffer::Allocate(kWeights / kSmallestGroup * 2);

  Data() {
    std::mt19937 random(1);
    std::normal_distribution<float> gauss(0.0f, 1.0f);
    for (int64_t i = 0; i < kWeights; ++i) {
      const float g = gauss(random);
      weight.As<uint16_t>()[i] = FloatToBf16(0.02f * g);
      wide.As<uint16_t>()[i] = FloatToBf16(30.0f * g);
    }
  }
};

HqqEncodeArgs Args(Data& data, int bits, int64_t group_size) {
  HqqEncodeArgs args;
  args.weight = {data.weight.data(), DType::kBF16, kSide, kSide};
  args.bits = bits;
  args.group_size = group_size;
  args.round_zero = bits == 4;
  args.codes = data.codes.data();
  args.stored = DType::kBF16;
  args.scales = data.scales.data();
  args.zeros = data.zeros.data();
  return args;
}

void Rows(Bench& bench, Backend& backend, Data& data,
          const std::string& where) {
  const auto encode = [&](const std::string& name, HqqEncodeArgs args) {
    const int64_t bytes = kWeights * 3 + kWeights / args.group_size * 4;
    bench.Row(absl::StrCat("hqq/", where, "/", name), kWeights, bytes, [&] {
      int64_t first_non_finite = -1;
      args.first_non_finite = &first_non_finite;
      (void)backend.hqq().Encode(args, backend.stream());
    });
  };
  for (int bits : {4, 3, 2, 8}) {
    const std::string name = absl::StrCat("w", bits, "_g64");
    encode(name, Args(data, bits, 64));
    HqqEncodeArgs best = Args(data, bits, 64);
    best.solver = HqqSolver::kBest;
    encode(absl::StrCat(name, "_best"), best);
  }
  encode("w4_g128", Args(data, 4, 128));
  encode("w2_g16", Args(data, 2, 16));
  encode("w4_whole_rows", Args(data, 4, kSide));
  HqqEncodeArgs columns = Args(data, 4, 64);
  columns.axis = 0;
  encode("w4_g64_axis0", columns);
  HqqEncodeArgs wide = Args(data, 4, 64);
  wide.weight.data = data.wide.data();
  encode("w4_g64_shrinking", wide);
  HqqEncodeArgs integer = Args(data, 4, 64);
  integer.solver = HqqSolver::kBest;
  integer.zeros = nullptr;
  integer.zero_points = data.zeros.data();
  encode("w4_g64_integer_best", integer);
  encode("w4_g64_again_for_decode", Args(data, 4, 64));
  bench.Row(absl::StrCat("hqq/", where, "/w4_g64_decode"), kWeights,
            kWeights * 3, [&] {
              (void)backend.hqq().Decode(
                  {data.codes.data(),
                   data.scales.data(),
                   data.zeros.data(),
                   64,
                   1,
                   {data.decoded.data(), DType::kBF16, kSide, kSide}},
                  backend.stream());
            });
}

}  // namespace

void BenchHqq(Bench& bench) {
  Data data;
  ForCpuBackends([&](Backend& backend, const std::string& where) {
    Rows(bench, backend, data, where);
  });
}

}  // namespace qs
