// PlanCheckpoint over a real connection.
#include "service/server/plan_call.h"

#include <atomic>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/checkpoint/plan_answer.h"
#include "service/server/error.h"
#include "service/server/plan_limits.h"
#include "tests/service/quantize_client.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

using PlanRequests = std::vector<v1::PlanCheckpointRequest>;

struct PlanAnswers {
  std::vector<v1::PlanEntry> entries;
  std::vector<v1::PlanFile> files;
  std::vector<v1::Finding> findings;
  std::vector<v1::PlanSummary> summaries;
  PlanAnswer together;  // as a client puts them together
  int messages = 0;
  absl::Status status;
};

v1::PlanCheckpointRequest PlanConfigRequest(const std::string& preset) {
  v1::PlanCheckpointRequest request;
  request.mutable_config()->mutable_quantization()->set_preset(preset);
  return request;
}

v1::TensorHeader* AddTensor(v1::PlanCheckpointRequest* request,
                            const std::string& name, int64_t rows,
                            int64_t cols) {
  const int64_t begin = request->tensors().tensors_size() == 0
                            ? 0
                            : request->tensors().tensors().rbegin()->end();
  v1::TensorHeader* tensor = request->mutable_tensors()->add_tensors();
  tensor->set_name(name);
  tensor->set_dtype(v1::BF16);
  tensor->add_shape(rows);
  tensor->add_shape(cols);
  tensor->set_file("model.safetensors");
  tensor->set_begin(begin);
  tensor->set_end(begin + rows * cols * 2);
  return tensor;
}

PlanAnswers Plan(const InProcessServer& server, const PlanRequests& requests) {
  const auto stub = v1::QuantizeService::NewStub(server.NewChannel());
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(30)));
  const auto stream = stub->PlanCheckpoint(&context);
  for (const auto& request : requests) {
    if (!stream->Write(request)) break;
  }
  stream->WritesDone();
  PlanAnswers out;
  v1::PlanCheckpointResponse response;
  while (stream->Read(&response)) {
    ++out.messages;
    // They come last.
    REQUIRE((out.summaries.empty() || response.has_summary()));
    for (auto& e : response.entries().entries()) out.entries.push_back(e);
    for (auto& f : response.files().files()) out.files.push_back(f);
    for (auto& f : response.findings().findings()) out.findings.push_back(f);
    if (response.has_summary()) out.summaries.push_back(response.summary());
    AddTo(response, &out.together);
  }
  out.status = FromGrpcStatus(stream->Finish());
  return out;
}

void RequirePlanError(const InProcessServer& server,
                      const PlanRequests& requests, absl::StatusCode code,
                      const std::string& reason, const std::string& text) {
  const PlanAnswers answers = Plan(server, requests);
  INFO(answers.status);
  REQUIRE(answers.status.code() == code);
  REQUIRE(ErrorReason(answers.status) == reason);
  REQUIRE(std::string(answers.status.message()).find(text) !=
          std::string::npos);
}

TEST_CASE("every tensor and file has its place in the plan", "[plan_call]") {
  InProcessServer server;
  v1::PlanCheckpointRequest tensors;
  AddTensor(&tensors, "model.layers.0.mlp.up_proj.weight", 256, 128);
  AddTensor(&tensors, "model.layers.0.mlp.gate_proj.weight", 256, 128);
  v1::PlanCheckpointRequest files;
  for (const char* path : {"model.safetensors", "config.json", "README.md"}) {
    files.mutable_files()->add_files()->set_path(path);
  }
  // Split freely: a second message of tensors after the files.
  v1::PlanCheckpointRequest more;
  AddTensor(&more, "model.layers.0.mlp.down_proj.weight", 128, 256);
  more.mutable_tensors()->mutable_tensors(0)->set_file("other.safetensors");
  const PlanAnswers answers =
      Plan(server, {PlanConfigRequest("NF4"), tensors, files, more});
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.entries.size() == 3);
  REQUIRE(answers.entries[0].name() == "model.layers.0.mlp.up_proj.weight");
  REQUIRE(answers.entries[0].action() == v1::PlanEntry::QUANTIZE);
  REQUIRE(answers.entries[2].rows() == 128);
  REQUIRE(answers.files.size() == 3);
  REQUIRE(answers.summaries.size() == 1);
  REQUIRE(answers.summaries[0].tensors() == 3);
  REQUIRE(answers.summaries[0].resolved().nf4().block_size() == 64);
  REQUIRE_FALSE(answers.summaries[0].quantization_config_json().empty());
  REQUIRE(answers.summaries[0].carried().empty());
}

