// A Quantize stream without its transport: what is answered, and when.
#include "service/stream/quantize_session.h"

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "service/server/error.h"
#include "service/stream/digest.h"
#include "service/stream/tensor_job.h"
#include "tests/service/session_driver.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// Three tensors: less than a tile, exactly one, several with a short last one.
std::vector<TestWeight> ThreeWeights() {
  return {TestWeight(7, "small.weight", 3, 50, 1),
          TestWeight(-1, "tile.weight", 1024, 1024, 2),
          TestWeight(9, "large.weight", 1700, 1000, 3)};
}

// A weight that makes any quantizer fail at `index`.
TestWeight WithNan(TestWeight weight, size_t index) {
  const uint16_t nan = 0x7fc0;
  std::memcpy(weight.bytes.data() + 2 * index, &nan, sizeof nan);
  return weight;
}

// A config with a method of its own.
v1::QuantizeRequest RtnConfig(const RtnSpec& spec) {
  v1::QuantizeRequest request;
  auto* quantization = request.mutable_config()->mutable_quantization();
  quantization->mutable_rtn()->set_bits(spec.bits);
  quantization->mutable_rtn()->set_group_size(spec.group_size);
  quantization->mutable_rtn()->set_symmetric(spec.symmetric);
  return request;
}

TEST_CASE("results equal the quantizer's, whoever works and however cut",
          "[session]") {
  const int workers = GENERATE(1, 4);
  const size_t chunk =
      GENERATE(size_t{1} << 20, size_t{99991}, size_t{1} << 21);
  const size_t slice = GENERATE(SIZE_MAX, size_t{8192});
  const auto weights = ThreeWeights();
  QuantizeContext context(TestContextOptions(workers));
  {
    Requests requests = {Config("NF4")};
    for (const TestWeight& weight : weights) weight.AppendTo(&requests, chunk);
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests, slice);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    for (const TestWeight& weight : weights) {
      RequireSameAsDirect(answers, Nf4Reference(), weight);
    }
    REQUIRE(answers.summary);
    REQUIRE(answers.summary->tensors() == 3);
    int64_t in = 0;
    for (const TestWeight& weight : weights) {
      in += static_cast<int64_t>(weight.bytes.size());
    }
    REQUIRE(answers.summary->bytes_in() == in);
    REQUIRE(answers.summary->bytes_out() ==
            static_cast<int64_t>(answers.all_data.size()));
    Sha256 digest;
    digest.Update({reinterpret_cast<const uint8_t*>(answers.all_data.data()),
                   answers.all_data.size()});
    REQUIRE(answers.summary->digest() == digest.Finish());
    REQUIRE(answers.summary->error().count() == in / 2);
  }
  RequireClean(context);
  REQUIRE(context.live_streams() == 0);
}

TEST_CASE("every method gives through tiles what it gives at once",
          "[session]") {
  QuantizeContext context(TestContextOptions(2));
  const TestWeight weight(1, "a.weight", 3001, 1152, 23);
  struct Case {
    v1::QuantizeRequest config;
    QuantSpec spec;
  };
  std::vector<Case> cases;
  for (const char* preset : {"NF4", "NF4-dq", "FP4", "W4A16", "W8A16"}) {
    for (const v1::Profile profile : {v1::REFERENCE, v1::BEST}) {
      cases.push_back(
          {Config(preset, false, profile),
           PresetSpec(preset, profile == v1::BEST ? Profile::kBest
                                                  : Profile::kReference)});
    }
  }
  for (const RtnSpec& spec : {RtnSpec{3, 128, false}, RtnSpec{4, 32, false},
                              RtnSpec{5, -1, true}, RtnSpec{2, 64, true}}) {
    cases.push_back({RtnConfig(spec), Rtn(spec, Profile::kBest)});
  }
  for (const Case& c : cases) {
    INFO(c.config.ShortDebugString());
    Requests requests = {c.config};
    weight.AppendTo(&requests, 1000003);
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    RequireSameAsDirect(answers, c.spec, weight);
  }
}

