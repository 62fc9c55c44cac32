// The HQQ CUDA kernels on the host emulation against the reference, with ==:
// codes, scales, zeros, and what the solver says it did. The emulation orders
// threads at random; its seed is in every failure.
#include "kernels/cuda/hqq_cuda.h"

#include <cmath>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/hqq_device.h"
#include "kernels/cuda/hqq_launch.h"
#include "kernels/factories.h"
#include "tests/testing/emulated_hqq.h"
#include "tests/testing/hqq_cases.h"

namespace qs {
namespace {

using cuda::EmulatedDevice;

HqqResult CheckCase(const HqqCase& c, uint64_t seed) {
  EmulatedHqq emulated(seed);
  INFO(c.Describe() << " iterations " << c.iterations << " emulation seed "
                    << seed);
  const HqqResult got = RunHqq(emulated, c);
  REQUIRE(EmulatedDevice::Get().TakeError().empty());
  const HqqResult want = RunHqq(*NewHqqReference(), c);
  CHECK(got.facts.iterations == want.facts.iterations);
  CHECK(got.facts.error == want.facts.error);
  CHECK(got.facts.group_iterations == want.facts.group_iterations);
  REQUIRE(got == want);
  return want;
}

// Calls body for every kind, dtype, width, axis and solver, with groups that
// registers hold and groups that they do not.
template <class Body>
void ForShapes(const Body& body) {
  struct Shape {
    int64_t rows, cols, group_size;
  };
  const Shape shapes[] = {{1, 1, 1},     {3, 7, 7},      {6, 32, 32},
                          {24, 64, 64},  {5, 136, 8},    {3, 512, 128},
                          {9, 100, 100}, {5, 1024, 256}, {37, 64, 64},
                          {40, 40, 32},  {2, 340, 680}};
  constexpr int kBits[] = {8, 4, 3, 2, 1};
  uint64_t seed = 700;
  for (const Shape& shape : shapes) {
    for (Kind kind : kAllKinds) {
      for (DType dtype : kWeightTypes) {
        ++seed;
        const TestTensor weight =
            TestTensor::Make(dtype, shape.rows * shape.cols, kind, seed);
        HqqCase c{weight, shape.rows, shape.group_size, kBits[seed % 5]};
        c.seed = seed;
        body(c, dtype);
      }
    }
  }
}

// Of the cases of a shape and kind one, the dtypes in turn.
bool InTurn(const HqqCase& c) { return (c.seed + c.seed / 3) % 3 == 0; }

TEST_CASE("the solver gives the reference's bytes") {
  ForShapes([](HqqCase c, DType dtype) {
    c.stored = c.seed % 2 == 0 ? DType::kF32 : dtype;
    CheckCase(c, c.seed);
    c.axis = 0;
    if (c.seed % 3 == 0) CheckCase(c, c.seed + 1);
  });
}

TEST_CASE("the search gives the reference's bytes") {
  ForShapes([](HqqCase c, DType dtype) {
    if (!InTurn(c)) return;
    c.solver = HqqSolver::kBest;
    c.stored = c.seed % 2 == 0 ? DType::kF32 : dtype;
    c.axis = static_cast<int>(c.seed % 2);
    CheckCase(c, c.seed);
  });
}

TEST_CASE("integer zero points are the reference's") {
  ForShapes([](HqqCase c, DType dtype) {
    if (c.bits == 1) c.bits = 3;
    if (!InTurn(c)) return;
    c.stored = dtype;
    c.integer = true;
    CheckCase(c, c.seed);
    c.solver = HqqSolver::kBest;
    CheckCase(c, c.seed + 1);
  });
}

TEST_CASE("any number of steps, in registers and not") {
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 24 * 64, Kind::kGauss, 4);
  uint64_t seed = 2000;
  for (int iterations : {0, 1, 2, 5, 19, 20, 21, 30}) {
    for (HqqSolver solver : {HqqSolver::kReference, HqqSolver::kBest}) {
      HqqCase c{weight, 24, 64, 4};
      c.iterations = iterations;
      c.solver = solver;
      CheckCase(c, ++seed);
    }
  }
}

TEST_CASE("many orders of threads give the same bytes") {
  const TestTensor weight =
      TestTensor::Make(DType::kF16, 40 * 128, Kind::kBlocks, 3);
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    HqqCase c{weight, 40, 64, 4};
    CheckCase(c, seed);
    c.solver = HqqSolver::kBest;
    if (seed <= 3) CheckCase(c, seed);
  }
}

