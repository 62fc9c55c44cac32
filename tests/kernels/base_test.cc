#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/dtype.h"
#include "kernels/base/status_macros.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/sanitized.h"

namespace qs {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMiB = int64_t{1} << 20;

uint16_t NativeF16(float value) {
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}

TEST_CASE("every F16 pattern converts as the compiler's own type does") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float expected = static_cast<float>(std::bit_cast<_Float16>(pattern));
    const float got = F16ToFloat(pattern);
    INFO("bits " << bits);
    if (std::isnan(expected)) {
      REQUIRE(std::isnan(got));
    } else {
      REQUIRE(std::bit_cast<uint32_t>(got) ==
              std::bit_cast<uint32_t>(expected));
      REQUIRE(FloatToF16(got) == pattern);
    }
  }
}

TEST_CASE("F32 rounds to F16 as the compiler's own type does") {
  // Every exponent and sign with the mantissas around each rounding boundary.
  for (uint32_t high = 0; high < 0x80000; ++high) {
    for (const uint32_t low : {0u, 1u, 0xfffu, 0x1000u - 1, 0x1fffu}) {
      const uint32_t bits = high << 13 | low;
      const float value = std::bit_cast<float>(bits);
      if (std::isnan(value)) continue;
      if (FloatToF16(value) != NativeF16(value)) {
        INFO("bits " << bits);
        REQUIRE(FloatToF16(value) == NativeF16(value));
      }
    }
    const float tie = std::bit_cast<float>(high << 13 | 0x1000u);
    if (!std::isnan(tie) && FloatToF16(tie) != NativeF16(tie)) {
      INFO("tie " << high);
      REQUIRE(FloatToF16(tie) == NativeF16(tie));
    }
  }
}

TEST_CASE("BF16 round trip, ties to even, overflow and NaN") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto pattern = static_cast<uint16_t>(bits);
    const float value = Bf16ToFloat(pattern);
    INFO("bits " << bits);
    if (std::isnan(value)) {
      REQUIRE(std::isnan(Bf16ToFloat(FloatToBf16(value))));
    } else {
      REQUIRE(FloatToBf16(value) == pattern);
    }
  }
  const auto round = [](uint32_t bits) {
    return FloatToBf16(std::bit_cast<float>(bits));
  };
  CHECK(round(0x3f808000) == 0x3f80);  // tie, even stays
  CHECK(round(0x3f818000) == 0x3f82);  // tie, odd goes up
  CHECK(round(0x3f808001) == 0x3f81);
  CHECK(round(0x7f7fffff) == 0x7f80);  // beyond the largest: infinity
  CHECK(std::isnan(Bf16ToFloat(round(0x7f800001))));
}

TEST_CASE("dtype names go both ways") {
  constexpr std::array kAll = {
      DType::kF32, DType::kF16, DType::kBF16, DType::kU8,     DType::kI32,
      DType::kI64, DType::kF64, DType::kI8,   DType::kI16,    DType::kU16,
      DType::kU32, DType::kU64, DType::kBool, DType::kF8E4M3, DType::kF8E5M2};
  for (const DType dtype : kAll) {
    REQUIRE(ParseDType(DTypeName(dtype)) == dtype);
  }
  CHECK(!ParseDType("f32"));
  CHECK(!ParseDType(""));
  CHECK(DTypeName(DType::kF8E4M3) == "F8_E4M3");
}

TEST_CASE("load and store move one element") {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    uint8_t bytes[16] = {};
    StoreFromFloat(bytes, dtype, 1, -1.5f);
    CHECK(LoadAsFloat(bytes, dtype, 1) == -1.5f);
    CHECK(LoadAsFloat(bytes, dtype, 0) == 0.0f);
    CHECK(LoadAsFloat(bytes, dtype, 2) == 0.0f);
  }
}

TEST_CASE("checked arithmetic refuses what does not fit") {
  CHECK(CheckedMul(1 << 20, 1 << 20) == int64_t{1} << 40);
  CHECK(!CheckedMul(kMax, 2));
  CHECK(!CheckedAdd(kMax, 1));
  CHECK(CheckedAdd(kMax - 1, 1) == kMax);
  const std::array<int64_t, 3> large = {1 << 30, 1 << 30, 16};
  CHECK(!CheckedNumElements(large));
  const std::array<int64_t, 2> negative = {4, -1};
  CHECK(!CheckedNumElements(negative));
  CHECK(CheckedNumElements({}) == 1);
  CHECK(CeilDiv(0, 4) == 0);
  CHECK(CeilDiv(5, 4) == 2);
  CHECK(CeilDiv(kMax, kMax) == 1);
}

TEST_CASE("buffers are aligned, sized and movable") {
  for (const int64_t bytes : {1L, 63L, 4096L, (1L << 20) + 1, 5L << 20}) {
    auto buffer = Buffer::Allocate(bytes);
    REQUIRE(buffer.ok());
    CHECK(buffer->size() == bytes);
    CHECK(reinterpret_cast<uintptr_t>(buffer->data()) % 64 == 0);
    std::memset(buffer->data(), 0x5a, static_cast<size_t>(bytes));
    const uint8_t* const data = buffer->data();
    const Buffer moved = *std::move(buffer);
    CHECK(moved.data() == data);
    CHECK(moved.bytes().back() == 0x5a);
  }
  ReleaseCachedBuffers();
}

uintptr_t Address(const Buffer& buffer) {
  return reinterpret_cast<uintptr_t>(buffer.data());
}