TEST_CASE("a dequantized view is what the packed form stands for",
          "[session]") {
  const std::string preset = GENERATE("NF4", "NF4-dq", "W4A16", "HQQ-4");
  QuantizeContext context(TestContextOptions(2));
  const TestWeight weight(1, "a.weight", 300, 256, 23);
  const auto backend = NewCpuBackend(1);
  QuantizedTensor direct = Quantize(PresetSpec(preset, Profile::kReference),
                                    weight.info, weight.bytes, *backend);
  {
    v1::QuantizeRequest config = Config(preset);
    config.mutable_config()->set_view(v1::QuantizeConfig::DEQUANTIZED);
    Requests requests = {config};
    weight.AppendTo(&requests, 1000003);
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    REQUIRE(answers.parts.at(1).size() == 1);
    const Answers::Part& part = answers.parts.at(1).at("a.weight");
    CHECK(part.dtype == v1::BF16);
    CHECK(part.shape == weight.info.shape);
    const double mse = MseByHand(weight.bytes, DType::kBF16, part.bytes.data());
    CHECK(mse == Approx(MeanSquaredError(direct.report.error)).epsilon(1e-5));
    CHECK(answers.summary->bytes_out() == direct.report.bytes_out);
  }
  RequireClean(context);
}

TEST_CASE("interleaved tensors come out whole", "[session]") {
  QuantizeContext context(TestContextOptions(2));
  const TestWeight a(1, "a.weight", 700, 1000, 4);
  const TestWeight b(2, "b.weight", 900, 1000, 5);
  Requests requests = {Config("NF4"), a.BeginRequest(), b.BeginRequest()};
  constexpr size_t kChunk = 100000;
  for (size_t at = 0; at < b.bytes.size(); at += kChunk) {
    if (at < a.bytes.size()) requests.push_back(a.ChunkAt(at, kChunk));
    requests.push_back(b.ChunkAt(at, kChunk));
  }
  SessionDriver stream(context);
  const Answers& answers = stream.Run(requests);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.problem.empty());
  RequireSameAsDirect(answers, Nf4Reference(), a);
  RequireSameAsDirect(answers, Nf4Reference(), b);
}

TEST_CASE("a result goes out while the next tensor is sent", "[session]") {
  QuantizeContext context(TestContextOptions());
  const TestWeight first(1, "a.weight", 4, 64, 6);
  SessionDriver stream(context);
  Requests requests = {Config("NF4")};
  first.AppendTo(&requests, 1 << 20);
  requests.push_back(Begin(2, "b.weight", v1::BF16, {4, 64}));
  for (const auto& request : requests) REQUIRE(stream.Send(request));
  // Accepted, four outputs of NF4, the report; the stream stays open.
  int taken = 0;
  REQUIRE(WaitFor([&] {
    while (stream.TakeOne()) ++taken;
    return stream.answers().reports.size() == 1;
  }));
  REQUIRE_FALSE(stream.ended());
  RequireSameAsDirect(stream.answers(), Nf4Reference(), first);
}

TEST_CASE("a stream with no tensor has a summary", "[session]") {
  QuantizeContext context(TestContextOptions());
  SessionDriver stream(context);
  const Answers& answers = stream.Run({Config("NF4")});
  REQUIRE(answers.status.ok());
  REQUIRE(answers.messages == 2);
  REQUIRE(answers.accepted->resolved().nf4().block_size() == 64);
  REQUIRE(answers.accepted->resolved().profile() == v1::REFERENCE);
  REQUIRE(answers.accepted->limits().max_chunk_bytes() == 2 << 20);
  REQUIRE(answers.summary->tensors() == 0);
  REQUIRE_FALSE(answers.summary->has_error());
}

TEST_CASE("without the error report, the same bytes and no statistics",
          "[session]") {
  QuantizeContext context(TestContextOptions());
  const TestWeight weight(1, "a.weight", 600, 1000, 7);
  Requests requests = {Config("NF4", /*skip_error_report=*/true)};
  weight.AppendTo(&requests, 1 << 20);
  SessionDriver stream(context);
  const Answers& answers = stream.Run(requests);
  REQUIRE(answers.status.ok());
  RequireSameAsDirect(answers, Nf4Reference(), weight, false);
  REQUIRE_FALSE(answers.reports[0].has_rtn());
  REQUIRE_FALSE(answers.reports[0].has_histogram());
  REQUIRE_FALSE(answers.summary->has_error());
}

TEST_CASE("without the digest, the same bytes", "[session]") {
  QuantizeContext context(TestContextOptions());
  const TestWeight weight(1, "a.weight", 600, 1000, 22);
  Requests requests = {Config("NF4")};
  requests[0].mutable_config()->set_skip_digest(true);
  weight.AppendTo(&requests, 1 << 20);
  SessionDriver stream(context);
  const Answers& answers = stream.Run(requests);
  REQUIRE(answers.status.ok());
  RequireSameAsDirect(answers, Nf4Reference(), weight);
  REQUIRE(answers.summary->digest().empty());
  REQUIRE(answers.summary->tensors() == 1);
}