// Errors above 0.17 take a power: weights times 600.
TEST_CASE("large errors shrink as the reference's do") {
  uint64_t seed = 3000;
  for (float scale : {10.0f, 60.0f, 600.0f, 1e6f}) {
    for (int64_t group_size : {32, 64, 100, 128}) {
      TestTensor weight =
          TestTensor::Make(DType::kF32, 12 * 800, Kind::kGauss, 5);
      for (int64_t i = 0; i < weight.count(); ++i) {
        StoreFromFloat(weight.data(), DType::kF32, i, scale * weight.at(i));
      }
      ++seed;
      const HqqCase c{weight, 12, group_size, seed % 2 == 0 ? 2 : 4};
      CheckCase(c, seed);
    }
  }
}

// Where the tensor stops before every group has come to rest.
TEST_CASE("an early stop solves the restless groups again", "[race]") {
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 64 * 64, Kind::kGauss, 11);
  int early = 0;
  uint64_t seed = 4000;
  for (int64_t group_size : {16, 32, 64, 128, 256, 512}) {
    for (int bits : {8, 3, 2, 1}) {
      early +=
          CheckCase({weight, 64, group_size, bits}, ++seed).facts.iterations <
          20;
    }
  }
  CHECK(early >= 8);
}

// Several blocks of 8192 elements, more than one sweep of the grid, and a rest.
TEST_CASE("a tensor beyond one sweep of the grid") {
  uint64_t seed = 5000;
  for (int64_t rows : {96, 100}) {
    const TestTensor weight =
        TestTensor::Make(DType::kBF16, rows * 512 + 64, Kind::kGauss, 21);
    HqqCase c{weight, 1, 64, 3};
    CheckCase(c, ++seed);
    c.axis = 0;
    CheckCase(c, ++seed);
  }
}

// Level 3 of the error sum begins at 131072 elements.
TEST_CASE("the error of a large tensor is added in the reference's order",
          "[race]") {
  const TestTensor weight = TestTensor::Make(
      DType::kF32, 131072 + 8192 * 3 + 512 * 5 + 96, Kind::kGauss, 7);
  HqqCase c{weight, 1, 32, 4};
  c.iterations = 6;
  CheckCase(c, 6001);
}

// hqq_sums.h's cascade down a column, in runs of 2^power.
template <class Get>
float CascadeOf(int64_t rows, int power, const Get& get) {
  float level[4] = {};
  for (int64_t row = 0; row < rows; ++row) {
    level[0] += get(row);
    for (int k = 1; k < 4 && (row + 1) % (int64_t{1} << (k * power)) == 0;
         ++k) {
      level[k] += level[k - 1];
      level[k - 1] = 0;
    }
  }
  return level[0] + level[1] + level[2] + level[3];
}

