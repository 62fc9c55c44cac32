// Every error of a Quantize stream's requests: code, reason, text, and nothing
// left behind.
#include <functional>
#include <string>
#include <vector>

#include "service/server/error.h"
#include "tests/service/session_driver.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

using absl::StatusCode;

struct Case {
  std::string name;
  Requests requests;
  StatusCode code;
  std::string reason;
  std::string text;  // the message, or how it begins
};

v1::QuantizeRequest Chunk(int64_t handle, int64_t offset, size_t bytes,
                          bool last) {
  return Data(handle, offset, std::string(bytes, '\0'), last);
}

v1::QuantizeRequest Floats(int64_t handle, int count) {
  v1::QuantizeRequest request;
  request.mutable_chunk()->set_handle(handle);
  for (int i = 0; i < count; ++i) request.mutable_chunk()->add_float_values(1);
  return request;
}

v1::QuantizeRequest Method(
    const std::function<void(v1::QuantizationConfig*)>& f) {
  v1::QuantizeRequest request;
  f(request.mutable_config()->mutable_quantization());
  return request;
}

std::vector<Case> ConfigCases() {
  const auto config = Config("NF4");
  const auto tensor = Begin(1, "w", v1::BF16, {4, 8});
  const auto invalid = StatusCode::kInvalidArgument;
  return {
      {"half-close before config",
       {},
       invalid,
       "CONFIG_MISSING",
       "message: got none before the stream ended, allowed config first"},
      {"tensor before config",
       {tensor},
       invalid,
       "CONFIG_MISSING",
       "message: got tensor first, allowed config"},
      {"chunk before config",
       {Chunk(1, 0, 4, false)},
       invalid,
       "CONFIG_MISSING",
       "message: got chunk first, allowed config"},
      {"config twice",
       {config, config},
       invalid,
       "CONFIG_TWICE",
       "config: got a second one, allowed one"},
      {"config with an open tensor",
       {config, tensor, config},
       invalid,
       "CONFIG_TWICE",
       "config: got a second one, allowed one"},
      {"empty config",
       {Method([](auto*) {})},
       invalid,
       "BAD_FIELD",
       "config.quantization: got neither preset nor method, allowed one of "
       "preset, nf4, rtn, gptq, awq, hqq"},
      {"unknown preset",
       {Config("NF5")},
       invalid,
       "BAD_FIELD",
       "config.quantization.preset: got \"NF5\", allowed NF4"},
      {"illegal block size",
       {Method([](auto* c) { c->mutable_nf4()->set_block_size(100); })},
       invalid,
       "BAD_FIELD",
       "config.quantization.nf4.block_size: got 100, allowed 32, 64, 128, 256, "
       "512, 1024, 2048, 4096"},
      {"illegal bits",
       {Method([](auto* c) { c->mutable_rtn()->set_bits(9); })},
       invalid,
       "BAD_FIELD",
       "config.quantization.rtn.bits: got 9, allowed 2..8"},
      {"empty message",
       {config, v1::QuantizeRequest()},
       invalid,
       "BAD_FIELD",
       "message: got none, allowed tensor, chunk, group or site"},
  };
}

