// A backend on the emulated device beside the CPU's.
#include "kernels/cuda/cuda_backend.h"

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/workspace.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/generators.h"
#include "tests/testing/nf4_cases.h"
#include "tests/testing/pack_cases.h"

namespace qs::cuda {
namespace {

constexpr int64_t kCap = int64_t{1} << 30;

TEST_CASE("a GPU's backend: names, results, memory", "[backend]") {
  auto device = std::make_shared<FakeDevice>();
  const absl::StatusOr<std::unique_ptr<Backend>> backend =
      NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
  REQUIRE(backend.ok());
  CHECK((*backend)->name() == "gpu:0");
  CHECK((*backend)->description().find("host emulation, compute capability "
                                       "9.0, ") == 0);
  CHECK((*backend)->description().find("; host: ") != std::string::npos);
  CHECK((*backend)->memory().cap == kCap);
  CHECK((*backend)->memory().high_water == 0);

  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 3000, Kind::kGauss, 3);
  const Nf4Case c = {weight,           64, Codebook::kNf4, Nf4Rule::kCuda,
                     Nf4Search::kNone, 3};
  CHECK(RunNf4((*backend)->nf4(), c) == RunNf4(NewCpuBackend(1)->nf4(), c));
  CHECK((*backend)->health().ok());
  CHECK((*backend)->memory().high_water > 0);
  CHECK((*backend)->memory().host_calls == 0);

