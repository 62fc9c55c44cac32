// The constants of the method, against the published values.
#include "kernels/nf4_tables.h"

#include <openssl/sha.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

TEST_CASE("NF4 levels are the sixteen published decimals") {
  const float published[16] = {-1.0f,
                               -0.6961928009986877f,
                               -0.5250730514526367f,
                               -0.39491748809814453f,
                               -0.28444138169288635f,
                               -0.18477343022823334f,
                               -0.09105003625154495f,
                               0.0f,
                               0.07958029955625534f,
                               0.16093020141124725f,
                               0.24611230194568634f,
                               0.33791524171829224f,
                               0.44070982933044434f,
                               0.5626170039176941f,
                               0.7229568362236023f,
                               1.0f};
  for (int i = 0; i < 16; ++i) {
    CHECK(Bits(CodebookLevels(Codebook::kNf4)[i]) == Bits(published[i]));
  }
}

TEST_CASE("FP4 levels are twelfths, with +0 at code 8") {
  const float twelfths[8] = {0, 0.0625f, 8, 12, 4, 6, 2, 3};
  for (int i = 0; i < 8; ++i) {
    const float level = twelfths[i] / 12;
    CHECK(Bits(CodebookLevels(Codebook::kFp4)[i]) == Bits(level));
    CHECK(Bits(CodebookLevels(Codebook::kFp4)[8 + i]) ==
          Bits(i == 0 ? 0.0f : -level));
  }
}

TEST_CASE("thresholds: four of NF4's fifteen differ between the two rules") {
  const RankTable cuda = MakeRankTable(Codebook::kNf4, Nf4Rule::kCuda);
  const RankTable cpu = MakeRankTable(Codebook::kNf4, Nf4Rule::kCpu);
  const uint32_t cuda_bits[4] = {0xbf591cd9, 0x3df64863, 0x3f006d03,
                                 0x3f5c89d9};
  const uint32_t cpu_bits[4] = {0xbf591cd8, 0x3df64862, 0x3f006d04, 0x3f5c89da};
  const int where[4] = {0, 8, 12, 14};
  int differ = 0;
  for (int i = 0; i < 15; ++i) {
    differ += Bits(cuda.bounds[i]) != Bits(cpu.bounds[i]);
    // Off the exact middle by rounding alone.
    const double middle =
        (static_cast<double>(cpu.levels[i]) + cpu.levels[i + 1]) / 2;
    CHECK(std::fabs(cpu.bounds[i] - middle) <= 6e-8 * std::fabs(middle));
  }
  CHECK(differ == 4);
  for (int i = 0; i < 4; ++i) {
    CHECK(Bits(cuda.bounds[where[i]]) == cuda_bits[i]);
    CHECK(Bits(cpu.bounds[where[i]]) == cpu_bits[i]);
  }
}

TEST_CASE("rank tables are ascending and hold every code once") {
  for (const Codebook codebook : {Codebook::kNf4, Codebook::kFp4}) {
    for (const Nf4Rule rule : {Nf4Rule::kCuda, Nf4Rule::kCpu}) {
      const RankTable table = MakeRankTable(codebook, rule);
      CHECK(std::is_sorted(table.bounds, table.bounds + 15));
      CHECK(std::is_sorted(table.levels, table.levels + 16));
      std::vector<uint8_t> codes(table.codes, table.codes + 16);
      std::sort(codes.begin(), codes.end());
      for (int i = 0; i < 16; ++i) {
        CHECK(codes[static_cast<size_t>(i)] == i);
        CHECK(CodebookLevels(codebook)[table.codes[i]] == table.levels[i]);
      }
      CHECK(CodebookLevels(codebook)[table.zero_code] == 0.0f);
    }
  }
}

TEST_CASE("the nested map has its published digest") {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(NestedLevels()), 1024, digest);
  std::string hex;
  for (const uint8_t byte : digest) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", byte);
    hex += two;
  }
  CHECK(hex ==
        "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
  CHECK(std::is_sorted(NestedLevels(), NestedLevels() + 256));
}

}  // namespace
}  // namespace qs