std::vector<Case> TensorCases() {
  const auto config = Config("NF4");
  const auto invalid = StatusCode::kInvalidArgument;
  const auto tensor = [](std::string name, v1::DataType dtype,
                         std::vector<int64_t> shape) {
    return Begin(1, name, dtype, shape);
  };
  return {
      {"no dtype",
       {config, tensor("w", v1::DATA_TYPE_UNSPECIFIED, {8})},
       invalid,
       "BAD_FIELD",
       "tensor.dtype: got DATA_TYPE_UNSPECIFIED, allowed F32, F16, BF16"},
      {"integer dtype",
       {config, tensor("w", v1::I32, {8})},
       invalid,
       "BAD_FIELD",
       "tensor.dtype: got I32, allowed F32, F16, BF16"},
      {"unknown dtype",
       {config, tensor("w", static_cast<v1::DataType>(77), {8})},
       invalid,
       "BAD_FIELD",
       "tensor.dtype: got enum number 77, allowed F32, F16, BF16"},
      {"no name",
       {config, tensor("", v1::F32, {8})},
       invalid,
       "BAD_FIELD",
       "tensor.name: got 0 bytes, allowed 1 to 512"},
      {"long name",
       {config, tensor(std::string(513, 'n'), v1::F32, {8})},
       invalid,
       "BAD_FIELD",
       "tensor.name: got 513 bytes, allowed 1 to 512"},
      {"no dimension",
       {config, tensor("w", v1::F32, {})},
       invalid,
       "BAD_FIELD",
       "tensor.shape: got 0 dimensions, allowed 1 to 8"},
      {"nine dimensions",
       {config, tensor("w", v1::F32, std::vector<int64_t>(9, 1))},
       invalid,
       "BAD_FIELD",
       "tensor.shape: got 9 dimensions, allowed 1 to 8"},
      {"zero dimension",
       {config, tensor("w", v1::F32, {4, 0})},
       invalid,
       "BAD_FIELD",
       "tensor.shape: got a dimension of 0, allowed at least 1"},
      {"negative dimension",
       {config, tensor("w", v1::F32, {-4, 4})},
       invalid,
       "BAD_FIELD",
       "tensor.shape: got a dimension of -4, allowed at least 1"},
      {"product overflow",
       {config, tensor("w", v1::F32, {int64_t{1} << 40, int64_t{1} << 40})},
       invalid,
       "SHAPE_OVERFLOW",
       "tensor \"w\": shape: got [1099511627776, 1099511627776] of F32, whose "
       "bytes overflow 63 bits, allowed 67108864 bytes"},
      {"byte overflow",
       {config, tensor("w", v1::F32, {int64_t{1} << 61})},
       invalid,
       "SHAPE_OVERFLOW",
       "tensor \"w\": shape: got [2305843009213693952] of F32, whose bytes "
       "overflow 63 bits, allowed 67108864 bytes"},
      {"above the limit",
       {config, tensor("w", v1::BF16, {(int64_t{32} << 20) + 1})},
       invalid,
       "TENSOR_TOO_LARGE",
       "tensor \"w\": shape: got 67108866 bytes, allowed 67108864"},
      {"group does not divide",
       {Config("W4A16"), tensor("w.weight", v1::BF16, {4, 100})},
       invalid,
       "BAD_FIELD",
       "tensor: tensor \"w.weight\": rtn.group_size: got 128, allowed -1 or a "
       "divisor of its 100 columns"},
      {"handle in use",
       {config, tensor("w", v1::F32, {8}), tensor("v", v1::F32, {8})},
       invalid,
       "HANDLE_IN_USE",
       "tensor.handle: got 1, which is open, allowed a new one"},
      {"too many open tensors",
       {config, Begin(1, "a", v1::F32, {8}), Begin(2, "b", v1::F32, {8}),
        Begin(3, "c", v1::F32, {8}), Begin(4, "d", v1::F32, {8}),
        Begin(5, "e", v1::F32, {8})},
       invalid,
       "BAD_FIELD",
       "tensor: got 5 open tensors, allowed 4"},
  };
}