TEST_CASE("what is carried is summed by reason, the most bytes first",
          "[plan_call]") {
  InProcessServer server;
  v1::PlanCheckpointRequest tensors;
  AddTensor(&tensors, "model.layers.0.mlp.up_proj.weight", 256, 128);
  AddTensor(&tensors, "model.embed_tokens.weight", 1000, 128);
  // Too small, each of another size; of two there are two.
  for (int layer = 0; layer < 20; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".mlp.");
    AddTensor(&tensors, prefix + "gate_proj.weight", 2 + layer, 8);
    if (layer < 2)
      AddTensor(&tensors, prefix + "down_proj.weight", 2 + layer, 8);
  }
  const PlanAnswers answers = Plan(server, {PlanConfigRequest("NF4"), tensors});
  REQUIRE(answers.status.ok());
  std::map<std::string, std::pair<int64_t, int64_t>> want;
  int64_t bytes = 0;
  for (const v1::PlanEntry& entry : answers.entries) {
    if (entry.action() != v1::PlanEntry::CARRY) continue;
    auto& [count, sum] = want[entry.reason()];
    ++count;
    sum += entry.bytes_in();
    bytes += entry.bytes_in();
  }
  REQUIRE(want.size() == 21);
  const auto& carried = answers.summaries[0].carried();
  REQUIRE(carried.size() == 16);
  REQUIRE(carried[0].bytes() == 256000);
  int64_t all = carried[15].bytes();
  for (int i = 0; i < 15; ++i) {
    INFO(carried[i].reason());
    REQUIRE(carried[i].tensors() == want.at(carried[i].reason()).first);
    REQUIRE(carried[i].bytes() == want.at(carried[i].reason()).second);
    REQUIRE((i == 0 || carried[i].bytes() <= carried[i - 1].bytes()));
    all += carried[i].bytes();
  }
  REQUIRE(all == bytes);
  REQUIRE(carried[15].reason() == "other reasons");
  REQUIRE(carried[15].tensors() > 5);
}

TEST_CASE("overrides are resolved, and each entry names its rule",
          "[plan_call]") {
  InProcessServer server;
  v1::PlanCheckpointRequest config = PlanConfigRequest("W4A16");
  config.mutable_config()->mutable_quantization()->set_profile(v1::REFERENCE);
  v1::Override* rule = config.mutable_config()->add_overrides();
  rule->set_tensors("*down*");
  rule->mutable_config()->set_preset("W4A16-gptq");
  rule = config.mutable_config()->add_overrides();
  rule->set_tensors("*down_proj*");
  rule->set_skip(true);
  v1::PlanCheckpointRequest tensors;
  AddTensor(&tensors, "model.layers.0.mlp.up_proj.weight", 256, 128);
  AddTensor(&tensors, "model.layers.0.mlp.gate_proj.weight", 256, 128);
  AddTensor(&tensors, "model.layers.0.mlp.down_proj.weight", 128, 256);
  const PlanAnswers answers = Plan(server, {config, tensors});
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.entries.size() == 3);
  REQUIRE(answers.entries[0].rule() == 0);
  REQUIRE(answers.entries[2].rule() == 1);
  REQUIRE(answers.findings.size() == 1);
  REQUIRE(answers.findings[0].rule() == "OVERRIDE_UNUSED");
  const v1::PlanSummary& summary = answers.summaries[0];
  REQUIRE(summary.overrides_size() == 2);
  // What it leaves out is the plan's own profile.
  REQUIRE(summary.overrides(0).config().profile() == v1::REFERENCE);
  REQUIRE(summary.overrides(0).config().gptq().sweeps() == 0);
  REQUIRE(summary.overrides(1).skip());
  rule->set_tensors("*dwn*");
  RequirePlanError(server, {config, tensors},
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD",
                   "overrides[1].tensors: got \"*dwn*\"");
}

