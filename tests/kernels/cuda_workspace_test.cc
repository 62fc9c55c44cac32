// The workspace of a GPU worker: copies, memory, its cap, a lost device.
#include <cstring>
#include <vector>

#include "kernels/cuda/workspace.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/fake_device.h"

namespace qs::cuda {
namespace {

constexpr int64_t kMany = int64_t{1} << 40;

std::vector<uint8_t> Bytes(int64_t count, uint32_t seed) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) {
    seed = seed * 1664525 + 1013904223;
    byte = static_cast<uint8_t>(seed >> 24);
  }
  return bytes;
}

TEST_CASE("bytes go in and come out, through few slots", "[workspace]") {
  FakeDevice device({}, /*lazy=*/true);
  MemoryLedger ledger(kMany);
  auto workspace = Workspace::Create(device, ledger);
  REQUIRE(workspace.ok());
  constexpr int64_t kSlot = Workspace::kSlotBytes;
  for (const int64_t count :
       {int64_t{0}, int64_t{1}, kSlot - 1, kSlot, kSlot + 1, 9 * kSlot + 5}) {
    INFO(count);
    std::vector<uint8_t> in = Bytes(count, 7);
    const std::vector<uint8_t> before = in;
    const absl::StatusOr<void*> memory = (*workspace)->Take(count);
    REQUIRE(memory.ok());
    CHECK(reinterpret_cast<uintptr_t>(*memory) % Workspace::kAlignment == 0);
    REQUIRE((*workspace)->CopyIn(*memory, in.data(), count).ok());
    std::fill(in.begin(), in.end(), uint8_t{0});  // it is free again
    std::vector<uint8_t> out(in.size(), 1);
    REQUIRE((*workspace)->CopyOut(out.data(), *memory, count).ok());
    CHECK(out == before);
    (*workspace)->GiveBack();
  }
}

TEST_CASE("memory grows, becomes one piece, and is given back", "[workspace]") {
  FakeDevice device;
  MemoryLedger ledger(kMany);
  auto workspace = Workspace::Create(device, ledger);
  REQUIRE(workspace.ok());
  const int64_t big = 3 * Workspace::kLeastChunk;
  REQUIRE((*workspace)->Take(100).ok());
  REQUIRE((*workspace)->Take(big).ok());
  CHECK(ledger.used() == Workspace::kLeastChunk + big);
  CHECK(device.memory_in_use() == ledger.used());
  (*workspace)->GiveBack();
  CHECK(ledger.used() == big + Workspace::kAlignment);
  REQUIRE((*workspace)->Take(100).ok());
  REQUIRE((*workspace)->Take(big).ok());
  CHECK(ledger.used() == big + Workspace::kAlignment);
  CHECK(device.memory_in_use() == ledger.used());
  (*workspace)->GiveBack();
  (*workspace)->Trim();
  CHECK(ledger.used() == 0);
  CHECK(device.memory_in_use() == 0);
  CHECK(ledger.high_water() == Workspace::kLeastChunk + big);
}

TEST_CASE("the ledger's cap and the device's own", "[workspace]") {
  const int64_t least = Workspace::kLeastChunk;
  FakeDevice device({.memory_bytes = 2 * least});
  MemoryLedger ledger(least / 2);
  auto workspace = Workspace::Create(device, ledger);
  REQUIRE(workspace.ok());
  // Less than a whole chunk fits: what is asked for is enough.
  REQUIRE((*workspace)->Take(least / 4).ok());
  const absl::Status capped = (*workspace)->Take(least).status();
  CHECK(absl::IsResourceExhausted(capped));
  CHECK(capped.message() ==
        "device memory: got 33554432 bytes more, 8388608 are in use, allowed "
        "16777216");
  (*workspace)->GiveBack();

  MemoryLedger wide(kMany);
  auto greedy = Workspace::Create(device, wide);
  REQUIRE(greedy.ok());
  CHECK(absl::IsResourceExhausted((*greedy)->Take(3 * least).status()));
  CHECK(wide.used() == 0);
  REQUIRE((*greedy)->Take(least).ok());
}

TEST_CASE("what does not change is copied once, while there is room",
          "[workspace]") {
  const int64_t chunk = Workspace::kLeastChunk;
  FakeDevice device({}, /*lazy=*/true);
  MemoryLedger ledger(4 * chunk);
  auto workspace = Workspace::Create(device, ledger);
  REQUIRE(workspace.ok());
  std::vector<std::vector<uint8_t>> host;
  for (uint32_t i = 0; i < 3; ++i) host.push_back(Bytes(chunk, i + 1));
  const auto check = [&](uint64_t id) {
    const std::vector<uint8_t>& bytes = host[id - 1];
    const auto copy = (*workspace)->Resident(id, bytes.data(), chunk);
    REQUIRE(copy.ok());
    std::vector<uint8_t> out(bytes.size());
    REQUIRE((*workspace)->CopyOut(out.data(), *copy, chunk).ok());
    CHECK(out == bytes);
    return *copy;
  };
  const void* const first = check(1);
  check(2);
  (*workspace)->GiveBack();
  const int64_t copies = device.copies();
  CHECK(check(1) == first);
  CHECK(device.copies() == copies + chunk / Workspace::kSlotBytes);  // out only
  check(3);
  REQUIRE((*workspace)->Take(chunk).ok());
  CHECK(ledger.used() == 4 * chunk);
  CHECK(ledger.high_water() == 3 * chunk);  // nobody needs 2
  // 2 was not used since GiveBack and goes; 1 and 3 are in use and stay.
  REQUIRE((*workspace)->Take(chunk).ok());
  CHECK(ledger.used() == 4 * chunk);
  CHECK(ledger.high_water() == 4 * chunk);
  CHECK(absl::IsResourceExhausted((*workspace)->Take(chunk).status()));
  CHECK(check(1) == first);
  (*workspace)->GiveBack();
  (*workspace)->Trim();
  CHECK(ledger.used() == 0);
  check(2);
}

TEST_CASE("a lost device says so in every call", "[workspace]") {
  FakeDevice device({.lost_after_copies = 2});
  MemoryLedger ledger(kMany);
  auto workspace = Workspace::Create(device, ledger);
  REQUIRE(workspace.ok());
  std::vector<uint8_t> host(100);
  const absl::StatusOr<void*> memory = (*workspace)->Take(100);
  REQUIRE(memory.ok());
  REQUIRE((*workspace)->CopyIn(*memory, host.data(), 100).ok());
  REQUIRE((*workspace)->CopyIn(*memory, host.data(), 100).ok());
  CHECK(absl::IsInternal((*workspace)->CopyOut(host.data(), *memory, 100)));
  CHECK(absl::IsInternal((*workspace)->CopyIn(*memory, host.data(), 100)));
  CHECK(absl::IsInternal((*workspace)->Take(1 << 30).status()));
  CHECK(absl::IsInternal((*workspace)->Synchronize()));
  CHECK(absl::IsInternal(Workspace::Create(device, ledger).status()));
}

}  // namespace
}  // namespace qs::cuda