  device->SetFaults({.lost_after_launches = 0});
  CHECK(RunNf4((*backend)->nf4(), c) == RunNf4(NewCpuBackend(1)->nf4(), c));
  CHECK(absl::IsInternal((*backend)->health()));
  CHECK((*backend)->memory().host_calls > 0);
}

// What AWQ's search for scales asks of a list of pieces.
struct AwqAnswers {
  std::vector<float> means;
  std::vector<double> losses, expected;
  bool operator==(const AwqAnswers&) const = default;
};

AwqAnswers Ask(Backend& on, const std::vector<TensorView>& pieces) {
  const int64_t cols = pieces.front().cols;
  std::vector<float> scales, moment(static_cast<size_t>(cols * cols));
  for (int64_t k = 0; k < 2 * cols; ++k) {
    scales.push_back(1 + static_cast<float>(k % 7) / 8);
  }
  for (int64_t i = 0; i < cols * cols; ++i) {
    moment[static_cast<size_t>(i)] = i % (cols + 1) == 0 ? 3.0f : 0.7f;
  }
  AwqAnswers out;
  out.means.resize(static_cast<size_t>(cols));
  REQUIRE(
      on.awq().Statistics({pieces, 32, out.means.data()}, on.stream()).ok());
  AwqScaleLossArgs args;
  args.weights = pieces;
  args.grid.group_size = 32;
  args.scales = scales.data();
  args.candidates = 2;
  for (std::vector<double>* losses : {&out.losses, &out.expected}) {
    losses->resize(2);
    args.losses = losses->data();
    args.second_moment = losses == &out.losses ? moment.data() : nullptr;
    args.curvature = losses == &out.losses ? nullptr : moment.data();
    REQUIRE(on.awq().ScaleLosses(args, on.stream()).ok());
  }
  return out;
}

TEST_CASE("AWQ's pieces of one type are one matrix on a device", "[backend]") {
  constexpr int64_t kCols = 64;
  const TestTensor halves =
      TestTensor::Make(DType::kBF16, 60 * kCols, Kind::kGauss, 5);
  const TestTensor singles =
      TestTensor::Make(DType::kF32, 5 * kCols, Kind::kGauss, 6);
  const auto pieces = [&](const std::vector<int64_t>& rows) {
    std::vector<TensorView> views;
    TensorView rest = halves.View(60);
    for (const int64_t count : rows) {
      views.push_back({rest.data, rest.dtype, count, kCols});
      rest.data =
          static_cast<const uint8_t*>(rest.data) + views.back().num_bytes();
    }
    views.push_back(singles.View(5));
    return views;
  };
  const auto device = std::make_shared<FakeDevice>();
  const auto backend =
      *NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
  const AwqAnswers whole = Ask(*backend, pieces({60}));
  const int64_t launches = device->launches();
  CHECK(Ask(*backend, pieces({1, 32, 7, 20})) == whole);
  CHECK(device->launches() == 2 * launches);
  CHECK(backend->memory().host_calls == 0);
  CHECK(whole.means == Ask(*NewCpuBackend(1), pieces({60})).means);
}

// Everything that a host and a device must agree on to the byte.
TEST_CASE("families on the device give the host's bytes", "[backend]") {
  auto device = std::make_shared<FakeDevice>(Faults(), /*lazy=*/true);
  const auto backend =
      *NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
  const auto host = NewCpuBackend(1);
  constexpr int64_t kRows = 6;
  constexpr int64_t kCols = 128;
  TestTensor weight =
      TestTensor::Make(DType::kBF16, kRows * kCols, Kind::kGauss, 5);
  TensorView view = weight.View();
  view.rows = kRows;
  view.cols = kCols;
  struct Codes {
    std::vector<uint8_t> codes = std::vector<uint8_t>(kRows * kCols);
    std::vector<uint16_t> scales = std::vector<uint16_t>(kRows * 4);
    std::vector<uint16_t> zeros = std::vector<uint16_t>(kRows * 4);
    std::vector<uint8_t> zero_points = std::vector<uint8_t>(kRows * 4);
    int64_t bad = 7;
    bool operator==(const Codes&) const = default;
  };
  const auto affine = [&](Backend& on) {
    Codes out;
    AffineEncodeArgs args;
    args.weight = view;
    args.group_size = 32;
    args.symmetric = false;
    args.search = AffineSearch::kBestRange;
    args.codes = out.codes.data();
    args.scales = out.scales.data();
    args.zero_points = out.zero_points.data();
    args.first_non_finite = &out.bad;
    REQUIRE(on.affine().Encode(args, on.stream()).ok());
    return out;
  };
  const auto hqq = [&](Backend& on) {
    Codes out;
    HqqFacts facts;
    HqqEncodeArgs args;
    args.weight = view;
    args.group_size = 32;
    args.stored = DType::kBF16;
    args.codes = out.codes.data();
    args.scales = out.scales.data();
    args.zeros = out.zeros.data();
    args.first_non_finite = &out.bad;
    args.facts = &facts;
    REQUIRE(on.hqq().Encode(args, on.stream()).ok());
    CHECK(facts.groups == kRows * 4);
    return out;
  };
  const auto gptq = [&](Backend& on) {  // without a factor: rounding
    Codes out;
    GptqSolveArgs args;
    args.weight = view;
    args.grid.group_size = 32;
    args.grid.symmetric = false;
    args.grid.scale_dtype = DType::kBF16;
    args.codes = out.codes.data();
    args.scales = out.scales.data();
    args.zero_points = out.zero_points.data();
    args.first_non_finite = &out.bad;
    REQUIRE(on.gptq().Solve(args, on.stream()).ok());
    return out;
  };
  const auto awq = [&](Backend& on) {
    Codes out;
    std::vector<float> scales(kCols, 1.5f);
    AwqQuantizeArgs args;
    args.weight = view;
    args.grid.group_size = 32;
    args.scales = scales.data();
    args.codes = out.codes.data();
    args.group_scales = out.scales.data();
    args.zero_points = out.zero_points.data();
    REQUIRE(on.awq().Quantize(args, on.stream()).ok());
    return out;
  };
  // Words of some columns between others, and codes that the last parts lack.
  const auto awq_words = [](Backend& on) {
    return RunAwqPacking(on.affine(), {32, 40, 7});
  };
  const auto parts = [](Backend& on) {
    return RunPartsPacking(on.affine(), {3, 52, 450});
  };
  CHECK(affine(*backend) == affine(*host));
  CHECK(awq_words(*backend) == awq_words(*host));
  CHECK(parts(*backend) == parts(*host));
  CHECK(hqq(*backend) == hqq(*host));
  CHECK(gptq(*backend) == gptq(*host));
  CHECK(awq(*backend) == awq(*host));
  CHECK(backend->memory().host_calls == 0);
  CHECK(backend->health().ok());
  // And again, the device lost at each launch on the way.
  bool lost = true;
  for (int64_t run = 0; lost; ++run) {
    const int64_t after = run / 2;
    INFO("after " << after << ", run " << run);
    auto failing = std::make_shared<FakeDevice>(
        Faults{.lost_after_launches = after, .lost_late = run % 2 == 1});
    const auto fails =
        *NewCudaBackend(failing, NewEmulatedBlas(), NewCpuBackend(1), kCap);
    CHECK(affine(*fails) == affine(*host));
    CHECK(awq_words(*fails) == awq_words(*host));
    CHECK(parts(*fails) == parts(*host));
    CHECK(hqq(*fails) == hqq(*host));
    CHECK(gptq(*fails) == gptq(*host));
    CHECK(awq(*fails) == awq(*host));
    lost = failing->lost();
    CHECK(fails->health().ok() == !lost);
  }
  // Or without memory, twice: the host does that operation alone.
  for (int64_t after = 0; after < device->launches(); ++after) {
    INFO("after " << after);
    auto full = std::make_shared<FakeDevice>(Faults{
        .no_memory_after_launches = after, .launches_without_memory = 2});
    const auto fails =
        *NewCudaBackend(full, NewEmulatedBlas(), NewCpuBackend(1), kCap);
    CHECK(affine(*fails) == affine(*host));
    CHECK(awq_words(*fails) == awq_words(*host));
    CHECK(parts(*fails) == parts(*host));
    CHECK(hqq(*fails) == hqq(*host));
    CHECK(gptq(*fails) == gptq(*host));
    CHECK(awq(*fails) == awq(*host));
    CHECK(fails->health().ok());
    CHECK(fails->memory().host_calls <= 1);
  }
}

// Sums of 40 tokens of 24 inputs, all 1, in two calls. Exact in any order.
std::vector<double> SumOfOnes(Backend& backend) {
  constexpr int64_t kInputs = 24;
  std::vector<double> sum(kInputs * kInputs);
  std::vector<double> abs_sum(kInputs);
  const std::vector<float> ones(20 * kInputs, 1.0f);
  for (int call = 0; call < 2; ++call) {
    int64_t bad = 7;
    GramAccumulateArgs args;
    args.activations = {ones.data(), DType::kF32, 20, kInputs};
    args.sum = sum.data();
    args.abs_sum = abs_sum.data();
    args.first_non_finite = &bad;
    REQUIRE(backend.gram().Accumulate(args, backend.stream()).ok());
    CHECK(bad == -1);
  }
  CHECK(abs_sum == std::vector<double>(kInputs, 40.0));
  std::vector<float> moment(kInputs * kInputs);
  std::vector<float> abs_f32(kInputs);
  REQUIRE(backend.gram()
              .Finish({sum.data(), abs_sum.data(), kInputs, moment.data(),
                       abs_f32.data()},
                      backend.stream())
              .ok());
  return {moment.begin(), moment.end()};
}

TEST_CASE("sums that go in and out count every token once", "[backend]") {
  const std::vector<double> want(24 * 24, 40.0);
  bool lost = true;
  for (int64_t run = 0; lost; ++run) {
    const int64_t after = run / 2;
    INFO("after " << after << ", run " << run);
    auto device = std::make_shared<FakeDevice>(
        Faults{.lost_after_copies = after, .lost_late = run % 2 == 1});
    const auto backend =
        *NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
    CHECK(SumOfOnes(*backend) == want);
    lost = device->lost();
    CHECK((backend->memory().host_calls > 0) == lost);
  }
}

TEST_CASE("a factor with a number is copied once", "[backend]") {
  auto device = std::make_shared<FakeDevice>();
  const auto backend =
      *NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
  constexpr int64_t kSize = 16;
  std::vector<float> factor(kSize * kSize);
  for (int64_t i = 0; i < kSize; ++i) factor[static_cast<size_t>(17 * i)] = 1;
  std::vector<float> weight(kSize);
  for (int64_t i = 0; i < kSize; ++i) {
    weight[static_cast<size_t>(i)] = 0.1f * static_cast<float>(i - 7);
  }
  // Copies that a solve takes.
  const auto solve = [&](ContentId id) {
    const int64_t before = device->copies();
    std::vector<uint8_t> codes(kSize);
    std::vector<float> scales(1);
    int64_t bad = 7;
    GptqSolveArgs args;
    args.weight = {weight.data(), DType::kF32, 1, kSize};
    args.factor = factor.data();
    args.factor_id = id;
    args.grid.group_size = kSize;
    args.codes = codes.data();
    args.scales = scales.data();
    args.first_non_finite = &bad;
    REQUIRE(backend->gptq().Solve(args, backend->stream()).ok());
    CHECK(bad == -1);
    return device->copies() - before;
  };
  const ContentId id = NewContentId();
  const int64_t first = solve(id);
  CHECK(solve(id) == first - 1);
  CHECK(solve(NewContentId()) == first);
  CHECK(solve(0) == first);
  CHECK(solve(0) == first);
}

TEST_CASE("a factor in place, and a device that fails at it", "[backend]") {
  const std::vector<float> hessian = {4, 1, 1, 3};
  const auto factor = [&](Backend& on, bool in_place) {
    std::vector<float> out = hessian;
    GptqFactorFacts facts;
    GptqFactorArgs args;
    args.hessian = in_place ? out.data() : hessian.data();
    args.size = 2;
    args.factor = out.data();
    args.facts = &facts;
    REQUIRE(on.gptq().Factor(args, on.stream()).ok());
    return out;
  };
  const auto host = NewCpuBackend(1);
  const std::vector<float> want = factor(*host, false);
  CHECK(factor(*host, true) == want);
  for (int run = 0; run < 8; ++run) {
    const int launches = std::array{1000, 4, 3, 2}[run / 2];
    INFO("lost after " << launches << " launches, run " << run);
    auto device = std::make_shared<FakeDevice>(
        Faults{.lost_after_launches = launches, .lost_late = run % 2 == 1});
    const auto backend =
        *NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap);
    const std::vector<float> got = factor(*backend, true);
    for (size_t i = 0; i < want.size(); ++i) {
      CHECK(got[i] == Approx(want[i]).epsilon(1e-6));
    }
  }
}