TEST_CASE("a large plan comes in several messages, in order", "[plan_call]") {
  InProcessServer server;
  PlanRequests requests = {PlanConfigRequest("NF4")};
  constexpr int kTensors = 10000;
  for (int i = 0; i < kTensors; ++i) {
    if (i % 1000 == 0) requests.emplace_back();
    AddTensor(&requests.back(),
              absl::StrCat("model.layers.", i, ".mlp.up_proj.weight"), 128,
              128);
    requests.back().mutable_tensors()->mutable_tensors(i % 1000)->set_file(
        absl::StrCat("f", i, ".safetensors"));
  }
  const PlanAnswers answers = Plan(server, requests);
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.messages > 3);
  REQUIRE(answers.entries.size() == kTensors);
  REQUIRE(answers.entries[4321].name() ==
          "model.layers.4321.mlp.up_proj.weight");
}

TEST_CASE("a list of names that no message holds comes in pieces",
          "[plan_call]") {
  InProcessServer server;
  // The config has \u5c64 for each: pieces of any size cut some.
  std::string filler;
  for (int i = 0; i < 150; ++i) filler += "\xe5\xb1\xa4";
  PlanRequests requests = {PlanConfigRequest("W4A16")};
  requests[0].mutable_config()->add_include("model.layers.0.*");
  constexpr int kTensors = 10000;
  std::set<std::string> modules;
  for (int i = 0; i < kTensors; ++i) {
    if (i % 1000 == 0) requests.emplace_back();
    const std::string module =
        absl::StrCat("model.layers.", i, ".", filler, ".up_proj");
    AddTensor(&requests.back(), module + ".weight", 128, 128)
        ->set_file(absl::StrCat("f", i / 1000, ".safetensors"));
    if (i > 0) modules.insert(module);
  }
  PlanAnswers answers = Plan(server, requests);
  INFO(answers.status);
  REQUIRE(answers.status.ok());
  REQUIRE(answers.summaries.size() == 3);
  const v1::PlanSummary last = answers.summaries.back();
  REQUIRE(last.tensors() == kTensors);
  REQUIRE(last.tensors_quantized() == 1);
  for (v1::PlanSummary& summary : answers.summaries) {
    REQUIRE_FALSE(summary.quantization_config_json().empty());
    summary.clear_quantization_config_json();
  }
  REQUIRE(answers.summaries[0].ByteSizeLong() == 0);
  REQUIRE(answers.summaries[1].ByteSizeLong() == 0);

  v1::PlanSummary& whole = answers.together.summary;
  const auto config = nlohmann::json::parse(whole.quantization_config_json());
  std::set<std::string> ignored = config.at("ignore");
  ignored.erase("lm_head");
  REQUIRE(ignored.size() == kTensors - 1);
  REQUIRE((ignored == modules));  // too many to print
  whole.clear_quantization_config_json();
  REQUIRE(whole.SerializeAsString() ==
          answers.summaries[2].SerializeAsString());
}

TEST_CASE("errors of the requests", "[plan_call]") {
  ServerOptions options = TestServerOptions();
  options.max_plan_tensors = 3;
  options.max_plan_bytes = 10000;
  InProcessServer server(options);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto config = PlanConfigRequest("NF4");
  v1::PlanCheckpointRequest tensor;
  AddTensor(&tensor, "a.weight", 64, 64);

  RequirePlanError(server, {}, invalid, "BAD_FIELD", "ended without it");
  RequirePlanError(server, {tensor}, invalid, "BAD_FIELD", "first message");
  RequirePlanError(server, {config, config}, invalid, "BAD_FIELD", "twice");
  RequirePlanError(server, {config, {}}, invalid, "BAD_FIELD", "got none");
  RequirePlanError(server, {PlanConfigRequest("NF5")}, invalid, "BAD_FIELD",
                   "config.quantization.preset");
  v1::PlanCheckpointRequest parallel = config;
  parallel.mutable_config()->mutable_target()->set_tensor_parallel(0);
  RequirePlanError(server, {parallel}, invalid, "BAD_FIELD",
                   "config.target.tensor_parallel: got 0");
  v1::PlanCheckpointRequest engine = config;
  engine.mutable_config()->mutable_target()->set_engine(
      static_cast<v1::Engine>(9));
  RequirePlanError(server, {engine}, invalid, "BAD_FIELD",
                   "config.target.engine");
  v1::PlanCheckpointRequest range = tensor;
  range.mutable_tensors()->mutable_tensors(0)->set_end(-1);
  RequirePlanError(server, {config, range}, invalid, "BAD_FIELD",
                   "tensor \"a.weight\"");
  RequirePlanError(server, {config, tensor, tensor}, invalid,
                   "DUPLICATE_TENSOR", "a.weight");
  v1::PlanCheckpointRequest json = config;
  json.mutable_config()->set_config_json("[1, 2");
  RequirePlanError(server, {json, tensor}, invalid, "BAD_CONFIG_JSON",
                   "config.json");
  v1::PlanCheckpointRequest four;
  for (const char* name : {"a", "b", "c", "d"}) AddTensor(&four, name, 64, 64);
  RequirePlanError(server, {config, four}, absl::StatusCode::kResourceExhausted,
                   "PLAN_TOO_LARGE", "got 4, allowed 3");
  v1::PlanCheckpointRequest large = config;
  large.mutable_config()->set_config_json(std::string(10001, ' '));
  RequirePlanError(server, {large}, absl::StatusCode::kResourceExhausted,
                   "PLAN_TOO_LARGE", "10000");
}