std::vector<Case> ChunkCases() {
  const auto config = Config("NF4");
  const auto tensor = Begin(1, "w", v1::BF16, {4, 8});  // 64 bytes
  const auto invalid = StatusCode::kInvalidArgument;
  v1::QuantizeRequest bad_crc = Chunk(1, 0, 64, true);
  bad_crc.mutable_chunk()->set_crc32c(1);
  v1::QuantizeRequest both = Floats(1, 2);
  both.mutable_chunk()->set_data("x");
  v1::QuantizeRequest late_floats = Floats(1, 2);
  late_floats.mutable_chunk()->set_offset(8);
  v1::QuantizeRequest large_float = Floats(1, 4);
  large_float.mutable_chunk()->set_float_values(2, 70000);
  std::string infinite(64, '\0');
  infinite[20] = '\x80';
  infinite[21] = '\x7f';
  return {
      {"unknown handle",
       {config, Chunk(1, 0, 4, false)},
       invalid,
       "HANDLE_UNKNOWN",
       "chunk.handle: got 1, which is not open, allowed that of a tensor or "
       "site that has begun"},
      {"another handle",
       {config, tensor, Chunk(2, 0, 4, false)},
       invalid,
       "HANDLE_UNKNOWN",
       "chunk.handle: got 2, which is not open, allowed that of a tensor or "
       "site that has begun"},
      {"handle of a complete tensor",
       {config, tensor, Chunk(1, 0, 64, true), Chunk(1, 64, 0, true)},
       invalid,
       "HANDLE_UNKNOWN",
       "chunk.handle: got 1, which is not open, allowed that of a tensor or "
       "site that has begun"},
      {"typed values, unknown handle",
       {config, Floats(3, 1)},
       invalid,
       "HANDLE_UNKNOWN",
       "chunk.handle: got 3, which is not open, allowed that of a tensor or "
       "site that has begun"},
      {"too many bytes",
       {config, tensor, Chunk(1, 0, 65, true)},
       invalid,
       "TOO_MANY_BYTES",
       "tensor \"w\": chunk.data: got 65 bytes, allowed 64 more at offset 0"},
      {"too many bytes, later",
       {config, tensor, Chunk(1, 0, 60, false), Chunk(1, 60, 5, true)},
       invalid,
       "TOO_MANY_BYTES",
       "tensor \"w\": chunk.data: got 5 bytes, allowed 4 more at offset 60"},
      {"too many typed values",
       {config, tensor, Floats(1, 33)},
       invalid,
       "TOO_MANY_BYTES",
       "tensor \"w\": chunk.data: got 66 bytes, allowed 64 more at offset 0"},
      {"too few bytes",
       {config, tensor, Chunk(1, 0, 63, true)},
       invalid,
       "TOO_FEW_BYTES",
       "tensor \"w\": chunk.last: got it at 63 bytes, allowed at 64"},
      {"half-close with an open tensor",
       {config, tensor, Chunk(1, 0, 10, false)},
       invalid,
       "TOO_FEW_BYTES",
       "tensor \"w\": chunk.last: stream ended, got 10 bytes and none marked "
       "last, allowed 64 and a last one"},
      {"half-close without the last mark",
       {config, tensor, Chunk(1, 0, 64, false)},
       invalid,
       "TOO_FEW_BYTES",
       "tensor \"w\": chunk.last: stream ended, got 64 bytes and none marked "
       "last, allowed 64 and a last one"},
      {"a gap",
       {config, tensor, Chunk(1, 0, 10, false), Chunk(1, 12, 4, false)},
       StatusCode::kFailedPrecondition,
       "OFFSET_GAP",
       "chunk.offset: tensor \"w\": got 12, expected 10"},
      {"an overlap",
       {config, tensor, Chunk(1, 0, 10, false), Chunk(1, 8, 4, false)},
       StatusCode::kFailedPrecondition,
       "OFFSET_GAP",
       "chunk.offset: tensor \"w\": got 8, expected 10"},
      {"a negative offset",
       {config, tensor, Chunk(1, -1, 4, false)},
       StatusCode::kFailedPrecondition,
       "OFFSET_GAP",
       "chunk.offset: tensor \"w\": got -1, expected 0"},
      {"typed values, wrong offset",
       {config, tensor, late_floats},
       StatusCode::kFailedPrecondition,
       "OFFSET_GAP",
       "chunk.offset: tensor \"w\": got 8, expected 0"},
      {"chunk too large",
       {config, Begin(1, "w", v1::BF16, {2 << 20}),
        Chunk(1, 0, (2 << 20) + 1, false)},
       invalid,
       "CHUNK_TOO_LARGE",
       "chunk.data: got 2097153 bytes, allowed 2097152"},
      {"CRC wrong",
       {config, tensor, bad_crc},
       StatusCode::kAborted,
       "CHUNK_CRC_MISMATCH",
       "chunk.crc32c: got 1, the data gives 63499111; send the tensor again"},
      {"data and typed values",
       {config, tensor, both},
       invalid,
       "BAD_FIELD",
       "chunk.float_values: got data or crc32c beside it, allowed one of data "
       "and float_values"},
      {"typed values beyond the dtype",
       {config, Begin(1, "w", v1::F16, {4, 8}), large_float},
       invalid,
       "BAD_FIELD",
       "chunk.float_values[2]: got 70000 for tensor \"w\", allowed up to 65504 "
       "either way, the largest number of F16"},
      {"infinite",
       {config, tensor, Data(1, 0, infinite, true)},
       invalid,
       "NON_FINITE_INPUT",
       "tensor \"w\": Inf at index 10"},
  };
}

void RequireError(QuantizeContext& context, const Case& c) {
  INFO(c.name);
  {
    SessionDriver stream(context);
    const Answers& answers = stream.Run(c.requests);
    INFO(answers.status);
    REQUIRE(answers.problem.empty());
    REQUIRE(answers.status.code() == c.code);
    REQUIRE(ErrorReason(answers.status) == c.reason);
    REQUIRE(std::string(answers.status.message()).substr(0, c.text.size()) ==
            c.text);
    REQUIRE_FALSE(answers.summary);
  }
  REQUIRE(WaitFor([&] {
    return context.budget().reserved() == 0 && context.live_streams() == 0;
  }));
}

