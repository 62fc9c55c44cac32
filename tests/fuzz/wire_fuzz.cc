// Any bytes as a QuantizeRequest: the raw path accepts what protobuf accepts,
// and gives the same content, wherever the message is cut into slices. The
// first four bytes choose the cuts.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tests/service/wire_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint32_t seed = 0;
  if (size < sizeof seed) return 0;
  std::memcpy(&seed, data, sizeof seed);
  const std::string bytes(reinterpret_cast<const char*>(data) + sizeof seed,
                          size - sizeof seed);
  std::string problem;
  qs::testing::CheckAgainstProtobuf(bytes, seed, &problem);
  if (!problem.empty()) {
    std::fprintf(stderr, "wire_fuzz: %s\n", problem.c_str());
    std::abort();
  }
  return 0;
}