// Waits at most as long as no test should take. False: it did not come.
bool Came(absl::Notification& notification) {
  return notification.WaitForNotificationWithTimeout(absl::Seconds(30));
}

TEST_CASE("lanes of one device copy while the other's kernels run",
          "[backend]") {
  auto device = std::make_shared<FakeDevice>(Faults(), /*lazy=*/true);
  const auto backend =
      *NewCudaBackend(device, NewEmulatedBlas, NewCpuBackend(1), kCap, 2);
  REQUIRE(backend->lanes() == 2);
  CHECK(device->streams() == 2);
  CHECK(backend->lane(1).name() == "gpu:0");
  CHECK(backend->lane(1).description() == backend->description());
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 3000, Kind::kGauss, 3);
  const Nf4Case c = {weight,           64, Codebook::kNf4, Nf4Rule::kCuda,
                     Nf4Search::kNone, 3};
  const auto want = RunNf4(NewCpuBackend(1)->nf4(), c);
  // Both have their memory: nobody allocates below.
  for (int lane : {0, 1}) CHECK(RunNf4(backend->lane(lane).nf4(), c) == want);

  absl::Notification begun, launched, copied;
  std::atomic<bool> all_came = true;
  const auto waiter = std::this_thread::get_id();
  const auto wait = [&](absl::Notification& notification) {
    if (!Came(notification)) all_came = false;
  };
  // This thread's first copy waits until a kernel of the other's has begun,
  // which goes on only when that copy does.
  Faults hooks;
  hooks.on_copy = [&] {
    if (std::this_thread::get_id() != waiter) return;
    if (begun.HasBeenNotified()) return;
    begun.Notify();
    wait(launched);
    copied.Notify();
  };
  hooks.on_launch = [&] {
    if (std::this_thread::get_id() == waiter) return;
    if (launched.HasBeenNotified()) return;
    launched.Notify();
    wait(copied);
  };
  device->SetFaults(hooks);
  std::thread other([&] {
    wait(begun);
    if (RunNf4(backend->lane(1).nf4(), c) != want) all_came = false;
  });
  CHECK(RunNf4(backend->nf4(), c) == want);
  other.join();
  CHECK(all_came);
  CHECK(backend->memory().host_calls == 0);
}

