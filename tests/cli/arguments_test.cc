#include "service/cli/arguments.h"

#include "absl/strings/str_cat.h"
#include "quant/quant_spec.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Args = std::vector<std::string>;

Args Quantize(const Args& more) {
  Args args = {"quantize", "in", "-o", "out"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

TEST_CASE("a preset alone is a configuration") {
  const ParsedArguments parsed = ParseArguments(Quantize(
      {"--preset", "W4A16", "--target", "vllm", "--tensor-parallel", "2"}));
  INFO(parsed.error);
  REQUIRE(parsed.arguments);
  const Arguments& a = *parsed.arguments;
  CHECK(a.command == Command::kQuantize);
  CHECK(a.input == "in");
  CHECK(a.output == "out");
  CHECK(a.run.streams == 2);
  CHECK(a.server.address == "127.0.0.1:50051");
  const v1::QuantizationConfig config = QuantizationOf(a.config);
  CHECK(config.preset() == "W4A16");
  CHECK(config.method_case() == v1::QuantizationConfig::METHOD_NOT_SET);
  CHECK_FALSE(config.has_profile());
  CHECK(TargetOf(a.config).engine() == v1::VLLM);
  CHECK(TargetOf(a.config).tensor_parallel() == 2);
}

TEST_CASE("a method carries only the options that were given") {
  ParsedArguments parsed =
      ParseArguments(Quantize({"--method", "nf4", "--blocksize", "128",
                               "--double-quant", "--profile", "reference"}));
  INFO(parsed.error);
  REQUIRE(parsed.arguments);
  v1::QuantizationConfig config = QuantizationOf(parsed.arguments->config);
  CHECK(config.nf4().block_size() == 128);
  CHECK(config.nf4().double_quant());
  CHECK_FALSE(config.nf4().has_codebook());
  CHECK(config.profile() == v1::REFERENCE);

  parsed = ParseArguments(
      Quantize({"--method", "rtn", "--group-size", "-1", "--asymmetric"}));
  INFO(parsed.error);
  REQUIRE(parsed.arguments);
  config = QuantizationOf(parsed.arguments->config);
  CHECK(config.rtn().group_size() == -1);
  CHECK(config.rtn().has_symmetric());
  CHECK_FALSE(config.rtn().symmetric());
  CHECK_FALSE(config.rtn().has_bits());
}

TEST_CASE("every option of a method is a flag") {
  struct Case {
    std::string method;
    Args flags;
    std::string json;  // what the method's config then says
  };
  const Case cases[] = {
      {"nf4",
       {"--blocksize", "128", "--double-quant", "--codebook", "fp4", "--rule",
        "cpu"},
       "codebook: FP4 block_size: 128 double_quant: true rule: CPU"},
      {"gptq",
       {"--bits", "3", "--group-size", "64", "--asymmetric", "--order",
        "act-order-static", "--damping", "0.02", "--range-search", "mse",
        "--range-norm", "2", "--sweeps", "0", "--no-scale-refit"},
       "bits: 3 group_size: 64 symmetric: false order: ACT_ORDER_STATIC "
       "damping: 0.02 range_search: MSE range_norm: 2 sweeps: 0 "
       "scale_refit: false"},
      {"awq",
       {"--bits", "4", "--group-size", "-1", "--symmetric", "--grid", "10",
        "--no-duo", "--no-clip", "--max-scale-ratio", "0", "--solve-codes",
        "--damping", "0.05"},
       "bits: 4 group_size: -1 symmetric: true grid: 10 duo_scaling: false "
       "clip: false max_scale_ratio: 0 solve_codes: true damping: 0.05"},
      {"hqq",
       {"--bits", "2", "--group-size", "16", "--axis", "0", "--iterations",
        "5"},
       "bits: 2 group_size: 16 axis: 0 iterations: 5"},
  };
  for (const Case& c : cases) {
    Args args = {"--method", c.method};
    args.insert(args.end(), c.flags.begin(), c.flags.end());
    const ParsedArguments parsed = ParseArguments(Quantize(args));
    INFO(c.method << " " << parsed.error);
    REQUIRE(parsed.arguments);
    const v1::QuantizationConfig config =
        QuantizationOf(parsed.arguments->config);
    CHECK(config.ShortDebugString() == c.method + " { " + c.json + " }");
  }
}

TEST_CASE("help names every default of damping") {
  const double best = DefaultGptqSpec(Profile::kBest).damping;
  const double awq = DefaultAwqSpec(Profile::kBest).damping;
  CHECK(DefaultAwqSpec(Profile::kReference).damping == awq);
  const std::string defaults = absl::StrCat(
      "[", best, "; with reference ",
      DefaultGptqSpec(Profile::kReference).damping, "; awq ", awq, "]");
  INFO(defaults);
  CHECK(ParseArguments({"quantize", "--help"}).out.find(defaults) !=
        std::string::npos);
}

TEST_CASE("no option of any method lacks a flag") {
  const std::string help = ParseArguments({"quantize", "--help"}).out;
  for (const std::string& method : MethodNames()) {
    const auto* config = v1::QuantizationConfig::descriptor()
                             ->FindFieldByName(method)
                             ->message_type();
    for (int i = 0; i < config->field_count(); ++i) {
      MethodOptions options;
      options[config->field(i)->name()] = int64_t{1};
      // An option without a flag is nobody's, and so is never refused.
      const bool known = !CheckMethodOptions(options, "").ok();
      INFO(method << "." << config->field(i)->name());
      CHECK(known);
    }
  }
  for (const char* flag : {"--format", "--config", "--calibration",
                           "--fail-on-warning", "--skip-error-report"}) {
    CHECK(help.find(flag) != std::string::npos);
  }
}

TEST_CASE("a file says the same as flags, and flags win") {
  const absl::StatusOr<v1::QuantizationConfig> file = ParseConfigFile(
      R"({"gptq": {"bits": 3, "order": "GROUP_AWARE", "damping": 0.5},
          "profile": "REFERENCE", "format": "GPTQ_V2"})",
      "c.json");
  INFO(file.status().ToString());
  REQUIRE(file.ok());
  ConfigArguments config;
  config.file = *file;
  CHECK(CheckConfig(config).ok());
  CHECK(QuantizationOf(config).SerializeAsString() ==
        file->SerializeAsString());

  config.method = "gptq";
  config.options["bits"] = int64_t{2};
  config.profile = "best";
  config.format = "gptq";
  CHECK(CheckConfig(config).ok());
  CHECK(QuantizationOf(config).ShortDebugString() ==
        "gptq { bits: 2 order: GROUP_AWARE damping: 0.5 } profile: BEST "
        "format: GPTQ_V1");

  config.method = "awq";
  CHECK_FALSE(CheckConfig(config).ok());
  config.method.clear();
  config.options["grid"] = int64_t{2};
  CHECK_FALSE(CheckConfig(config).ok());
  for (const char* bad :
       {"[]", "{", R"({"gptq": {"bit": 3}})", R"({"gptq": {"bits": "3"}})",
        R"({"gptq": {}, "awq": {}})", R"({"gptq": {"order": "ANY"}})"}) {
    const absl::Status status = ParseConfigFile(bad, "c.json").status();
    INFO(bad << ": " << status.ToString());
    CHECK(status.code() == absl::StatusCode::kInvalidArgument);
    CHECK(std::string(status.message()).find("c.json") != std::string::npos);
  }
}

