// The emulation must catch what it promises to catch: each case plants a bug.
#include <string>

#include "kernels/cuda/vocabulary.h"
#include "tests/testing/catch_compat.h"

namespace qs::cuda {
namespace {

struct Shared {
  float values[64];
};

struct Args {
  float* out;
  int64_t count;
  int bug;
};

// Reverses 64 values of a block through shared memory; `bug` breaks it.
template <class Thread>
QS_KERNEL void ReverseKernel(Thread& t, Shared& shared, const Args& a) {
  auto out = t.Global(a.out, a.count);
  const int i = t.ThreadIndex();
  shared.values[i] = static_cast<float>(i);
  if (a.bug == 1 && i == 3) return;
  if (a.bug != 2) t.Barrier();
  out.Set(t.BlockIndex() * 64 + (a.bug == 3 ? 64 : 63) - i,
          shared.values[63 - i]);
}

struct LaunchResult {
  int code;
  std::string error;
};

LaunchResult Launch(int bug, int64_t count = 128, int block = 64) {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  const Args args{static_cast<float*>(device.Allocate(128 * 4)), count, bug};
  const int code = QS_LAUNCH(ReverseKernel, Shared, args, 2, block, nullptr);
  if (code == 0) {
    for (int i = 0; i < 128; ++i) {
      if (args.out[i] != static_cast<float>(i % 64)) return {code, "wrong"};
    }
  }
  return {code, device.TakeError()};
}

TEST_CASE("a correct kernel passes under many orders") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    INFO("seed " << seed);
    EmulatedDevice::Get().Seed(seed);
    const LaunchResult result = Launch(0);
    CHECK(result.code == 0);
    CHECK(result.error.empty());
  }
}

TEST_CASE("a thread that misses the barrier is reported") {
  const LaunchResult result = Launch(1);
  CHECK(result.code == 1);
  CHECK(result.error.find("divergence") != std::string::npos);
  CHECK(result.error.find("seed") != std::string::npos);
}

TEST_CASE("a missing barrier reads NaN in some order") {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EmulatedDevice::Get().Seed(seed);
    wrong += Launch(2).error == "wrong";
  }
  CHECK(wrong > 0);
}

TEST_CASE("an access out of bounds is reported") {
  const LaunchResult result = Launch(3);
  CHECK(result.code == 1);
  CHECK(result.error.find("of 128") != std::string::npos);
}

TEST_CASE("a count beyond the allocation is reported") {
  CHECK(Launch(0, 129).error.find("allocation") != std::string::npos);
}

TEST_CASE("launch limits are enforced") {
  CHECK(Launch(0, 128, 48).error.find("limit") != std::string::npos);
  CHECK(Launch(0, 128, 2048).error.find("limit") != std::string::npos);
}

template <class Thread>
QS_KERNEL void ShuffleKernel(Thread& t, NoShared&, const Args& a) {
  auto out = t.Global(a.out, a.count);
  const int i = t.ThreadIndex();
  float sum = static_cast<float>(i % 32);
  if (a.bug == 1 && i == 40) sum = t.ShuffleXor(sum, 2);
  for (int mask = 1; mask < 32; mask *= 2) sum += t.ShuffleXor(sum, mask);
  out.Set(i, sum);
}

TEST_CASE("shuffles exchange within a warp and need all of it") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  Args args{static_cast<float*>(device.Allocate(64 * 4)), 64, 0};
  REQUIRE(QS_LAUNCH(ShuffleKernel, NoShared, args, 1, 64, nullptr) == 0);
  for (int i = 0; i < 64; ++i) CHECK(args.out[i] == 496.0f);
  args.bug = 1;
  CHECK(QS_LAUNCH(ShuffleKernel, NoShared, args, 1, 64, nullptr) == 1);
  CHECK(device.TakeError().find("divergence") != std::string::npos);
}

TEST_CASE("misaligned vector access is reported") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  const CheckedPointer<uint16_t> p(
      static_cast<uint16_t*>(device.Allocate(64, 2)), 32);
  struct alignas(8) Four {
    uint16_t v[4];
  };
  CHECK_THROWS(p.GetVector<Four>(0));
  CHECK(device.TakeError().find("aligned") != std::string::npos);
}

TEST_CASE("an aligned vector access beyond the end is reported") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  const CheckedPointer<uint16_t> p(static_cast<uint16_t*>(device.Allocate(60)),
                                   30);
  CHECK_THROWS(p.GetVector<uint64_t>(28));
  CHECK(device.TakeError().find("of 30") != std::string::npos);
  CHECK_THROWS(p.SetVector(28, uint64_t{0}));
  CHECK(device.TakeError().find("of 30") != std::string::npos);
  CHECK_THROWS(p.Get(-1));
  CHECK(device.TakeError().find("element -1") != std::string::npos);
}

