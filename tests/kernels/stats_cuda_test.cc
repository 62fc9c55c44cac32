// Error statistics of the CUDA kernels on the host emulation: sums within the
// tolerance of the reference's, histograms equal, the same bytes in any order
// of threads.
#include "kernels/cuda/stats_cuda.h"

#include <bit>
#include <cmath>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/factories.h"
#include "tests/testing/emulated_stats.h"
#include "tests/testing/generators.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;

// Every field by its bits.
bool Same(const ErrorSums& a, const ErrorSums& b) {
  const auto bits = [](double x) { return std::bit_cast<uint64_t>(x); };
  return a.count == b.count && a.histogram == b.histogram &&
         bits(a.squared_error) == bits(b.squared_error) &&
         bits(a.absolute_error) == bits(b.absolute_error) &&
         bits(a.max_absolute_error) == bits(b.max_absolute_error) &&
         bits(a.weight_squared) == bits(b.weight_squared) &&
         bits(a.decoded_squared) == bits(b.decoded_squared) &&
         bits(a.dot) == bits(b.dot);
}

bool Near(double got, double want, double magnitude) {
  return std::fabs(got - want) <= magnitude * kErrorSumTolerance;
}

void CheckNear(const ErrorSums& got, const ErrorSums& want) {
  CHECK(got.count == want.count);
  CHECK(got.histogram == want.histogram);
  CHECK(Near(got.squared_error, want.squared_error, want.squared_error));
  CHECK(Near(got.absolute_error, want.absolute_error, want.absolute_error));
  CHECK(got.max_absolute_error == want.max_absolute_error);
  CHECK(Near(got.weight_squared, want.weight_squared, want.weight_squared));
  CHECK(Near(got.decoded_squared, want.decoded_squared, want.decoded_squared));
  CHECK(Near(got.dot, want.dot,
             std::sqrt(want.weight_squared) * std::sqrt(want.decoded_squared)));
}

struct Result {
  ErrorSums sums;
  ErrorSums rtn;
  std::vector<double> groups;
};

struct Case {
  const TestTensor& weight;
  const TestTensor& decoded;
  int64_t group_size;
  std::vector<float> steps;  // empty: no histogram
  int rtn_bits;              // 0: no yardstick
  bool by_group;
};

Result Run(StatsOps& ops, const Case& c) {
  Stream stream;
  Result r;
  const int64_t groups = CeilDiv(c.weight.count(), c.group_size);
  if (c.by_group) r.groups.assign(static_cast<size_t>(groups), -1);
  REQUIRE(ops.Errors({c.weight.View(), c.decoded.View(), c.group_size,
                      c.steps.empty() ? nullptr : c.steps.data(), &r.sums,
                      c.by_group ? r.groups.data() : nullptr,
                      c.rtn_bits == 0 ? nullptr : &r.rtn, c.rtn_bits},
                     stream)
              .ok());
  return r;
}

// A decoding of some kind: the weights moved by up to half a step.
TestTensor Decoded(const TestTensor& weight, DType dtype, uint64_t seed) {
  TestTensor decoded(dtype, weight.count());
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> factor(0.8f, 1.25f);
  for (int64_t i = 0; i < weight.count(); ++i) {
    StoreFromFloat(decoded.data(), dtype, i, weight.at(i) * factor(random));
    if (!std::isfinite(decoded.at(i))) {
      StoreFromFloat(decoded.data(), dtype, i, weight.at(i));
    }
  }
  return decoded;
}

void CheckCase(const Case& c, uint64_t seed) {
  EmulatedStats emulated(seed);
  const Result want = Run(*NewStatsReference(), c);
  const Result got = Run(emulated, c);
  REQUIRE(EmulatedDevice::Get().TakeError().empty());
  CheckNear(got.sums, want.sums);
  CheckNear(got.rtn, want.rtn);
  for (size_t g = 0; g < got.groups.size(); ++g) {
    REQUIRE(Near(got.groups[g], want.groups[g], want.groups[g]));
  }
  EmulatedStats again(seed + 1);  // other threads first, other alignment
  const Result rerun = Run(again, c);
  REQUIRE(Same(rerun.sums, got.sums));
  REQUIRE(Same(rerun.rtn, got.rtn));
  REQUIRE(rerun.groups == got.groups);
}