TEST_CASE("a plan that could not be sent in whole is refused before",
          "[plan_call]") {
  InProcessServer server;
  const auto plan = [&](int experts) {
    PlanRequests requests = {PlanConfigRequest("W4A16")};
    requests[0].mutable_config()->set_config_json(
        R"({"model_type": "qwen3_moe"})");
    requests[0].mutable_config()->set_list_sites(true);
    for (int i = 0; i < experts; ++i) {
      if (i % 2000 == 0) requests.emplace_back();
      AddTensor(
          &requests.back(),
          absl::StrCat("model.layers.0.mlp.experts.", i, ".up_proj.weight"), 16,
          128)
          ->set_file(absl::StrCat("f", i / 2000, ".safetensors"));
    }
    return requests;
  };
  // The site that all experts read names them.
  const PlanAnswers answers = Plan(server, plan(100000));
  INFO(answers.status);
  REQUIRE(absl::IsResourceExhausted(answers.status));
  REQUIRE(ErrorReason(answers.status) == "PLAN_TOO_LARGE");
  REQUIRE(std::string(answers.status.message()).find("allowed 4194299") !=
          std::string::npos);
  REQUIRE(answers.messages == 0);
  REQUIRE(Plan(server, plan(4000)).status.ok());
}

TEST_CASE("the tensors of stacks count singly", "[plan_call]") {
  // Two stacks of eight experts: 2 entries of their own, 16 and 8 slices.
  for (const int allowed : {26, 25}) {
    ServerOptions options = TestServerOptions();
    options.max_plan_tensors = allowed;
    InProcessServer server(options);
    v1::PlanCheckpointRequest config = PlanConfigRequest("W4A16");
    config.mutable_config()->set_config_json(
        R"({"model_type": "qwen3_moe", "torch_dtype": "bfloat16"})");
    v1::PlanCheckpointRequest stacks;
    const std::string block = "model.layers.0.mlp.experts.";
    v1::TensorHeader* up =
        AddTensor(&stacks, block + "gate_up_proj", 8 * 2 * 128, 128);
    v1::TensorHeader* down =
        AddTensor(&stacks, block + "down_proj", 8 * 128, 128);
    up->mutable_shape()->Clear();
    down->mutable_shape()->Clear();
    for (const int64_t size : {8, 256, 128}) up->add_shape(size);
    for (const int64_t size : {8, 128, 128}) down->add_shape(size);
    if (allowed == 26) {
      const PlanAnswers answers = Plan(server, {config, stacks});
      INFO(answers.status);
      REQUIRE(answers.status.ok());
      REQUIRE(answers.entries.size() == 26);
    } else {
      RequirePlanError(server, {config, stacks},
                       absl::StatusCode::kResourceExhausted, "PLAN_TOO_LARGE",
                       "got more than 25");
    }
  }
}

