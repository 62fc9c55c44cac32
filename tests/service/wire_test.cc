// The raw path for chunks and frames against protobuf's own parser.
#include "service/stream/wire.h"

#include <random>
#include <string>
#include <vector>

#include "tests/service/wire_check.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

namespace v1 = quant::v1;

std::string RandomBytes(std::mt19937& random, size_t most) {
  std::string bytes(random() % (most + 1), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

v1::QuantizeRequest RandomChunk(std::mt19937& random) {
  v1::QuantizeRequest request;
  v1::Chunk* chunk = request.mutable_chunk();
  const auto number = [&random] {
    const int64_t wide = static_cast<int64_t>(random()) << 32 | random();
    return wide >> (random() % 64);
  };
  if (random() % 4 != 0) chunk->set_handle(number());
  if (random() % 4 != 0) chunk->set_offset(number());
  if (random() % 4 != 0) *chunk->mutable_data() = RandomBytes(random, 300);
  if (random() % 2 == 0) chunk->set_crc32c(static_cast<uint32_t>(random()));
  if (random() % 2 == 0) chunk->set_last(random() % 2 == 0);
  if (random() % 8 == 0) chunk->add_float_values(0.5f);
  if (random() % 8 == 0) {  // a field of a later version
    request.GetReflection()->MutableUnknownFields(&request)->AddVarint(99, 1);
    chunk->GetReflection()->MutableUnknownFields(chunk)->AddLengthDelimited(
        77, "later");
  }
  return request;
}

TEST_CASE("generated chunks mean what protobuf says", "[wire]") {
  std::mt19937 random(11);
  int in_place = 0;
  for (int i = 0; i < 20000; ++i) {
    const v1::QuantizeRequest request = RandomChunk(random);
    std::string problem;
    const bool is_chunk =
        CheckAgainstProtobuf(request.SerializeAsString(), random(), &problem);
    INFO("message " << i << ": " << problem);
    REQUIRE(problem.empty());
    in_place += is_chunk;
  }
  REQUIRE(in_place > 10000);  // the fast path is what is tested
}

TEST_CASE("damaged chunks are accepted when protobuf accepts", "[wire]") {
  std::mt19937 random(12);
  int rejected = 0;
  for (int i = 0; i < 50000; ++i) {
    std::string bytes = RandomChunk(random).SerializeAsString();
    for (int n = 1 + random() % 3; n > 0 && !bytes.empty(); --n) {
      const size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 4);
          break;
        case 2:
          bytes.insert(at, 1, static_cast<char>(random()));
          break;
        default:
          bytes += bytes.substr(at);
          break;  // fields twice
      }
    }
    std::string problem;
    CheckAgainstProtobuf(bytes, random(), &problem);
    INFO("message " << i << ": " << problem);
    REQUIRE(problem.empty());
    v1::QuantizeRequest parsed;
    rejected += !parsed.ParseFromString(bytes);
  }
  REQUIRE(rejected > 1000);
  REQUIRE(rejected < 49000);
}

TEST_CASE("other requests go to protobuf", "[wire]") {
  for (const std::string& bytes :
       {std::string(), std::string("\x0a\x00", 2),
        std::string("\x12\x02\x08\x01"), std::string("\x1a\x00", 2),
        std::string("\x1a\x02\x08\x01\x0a\x00", 6), std::string("\xff"),
        std::string("\x1a\x7f"), std::string("\x1b")}) {
    std::string problem;
    CheckAgainstProtobuf(bytes, 1, &problem);
    INFO(problem);
    REQUIRE(problem.empty());
  }
}

TEST_CASE("a chunk is not copied", "[wire]") {
  v1::QuantizeRequest request;
  request.mutable_chunk()->set_data(std::string(1000, 'd'));
  const std::string bytes = request.SerializeAsString();
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  const ByteSpan slices[] = {{data, 10},
                             {data + 10, 0},
                             {data + 10, 500},
                             {data + 510, bytes.size() - 510}};
  ChunkView chunk;
  REQUIRE(ParseChunk(slices, &chunk));
  REQUIRE(chunk.data_bytes == 1000);
  REQUIRE(chunk.data.size() == 3);
  REQUIRE(chunk.data.back().data() == data + 510);
  REQUIRE(chunk.data.back().data() + chunk.data.back().size() ==
          data + bytes.size());
}

TEST_CASE("a frame is what protobuf would send", "[wire]") {
  std::mt19937 random(13);
  for (int i = 0; i < 200; ++i) {
    v1::Frame frame;
    frame.set_handle(static_cast<int64_t>(random()) - 5);
    frame.set_tensor("w.absmax");
    frame.set_dtype(v1::F32);
    frame.add_shape(3);
    frame.add_shape(int64_t{1} << 40);
    frame.set_offset(static_cast<int64_t>(random()));
    frame.set_crc32c(static_cast<uint32_t>(random()));
    frame.set_last(random() % 2 == 0);
    const std::string payload = RandomBytes(random, i % 3 == 0 ? 0 : 70000);
    const auto owner = std::make_shared<int>(1);
    const OutMessage message = EncodeFrame(
        frame,
        {reinterpret_cast<const uint8_t*>(payload.data()), payload.size()},
        owner);
    REQUIRE(owner.use_count() == 2);
    REQUIRE(message.payload.size() == payload.size());
    v1::QuantizeResponse response;
    REQUIRE(response.ParseFromString(message.head + payload));
    frame.set_data(payload);
    REQUIRE(response.frame().SerializeAsString() == frame.SerializeAsString());
  }
}

}  // namespace
}  // namespace qs::testing
