// Tested by tests/kernels/nf4_tables_test.cc.
#include "kernels/nf4_tables.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace qs {
namespace {

constexpr uint32_t kNf4Levels[16] = {
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
    0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
    0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};

// By code; 8..15 are the negatives, and code 8 is +0.0 once more.
constexpr uint32_t kFp4Magnitudes[8] = {0x00000000, 0x3baaaaab, 0x3f2aaaab,
                                        0x3f800000, 0x3eaaaaab, 0x3f000000,
                                        0x3e2aaaab, 0x3e800000};
constexpr uint8_t kFp4ByMagnitude[8] = {0, 1, 6, 7, 4, 5, 2, 3};

constexpr uint32_t kNf4CudaBounds[15] = {
    0xbf591cd9, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec,
    0xbe0d38bc, 0xbd3a7871, 0x3d22faff, 0x3df64863, 0x3e5067e0,
    0x3e9582d4, 0x3ec753f9, 0x3f006d03, 0x3f248daf, 0x3f5c89d9};
constexpr uint32_t kFp4CudaBounds[7] = {0x3b2aaab9, 0x3db00000, 0x3e555555,
                                        0x3e955555, 0x3ed55556, 0x3f155550,
                                        0x3f555555};

// Entries 128..255 of the nested map; entry i < 127 is minus entry 254 - i.
constexpr uint32_t kNestedUpper[128] = {
    0x3513a3b7, 0x365a1a94, 0x370205ff, 0x37b24206, 0x38378034, 0x388aefb3,
    0x38ba1f4b, 0x3923d70b, 0x398ce705, 0x39c7e283, 0x3a016f01, 0x3a1eecc1,
    0x3a3c6a80, 0x3a59e83e, 0x3a7765ff, 0x3aa7ef9d, 0x3af1a9fc, 0x3b1db22d,
    0x3b428f5c, 0x3b676c8a, 0x3b8624dd, 0x3b989374, 0x3bab020d, 0x3bbd70a4,
    0x3bcfdf3b, 0x3be24dd3, 0x3bf4bc6a, 0x3c039581, 0x3c0ccccd, 0x3c160418,
    0x3c1f3b64, 0x3c3ae148, 0x3c68f5c3, 0x3c8b851f, 0x3ca28f5d, 0x3cb9999a,
    0x3cd0a3d7, 0x3ce7ae15, 0x3cfeb852, 0x3d0ae148, 0x3d166667, 0x3d21eb85,
    0x3d2d70a3, 0x3d38f5c3, 0x3d447ae1, 0x3d500000, 0x3d5b851f, 0x3d670a3d,
    0x3d728f5d, 0x3d7e147b, 0x3d84cccd, 0x3d8a8f5d, 0x3d9051eb, 0x3d96147b,
    0x3d9bd70a, 0x3da1999a, 0x3da75c2a, 0x3dad1eb8, 0x3db2e148, 0x3db8a3d7,
    0x3dbe6667, 0x3dc428f7, 0x3dc9eb85, 0x3ddb3334, 0x3df80000, 0x3e0a6666,
    0x3e18cccd, 0x3e273333, 0x3e35999a, 0x3e440000, 0x3e526666, 0x3e60cccd,
    0x3e6f3333, 0x3e7d9999, 0x3e860000, 0x3e8d3334, 0x3e946666, 0x3e9b999a,
    0x3ea2cccc, 0x3eaa0000, 0x3eb13333, 0x3eb86666, 0x3ebf999a, 0x3ec6cccc,
    0x3ece0000, 0x3ed53333, 0x3edc6666, 0x3ee3999a, 0x3eeacccc, 0x3ef20000,
    0x3ef93332, 0x3f003333, 0x3f03cccc, 0x3f076666, 0x3f0b0000, 0x3f0e999a,
    0x3f123334, 0x3f15cccd, 0x3f196666, 0x3f1d0000, 0x3f20999a, 0x3f243334,
    0x3f27cccd, 0x3f2b6666, 0x3f2f0000, 0x3f32999a, 0x3f363334, 0x3f39cccd,
    0x3f3d6666, 0x3f410000, 0x3f44999a, 0x3f483333, 0x3f4bcccd, 0x3f4f6666,
    0x3f530000, 0x3f56999a, 0x3f5a3333, 0x3f5dcccd, 0x3f616666, 0x3f650000,
    0x3f68999a, 0x3f6c3333, 0x3f6fcccd, 0x3f736666, 0x3f770000, 0x3f7a999a,
    0x3f7e3333, 0x3f800000,
};

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

RankTable Nf4Table() {
  RankTable table{};
  for (int i = 0; i < 16; ++i) {
    table.levels[i] = FromBits(kNf4Levels[i]);
    table.codes[i] = static_cast<uint8_t>(i);
  }
  table.zero_code = 7;
  return table;
}

// Ranks of FP4: -1 .. -0, +0 .. 1. The two rules disagree on which zero comes
// first: CUDA decides by sign, the CPU by a stable sort of the levels.
RankTable Fp4Table(Nf4Rule rule) {
  RankTable table{};
  for (int i = 0; i < 8; ++i) {
    const uint8_t code = kFp4ByMagnitude[i];
    const float level = FromBits(kFp4Magnitudes[code]);
    table.codes[8 + i] = code;
    table.levels[8 + i] = level;
    table.codes[7 - i] = static_cast<uint8_t>(code + 8);
    table.levels[7 - i] = i == 0 ? 0.0f : -level;
  }
  if (rule == Nf4Rule::kCpu) std::swap(table.codes[7], table.codes[8]);
  table.zero_code = 0;
  return table;
}

void SetMidpoints(RankTable& table) {
  for (int i = 0; i < 15; ++i) {
    table.bounds[i] = (table.levels[i] + table.levels[i + 1]) / 2;
  }
}

std::array<float, 16> LevelsByCode(Codebook codebook) {
  const RankTable table = MakeRankTable(codebook, Nf4Rule::kCuda);
  std::array<float, 16> levels{};
  for (int i = 0; i < 16; ++i) levels[table.codes[i]] = table.levels[i];
  return levels;
}

std::array<float, 256> MakeNestedLevels() {
  std::array<float, 256> levels{};
  for (int i = 128; i < 256; ++i) {
    levels[static_cast<size_t>(i)] = FromBits(kNestedUpper[i - 128]);
  }
  for (size_t i = 0; i < 127; ++i) levels[i] = -levels[254 - i];
  return levels;
}

}  // namespace