// From 2^24 elements on a chunk is more than what a warp holds. Here a small
// tensor is added like that.
TEST_CASE("chunks of several warps' loads") {
  const int64_t size = 64;
  const int64_t count = 32 * (2 * 1024 + 3 * 32 + 22);
  const TestTensor weight =
      TestTensor::Make(DType::kF32, count, Kind::kGauss, 8);
  HqqCase c{weight, 1, size, 3};
  const auto error_of = [&](int64_t i, const HqqResult& solved) {
    const int64_t g = i / size;
    hqq::Bounds bounds = {weight.at(g * size), weight.at(g * size)};
    for (int64_t k = 0; k < size; ++k) {
      bounds.low = std::min(bounds.low, weight.at(g * size + k));
      bounds.high = std::max(bounds.high, weight.at(g * size + k));
    }
    const float inverse =
        hqq::StartOf({DType::kF32, 3, false, 20}, bounds).inverse;
    return std::fabs(
        cuda::HqqGrid{inverse, solved.ZeroAt(g), 7.0f}.Error(weight.at(i)));
  };
  EmulatedDevice& device = EmulatedDevice::Get();
  for (int iterations : {1, 4, 12}) {
    for (int power : {4, 5}) {
      device.FreeAll();
      device.Seed(static_cast<uint64_t>(100 * iterations + power));
      cuda::HqqParams a = {};
      a.weight = std::memcpy(device.Allocate(count * 4), weight.data(),
                             static_cast<size_t>(count * 4));
      a.dtype = a.stored = DType::kF32;
      a.count = count;
      a.group_size = size;
      a.groups = count / size;
      a.axis = 1;
      a.bits = 3;
      a.iterations = iterations;
      const auto floats = [&] {
        return static_cast<float*>(device.Allocate(a.groups * 4));
      };
      a.codes = static_cast<uint8_t*>(device.Allocate(count));
      a.scales = floats();
      a.zeros = floats();
      a.inverse = floats();
      a.zero = floats();
      a.still = static_cast<int32_t*>(device.Allocate(a.groups * 4));
      a.first_non_finite = static_cast<cuda::Counter*>(device.Allocate(8));
      *a.first_non_finite = ~cuda::Counter{0};
      a.facts = static_cast<cuda::HqqDeviceFacts*>(
          device.Allocate(sizeof(cuda::HqqDeviceFacts)));
      *a.facts = {0, 0, INFINITY, 0.0f, 0};
      auto* workspace = static_cast<uint8_t*>(
          device.Allocate(cuda::HqqLayout(count, size, iterations).bytes));
      REQUIRE(cuda::LaunchHqqSolve(a, cuda::ErrorShape(count, power), workspace,
                                   nullptr) == 0);
      REQUIRE(device.TakeError().empty());
      // The last step's error is that of the zeros before it.
      c.iterations = a.facts->iterations - 1;
      REQUIRE(c.iterations >= 0);
      const HqqResult before = RunHqq(*NewHqqReference(), c);
      std::vector<float> errors(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) {
        errors[static_cast<size_t>(i)] = error_of(i, before);
      }
      float columns[32];
      for (int64_t j = 0; j < 32; ++j) {
        columns[j] = CascadeOf(count / 32, power, [&](int64_t row) {
          return errors[static_cast<size_t>(32 * row + j)];
        });
      }
      float sum = 0;
      for (int l = 0; l < 8; ++l) {
        sum += columns[l] + columns[l + 8] + columns[l + 16] + columns[l + 24];
      }
      INFO("power " << power << " iterations " << iterations << " of them "
                    << a.facts->iterations);
      CHECK(a.facts->error == sum / static_cast<float>(count));
    }
  }
}

TEST_CASE("the shrink term is the reference's") {
  // A group of two: after a step the zero is the mean of the two residuals, so
  // that every |e| there is shows in it. Compared as bytes of whole solutions.
  std::vector<float> values;
  std::mt19937_64 random(9);
  for (int i = 0; i < 600; ++i) {
    const auto mantissa = static_cast<float>(random() % (1 << 23));
    values.push_back(std::ldexp(1.0f + mantissa * 0x1p-23f,
                                static_cast<int>(random() % 24) - 3));
    values.push_back(0.0f);
    values.push_back(values[values.size() - 2] * 0.37f);
    values.push_back(values[values.size() - 3] * 0.81f);
  }
  TestTensor weight(DType::kF32, static_cast<int64_t>(values.size()));
  for (int64_t i = 0; i < weight.count(); ++i) {
    StoreFromFloat(weight.data(), DType::kF32, i,
                   values[static_cast<size_t>(i)]);
  }
  HqqCase c{weight, 1, 4, 1};
  c.iterations = 3;
  CheckCase(c, 7000);
}

