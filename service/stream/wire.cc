// Tested by tests/service/wire_test.cc and tests/fuzz/wire_fuzz.cc.
#include "service/stream/wire.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace qs {
namespace {

using quant::v1::Frame;
using quant::v1::QuantizeRequest;
using quant::v1::QuantizeResponse;

enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Tag {
  uint32_t field;
  uint32_t wire;
};

// Reads over slices. Every read returns false at the end of the message, and
// for encodings that only protobuf shall judge: overlong tags and lengths,
// negative numbers with stray bits.
class Reader {
 public:
  explicit Reader(std::span<const ByteSpan> slices) : slices_(slices) {
    for (const ByteSpan& slice : slices) left_ += slice.size();
    SkipEmpty();
  }

  size_t left() const { return left_; }

  bool Varint(int max_bytes, uint64_t* value) {
    *value = 0;
    for (int i = 0; i < max_bytes; ++i) {
      uint8_t byte;
      if (!Byte(&byte)) return false;
      if (i == 9 && byte > 1) return false;
      *value |= static_cast<uint64_t>(byte & 0x7f) << (7 * i);
      if (byte < 0x80) return true;
    }
    return false;
  }

  bool ReadTag(Tag* tag) {
    uint64_t value;
    if (!Varint(4, &value)) return false;
    *tag = {static_cast<uint32_t>(value >> 3),
            static_cast<uint32_t>(value & 7)};
    return tag->field != 0;
  }

  // A length that the message has room for.
  bool Length(size_t* length) {
    uint64_t value;
    if (!Varint(4, &value) || value > left_) return false;
    *length = static_cast<size_t>(value);
    return true;
  }

  bool Fixed32(uint32_t* value) {
    *value = 0;
    for (int i = 0; i < 4; ++i) {
      uint8_t byte;
      if (!Byte(&byte)) return false;
      *value |= static_cast<uint32_t>(byte) << (8 * i);
    }
    return true;
  }

  // Advances over `n` bytes; their pieces go to `pieces` unless null.
  bool Take(size_t n, std::vector<ByteSpan>* pieces) {
    if (n > left_) return false;
    left_ -= n;
    while (n > 0) {
      const ByteSpan piece = slices_[slice_].subspan(at_, std::min(n, Here()));
      if (pieces != nullptr) pieces->push_back(piece);
      n -= piece.size();
      at_ += piece.size();
      SkipEmpty();
    }
    return true;
  }

  bool Skip(uint32_t wire) {
    size_t n = 0;
    uint64_t ignored;
    switch (wire) {
      case kVarint:
        return Varint(10, &ignored);
      case kFixed64:
        return Take(8, nullptr);
      case kBytes:
        return Length(&n) && Take(n, nullptr);
      case kFixed32:
        return Take(4, nullptr);
      default:
        return false;  // groups
    }
  }

 private:
  size_t Here() const { return slices_[slice_].size() - at_; }

  void SkipEmpty() {
    while (slice_ < slices_.size() && Here() == 0) {
      ++slice_;
      at_ = 0;
    }
  }

  bool Byte(uint8_t* byte) {
    if (left_ == 0) return false;
    *byte = slices_[slice_][at_++];
    --left_;
    if (Here() == 0) SkipEmpty();
    return true;
  }

  std::span<const ByteSpan> slices_;
  size_t slice_ = 0;
  size_t at_ = 0;
  size_t left_ = 0;
};

// The fields of Chunk, of which some may come again: the last one counts.
bool ReadChunkField(const Tag& tag, Reader& reader, ChunkView* chunk) {
  uint64_t value = 0;
  switch (tag.field << 3 | tag.wire) {
    case quant::v1::Chunk::kHandleFieldNumber << 3 | kVarint:
      if (!reader.Varint(10, &value)) return false;
      chunk->handle = static_cast<int64_t>(value);
      return true;
    case quant::v1::Chunk::kOffsetFieldNumber << 3 | kVarint:
      if (!reader.Varint(10, &value)) return false;
      chunk->offset = static_cast<int64_t>(value);
      return true;
    case quant::v1::Chunk::kLastFieldNumber << 3 | kVarint:
      if (!reader.Varint(10, &value)) return false;
      chunk->last = value != 0;
      return true;
    case quant::v1::Chunk::kCrc32CFieldNumber << 3 | kFixed32: {
      uint32_t crc;
      if (!reader.Fixed32(&crc)) return false;
      chunk->crc32c = crc;
      return true;
    }
    case quant::v1::Chunk::kDataFieldNumber << 3 | kBytes: {
      size_t n;
      if (!chunk->data.empty() || !reader.Length(&n)) return false;
      chunk->data_bytes = static_cast<int64_t>(n);
      return reader.Take(n, &chunk->data);
    }
    default:
      return tag.field != quant::v1::Chunk::kFloatValuesFieldNumber &&
             reader.Skip(tag.wire);
  }
}

}  // namespace

bool ParseChunk(std::span<const ByteSpan> slices, ChunkView* chunk) {
  chunk->handle = chunk->offset = chunk->data_bytes = 0;
  chunk->data.clear();
  chunk->crc32c.reset();
  chunk->last = false;
  Reader reader(slices);
  Tag tag;
  size_t length;
  if (!reader.ReadTag(&tag) ||
      tag.field != QuantizeRequest::kChunkFieldNumber || tag.wire != kBytes ||
      !reader.Length(&length) || length != reader.left()) {
    return false;
  }
  while (reader.left() > 0) {
    if (!reader.ReadTag(&tag) || !ReadChunkField(tag, reader, chunk)) {
      return false;
    }
  }
  return true;
}

bool ParseRequest(std::span<const ByteSpan> slices, ParsedRequest* parsed) {
  parsed->is_chunk = ParseChunk(slices, &parsed->chunk);
  if (parsed->is_chunk) return true;
  std::string flat;
  for (const ByteSpan& slice : slices) {
    flat.append(reinterpret_cast<const char*>(slice.data()), slice.size());
  }
  return parsed->message.ParseFromString(flat);
}

OutMessage EncodeFrame(const Frame& frame, ByteSpan payload,
                       std::shared_ptr<const void> owner) {
  namespace pb = google::protobuf;
  OutMessage message{"", payload, std::move(owner), false};
  const std::string fields = frame.SerializeAsString();
  const uint32_t payload_size = static_cast<uint32_t>(payload.size());
  const size_t data_head =
      payload.empty()
          ? 0
          : 1 + pb::io::CodedOutputStream::VarintSize32(payload_size);
  pb::io::StringOutputStream sink(&message.head);
  pb::io::CodedOutputStream out(&sink);
  out.WriteTag(QuantizeResponse::kFrameFieldNumber << 3 | kBytes);
  out.WriteVarint32(
      static_cast<uint32_t>(fields.size() + data_head + payload.size()));
  out.WriteString(fields);
  // protobuf readers take fields in any order, so the data may come last.
  if (!payload.empty()) {
    out.WriteTag(Frame::kDataFieldNumber << 3 | kBytes);
    out.WriteVarint32(payload_size);
  }
  out.Trim();
  return message;
}

OutMessage EncodeResponse(const QuantizeResponse& response) {
  return {response.SerializeAsString(), {}, nullptr, false};
}

}  // namespace qs