TEST_CASE("symmetric and its opposite") {
  auto symmetric = [](const Args& more) -> std::optional<bool> {
    const ParsedArguments parsed = ParseArguments(Quantize(more));
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    const MethodOptions& options = parsed.arguments->config.options;
    const auto found = options.find("symmetric");
    if (found == options.end()) return std::nullopt;
    return std::get<bool>(found->second);
  };
  CHECK(symmetric({"--method", "rtn"}) == std::nullopt);
  CHECK(symmetric({"--method", "rtn", "--symmetric"}) == true);
  CHECK(symmetric({"--method", "rtn", "--asymmetric"}) == false);
}

TEST_CASE("a preset is changed by a method's options") {
  auto config = [](const Args& more) {
    const ParsedArguments parsed = ParseArguments(Quantize(more));
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    return parsed.arguments->config;
  };
  v1::QuantizationConfig w4;
  w4.mutable_rtn()->set_bits(4);
  w4.mutable_rtn()->set_group_size(128);
  w4.mutable_rtn()->set_symmetric(true);
  w4.set_profile(v1::BEST);
  w4.set_format(v1::COMPRESSED_TENSORS);

  CHECK_FALSE(ChangesPreset(config({"--preset", "W4A16"})));
  CHECK_FALSE(
      ChangesPreset(config({"--preset", "W4A16", "--profile", "reference"})));
  CHECK_FALSE(ChangesPreset(config({"--method", "rtn", "--bits", "3"})));

  ConfigArguments flags = config(
      {"--preset", "W4A16", "--group-size", "32", "--profile", "reference"});
  CHECK(ChangesPreset(flags));
  absl::StatusOr<v1::QuantizationConfig> changed = ChangedPreset(flags, w4);
  REQUIRE(changed.ok());
  v1::QuantizationConfig expected = w4;
  expected.mutable_rtn()->set_group_size(32);
  expected.set_profile(v1::REFERENCE);
  CHECK(changed->SerializeAsString() == expected.SerializeAsString());

  flags = config({"--preset", "W4A16", "--method", "rtn"});
  CHECK(ChangesPreset(flags));
  changed = ChangedPreset(flags, w4);
  REQUIRE(changed.ok());
  CHECK(changed->SerializeAsString() == w4.SerializeAsString());

  CHECK_FALSE(
      ChangedPreset(config({"--preset", "W4A16", "--method", "nf4"}), w4).ok());
  CHECK_FALSE(
      ChangedPreset(config({"--preset", "W4A16", "--blocksize", "64"}), w4)
          .ok());
}

