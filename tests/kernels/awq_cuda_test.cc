// AWQ on the host emulation against the reference: grids, codes, decoded values
// and means with ==, losses within what TF32 rounds, clip limits as good; the
// same bytes in every order of threads.
#include "kernels/cuda/awq_cuda.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "kernels/cuda/awq_device.h"
#include "kernels/cuda/awq_launch.h"
#include "kernels/cuda/blas_emulated.h"
#include "tests/testing/awq_cases.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_backend.h"
#include "tests/testing/tolerance.h"

namespace qs {
namespace {

using namespace awq_cases;
using cuda::EmulatedBackend;
using cuda::EmulatedDevice;

// Every `step`-th case, so that all kinds, dtypes, widths and rules meet.
template <class Body>
void ForSome(int step, const Body& body) {
  uint64_t number = 0;
  ForCases([&](const Case& c) {
    ++number;
    if (number % static_cast<uint64_t>(step) != 0) return;
    EmulatedDevice::Get().Seed(number);
    INFO(c.Describe() << " emulation seed " << number);
    body(c);
  });
}

TEST_CASE("AWQ grids, codes and means are the reference's bytes") {
  const auto reference = NewReferenceBackend();
  EmulatedBackend device;
  ForSome(17, [&](const Case& c) {
    REQUIRE(RunElementwise(device, c) == RunElementwise(*reference, c));
  });
}

// A block of threads adds 64 rows at a time.
TEST_CASE("AWQ means of many rows are the reference's bytes", "[race]") {
  const auto reference = NewReferenceBackend();
  EmulatedBackend device;
  constexpr int64_t kCols = 70;
  for (const int64_t rows : {1, 63, 64, 65, 200}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TestTensor weight =
          TestTensor::Make(dtype, rows * kCols, Kind::kGauss, 7);
      const TensorView views[] = {weight.View(rows), weight.View(rows)};
      const auto means = [&](Backend& backend) {
        std::vector<float> out(kCols);
        REQUIRE(
            backend.awq()
                .Statistics({views, kCols / 2, out.data()}, backend.stream())
                .ok());
        return out;
      };
      INFO(rows << " rows of " << DTypeName(dtype));
      CHECK(means(device) == means(*reference));
    }
  }
}

// A value rounded to TF32 is off by 2^-12 of it at most. A loss is of second
// degree in differences and moments (or the factor twice): 4 * 2^-12 where one
// of each is nearly all of it, as in small problems with a loud column; over
// many the errors cancel.
constexpr double kTf32LossTolerance = 0x1p-10;
constexpr double kTf32ManyTolerance = 0x1p-13;

TEST_CASE("AWQ losses are the reference's", "[race]") {
  const auto reference = NewReferenceBackend();
  EmulatedBackend device;
  ForSome(37, [&](const Case& c) {
    if (c.grid.bits == 8 || c.huge) return;
    for (int64_t stride : {1, 3}) {
      const auto want = RunLosses(*reference, c, false, stride);
      const auto through_h = RunLosses(device, c, false, stride);
      const auto through_r = RunLosses(device, c, true, stride);
      for (size_t i = 0; i < want.size(); ++i) {
        INFO("stride " << stride << " candidate " << i);
        CHECK(std::fabs(through_h[i] - want[i]) <=
              kTf32LossTolerance * want[i]);
        CHECK(std::fabs(through_r[i] - want[i]) <=
              (kTf32LossTolerance + kAwqFactorTolerance) * want[i]);
      }
    }
  });
}

TEST_CASE("what solved codes can be expected to leave is the reference's",
          "[race]") {
  const auto reference = NewReferenceBackend();
  EmulatedBackend device;
  ForSome(37, [&](const Case& c) {
    if (c.huge) return;
    const TensorView weight = c.weight.View(c.rows);
    std::vector<float> curvature;
    for (float s : c.input.scales) curvature.push_back(3 * s);
    double want = 0, got = 0;
    AwqScaleLossArgs args;
    args.weights = {&weight, 1};
    args.grid = c.grid;
    args.scales = c.input.scales.data();
    args.candidates = 1;
    args.curvature = curvature.data();
    args.row_stride = 2;
    args.losses = &want;
    REQUIRE(reference->awq().ScaleLosses(args, reference->stream()).ok());
    args.losses = &got;
    REQUIRE(device.awq().ScaleLosses(args, device.stream()).ok());
    CHECK(want > 0);
    CHECK(std::fabs(got - want) <= 1e-12 * want);  // all sums in double
  });
}

TEST_CASE("AWQ clip limits are as good as the reference's") {
  const auto reference = NewReferenceBackend();
  EmulatedBackend device;
  ForSome(37, [&](const Case& c) {
    if (c.grid.bits == 8 || c.input.n == 96 || c.huge) return;
    const std::vector<double> want = ClipErrors(c, RunClip(*reference, c));
    const std::vector<double> got = ClipErrors(c, RunClip(device, c));
    const std::vector<double> whole =
        ClipErrors(c, {std::vector<float>(c.groups(), -INFINITY),
                       std::vector<float>(c.groups(), INFINITY)});
    for (size_t g = 0; g < got.size(); ++g) {
      INFO("group " << g);
      // A near tie may go the other way, and then a later round starts from
      // another place.
      const double slack = c.grid.rule == AwqRule::kBest ? 0.05 : 1e-5;
      CHECK(got[g] <= want[g] * (1 + slack) + 1e-30);
      CHECK(got[g] <= whole[g] * (1 + 1e-5) + 1e-30);
    }
  });
}

TEST_CASE("no order of threads changes a byte") {
  const auto reference = NewReferenceBackend();
  const Input input(128, 200, 3);
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 20 * 128, Kind::kGauss, 5);
  for (AwqRule rule : {AwqRule::kAutoAwq, AwqRule::kBest}) {
    const Case c{weight, input, 20, {4, 64, false, rule, DType::kBF16}};
    EmulatedBackend device;
    EmulatedDevice::Get().Seed(1);
    const auto through_r = RunLosses(device, c, true, 1);
    const auto through_h = RunLosses(device, c, false, 2);
    const Limits limits = RunClip(device, c);
    const auto want = RunLosses(*reference, c, true, 1);
    for (size_t i = 0; i < want.size(); ++i) {
      CHECK(std::fabs(through_r[i] - want[i]) <= kTf32ManyTolerance * want[i]);
    }
    for (uint64_t seed = 2; seed <= 3; ++seed) {
      EmulatedDevice::Get().Seed(seed);
      CHECK(RunLosses(device, c, true, 1) == through_r);
      CHECK(RunLosses(device, c, false, 2) == through_h);
      CHECK(RunClip(device, c) == limits);
    }
  }
}