TEST_CASE("the first element that is not finite is found") {
  uint64_t seed = 8000;
  for (DType dtype : kWeightTypes) {
    for (int64_t at : {0, 31, 63, 64, 127, 300, 319}) {
      for (float bad : {INFINITY, -INFINITY, NAN}) {
        TestTensor weight = TestTensor::Make(dtype, 320, Kind::kGauss, 9);
        StoreFromFloat(weight.data(), dtype, at, bad);
        StoreFromFloat(weight.data(), dtype, 319, NAN);
        for (int axis : {0, 1}) {
          for (HqqSolver solver : {HqqSolver::kReference, HqqSolver::kBest}) {
            HqqCase c{weight, 2, seed % 2 == 0 ? 32 : 20, 4};
            c.axis = axis;
            c.solver = solver;
            ++seed;
            INFO(c.Describe() << " at " << at << " seed " << seed);
            EmulatedHqq emulated(seed);
            CHECK(RunHqq(emulated, c).first_non_finite == at);
          }
        }
      }
    }
  }
}

TEST_CASE("what a launcher cannot serve is an error, not silence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  auto* memory = static_cast<uint8_t*>(device.Allocate(4096));
  HqqEncodeArgs good;
  good.weight = {memory, DType::kF32, 2, 64};
  good.group_size = 32;
  good.codes = memory + 1024;
  good.scales = memory + 2048;
  good.zeros = memory + 3072;
  good.first_non_finite = static_cast<int64_t*>(device.Allocate(8));
  void* workspace = device.Allocate(cuda::HqqEncodeWorkspaceBytes(good));
  constexpr int kBad = cuda::kCudaInvalidValue;
  std::memset(memory, 0, 1024);
  CHECK(cuda::LaunchHqqEncode(good, workspace, nullptr) == 0);
  CHECK(cuda::LaunchHqqEncode(good, nullptr, nullptr) == kBad);
  const auto change = [&](auto set) {
    HqqEncodeArgs args = good;
    set(args);
    return cuda::LaunchHqqEncode(args, workspace, nullptr);
  };
  for (int bits : {0, 5, 9}) {
    CHECK(change([&](auto& a) { a.bits = bits; }) == kBad);
  }
  CHECK(change([](auto& a) { a.axis = 2; }) == kBad);
  CHECK(change([](auto& a) { a.group_size = 48; }) == kBad);
  CHECK(change([](auto& a) { a.iterations = -1; }) == kBad);
  CHECK(change([](auto& a) { a.weight.dtype = DType::kI32; }) == kBad);
  CHECK(change([](auto& a) { a.stored = DType::kI32; }) == kBad);
  CHECK(change([](auto& a) { a.weight.data = nullptr; }) == kBad);
  CHECK(change([](auto& a) { a.codes = nullptr; }) == kBad);
  CHECK(change([](auto& a) { a.scales = nullptr; }) == kBad);
  CHECK(change([](auto& a) { a.zeros = nullptr; }) == kBad);
  CHECK(change([&](auto& a) { a.zero_points = memory; }) == kBad);
  CHECK(change([](auto& a) { a.first_non_finite = nullptr; }) == kBad);
  HqqDecodeArgs decode = {memory, memory, nullptr,
                          32,     1,      {memory, DType::kF32, 1, 64}};
  CHECK(cuda::LaunchHqqDecode(decode, nullptr) == kBad);
  decode.weight.cols = 0;
  CHECK(cuda::LaunchHqqDecode(decode, nullptr) == 0);
  CHECK(device.TakeError().empty());
}

TEST_CASE("an empty tensor has no element that is not finite") {
  EmulatedHqq emulated(1);
  Stream stream;
  int64_t bad = 5;
  float zeros = 0;
  HqqFacts facts;
  HqqEncodeArgs args;
  args.first_non_finite = &bad;
  args.zeros = &zeros;
  args.facts = &facts;
  REQUIRE(emulated.Encode(args, stream).ok());
  CHECK(bad == -1);
  CHECK(facts.groups == 0);
  CHECK(facts.group_iterations == 0);
}

TEST_CASE("wrong arguments are refused in words") {
  Stream stream;
  EmulatedScratch scratch;
  HqqDecodeArgs args;
  args.axis = 3;
  const absl::Status status = NewHqqCuda(scratch)->Decode(args, stream);
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()) == "axis: got 3, allowed 0, 1");
}

}  // namespace
}  // namespace qs