TEST_CASE("fresh device memory is NaN") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  const auto* fresh = static_cast<const float*>(device.Allocate(16));
  for (int i = 0; i < 4; ++i) CHECK(fresh[i] != fresh[i]);
}

// Sums what the block left in shared memory; bug 1 forgets to set element 5,
// bug 2 writes behind the end.
template <class Thread>
QS_KERNEL void SharedKernel(Thread& t, Shared& shared, const Args& a) {
  auto out = t.Global(a.out, a.count);
  const int i = t.ThreadIndex();
  float* values = shared.values;
  if (a.bug != 1 || i != 5) values[i] = 1.0f;
  if (a.bug == 2 && i == 63) values[i + 1] = 1.0f;
  t.Barrier();
  float sum = 0.0f;
  for (int k = 0; k < 64; ++k) sum += values[k];
  out.Set(i, sum);
}

TEST_CASE("shared memory: unset elements are NaN, its end is watched") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  Args args{static_cast<float*>(device.Allocate(64 * 4)), 64, 0};
  REQUIRE(QS_LAUNCH(SharedKernel, Shared, args, 1, 64, nullptr) == 0);
  CHECK(args.out[9] == 64.0f);
  args.bug = 1;
  REQUIRE(QS_LAUNCH(SharedKernel, Shared, args, 1, 64, nullptr) == 0);
  CHECK(args.out[9] != args.out[9]);
  args.bug = 2;
  CHECK(QS_LAUNCH(SharedKernel, Shared, args, 1, 64, nullptr) == 1);
  CHECK(device.TakeError().find("beyond its shared") != std::string::npos);
}

// Bug 1: warp 1 reads what warp 0 writes, ten shuffles later but without a
// barrier. Bug 2: half of a warp waits at a barrier, half at a shuffle.
template <class Thread>
QS_KERNEL void LateKernel(Thread& t, Shared& shared, const Args& a) {
  auto out = t.Global(a.out, a.count);
  const int i = t.ThreadIndex();
  if (i < 32) shared.values[i] = 1.0f;
  if (a.bug == 2 && i % 2 == 0) t.Barrier();
  float sum = 1.0f;
  for (int k = 0; k < 10; ++k) sum = 0.5f * (sum + t.ShuffleXor(sum, 1));
  if (a.bug != 1) t.Barrier();
  out.Set(i, sum * shared.values[i % 32]);
}

TEST_CASE("one warp can be far ahead of another") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  Args args{static_cast<float*>(device.Allocate(64 * 4)), 64, 0};
  int wrong[2] = {0, 0};
  for (args.bug = 0; args.bug < 2; ++args.bug) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      device.Seed(seed);
      REQUIRE(QS_LAUNCH(LateKernel, Shared, args, 1, 64, nullptr) == 0);
      wrong[args.bug] += args.out[50] != 1.0f;
    }
  }
  CHECK(wrong[0] == 0);
  CHECK(wrong[1] > 0);
}

TEST_CASE("a barrier and a shuffle at once are a divergence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  const Args args{static_cast<float*>(device.Allocate(64 * 4)), 64, 2};
  CHECK(QS_LAUNCH(LateKernel, Shared, args, 1, 64, nullptr) == 1);
  const std::string error = device.TakeError();
  CHECK(error.find(
            "divergence: 32 threads wait at a barrier, 32 at a shuffle") == 0);
}

// Bug 1: the lanes of a warp disagree about the distance.
template <class Thread>
QS_KERNEL void MaskKernel(Thread& t, NoShared&, const Args& a) {
  auto out = t.Global(a.out, a.count);
  const int i = t.ThreadIndex();
  const int mask = a.bug == 1 && i == 7 ? 2 : 1;
  out.Set(i, t.ShuffleXor(static_cast<float>(i), mask));
}

TEST_CASE("a shuffle by different distances is a divergence") {
  EmulatedDevice& device = EmulatedDevice::Get();
  device.FreeAll();
  Args args{static_cast<float*>(device.Allocate(32 * 4)), 32, 0};
  REQUIRE(QS_LAUNCH(MaskKernel, NoShared, args, 1, 32, nullptr) == 0);
  for (int i = 0; i < 32; ++i) CHECK(args.out[i] == static_cast<float>(i ^ 1));
  args.bug = 1;
  CHECK(QS_LAUNCH(MaskKernel, NoShared, args, 1, 32, nullptr) == 1);
  CHECK(device.TakeError().find("divergence") != std::string::npos);
}

TEST_CASE("a launch after a failed one is clean") {
  CHECK(Launch(1).code == 1);
  const LaunchResult result = Launch(0);
  CHECK(result.code == 0);
  CHECK(result.error.empty());
}

}  // namespace
}  // namespace qs::cuda