TEST_CASE("errors of the config", "[stream_errors]") {
  QuantizeContext context(TestContextOptions());
  for (const Case& c : ConfigCases()) RequireError(context, c);
}

// An optional enum of proto3 takes any number from the wire.
TEST_CASE("numbers that no enum has", "[stream_errors]") {
  using Quantization = v1::QuantizationConfig;
  struct EnumCase {
    std::string field;
    std::function<void(v1::QuantizeConfig*)> set;
  };
  const auto quantization = [](auto set) {
    return [set](v1::QuantizeConfig* c) { set(c->mutable_quantization()); };
  };
  const EnumCase cases[] = {
      {"config.quantization.profile", quantization([](Quantization* q) {
         q->mutable_nf4();
         q->set_profile(static_cast<v1::Profile>(77));
       })},
      {"config.quantization.format", quantization([](Quantization* q) {
         q->mutable_nf4();
         q->set_format(static_cast<v1::OutputFormat>(77));
       })},
      {"config.quantization.nf4.codebook", quantization([](Quantization* q) {
         q->mutable_nf4()->set_codebook(
             static_cast<v1::Nf4Config::Codebook>(77));
       })},
      {"config.quantization.nf4.rule", quantization([](Quantization* q) {
         q->mutable_nf4()->set_rule(static_cast<v1::Nf4Config::Rule>(77));
       })},
      {"config.quantization.gptq.order", quantization([](Quantization* q) {
         q->mutable_gptq()->set_order(static_cast<v1::GptqConfig::Order>(77));
       })},
      {"config.quantization.gptq.range_search",
       quantization([](Quantization* q) {
         q->mutable_gptq()->set_range_search(
             static_cast<v1::GptqConfig::RangeSearch>(77));
       })},
      {"config.view",
       [](v1::QuantizeConfig* c) {
         c->mutable_quantization()->mutable_nf4();
         c->set_view(static_cast<v1::QuantizeConfig::View>(77));
       }},
  };
  QuantizeContext context(TestContextOptions());
  for (const EnumCase& c : cases) {
    v1::QuantizeRequest request;
    c.set(request.mutable_config());
    RequireError(context, {c.field,
                           {request},
                           StatusCode::kInvalidArgument,
                           "BAD_FIELD",
                           c.field + ": got enum number 77, allowed"});
  }
}

TEST_CASE("errors of a tensor's begin", "[stream_errors]") {
  QuantizeContext context(TestContextOptions());
  for (const Case& c : TensorCases()) RequireError(context, c);
}

TEST_CASE("errors of chunks", "[stream_errors]") {
  QuantizeContext context(TestContextOptions());
  for (const Case& c : ChunkCases()) RequireError(context, c);
}

TEST_CASE("a tensor that needs more than the budget is refused",
          "[stream_errors]") {
  QuantizeContext context(TestContextOptions(1, int64_t{8} << 20));
  RequireError(context, {"budget",
                         {Config("NF4"), Begin(1, "w", v1::BF16, {8 << 20})},
                         StatusCode::kInvalidArgument,
                         "TENSOR_TOO_LARGE",
                         "tensor \"w\": memory: got a need of "});
}

TEST_CASE("bytes that are no request", "[stream_errors]") {
  QuantizeContext context(TestContextOptions());
  SessionDriver stream(context);
  REQUIRE(stream.Send(Config("NF4")));
  REQUIRE(stream.Send("\xff\xff\xff garbage"));
  const Answers& answers = stream.Finish();
  REQUIRE(answers.status.code() == StatusCode::kInvalidArgument);
  REQUIRE(ErrorReason(answers.status) == "MALFORMED_MESSAGE");
}

TEST_CASE("metadata says where to go on", "[stream_errors]") {
  QuantizeContext context(TestContextOptions());
  SessionDriver stream(context);
  const Answers& answers =
      stream.Run({Config("NF4"), Begin(5, "w", v1::BF16, {4, 8}),
                  Chunk(5, 0, 10, false), Chunk(5, 20, 10, false)});
  REQUIRE(ErrorMetadataValue(answers.status, "handle") == "5");
  REQUIRE(ErrorMetadataValue(answers.status, "expected_offset") == "10");
}

}  // namespace
}  // namespace qs::testing
