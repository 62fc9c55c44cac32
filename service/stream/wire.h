// The Quantize stream's messages as bytes: the fast way in for `chunk` and the
// fast way out for `frame`, so that tensor data is copied once when it comes
// and never when it goes. Everything else goes through protobuf.
//
// ParseChunk accepts a subset of what protobuf accepts and then gives the same
// content; ParseRequest hands whatever it declines to protobuf, so accepting
// and rejecting is protobuf's in every case (tests/fuzz/wire_fuzz.cc).
// Thread: pure functions.
#ifndef QS_SERVICE_STREAM_WIRE_H_
#define QS_SERVICE_STREAM_WIRE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/v1/quantization.pb.h"

namespace qs {

using ByteSpan = std::span<const uint8_t>;

// Chunk whose data still lies in the message's slices.
struct ChunkView {
  int64_t handle = 0;
  int64_t offset = 0;
  std::vector<ByteSpan> data;         // in order; none is empty
  std::shared_ptr<const void> owner;  // keeps `data`; null: only the caller
  int64_t data_bytes = 0;
  std::optional<uint32_t> crc32c;
  bool last = false;
};

// Either a chunk in place or a parsed message.
struct ParsedRequest {
  bool is_chunk = false;
  ChunkView chunk;                     // when is_chunk
  quant::v1::QuantizeRequest message;  // when not
};

// A request that is one chunk field, its fields in any order, unknown fields
// skipped, data once at most and no float_values. False: not of this form,
// `chunk` is then unspecified.
bool ParseChunk(std::span<const ByteSpan> slices, ChunkView* chunk);

// False: bytes that are no QuantizeRequest. A chunk with float_values or in an
// unusual encoding arrives as `message`. Reuses the storage of `parsed`.
bool ParseRequest(std::span<const ByteSpan> slices, ParsedRequest* parsed);

// A response ready to be sent: `head`, then `payload`, which `owner` keeps
// alive. `more`: another one follows whatever the client does, and they may
// travel together.
struct OutMessage {
  std::string head;
  ByteSpan payload;
  std::shared_ptr<const void> owner;
  bool more = false;
};

// The response {frame: `frame` with data = payload}. REQUIRES: frame.data() is
// empty.
OutMessage EncodeFrame(const quant::v1::Frame& frame, ByteSpan payload,
                       std::shared_ptr<const void> owner);

OutMessage EncodeResponse(const quant::v1::QuantizeResponse& response);

}  // namespace qs

#endif  // QS_SERVICE_STREAM_WIRE_H_
