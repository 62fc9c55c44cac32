// Operations on host memory, done by the emulated device: the same bytes as the
// CPU's, and none lost when the device has no memory or goes away.
#include <memory>
#include <thread>
#include <vector>

#include "kernels/cuda/device_session.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/cuda/staged_ops.h"
#include "kernels/factories.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/generators.h"
#include "tests/testing/nf4_cases.h"

namespace qs::cuda {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;

struct Staged {
  explicit Staged(const Faults& faults, int64_t cap = kMany)
      : device(std::make_shared<FakeDevice>(faults, /*lazy=*/true)),
        session(*DeviceSession::Create(device, cap)),
        host(NewNf4Cpu(1)),
        ops(StageNf4(*session, NewNf4Cuda(), *host)) {}

  std::shared_ptr<FakeDevice> device;
  std::unique_ptr<DeviceSession> session;
  std::unique_ptr<Nf4Ops> host;
  std::unique_ptr<Nf4Ops> ops;
};

Nf4Case Case(const TestTensor& weight, uint64_t seed) {
  return {weight, 64, Codebook::kNf4, Nf4Rule::kCuda, Nf4Search::kBestScale,
          seed};
}

TEST_CASE("the device gives the CPU's bytes", "[session]") {
  Staged staged({});
  uint64_t seed = 0;
  for (const DType dtype : kWeightTypes) {
    for (const int64_t count : {1, 63, 64, 1000, 4097}) {
      const TestTensor weight =
          TestTensor::Make(dtype, count, Kind::kBlocks, ++seed);
      const Nf4Case c = Case(weight, seed);
      INFO(c.Describe());
      REQUIRE(RunNf4(*staged.ops, c) == RunNf4(*staged.host, c));
    }
  }
  CHECK(staged.session->health().ok());
  CHECK(staged.session->host_calls() == 0);
  CHECK(staged.device->launches() > 0);
  CHECK(staged.session->ledger().high_water() > 0);
}

TEST_CASE("without device memory the host does it, this once", "[session]") {
  Staged staged({.memory_bytes = 1000});
  const TestTensor weight =
      TestTensor::Make(DType::kBF16, 4096, Kind::kGauss, 3);
  const Nf4Case c = Case(weight, 3);
  REQUIRE(RunNf4(*staged.ops, c) == RunNf4(*staged.host, c));
  CHECK(staged.session->health().ok());
  CHECK(staged.session->host_calls() > 0);
  CHECK(staged.device->launches() == 0);
  staged.device->SetFaults({});
  const int64_t before = staged.session->host_calls();
  REQUIRE(RunNf4(*staged.ops, c) == RunNf4(*staged.host, c));
  CHECK(staged.session->host_calls() == before);
  CHECK(staged.device->launches() > 0);
}

// Its code may only now be loaded.
TEST_CASE("a launch without memory is tried again, then the host's, this once",
          "[session]") {
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 1000, Kind::kGauss, 5);
  const Nf4Case c = Case(weight, 5);
  const auto expected = RunNf4(*NewNf4Cpu(1), c);
  Staged all({});
  REQUIRE(RunNf4(*all.ops, c) == expected);
  for (int64_t after = 0; after < all.device->launches(); ++after) {
    for (const int64_t times : {1, 2}) {
      INFO("after " << after << ", " << times << " times");
      Staged staged({.no_memory_after_launches = after,
                     .launches_without_memory = times});
      REQUIRE(RunNf4(*staged.ops, c) == expected);
      CHECK(staged.session->health().ok());
      CHECK(staged.session->host_calls() == times - 1);
      REQUIRE(RunNf4(*staged.ops, c) == expected);
      CHECK(staged.session->host_calls() == times - 1);
    }
  }
}

TEST_CASE("a device lost at any launch or copy loses no operation",
          "[session]") {
  const TestTensor weight =
      TestTensor::Make(DType::kF32, 1000, Kind::kGauss, 5);
  const Nf4Case c = Case(weight, 5);
  const auto expected = RunNf4(*NewNf4Cpu(1), c);
  for (const bool late : {false, true}) {
    bool lost = true;
    for (int64_t after = 0; lost; ++after) {
      INFO("after " << after << (late ? ", seen late" : ""));
      Staged kernel({.lost_after_launches = after, .lost_late = late});
      REQUIRE(RunNf4(*kernel.ops, c) == expected);
      Staged copy({.lost_after_copies = after, .lost_late = late});
      REQUIRE(RunNf4(*copy.ops, c) == expected);
      lost = copy.device->lost() || kernel.device->lost();
      CHECK(kernel.session->health().ok() == !kernel.device->lost());
      CHECK(copy.session->health().ok() == !copy.device->lost());
      CHECK((copy.session->host_calls() > 0) == copy.device->lost());
    }
  }
}