using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;

// Plain loops, and which shapes of products they were asked for.
class SeenBlas final : public cuda::Blas {
 public:
  explicit SeenBlas(std::set<Shape>* seen) : seen_(*seen) {}
  std::string description() const override { return "seen"; }
  absl::Status Gemm(const cuda::GemmArgs& g, cudaStream_t stream) override {
    seen_.insert({g.m, g.n, g.k, g.batch});
    return blas_->Gemm(g, stream);
  }
  absl::Status Syrk(const cuda::SyrkArgs& s, cudaStream_t stream) override {
    return blas_->Syrk(s, stream);
  }
  absl::Status Trsm(const cuda::TrsmArgs& t, cudaStream_t stream) override {
    return blas_->Trsm(t, stream);
  }

 private:
  std::set<Shape>& seen_;
  const std::unique_ptr<cuda::Blas> blas_ = cuda::NewEmulatedBlasAlone();
};

// Rows [first, first + rows), and the shapes of products that they took.
Limits ClipRows(const Case& c, int64_t first, int64_t rows,
                std::set<Shape>* seen) {
  cuda::EmulatedAwq ops(std::make_unique<SeenBlas>(seen));
  Stream stream;
  const int64_t groups = c.input.n / c.grid.group_size;
  Limits limits;
  limits.low.resize(static_cast<size_t>(rows * groups));
  limits.high.resize(limits.low.size());
  AwqClipArgs args;
  args.weight = c.weight.View(c.rows);
  args.weight.data = static_cast<const uint8_t*>(args.weight.data) +
                     first * c.input.n * DTypeBytes(args.weight.dtype);
  args.weight.rows = rows;
  args.grid = c.grid;
  args.second_moment = c.input.moment.data();
  args.low = limits.low.data();
  args.high = limits.high.data();
  REQUIRE(ops.ClipSearch(args, stream).ok());
  return limits;
}