TEST_CASE("a device has as many lanes as there are libraries", "[backend]") {
  auto device = std::make_shared<FakeDevice>();
  int libraries = 0;
  const auto source = [&]() -> absl::StatusOr<std::unique_ptr<Blas>> {
    if (libraries++ == 2) return absl::UnavailableError("no memory for one");
    return NewEmulatedBlas();
  };
  const auto backend =
      *NewCudaBackend(device, source, NewCpuBackend(1), kCap, 4);
  CHECK(backend->lanes() == 2);
  CHECK(device->streams() == 2);
}

TEST_CASE("a device has as many lanes as there is pinned memory for",
          "[backend]") {
  constexpr int64_t kLane = Workspace::kSlots * Workspace::kSlotBytes;
  // Lanes that find all of theirs; one of the next finds a part of it.
  for (const int with : {1, 2}) {
    auto device = std::make_shared<FakeDevice>(
        Faults{.pinned_bytes = with * kLane + Workspace::kSlotBytes});
    const auto backend =
        *NewCudaBackend(device, NewEmulatedBlas, NewCpuBackend(1), kCap, 3);
    CHECK(backend->lanes() == with);
    CHECK(device->streams() == with);
  }
  auto device = std::make_shared<FakeDevice>(Faults{.pinned_bytes = kLane - 1});
  const absl::Status none =
      NewCudaBackend(device, NewEmulatedBlas, NewCpuBackend(1), kCap, 3)
          .status();
  CHECK(absl::IsResourceExhausted(none));
  CHECK(none.message().find("no pinned memory") != std::string::npos);
}