TEST_CASE("a quantized source is refused", "[plan_call]") {
  InProcessServer server;
  v1::PlanCheckpointRequest config = PlanConfigRequest("NF4");
  config.mutable_config()->set_config_json(
      "{\"model_type\":\"llama\",\"quantization_config\":"
      "{\"quant_method\":\"gptq\"}}");
  v1::PlanCheckpointRequest tensor;
  AddTensor(&tensor, "model.layers.0.mlp.up_proj.weight", 64, 64);
  RequirePlanError(server, {config, tensor},
                   absl::StatusCode::kFailedPrecondition, "SOURCE_QUANTIZED",
                   "gptq");
}

TEST_CASE(
    "no more plans at once than allowed; a cancelled one counts no "
    "more",
    "[plan_call]") {
  ServerOptions options = TestServerOptions();
  options.max_plans = 1;
  InProcessServer server(options);
  const auto stub = v1::QuantizeService::NewStub(server.NewChannel());
  {
    grpc::ClientContext context;
    const auto open = stub->PlanCheckpoint(&context);
    REQUIRE(open->Write(PlanConfigRequest("NF4")));
    REQUIRE(Eventually([&] {
      const PlanAnswers second = Plan(server, {PlanConfigRequest("NF4")});
      return ErrorReason(second.status) == "TOO_MANY_PLANS" &&
             second.status.code() == absl::StatusCode::kResourceExhausted;
    }));
    context.TryCancel();
    v1::PlanCheckpointResponse response;
    REQUIRE_FALSE(open->Read(&response));
    REQUIRE(open->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
  v1::PlanCheckpointRequest tensor;
  AddTensor(&tensor, "model.layers.0.mlp.up_proj.weight", 64, 64);
  REQUIRE(Eventually([&] {
    return Plan(server, {PlanConfigRequest("NF4"), tensor}).status.ok();
  }));
}

TEST_CASE("what Quantize of this server would refuse, the plan refuses",
          "[plan_call]") {
  ServerOptions options = TestServerOptions();
  options.max_tensor_bytes = 256 << 10;
  options.memory_budget = int64_t{2} << 20;
  InProcessServer server(options);
  const auto plan = [&](const std::string& preset, const std::string& name,
                        int64_t rows, int64_t cols) {
    v1::PlanCheckpointRequest tensor;
    AddTensor(&tensor, name, rows, cols);
    AddTensor(&tensor, "model.layers.0.mlp.gate_proj.weight", 64, 64);
    const PlanAnswers answers =
        Plan(server, {PlanConfigRequest(preset), tensor});
    INFO(answers.status);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.summaries.size() == 1);
    std::vector<v1::Finding> errors;
    for (const v1::Finding& finding : answers.findings) {
      if (finding.severity() == v1::Finding::ERROR) errors.push_back(finding);
    }
    CHECK(answers.summaries[0].refused() == !errors.empty());
    return errors;
  };
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  CHECK(plan("NF4", name, 512, 256).empty());  // as large as it may be
  auto findings = plan("NF4", name, 513, 256);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].rule() == "TENSOR_TOO_LARGE");
  CHECK(findings[0].tensor() == name);
  CHECK(findings[0].text().find("got 262656 bytes, allowed 262144") == 0);
  // Moments and their factor: 8 inputs^2 bytes and more.
  findings = plan("W4A16-gptq", name, 64, 1024);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].rule() == "MEMORY_BUDGET");
  CHECK(findings[0].tensor() == name);
  CHECK(findings[0].text().find("allowed 2097152") != std::string::npos);
  const std::string block = "model.layers.0.mlp.";
  CHECK(plan("NF4",
             block + std::string(512 - block.size() - 7, 'n') + ".weight", 64,
             64)
            .empty());
  findings =
      plan("NF4", block + std::string(513 - block.size() - 7, 'n') + ".weight",
           64, 64);
  REQUIRE(findings.size() == 1);
  CHECK(findings[0].rule() == "NAME_TOO_LONG");
  CHECK(findings[0].text() == "got a name of 513 bytes, allowed 512");
}