Buffer Filled(int64_t bytes, int value) {
  Buffer buffer = *Buffer::Allocate(bytes);
  std::memset(buffer.data(), value, static_cast<size_t>(bytes));
  return buffer;
}

bool IsFilled(const Buffer& buffer, int value) {
  for (const uint8_t byte : buffer.bytes()) {
    if (byte != value) return false;
  }
  return true;
}

// What of this process is in memory.
int64_t ResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

TEST_CASE("what a buffer takes is its size, rounded up by a bounded part") {
  CHECK(Buffer::BytesTaken(0) == 0);
  CHECK(Buffer::BytesTaken(1) == 64);
  CHECK(Buffer::BytesTaken(kMiB - 64) == kMiB - 64);
  CHECK(Buffer::BytesTaken(kMiB) == kMiB);
  CHECK(Buffer::BytesTaken(kMiB + 1) == 2 * kMiB);
  CHECK(Buffer::BytesTaken(2 * kMiB) == 2 * kMiB);
  CHECK(Buffer::BytesTaken(5 * kMiB) == 6 * kMiB);
  for (const int64_t bytes : {kMiB, kMiB + 1, 2 * kMiB + 1}) {
    CHECK(Buffer::BytesTaken(bytes) - bytes < Buffer::kMostRounding);
  }
}

TEST_CASE("two buffers of 1 MiB lie in one huge page") {
  ReleaseCachedBuffers();
  Buffer first = Filled(kMiB, 1);
  Buffer second = Filled(kMiB, 2);
  CHECK(Address(first) / (2 * kMiB) == Address(second) / (2 * kMiB));
  CHECK((Address(first) ^ Address(second)) == kMiB);
  CHECK(IsFilled(first, 1));
  const uintptr_t page = Address(first) & ~uintptr_t{2 * kMiB - 1};

  // A free half is the next one that is taken.
  const uintptr_t freed = Address(second);
  second = Buffer();
  const Buffer whole = Filled(2 * kMiB, 3);
  Buffer again = Filled(kMiB, 4);
  CHECK(Address(again) == freed);
  CHECK(IsFilled(first, 1));

  // With both halves the page is free.
  first = Buffer();
  again = Buffer();
  const Buffer next = Filled(2 * kMiB, 5);
  CHECK(Address(next) == page);
  CHECK(IsFilled(whole, 3));
}

TEST_CASE("large buffers of many threads do not overlap") {
  std::vector<std::thread> threads;
  std::array<bool, 4> good{};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t, &good] {
      std::vector<Buffer> held(8);
      bool all = true;
      for (int i = 0; i < (testing::kSanitized ? 60 : 400); ++i) {
        Buffer& slot = held[static_cast<size_t>(i * (t + 3) % 8)];
        const int value = t * 8 + i * (t + 3) % 8;
        all = all && (slot.size() == 0 || IsFilled(slot, value));
        slot = Filled(i % 3 == 0 ? 2 * kMiB : kMiB, value);
      }
      good[static_cast<size_t>(t)] = all;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const bool all : good) CHECK(all);
  ReleaseCachedBuffers();
}

TEST_CASE("free halves of pages in use do not keep more memory than the cap") {
  if (testing::kSanitized) return;  // it has memory of its own
  constexpr int64_t kCap = 64 * kMiB;
  constexpr int64_t kSlack = 8 * kMiB;
  ReleaseCachedBuffers();
  const int64_t before = ResidentBytes();
  std::vector<Buffer> halves;
  for (int i = 0; i < 240; ++i) halves.push_back(Filled(kMiB, i));
  for (size_t i = 0; i < halves.size(); i += 2) halves[i] = Buffer();
  CHECK(ResidentBytes() - before <= 120 * kMiB + kCap + kSlack);
  ReleaseCachedBuffers();
  CHECK(ResidentBytes() - before <= 120 * kMiB + kSlack);
  // They can be taken again, and their neighbours are untouched.
  for (size_t i = 0; i < halves.size(); i += 2) {
    halves[i] = Filled(kMiB, static_cast<int>(i));
  }
  CHECK(ResidentBytes() - before <= 240 * kMiB + kSlack);
  for (size_t i = 0; i < halves.size(); ++i) {
    CHECK(IsFilled(halves[i], static_cast<int>(i)));
  }
  halves.clear();
  CHECK(ResidentBytes() - before <= kCap + kSlack);
  ReleaseCachedBuffers();
  CHECK(ResidentBytes() - before <= kSlack);
}

TEST_CASE("an impossible allocation is a status, not an exception") {
  CHECK(Buffer::Allocate(kMax).status().code() ==
        absl::StatusCode::kResourceExhausted);
  CHECK(Buffer::Allocate(-1).status().code() ==
        absl::StatusCode::kResourceExhausted);
  CHECK(Buffer::Allocate(0).ok());
}

absl::StatusOr<int> Half(int value) {
  if (value % 2 != 0) return absl::InvalidArgumentError("odd");
  return value / 2;
}

absl::StatusOr<int> Quarter(int value) {
  QS_ASSIGN_OR_RETURN(const int half, Half(value));
  QS_RETURN_IF_ERROR(Half(half).status());
  return half / 2;
}

TEST_CASE("status macros return the first error") {
  CHECK(*Quarter(8) == 2);
  CHECK(Quarter(7).status().message() == "odd");
  CHECK(Quarter(6).status().message() == "odd");
}

}  // namespace
}  // namespace qs