// Of a library that fails so the first `times` times.
class FailingBlas final : public Blas {
 public:
  FailingBlas(const absl::Status& error, int times)
      : error_(error), left_(times), blas_(NewEmulatedBlasAlone()) {}
  std::string description() const override { return "failing"; }
  absl::Status Gemm(const GemmArgs& args, cudaStream_t stream) override {
    return Fails() ? error_ : blas_->Gemm(args, stream);
  }
  absl::Status Syrk(const SyrkArgs& args, cudaStream_t stream) override {
    return Fails() ? error_ : blas_->Syrk(args, stream);
  }
  absl::Status Trsm(const TrsmArgs& args, cudaStream_t stream) override {
    return Fails() ? error_ : blas_->Trsm(args, stream);
  }

 private:
  bool Fails() { return left_-- > 0; }

  const absl::Status error_;
  int left_;
  const std::unique_ptr<Blas> blas_;
};

// Whether or not it says that it was memory, and whatever it refuses.
TEST_CASE("a library that fails on a living device costs no device",
          "[backend]") {
  const std::vector<double> want(24 * 24, 40.0);
  for (const absl::Status& error :
       {absl::ResourceExhaustedError("a product: no memory"),
        absl::InternalError("cublasGemmEx: cuBLAS status 13"),
        absl::InternalError("cublasGemmEx: cuBLAS status 15")}) {
    for (const int times : {1, 2}) {
      INFO(error.ToString() << ", " << times << " times");
      auto device = std::make_shared<FakeDevice>();
      const auto backend =
          *NewCudaBackend(device, std::make_unique<FailingBlas>(error, times),
                          NewCpuBackend(1), kCap);
      CHECK(SumOfOnes(*backend) == want);
      CHECK(backend->health().ok());
      CHECK(backend->memory().host_calls == times - 1);
      CHECK(backend->memory().host_reason ==
            (times == 1 ? "" : error.message()));
    }
  }
}

TEST_CASE("a library that failed alone is not waited for again", "[backend]") {
  const auto error = absl::InternalError("cublasGemmEx: cuBLAS status 15");
  const auto backend = *NewCudaBackend(std::make_shared<FakeDevice>(),
                                       std::make_unique<FailingBlas>(error, 3),
                                       NewCpuBackend(1), kCap);
  // It fails at an operation and again alone, at the next one once, and then
  // not any more.
  for (int i = 0; i < 2; ++i) {
    CHECK(SumOfOnes(*backend) == std::vector<double>(24 * 24, 40.0));
    CHECK(backend->memory().host_calls == 2);
  }
  CHECK(backend->health().ok());
}

// A kernel before the library's has failed, which shows at the library.
TEST_CASE("a library that fails on a lost device has lost it", "[backend]") {
  auto device = std::make_shared<FakeDevice>(
      Faults{.lost_after_launches = 0, .lost_late = true});
  const auto error = absl::InternalError("cublasGemmEx: cuBLAS status 13");
  const auto backend = *NewCudaBackend(
      device, std::make_unique<FailingBlas>(error, 1), NewCpuBackend(1), kCap);
  CHECK(SumOfOnes(*backend) == std::vector<double>(24 * 24, 40.0));
  CHECK(device->lost());
  CHECK(absl::IsInternal(backend->health()));
  CHECK(backend->memory().host_calls == 3);  // all
  CHECK(backend->memory().host_reason == backend->health().message());
}