RankTable MakeRankTable(Codebook codebook, Nf4Rule rule) {
  RankTable table = codebook == Codebook::kNf4 ? Nf4Table() : Fp4Table(rule);
  if (rule == Nf4Rule::kCpu) {
    SetMidpoints(table);
  } else if (codebook == Codebook::kNf4) {
    for (int i = 0; i < 15; ++i) table.bounds[i] = FromBits(kNf4CudaBounds[i]);
  } else {
    constexpr float kDown = -std::numeric_limits<float>::infinity();
    for (int i = 0; i < 7; ++i) {
      const float bound = FromBits(kFp4CudaBounds[i]);
      table.bounds[8 + i] = bound;
      table.bounds[6 - i] = std::nextafter(-bound, kDown);
    }
    table.bounds[7] = -std::numeric_limits<float>::min();
  }
  return table;
}

std::array<float, 255> NestedMidpoints() {
  std::array<float, 255> midpoints{};
  const float* levels = NestedLevels();
  for (size_t i = 0; i < 255; ++i) {
    midpoints[i] = (levels[i] + levels[i + 1]) * 0.5f;
  }
  return midpoints;
}

const float* CodebookLevels(Codebook codebook) {
  static const std::array<float, 16> nf4 = LevelsByCode(Codebook::kNf4);
  static const std::array<float, 16> fp4 = LevelsByCode(Codebook::kFp4);
  return codebook == Codebook::kNf4 ? nf4.data() : fp4.data();
}

const float* NestedLevels() {
  static const std::array<float, 256> levels = MakeNestedLevels();
  return levels.data();
}

}  // namespace qs
