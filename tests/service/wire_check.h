// One request's bytes through the raw path and through protobuf: both must
// accept, or neither, and agree on the content. For the property test and the
// fuzzer.
#ifndef QS_TESTS_SERVICE_WIRE_CHECK_H_
#define QS_TESTS_SERVICE_WIRE_CHECK_H_

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "service/stream/wire.h"

namespace qs::testing {

// Cuts `bytes` into slices, some of them empty; `seed` decides where.
inline std::vector<ByteSpan> CutIntoSlices(const std::string& bytes,
                                           uint32_t seed) {
  std::minstd_rand random(seed);
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  std::vector<ByteSpan> slices;
  for (size_t at = 0; at < bytes.size();) {
    const size_t most = seed % 3 == 0 ? bytes.size() : 1 + random() % 40;
    const size_t n = std::min(bytes.size() - at, random() % (most + 1));
    slices.emplace_back(data + at, n);
    at += n;
  }
  return slices;
}

inline std::string ChunkDifference(const ChunkView& got,
                                   const quant::v1::Chunk& want) {
  std::string data;
  for (const ByteSpan& piece : got.data) {
    if (piece.empty()) return "an empty piece";
    data.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  if (data != want.data()) return "data";
  if (got.data_bytes != static_cast<int64_t>(data.size())) return "data_bytes";
  if (got.handle != want.handle()) return "handle";
  if (got.offset != want.offset()) return "offset";
  if (got.last != want.last()) return "last";
  if (got.crc32c.has_value() != want.has_crc32c()) return "has crc32c";
  if (got.crc32c.value_or(0) != want.crc32c()) return "crc32c";
  if (want.float_values_size() != 0) return "float_values";
  return "";
}

// True when the raw path took it. `problem` says how the two differ, or is
// left alone.
inline bool CheckAgainstProtobuf(const std::string& bytes, uint32_t seed,
                                 std::string* problem) {
  quant::v1::QuantizeRequest want;
  const bool accepted = want.ParseFromString(bytes);
  static ParsedRequest got;  // reused, as a stream does
  if (ParseRequest(CutIntoSlices(bytes, seed), &got) != accepted) {
    *problem = accepted ? "protobuf accepts, we do not"
                        : "we accept, protobuf does not";
    return false;
  }
  if (!accepted) return false;
  if (!got.is_chunk) {
    if (got.message.SerializeAsString() != want.SerializeAsString()) {
      *problem = "another message";
    }
    return false;
  }
  const std::string difference =
      want.has_chunk() ? ChunkDifference(got.chunk, want.chunk()) : "no chunk";
  if (!difference.empty()) *problem = "chunk: " + difference;
  return true;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_WIRE_CHECK_H_
