// Tested by tests/cli/arguments_test.cc.
#include "service/cli/argument_groups.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/base/number_check.h"

namespace qs::cli {

void AddServer(CLI::App* app, ServerArguments* server) {
  const std::string group = "Server";
  app->add_option("--server", server->address, "Where quantd listens")
      ->type_name("HOST:PORT")
      ->capture_default_str()
      ->group(group);
  app->add_option("--tls-ca", server->tls_ca,
                  "PEM file: who may have signed the server's certificate")
      ->type_name("FILE")
      ->group(group);
  app->add_option("--tls-cert", server->tls_cert,
                  "PEM file: this client's certificate chain")
      ->type_name("FILE")
      ->group(group);
  app->add_option("--tls-key", server->tls_key, "PEM file: its private key")
      ->type_name("FILE")
      ->group(group);
  app->add_option("--token-file", server->token_file,
                  "File with this caller's token; without TLS for loopback "
                  "only")
      ->type_name("FILE")
      ->group(group);
}

void AddMethod(CLI::App* app, ConfigArguments* config) {
  const std::string group = "Method: a preset, a method, or a preset changed";
  app->add_option("--preset", config->preset,
                  "NF4, W4A16, W4A16-gptq, W4A16-awq, HQQ-3, ...: see "
                  "capabilities")
      ->type_name("NAME")
      ->group(group);
  app->add_option("--method", config->method,
                  absl::StrJoin(MethodNames(), ", "))
      ->type_name("NAME")
      ->check(OneOf(MethodNames()))
      ->group(group);
  app->add_option("--profile", config->profile,
                  "best: lower error [yes]; reference: the library's own bits")
      ->type_name("NAME")
      ->check(OneOf({"reference", "best"}))
      ->group(group);
  app->add_option(
         "--format", config->format,
         absl::StrCat("of the output: ", absl::StrJoin(FormatWords(), ", "),
                      " [compressed-tensors; nf4 bitsandbytes]"))
      ->type_name("NAME")
      ->check(OneOf(FormatWords()))
      ->group(group);
  app->add_option("--config", config->config_file,
                  "JSON of a QuantizationConfig; flags win over it")
      ->type_name("FILE")
      ->group(group);
  AddMethodOptions(app, &config->options, "Options of the methods");
}

void AddGlobs(CLI::App* app, ConfigArguments* config,
              const std::string& group) {
  app->add_option("--include", config->include,
                  "Tensors by name; repeat for more [all]")
      ->type_name("GLOB")
      ->allow_extra_args(false)
      ->group(group);
  app->add_option("--exclude", config->exclude, "Wins over --include")
      ->type_name("GLOB")
      ->allow_extra_args(false)
      ->group(group);
}

void AddSelection(CLI::App* app, ConfigArguments* config) {
  const std::string group = "Selection and target";
  AddGlobs(app, config, group);
  app->add_option(
         "--override", config->overrides,
         "GLOB=skip, GLOB=PRESET or GLOB={JSON of a "
         "QuantizationConfig}: tensors\nthat are done otherwise; repeat "
         "for more, the first that matches holds")
      ->type_name("RULE")
      ->allow_extra_args(false)
      ->check(CLI::Validator(
          [](const std::string& text) {
            const auto rule = ParseOverride(text);
            return rule.ok() ? std::string()
                             : std::string(rule.status().message());
          },
          ""))
      ->group(group);
  app->add_option(
         "--target", config->target,
         absl::StrCat("Engine that will load the result; its rules are "
                      "checked:\n",
                      absl::StrJoin(TargetWords(), ", ")))
      ->type_name("NAME")
      ->check(OneOf(TargetWords()))
      ->group(group);
  app->add_option("--tensor-parallel", config->tensor_parallel,
                  "1 to 4096 ranks that will share the weights [1]")
      ->type_name("N")
      ->check(NumberBetween(1, 4096))
      ->group(group);
}

void AddCalibration(CLI::App* app, std::string* path) {
  app->add_option("--calibration", *path,
                  "Second moments of the inputs: for gptq and awq, and for the "
                  "output error of any method")
      ->type_name("FILE");
}

void AddStreams(CLI::App* app, RunArguments* run) {
  app->add_option("--streams", run->streams,
                  "1 to 64 streams at once, a connection each [2]")
      ->type_name("N")
      ->check(NumberBetween(1, kMaxStreams));
}

}  // namespace qs::cli