// A library may multiply another way where there are more rows.
TEST_CASE("a row's clip limits do not depend on the rows beside it") {
  constexpr int64_t kCols = 64, kRows = 2 * cuda::kClipRows + 3;
  const Input input(kCols, 100, 3);
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, kRows * kCols, Kind::kGauss, 5);
  for (const AwqRule rule : {AwqRule::kAutoAwq, AwqRule::kBest}) {
    const Case c{weight, input, kRows, {4, 32, false, rule, DType::kBF16}};
    std::set<Shape> whole_shapes, part_shapes;
    const Limits whole = ClipRows(c, 0, kRows, &whole_shapes);
    CHECK(whole_shapes.size() == (rule == AwqRule::kBest ? 2 : 1));
    for (const int64_t rows : {1, 5, 16, 17}) {
      Limits parts;
      for (int64_t first = 0; first < kRows; first += rows) {
        const Limits part =
            ClipRows(c, first, std::min(rows, kRows - first), &part_shapes);
        parts.low.insert(parts.low.end(), part.low.begin(), part.low.end());
        parts.high.insert(parts.high.end(), part.high.begin(), part.high.end());
      }
      CHECK(parts == whole);
    }
    CHECK(part_shapes == whole_shapes);
  }
}

TEST_CASE("AWQ operations stop when a checkpoint says so") {
  const Input input(64, 80, 3);
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 8 * 64, Kind::kGauss, 5);
  const TensorView view = weight.View(8);
  EmulatedBackend device;
  int calls = 0;
  const auto second = [&](double) {
    return ++calls < 2 ? absl::OkStatus() : absl::CancelledError("stop");
  };
  std::vector<float> low(16), high(16), scales(input.scales);
  scales.insert(scales.end(), input.scales.begin(), input.scales.end());
  double losses[2] = {-1, -1};
  AwqScaleLossArgs args;
  args.weights = {&view, 1};
  args.grid = {4, 32, false, AwqRule::kBest, DType::kF32};
  args.scales = scales.data();
  args.candidates = 2;
  args.second_moment = input.moment.data();
  args.losses = losses;
  args.checkpoint = second;
  CHECK(device.awq().ScaleLosses(args, device.stream()).code() ==
        absl::StatusCode::kCancelled);
  CHECK(losses[0] > 0);
  CHECK(losses[1] == -1);
  AwqClipArgs clip;
  clip.weight = view;
  clip.grid = args.grid;
  clip.second_moment = input.moment.data();
  clip.low = low.data();
  clip.high = high.data();
  clip.checkpoint = second;
  CHECK(device.awq().ClipSearch(clip, device.stream()).code() ==
        absl::StatusCode::kCancelled);
}

TEST_CASE("TF32 has eleven bits, rounded half to even") {
  CHECK(cuda::RoundToTf32(1.0f) == 1.0f);
  CHECK(cuda::RoundToTf32(1.0f + 0x1p-10f) == 1.0f + 0x1p-10f);
  CHECK(cuda::RoundToTf32(1.0f + 0x1p-11f) == 1.0f);
  CHECK(cuda::RoundToTf32(1.0f + 0x1.8p-10f) == 1.0f + 0x1p-9f);
  CHECK(cuda::RoundToTf32(-0x1.002002p0f) == -1.0f - 0x1p-10f);
  CHECK(cuda::RoundToTf32(0x1.ffcp0f) == 0x1.ffcp0f);
  CHECK(cuda::RoundToTf32(0x1.ffdffep0f) == 0x1.ffcp0f);
  CHECK(cuda::RoundToTf32(0x1.ffep0f) == 2.0f);
}

}  // namespace
}  // namespace qs