TEST_CASE("typed values give what their bytes give", "[session]") {
  const v1::DataType dtype = GENERATE(v1::F32, v1::F16, v1::BF16);
  const DType ours = dtype == v1::F32   ? DType::kF32
                     : dtype == v1::F16 ? DType::kF16
                                        : DType::kBF16;
  const std::vector<float> values = {0.5f, -1.25f, 3.0f, 0.1f, 2.0f, -0.3f};
  QuantizeContext context(TestContextOptions());
  Requests requests = {Config("NF4"), Begin(1, "typed", dtype, {2, 3})};
  // In two chunks, the second with an offset, as a careful client may.
  v1::QuantizeRequest typed;
  typed.mutable_chunk()->set_handle(1);
  for (int i = 0; i < 4; ++i)
    typed.mutable_chunk()->add_float_values(values[i]);
  requests.push_back(typed);
  typed.mutable_chunk()->clear_float_values();
  for (int i = 4; i < 6; ++i)
    typed.mutable_chunk()->add_float_values(values[i]);
  typed.mutable_chunk()->set_offset(4 * DTypeBytes(ours));
  typed.mutable_chunk()->set_last(true);
  requests.push_back(typed);
  SessionDriver stream(context);
  const Answers& answers = stream.Run(requests);
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  TestWeight weight(1, "typed", 2, 3, 0);
  weight.info.dtype = ours;
  weight.bytes.resize(static_cast<size_t>(6 * DTypeBytes(ours)));
  for (int i = 0; i < 6; ++i) {
    StoreFromFloat(weight.bytes.data(), ours, i, values[i]);
  }
  RequireSameAsDirect(answers, Nf4Reference(), weight);
}

TEST_CASE("the lowest bad index is named, whoever finds it first",
          "[session]") {
  const TestWeight weight = WithNan(
      WithNan(
          WithNan(TestWeight(1, "bad.weight", 3000, 1024, 8), 2900 * 1024 + 5),
          1200 * 1024 + 77),
      2000 * 1024);
  Requests requests = {Config("NF4")};
  weight.AppendTo(&requests, 1 << 20);
  for (int round = 0; round < 8; ++round) {
    QuantizeContext context(TestContextOptions(4));
    {
      SessionDriver stream(context);
      const Answers& answers = stream.Run(requests);
      REQUIRE(answers.status.code() == absl::StatusCode::kInvalidArgument);
      REQUIRE(ErrorReason(answers.status) == "NON_FINITE_INPUT");
      REQUIRE(answers.status.message() ==
              "tensor \"bad.weight\": NaN at index " +
                  std::to_string(1200 * 1024 + 77));
    }
    RequireClean(context);
  }
}

TEST_CASE("frames of a large tensor go out while it is sent", "[session]") {
  const std::string preset = GENERATE("NF4", "NF4-dq");
  QuantizeContext context(TestContextOptions());
  const TestWeight weight(1, "a.weight", 16384, 1024, 21);
  Requests requests = {Config(preset, true, v1::BEST)};
  weight.AppendTo(&requests, 1 << 20);
  SessionDriver stream(context);
  for (size_t i = 0; i + 1 < requests.size(); ++i) {
    REQUIRE(stream.Send(requests[i]));
  }
  // 31 of 32 MiB are there, so 31 whole tiles: a frame of codes each, four at
  // a time; the last three wait for their fourth. With two rounds no code is
  // final yet.
  const auto& parts = stream.answers().parts;
  const auto received = [&] {
    while (stream.TakeOne()) {
    }
    return parts.empty() ? size_t{0} : parts.at(1).at("a.weight").bytes.size();
  };
  const size_t early = preset == "NF4" ? size_t{28} << 18 : 0;
  REQUIRE(WaitFor([&] {
    return received() == early && context.pool().queued() == 0 &&
           context.pool().running() == 0;
  }));
  // Nothing that is held back for another message is without one.
  REQUIRE_FALSE(stream.more_to_come());
  REQUIRE(stream.Send(requests.back()));
  REQUIRE(stream.HalfClose());
  const Answers& answers = stream.Finish();
  REQUIRE(answers.status.ok());
  REQUIRE(answers.problem.empty());
  RequireSameAsDirect(answers, PresetSpec(preset, Profile::kBest), weight,
                      false);
}

}  // namespace
}  // namespace qs::testing