TEST_CASE("a changed preset leaves how hard to solve to the profile") {
  const ParsedArguments parsed = ParseArguments(
      Quantize({"--preset", "W4A16-gptq", "--profile", "reference",
                "--group-size", "32", "--sweeps", "3"}));
  INFO(parsed.error);
  REQUIRE(parsed.arguments);
  v1::QuantizationConfig preset;
  preset.mutable_gptq()->set_bits(4);
  preset.mutable_gptq()->set_group_size(128);
  preset.mutable_gptq()->set_symmetric(true);
  preset.mutable_gptq()->set_sweeps(10);
  preset.mutable_gptq()->set_damping(0.01);
  preset.set_profile(v1::BEST);
  const auto changed = ChangedPreset(parsed.arguments->config, preset);
  REQUIRE(changed.ok());
  CHECK(changed->ShortDebugString() ==
        "gptq { bits: 4 group_size: 32 symmetric: true sweeps: 3 } "
        "profile: REFERENCE");
}

TEST_CASE("globs repeat and do not swallow what follows") {
  const ParsedArguments parsed = ParseArguments(
      {"plan", "--preset", "NF4", "--include", "*.mlp.*", "--include", "*q*",
       "--exclude", "lm_head*", "in", "--json"});
  INFO(parsed.error);
  REQUIRE(parsed.arguments);
  CHECK(parsed.arguments->command == Command::kPlan);
  CHECK(parsed.arguments->input == "in");
  CHECK(parsed.arguments->json);
  CHECK(parsed.arguments->config.include == Args{"*.mlp.*", "*q*"});
  CHECK(parsed.arguments->config.exclude == Args{"lm_head*"});
}

TEST_CASE("a plan alone is that of a usual preset") {
  for (const Args& args : {Args{"plan", "in"}, {"plan", "in", "--bits", "3"}}) {
    const ParsedArguments parsed = ParseArguments(args);
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    CHECK(parsed.arguments->preset_assumed);
    CHECK(PresetOf(parsed.arguments->config) == "W4A16");
  }
  for (const Args& args : {Args{"plan", "in", "--preset", "NF4"},
                           {"plan", "in", "--method", "nf4"},
                           {"plan", "in", "--config", "file"}}) {
    const ParsedArguments parsed = ParseArguments(args);
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    CHECK_FALSE(parsed.arguments->preset_assumed);
    CHECK(PresetOf(parsed.arguments->config) != "W4A16");
  }
}