TEST_CASE("what goes in and out is whole after a failure", "[session]") {
  const std::vector<int32_t> before(3 << 20, 7);  // several slots
  for (int64_t run = 0; run < 16; ++run) {
    const int64_t after = run / 2;
    auto device = std::make_shared<FakeDevice>(
        Faults{.lost_after_copies = after, .lost_late = run % 2 == 1});
    auto session = DeviceSession::Create(device, kMany);
    REQUIRE(session.ok());
    std::vector<int32_t> data = before;
    const absl::Status status = (*session)->Do(
        {},
        [&](StagedCall& call) {
          int32_t* const on_device =
              call.InOut(data.data(), static_cast<int64_t>(data.size()));
          return call.Run([&](Stream&) {
            for (size_t i = 0; i < data.size(); ++i) on_device[i] += 1;
            return absl::OkStatus();
          });
        },
        [&] {
          INFO("after " << after << " copies, run " << run);
          CHECK(data == before);
          for (int32_t& value : data) value += 1;
          return absl::OkStatus();
        });
    REQUIRE(status.ok());
    CHECK(data == std::vector<int32_t>(before.size(), 8));
  }
}

// One more than each value, of `megabytes` in and as many out.
bool Increments(DeviceSession& session, int64_t megabytes) {
  const std::vector<int32_t> in(static_cast<size_t>(megabytes) << 18, 7);
  std::vector<int32_t> out(in.size());
  const auto count = static_cast<int64_t>(in.size());
  const absl::Status status = session.Do(
      {.taken = megabytes << 21},
      [&](StagedCall& call) {
        const int32_t* const from = call.In(in.data(), count);
        int32_t* const to = call.Out(out.data(), count);
        return call.Run([&](Stream&) {
          for (size_t i = 0; i < in.size(); ++i) to[i] = from[i] + 1;
          return absl::OkStatus();
        });
      },
      [&] {
        for (size_t i = 0; i < in.size(); ++i) out[i] = in[i] + 1;
        return absl::OkStatus();
      });
  return status.ok() && out == std::vector<int32_t>(in.size(), 8);
}

TEST_CASE("lanes share the cap: one makes room for the other", "[session]") {
  auto device = std::make_shared<FakeDevice>(Faults(), /*lazy=*/true);
  // Room for a call of twice 20 MiB, not for two.
  constexpr int64_t kRoom = int64_t{50} << 20;
  const auto shared = std::make_shared<SharedDevice>(device, kRoom);
  const auto one = *DeviceSession::Create(shared);
  const auto two = *DeviceSession::Create(shared);
  for (int i = 0; i < 3; ++i) {
    CHECK(Increments(*one, 20));
    CHECK(Increments(*two, 20));
  }
  CHECK(shared->host_calls() == 0);
  CHECK(shared->ledger().high_water() <= kRoom);
  // At once, whoever comes first.
  const auto many = [](DeviceSession& session) {
    bool good = true;
    for (int i = 0; i < 10; ++i) good = Increments(session, 20) && good;
    return good;
  };
  bool good = false;
  std::thread other([&] { good = many(*one); });
  CHECK(many(*two));
  other.join();
  CHECK(good);
  CHECK(shared->host_calls() == 0);
  // What no lane has room for is the host's.
  CHECK(Increments(*one, 30));
  CHECK(shared->host_calls() == 1);
  CHECK(shared->health().ok());
}

TEST_CASE("a device that one lane loses is lost to all", "[session]") {
  auto device = std::make_shared<FakeDevice>();
  const auto shared = std::make_shared<SharedDevice>(device, kMany);
  const auto one = *DeviceSession::Create(shared);
  const auto two = *DeviceSession::Create(shared);
  device->SetFaults({.lost_after_launches = 0});
  CHECK(Increments(*one, 1));
  CHECK(absl::IsInternal(two->health()));
  const int64_t copies = device->copies();
  CHECK(Increments(*two, 1));
  CHECK(device->copies() == copies);
  CHECK(shared->host_calls() == 2);
}

TEST_CASE("an error of the operation is not the device's", "[session]") {
  Staged staged({});
  Stream stream;
  const TestTensor weight = TestTensor::Make(DType::kF32, 64, Kind::kGauss, 5);
  Nf4EncodeArgs args;
  args.weight = weight.View();
  args.block_size = 48;
  CHECK(absl::IsInvalidArgument(staged.ops->Encode(args, stream)));
  CHECK(staged.session->health().ok());
  CHECK(absl::IsCancelled(staged.session->Do(
      {},
      [](StagedCall& call) {
        return call.Run([](Stream&) { return absl::CancelledError("enough"); });
      },
      [] { return absl::OkStatus(); })));
}

}  // namespace
}  // namespace qs::cuda
