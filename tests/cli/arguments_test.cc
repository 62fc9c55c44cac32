#include "service/cli/arguments.h"

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
  CHECK(a.streams == 2);
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

TEST_CASE("symmetric and its opposite") {
  auto symmetric = [](const Args& more) {
    const ParsedArguments parsed = ParseArguments(Quantize(more));
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    return parsed.arguments->config.symmetric;
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

TEST_CASE("the other commands") {
  auto command = [](const Args& args) {
    const ParsedArguments parsed = ParseArguments(args);
    INFO(parsed.error);
    REQUIRE(parsed.arguments);
    return *parsed.arguments;
  };
  CHECK(command({"health", "--server", "host:1"}).server.address == "host:1");
  CHECK(command({"capabilities", "--json"}).json);
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
      {Quantize({"--method", "gptq"}), "--method"},
      {Quantize({"--method", "rtn", "--blocksize", "64"}), "--blocksize"},
      {Quantize({"--method", "nf4", "--symmetric"}), "--symmetric"},
      {Quantize({"--method", "rtn", "--symmetric=false"}), "symmetric"},
      {Quantize({"--method", "rtn", "--symmetric", "false"}), "false"},
      {Quantize({"--method", "rtn", "--symmetric", "--asymmetric"}),
       "--asymmetric"},
      {Quantize({"--preset", "NF4", "--streams", "0"}), "--streams"},
      {Quantize({"--preset", "NF4", "--target", "gpu"}), "--target"},
      {{"health", "--tls-key", "k"}, "--tls-cert and --tls-key"},
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