TEST_CASE("the other commands") {
  auto command = [](const Args& args) {
    const ParsedArguments parsed = ParseArguments(args);
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    return *parsed.arguments;
  };
  CHECK(command({"health", "--server", "host:1"}).server.address == "host:1");
  CHECK(command({"capabilities", "--json"}).json);
  const Arguments compare =
      command({"compare", "in", "--calibration", "c", "--group-size", "-1"});
  CHECK(compare.command == Command::kCompare);
  CHECK(compare.calibration == "c");
  CHECK(compare.compare.bits == 4);
  CHECK(compare.compare.group_size == -1);
  CHECK(command({"report", "a.json", "--html", "b"}).html_file == "b");
}

TEST_CASE("usage errors name the flag and have exit code 2") {
  struct Case {
    Args args;
    std::string says;
  };
  const Case cases[] = {
      {{}, "A subcommand is required"},
      {{"shrink"}, "shrink"},
      {{"quantize", "in", "--preset", "NF4"}, "--output"},
      {Quantize({}), "--preset and --method: got none"},
      {Quantize({"--method", "gguf"}), "--method"},
      {Quantize({"--method", "rtn", "--sweeps", "3"}),
       "--sweeps: got it with method rtn, allowed with gptq"},
      {Quantize({"--method", "hqq", "--damping", "0.1"}), "gptq, awq"},
      {Quantize({"--method", "gptq", "--order", "any"}), "--order"},
      {Quantize({"--method", "gptq", "--format", "gguf"}), "--format"},
      {{"compare", "in", "--bits", "9"}, "--bits"},
      {Quantize({"--method", "rtn", "--blocksize", "64"}), "--blocksize"},
      {Quantize({"--method", "nf4", "--symmetric"}), "--symmetric"},
      {Quantize({"--method", "rtn", "--symmetric=false"}), "symmetric"},
      {Quantize({"--method", "rtn", "--symmetric", "false"}), "false"},
      {Quantize({"--method", "rtn", "--symmetric", "--asymmetric"}),
       "--asymmetric"},
      {Quantize({"--preset", "NF4", "--streams", "0"}),
       "quantctl: --streams: got \"0\", allowed 1 to 64 ("},
      {{"jobs", "create", "in", "--preset", "NF4", "--queue-timeout", "0.5"},
       "--queue-timeout: got \"0.5\", allowed 1 to 1000000000 ("},
      {Quantize({"--preset", "NF4", "--override", "x"}),
       "quantctl: --override: got \"x\", allowed GLOB=skip"},
      {Quantize({"--preset", "NF4", "--override", "a*={\"bad\": 1}"}),
       "quantctl: --override: a*: got key \"bad\""},
      {{"quantize", "in", "-o", "", "--preset", "NF4"},
       "quantctl: --output: got \"\", allowed the name of a directory"},
      {Quantize({"--preset", "NF4", "--json", ""}),
       "quantctl: --json: got \"\", allowed the name of a file"},
      {{"report", "r.json", "--html", ""}, "--html: got \"\""},
      {{"calibration", "merge", "", "a", "b"}, "OUT: got \"\""},
      {{"calibrate", "export", "a", "-o", ""}, "--output: got \"\""},
      {{"jobs", "result", "j", ""}, "OUT: got \"\""},
      {Quantize({"--preset", "NF4", "--target", "gpu"}), "--target"},
      {{"health", "--server", ""}, "--server: got \"\", allowed HOST:PORT"},
      {{"health", "--tls-key", "k"}, "--tls-cert and --tls-key"},
      {Quantize({"--preset", "NF4", "--include", "a\xff*"}),
       "--include: got \"a\\xff*\", allowed UTF-8"},
      {{"plan", "in", "--preset", "NF4", "--exclude", "\xc3"},
       "--exclude: got \"\\xc3\", allowed UTF-8"},
  };
  for (const Case& c : cases) {
    const ParsedArguments parsed = ParseArguments(c.args);
    INFO(parsed.error);
    CHECK_FALSE(parsed.arguments);
    CHECK(parsed.exit_code == 2);
    CHECK(parsed.error.find(c.says) != std::string::npos);
  }
}

TEST_CASE("help and version end with exit code 0") {
  for (const Args& args :
       {Args{"--help"}, Args{"--version"}, Args{"quantize", "--help"}}) {
    const ParsedArguments parsed = ParseArguments(args);
    CHECK_FALSE(parsed.arguments);
    CHECK(parsed.exit_code == 0);
    CHECK(parsed.out.find("quantctl") != std::string::npos);
  }
}

}  // namespace
}  // namespace qs::cli