TEST_CASE("every kind, dtype, length and group size") {
  uint64_t seed = 700;
  for (int64_t count : {1, 15, 64, 1000, 4096, 9001}) {
    for (int64_t group_size : {1, 32, 100, 128, 5000}) {
      for (Kind kind : kAllKinds) {
        const DType dtype = kWeightTypes[++seed % 3];
        if (count > 1000 && seed % 4 != 0) continue;
        const TestTensor weight = TestTensor::Make(dtype, count, kind, seed);
        const TestTensor decoded = Decoded(weight, dtype, seed);
        std::vector<float> steps;
        for (int64_t g = 0; g < CeilDiv(count, group_size); ++g) {
          const float w = std::fabs(weight.at(g * group_size));
          steps.push_back(g % 7 == 3 ? 0.0f : w * 0.4f);
        }
        if (seed % 5 == 0) steps.clear();
        const int rtn_bits = seed % 3 == 0 ? 0 : 2 + static_cast<int>(seed % 7);
        INFO(DTypeName(dtype)
             << " n " << count << " group " << group_size << " kind "
             << static_cast<int>(kind) << " seed " << seed);
        CheckCase({weight, decoded, group_size, steps, rtn_bits, seed % 2 == 0},
                  seed);
      }
    }
  }
}

TEST_CASE("runs beyond one sweep of the grid", "[race]") {
  const int64_t count = 9 * kStatsRun + 77;
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, count, Kind::kOutlier, 3);
  const TestTensor decoded = Decoded(weight, DType::kBF16, 4);
  const std::vector<float> steps(static_cast<size_t>(CeilDiv(count, 96)),
                                 0.002f);
  CheckCase({weight, decoded, 96, steps, 4, true}, 5);
}

TEST_CASE("every bin and both sides of its border", "[race]") {
  TestTensor weight(DType::kF32, 32 * 3 + 4);
  TestTensor decoded(DType::kF32, weight.count());
  for (int64_t i = 0; i < 96; ++i) {
    const float border = static_cast<float>(i / 3) * 0.25f;
    const float w = i % 3 == 0   ? std::nextafter(border, -1.0f)
                    : i % 3 == 1 ? border
                                 : std::nextafter(border, 1e9f);
    StoreFromFloat(weight.data(), DType::kF32, i, w);
    StoreFromFloat(decoded.data(), DType::kF32, i, 0.0f);
  }
  const float far[] = {8.0f, 7.99999f, 1e38f, 0x1p-149f};
  for (int64_t i = 0; i < 4; ++i) {
    StoreFromFloat(weight.data(), DType::kF32, 96 + i, far[i]);
    StoreFromFloat(decoded.data(), DType::kF32, 96 + i, 0.0f);
  }
  // bins are 0.25 wide, then infinitely narrow, then none.
  for (float step : {8.0f, 0x1p-149f, 0.0f, -1.0f}) {
    INFO("step " << step);
    CheckCase({weight, decoded, 100, {step}, 0, false}, 9);
  }
}

TEST_CASE("nothing to measure") {
  EmulatedStats emulated(1);
  ErrorSums sums, rtn;
  sums.count = rtn.count = 7;
  sums.histogram[3] = 5;
  Stream stream;
  ErrorSumsArgs args;
  args.sums = &sums;
  args.rtn = &rtn;
  REQUIRE(emulated.Errors(args, stream).ok());
  CHECK(Same(sums, ErrorSums()));
  CHECK(Same(rtn, ErrorSums()));
}

TEST_CASE("what a launcher cannot serve is an error, not silence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  void* memory = device.Allocate(4096);
  ErrorSumsArgs good;
  good.weight = good.decoded = {memory, DType::kF32, 1, 64};
  good.sums = static_cast<ErrorSums*>(device.Allocate(sizeof(ErrorSums)));
  void* workspace = device.Allocate(cuda::ErrorSumsWorkspaceBytes(good));
  constexpr int kBad = cuda::kCudaInvalidValue;
  CHECK(cuda::LaunchErrorSums(good, workspace, nullptr) == 0);
  CHECK(cuda::LaunchErrorSums(good, nullptr, nullptr) == kBad);
  const auto change = [&](auto set) {
    ErrorSumsArgs args = good;
    set(args);
    return cuda::LaunchErrorSums(args, workspace, nullptr);
  };
  CHECK(change([](auto& a) { a.sums = nullptr; }) == kBad);
  CHECK(change([](auto& a) { a.weight.data = nullptr; }) == kBad);
  CHECK(change([](auto& a) { a.decoded.cols = 65; }) == kBad);
  CHECK(change([](auto& a) { a.decoded.dtype = DType::kF16; }) == kBad);
  CHECK(change([](auto& a) { a.weight.dtype = DType::kU8; }) == kBad);
  CHECK(change([](auto& a) { a.group_size = 0; }) == kBad);
  CHECK(change([&](auto& a) {
          a.rtn = a.sums;
          a.rtn_bits = 9;
        }) == kBad);
  CHECK(device.TakeError().empty());
}

}  // namespace
}  // namespace qs