TEST_CASE("globs and names have bounds", "[plan_call]") {
  InProcessServer server;
  v1::PlanCheckpointRequest config = PlanConfigRequest("NF4");
  for (int i = 0; i < 1000; ++i) config.mutable_config()->add_include("*");
  v1::PlanCheckpointRequest tensors;
  AddTensor(&tensors, "model.layers.0.mlp.up_proj.weight", 64, 64);
  CHECK(Plan(server, {config, tensors}).status.ok());
  config.mutable_config()->add_exclude("x");
  RequirePlanError(server, {config, tensors},
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD",
                   "config.include: got 1001 globs with exclude, allowed at "
                   "most 1000");

  config = PlanConfigRequest("NF4");
  config.mutable_config()->add_exclude(std::string(1024, 'x'));
  CHECK(Plan(server, {config, tensors}).status.ok());
  config.mutable_config()->add_exclude("*[" + std::string(1023, 'x'));
  RequirePlanError(server, {config, tensors},
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD",
                   "config.include: got a glob of 1025 bytes, allowed at most "
                   "1024");

  config = PlanConfigRequest("NF4");
  v1::Override* rule = config.mutable_config()->add_overrides();
  rule->set_tensors(std::string(1025, 'x'));
  rule->set_skip(true);
  RequirePlanError(server, {config, tensors},
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD",
                   "config.overrides[0].tensors: got a glob of 1025 bytes");

  AddTensor(&tensors, std::string(1025, 'n'), 64, 64);
  RequirePlanError(server, {PlanConfigRequest("NF4"), tensors},
                   absl::StatusCode::kInvalidArgument, "BAD_FIELD",
                   "tensors: got a name of 1025 bytes, allowed 1024");
}

// Each star of a glob tries all that is left of a name, so that a plan of as
// many as are allowed takes an hour.
TEST_CASE("a worker is free when a plan's client is gone", "[plan_call]") {
  InProcessServer server;
  const auto stub = v1::QuantizeService::NewStub(server.NewChannel());
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  for (int call = 0; call < 4; ++call) {
    auto& context = contexts.emplace_back(new grpc::ClientContext);
    context->set_deadline(In(absl::Seconds(30)));
    const auto stream = stub->PlanCheckpoint(context.get());
    v1::PlanCheckpointRequest config = PlanConfigRequest("NF4");
    for (int i = 0; i < 1000; ++i) {
      config.mutable_config()->add_exclude("*" + std::string(500, 'a') + "b");
    }
    REQUIRE(stream->Write(config));
    for (int part = 0; part < 8; ++part) {
      v1::PlanCheckpointRequest tensors;
      for (int i = 0; i < 1000; ++i) {
        AddTensor(&tensors, absl::StrCat(std::string(1000, 'a'), part, "x", i),
                  64, 64);
      }
      REQUIRE(stream->Write(tensors));
    }
    REQUIRE(stream->WritesDone());
    absl::SleepFor(absl::Milliseconds(200));
    context->TryCancel();
    CHECK(stream->Finish().error_code() == grpc::StatusCode::CANCELLED);
  }
  v1::PlanCheckpointRequest tensors;
  AddTensor(&tensors, "model.layers.0.mlp.up_proj.weight", 64, 64);
  const PlanAnswers answers = Plan(server, {PlanConfigRequest("NF4"), tensors});
  INFO(answers.status);
  CHECK(answers.status.ok());
}

TEST_CASE("a plan that nobody wants is held against no limits", "[plan_call]") {
  std::atomic<bool> cancelled = true;
  PlanRequest request;
  request.cancelled = &cancelled;
  qs::Plan plan;
  PlanEntry& entry = plan.entries.emplace_back();
  entry.action = TensorAction::kQuantize;
  entry.bytes_in = 2;
  v1::Limits limits;
  limits.set_max_tensor_bytes(1);
  CHECK(absl::IsCancelled(CheckLimits(request, limits, false, &plan)));
  CHECK(plan.findings.empty());
  CHECK_FALSE(plan.refused);
  cancelled = false;
  REQUIRE(CheckLimits(request, limits, false, &plan).ok());
  REQUIRE(plan.findings.size() == 1);
  CHECK(plan.findings[0].rule == "TENSOR_TOO_LARGE");
  CHECK(plan.refused);
}

TEST_CASE("no plan while the server drains", "[plan_call]") {
  InProcessServer server;
  server.context().StartDraining();
  RequirePlanError(server, {PlanConfigRequest("NF4")},
                   absl::StatusCode::kUnavailable, "DRAINING", "shutting");
}

}  // namespace
}  // namespace qs::testing