TEST_CASE("without cuBLAS the host multiplies", "[backend]") {
  auto device = std::make_shared<FakeDevice>();
  const auto backend =
      *NewCudaBackend(device, absl::UnavailableError("libcublas is missing"),
                      NewCpuBackend(1), kCap);
  CHECK(backend->description().find("libcublas is missing") !=
        std::string::npos);
  std::vector<float> hessian = {2, 1, 1, 2};
  std::vector<float> factor(4);
  GptqFactorFacts facts;
  GptqFactorArgs args;
  args.hessian = hessian.data();
  args.size = 2;
  args.factor = factor.data();
  args.facts = &facts;
  CHECK(backend->gptq().Factor(args, backend->stream()).ok());
  CHECK(factor[3] > 0);
  CHECK(device->launches() == 0);
}

TEST_CASE("without cuSOLVER the device factors, and says by what",
          "[backend]") {
  constexpr int64_t kSize = 100;
  std::vector<float> hessian(kSize * kSize, 0.5f);
  for (int64_t i = 0; i < kSize; ++i) {
    hessian[static_cast<size_t>(i * (kSize + 1))] = 2;
  }
  const auto factor = [&](std::unique_ptr<Blas> blas, std::string* says) {
    const auto backend =
        *NewCudaBackend(std::make_shared<FakeDevice>(), std::move(blas),
                        NewCpuBackend(1), kCap);
    *says = backend->description();
    std::vector<float> out(kSize * kSize);
    GptqFactorFacts facts;
    GptqFactorArgs args;
    args.hessian = hessian.data();
    args.size = kSize;
    args.factor = out.data();
    args.facts = &facts;
    REQUIRE(backend->gptq().Factor(args, backend->stream()).ok());
    CHECK(backend->memory().host_calls == 0);
    return out;
  };
  std::string with, without;
  const std::vector<float> library = factor(NewEmulatedBlas(), &with);
  auto alone = NewEmulatedBlasAlone();
  alone->SetCholesky(absl::UnavailableError("cuSOLVER not found: libx: no"));
  const std::vector<float> ours = factor(std::move(alone), &without);
  CHECK(with.find(", plain loops, emulated, factorisation by plain loops;") !=
        std::string::npos);
  CHECK(without.find(", plain loops, emulated, GPTQ's factor by kernels of "
                     "quantd: cuSOLVER not found: libx: no;") !=
        std::string::npos);
  for (size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(ours[i] == Approx(library[i]).margin(1e-6));
  }
}

TEST_CASE("lanes of one device have the same libraries", "[backend]") {
  for (int with : {0, 1, 2}) {  // of three lanes, those that have all
    auto device = std::make_shared<FakeDevice>();
    int made = 0;
    const auto source = [&]() -> absl::StatusOr<std::unique_ptr<Blas>> {
      return made++ < with ? NewEmulatedBlas() : NewEmulatedBlasAlone();
    };
    const auto backend =
        *NewCudaBackend(device, source, NewCpuBackend(1), kCap, 3);
    CHECK(backend->lanes() == (with == 0 ? 3 : with));
  }
}

TEST_CASE("a device older than the kernels is refused", "[backend]") {
  const auto open = [](int major, int minor) {
    DeviceFacts facts = EmulatedFacts();
    facts.name = "some GPU";
    facts.compute_major = major;
    facts.compute_minor = minor;
    return NewCudaBackend(
               std::make_shared<FakeDevice>(Faults(), /*lazy=*/false, facts),
               NewEmulatedBlas(), NewCpuBackend(1), kCap)
        .status();
  };
  CHECK(open(7, 5) ==
        absl::FailedPreconditionError("some GPU: compute capability: got 7.5, "
                                      "allowed 8.0 and up"));
  CHECK(open(8, 0).ok());
  CHECK(open(12, 1).ok());
}

TEST_CASE("no backend on a device that is lost", "[backend]") {
  auto device = std::make_shared<FakeDevice>(Faults{.lost_after_launches = 0});
  CHECK(absl::IsInternal(device->Launch([] { return absl::OkStatus(); })));
  CHECK(absl::IsInternal(
      NewCudaBackend(device, NewEmulatedBlas(), NewCpuBackend(1), kCap)
          .status()));
}

}  // namespace
}  // namespace qs::cuda
