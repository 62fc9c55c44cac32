// CRC32C against published values and a bitwise definition.
#include "service/stream/crc32c.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

std::span<const uint8_t> AsBytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// One bit at a time, reflected polynomial 0x82f63b78.
uint32_t Bitwise(std::span<const uint8_t> data) {
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : data) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) {
      crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
    }
  }
  return ~crc;
}

TEST_CASE("published values", "[crc32c]") {
  REQUIRE(Crc32c({}) == 0);
  REQUIRE(Crc32c(AsBytes("123456789")) == 0xe3069283u);
  // RFC 3720, B.4.
  REQUIRE(Crc32c(AsBytes(std::string(32, '\0'))) == 0x8a9136aau);
  REQUIRE(Crc32c(AsBytes(std::string(32, '\xff'))) == 0x62a8ab43u);
}

TEST_CASE("pieces give what the whole gives", "[crc32c]") {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint8_t> data(random() % 3000);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
    const std::span<const uint8_t> all(data);
    const uint32_t expected = Bitwise(all);
    INFO("round " << round << ", " << data.size() << " bytes");
    REQUIRE(Crc32c(all) == expected);
    const size_t cut = data.empty() ? 0 : random() % data.size();
    REQUIRE(ExtendCrc32c(Crc32c(all.first(cut)), all.subspan(cut)) == expected);
  }
}

}  // namespace
}  // namespace qs
