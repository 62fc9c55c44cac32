// Jobs whose tensors are quantized in several ways, over real connections: each
// tensor is what a job with that configuration alone makes of it.
#include <nlohmann/json.hpp>
#include <set>

#include "tests/service/jobs/result_client.h"

namespace qs::testing {
namespace {

constexpr char kDown[] = "*.down_proj.weight";

v1::Override Rule(const std::string& glob, const std::string& preset = "") {
  v1::Override rule;
  rule.set_tensors(glob);
  if (preset.empty()) {
    rule.set_skip(true);
  } else {
    rule.mutable_config()->set_preset(preset);
  }
  return rule;
}

v1::CreateJobRequest RequestWith(v1::CreateJobRequest request,
                                 const std::vector<v1::Override>& rules) {
  for (const v1::Override& rule : rules) {
    *request.mutable_job()->add_overrides() = rule;
  }
  return request;
}

// Two attention blocks of W4A16 with o_proj in groups of 32 and one layer's q,
// k and v carried.
v1::CreateJobRequest MixedRequest(const JobFolders& folders,
                                  const std::string& out) {
  v1::CreateJobRequest request = JobRequest(folders, out, "W4A16");
  v1::Override groups = Rule("*.o_proj.weight");
  groups.mutable_config()->mutable_rtn()->set_group_size(32);
  return RequestWith(request,
                     {groups, Rule("*layers.2.self_attn.[qkv]_proj.weight"),
                      Rule(kDown, "W8A16")});
}

// The outputs of a result by the name of the tensor that they are of.
struct Packed {
  std::map<std::string, v1::TensorReport> reports;
  std::map<std::string, std::string> outputs;  // by output's name
};
Packed ReadPacked(JobClient& client, const std::string& name,
                  v1::ReadResultRequest::View view) {
  v1::ReadResultRequest request;
  request.set_name(name);
  request.set_view(view);
  request.set_wait(true);
  ResultCall call(client, request);
  const absl::Status status = call.Finish();
  INFO(status.ToString());
  REQUIRE(status.ok());
  Packed packed;
  for (const v1::TensorReport& report : call.reports) {
    packed.reports[report.name()] = report;
  }
  packed.outputs = call.outputs;
  return packed;
}

v1::CreateJobRequest Stored(v1::CreateJobRequest request) {
  request.mutable_job()->clear_destination();
  return request;
}

TEST_CASE_METHOD(JobFixture, "overrides are shown, resolved, and listed",
                 "[job_overrides]") {
  v1::CreateJobRequest request = MixedRequest(folders, "a");
  request.mutable_job()->mutable_target()->set_engine(v1::VLLM);
  request.set_validate_only(true);
  const v1::Job shown = RequireMade(jobs, request);
  const v1::PlanSummary& summary = shown.plan().summary();
  REQUIRE(summary.overrides_size() == 3);
  REQUIRE(summary.overrides(0).config().rtn().bits() == 4);
  REQUIRE(summary.overrides(0).config().rtn().group_size() == 32);
  REQUIRE(summary.overrides(0).config().format() == v1::COMPRESSED_TENSORS);
  REQUIRE(summary.overrides(1).skip());
  REQUIRE(summary.overrides(2).config().rtn().bits() == 8);
  REQUIRE(summary.tensors_quantized() == 25);
  const auto config = nlohmann::json::parse(summary.quantization_config_json());
  REQUIRE(config.at("config_groups").size() == 3);
  std::set<std::string> ignored = config.at("ignore");
  REQUIRE(ignored.count("model.layers.2.self_attn.k_proj") == 1);
  REQUIRE(ignored.size() == 4);

  request.set_validate_only(false);
  const v1::Job job = RequireDone(jobs, request);
  REQUIRE(job.overrides_size() == 3);
  REQUIRE(job.overrides(2).config().preset() == "W8A16");
  REQUIRE(job.summary().tensors() == 25);
  const auto written =
      nlohmann::json::parse(ReadTree(folders.Out("a")).at("config.json"));
  REQUIRE(written.at("quantization_config") == config);
}

TEST_CASE_METHOD(JobFixture,
                 "each tensor is as its own configuration alone makes it",
                 "[job_overrides]") {
  const v1::ReadResultRequest::View view = GENERATE(
      v1::ReadResultRequest::PACKED, v1::ReadResultRequest::DEQUANTIZED);
  const auto result = [&](const v1::CreateJobRequest& request) {
    return ReadPacked(jobs, RequireMade(jobs, Stored(request)).name(), view);
  };
  const Packed mixed = result(MixedRequest(folders, ""));
  const Packed four = result(JobRequest(folders, "", "W4A16"));
  const Packed eight = result(JobRequest(folders, "", "W8A16"));
  v1::CreateJobRequest request = JobRequest(folders, "");
  request.mutable_job()->mutable_quantization()->clear_preset();
  request.mutable_job()->mutable_quantization()->mutable_rtn()->set_group_size(
      32);
  const Packed groups = result(request);
  REQUIRE(mixed.reports.size() == 25);
  std::map<int, int> seen;
  for (const auto& [name, report] : mixed.reports) {
    INFO(name);
    ++seen[report.rule()];
    const Packed& alone = report.rule() == 0   ? four
                          : report.rule() == 1 ? groups
                                               : eight;
    const bool down = name.find("down_proj") != std::string::npos;
    const bool out = name.find("o_proj") != std::string::npos;
    REQUIRE(report.rule() == (out ? 1 : down ? 3 : 0));
    REQUIRE(report.bits_per_weight() ==
            alone.reports.at(name).bits_per_weight());
    for (const auto& [output, data] : mixed.outputs) {
      if (output.rfind(name, 0) != 0) continue;
      REQUIRE(data == alone.outputs.at(output));
    }
  }
  REQUIRE(seen == std::map<int, int>{{0, 17}, {1, 4}, {3, 4}});
}

TEST_CASE_METHOD(JobFixture, "a method with a calibration beside one without",
                 "[job_overrides]") {
  v1::CreateJobRequest request = CalibratedRequest(folders, "a", "W4A16-gptq");
  // Scaled inputs would make v another tensor than without o.
  request.mutable_job()->mutable_quantization()->clear_preset();
  request.mutable_job()
      ->mutable_quantization()
      ->mutable_gptq()
      ->set_awq_scaling(false);
  request.mutable_job()->clear_destination();
  const Packed alone = ReadPacked(jobs, RequireMade(jobs, request).name(),
                                  v1::ReadResultRequest::PACKED);
  const Packed mixed = ReadPacked(
      jobs,
      RequireMade(jobs, RequestWith(request, {Rule("*.o_proj.*", "W8A16")}))
          .name(),
      v1::ReadResultRequest::PACKED);
  REQUIRE(mixed.reports.size() == alone.reports.size());
  for (const auto& [name, report] : mixed.reports) {
    INFO(name);
    const bool rounded = name.find("o_proj") != std::string::npos;
    REQUIRE(report.algorithm().rfind(rounded ? "rtn" : "gptq", 0) == 0);
    // With a calibration every method says it.
    REQUIRE(report.has_output_error());
    for (const auto& [output, data] : mixed.outputs) {
      if (rounded || output.rfind(name, 0) != 0) continue;
      REQUIRE(data == alone.outputs.at(output));
    }
  }
  // A rule may be what needs it.
  request = RequestWith(JobRequest(folders, "b", "W8A16"),
                        {Rule("*.o_proj.*", "W4A16-gptq")});
  RequireError(jobs.Create(request).status(),
               absl::StatusCode::kInvalidArgument, "CALIBRATION_MISSING");
  request.mutable_job()->mutable_calibration()->set_uri(DataUri(kCalibration));
  REQUIRE(RequireDone(jobs, request).summary().has_output_error());
}

TEST_CASE_METHOD(JobFixture, "awq solves each scheme's part of a block",
                 "[job_overrides]") {
  const v1::Job job = RequireDone(
      jobs, RequestWith(CalibratedRequest(folders, "a", "W4A16-awq"),
                        {Rule("*.self_attn.[qkv]_proj.*", "W8A16"),
                         Rule("*layers.1.self_attn.o_proj.*")}));
  REQUIRE(job.summary().output_error() < job.summary().rtn_output_error());
}

TEST_CASE_METHOD(JobFixture, "overrides that cannot be are the call's error",
                 "[job_overrides]") {
  const auto refused = [&](const v1::CreateJobRequest& base,
                           const v1::Override& rule, const std::string& reason,
                           const std::string& text) {
    const absl::Status status = jobs.Create(RequestWith(base, {rule})).status();
    INFO(status.ToString());
    REQUIRE(ErrorReason(status) == reason);
    REQUIRE(std::string(status.message()).find(text) != std::string::npos);
  };
  const v1::CreateJobRequest four = JobRequest(folders, "a", "W4A16");
  refused(four, Rule("", "W8A16"), "BAD_FIELD", "overrides[0].tensors");
  refused(four, Rule("*", "W9"), "BAD_FIELD", "overrides[0].config.preset");
  v1::Override nothing;
  nothing.set_tensors("*");
  refused(four, nothing, "BAD_FIELD", "got neither config nor skip");
  nothing.set_skip(false);
  refused(four, nothing, "BAD_FIELD", "got neither config nor skip");
  refused(four, Rule("*.dwn_proj.*", "W8A16"), "BAD_FIELD", "matches none of");
  refused(four, Rule("*.q_proj.*", "W8A16"), "TARGET_REFUSED",
          "GROUP_SPLIT model.layers.0.self_attn.q_proj.weight");
  refused(four, Rule(kDown, "NF4"), "BAD_FIELD", "format");
  refused(JobRequest(folders, "a", "NF4"), Rule(kDown, "NF4-dq"), "BAD_FIELD",
          "allowed are skip");
  std::vector<v1::Override> many(101, Rule(kDown));
  RequireError(jobs.Create(RequestWith(four, many)).status(),
               absl::StatusCode::kInvalidArgument, "BAD_FIELD",
               "got 101, allowed at most 100");
  v1::CreateJobRequest slow = RequestWith(four, {Rule(kDown, "W8A16")});
  slow.mutable_job()->mutable_target()->set_engine(v1::ENGINE_GPTQMODEL);
  RequireError(jobs.Create(slow).status(),
               absl::StatusCode::kFailedPrecondition, "TARGET_REFUSED");
}

TEST_CASE_METHOD(JobFixture, "a request_id is of a job with its overrides",
                 "[job_overrides]") {
  v1::CreateJobRequest request = MixedRequest(folders, "a");
  request.set_request_id("r");
  const v1::Job made = RequireMade(jobs, request);
  REQUIRE(RequireMade(jobs, request).name() == made.name());
  request.mutable_job()->mutable_overrides()->RemoveLast();
  RequireError(jobs.Create(request).status(), absl::StatusCode::kAlreadyExists,
               "REQUEST_ID_REUSED");
}

TEST_CASE("a job goes on with its overrides in the next process",
          "[job_overrides]") {
  JobFolders folders;
  std::string digest;
  {
    InProcessServer server(JobServerTestOptions(folders));
    JobClient jobs(server.NewChannel());
    digest =
        RequireDone(jobs, MixedRequest(folders, "whole")).summary().digest();
  }
  std::string name;
  {
    InProcessServer server(JobServerTestOptions(folders));
    JobClient jobs(server.NewChannel());
    name = RequireMade(jobs, MixedRequest(folders, "cut")).name();
  }
  InProcessServer server(JobServerTestOptions(folders));
  JobClient jobs(server.NewChannel());
  const v1::Job job = WaitDone(jobs, name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  REQUIRE(job.overrides_size() == 3);
  REQUIRE(job.summary().digest() == digest);
}

}  // namespace
}  // namespace qs::testing
