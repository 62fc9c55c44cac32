// Tested by tests/cli/arguments_test.cc.
#include "service/cli/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"

namespace qs::cli {
namespace {

constexpr char kExitCodes[] =
    "Exit codes:\n"
    "  0    done\n"
    "  1    unexpected: a bug, or a server that breaks its contract\n"
    "  2    usage: a flag or a value is wrong\n"
    "  3    refused by the plan: the engine would not load the result, or the\n"
    "       checkpoint is quantized already; no weight was sent\n"
    "  4    server not reachable, lost, or too busy\n"
    "  5    bad input: malformed files, NaN or infinity in a tensor\n"
    "  6    output: exists, not writable, or the disk is full\n"
    "  130  ended by SIGINT; 143: by SIGTERM or SIGHUP\n"
    "After every code but 0 nothing is left of the output (a report file that\n"
    "cannot be written, code 6, leaves the complete output).";

constexpr char kExample[] =
    "Example:\n"
    "  quantctl quantize llama -o llama-W4A16 --preset W4A16 --target vllm\n\n";

// The checks' own descriptions would stand beside the type's name in --help.
CLI::Validator OneOf(const std::vector<std::string>& values) {
  CLI::Validator check = CLI::IsMember(values);
  return check.description("");
}

CLI::Validator Between(int low, int high) {
  CLI::Validator check = CLI::Range(low, high);
  return check.description("");
}

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
}

void AddMethodOptions(CLI::App* app, ConfigArguments* config,
                      const std::string& group) {
  app->add_option("--blocksize", config->block_size,
                  "nf4: weights that share one absmax, 32 to 4096 [64]")
      ->type_name("N")
      ->group(group);
  app->add_flag("--double-quant", config->double_quant, "nf4: absmax in 8 bits")
      ->group(group);
  app->add_option("--group-size", config->group_size,
                  "rtn: weights that share one scale; -1 is a row [128]")
      ->type_name("N")
      ->group(group);
  app->add_option("--bits", config->bits, "rtn: 2 to 8 [4]")
      ->type_name("N")
      ->group(group);
  CLI::Option* symmetric = app->add_flag_callback(
      "--symmetric", [config] { config->symmetric = true; },
      "rtn: codes around zero [yes]");
  symmetric->disable_flag_override()->group(group);
  app->add_flag_callback(
         "--asymmetric", [config] { config->symmetric = false; },
         "rtn: codes with a zero point")
      ->disable_flag_override()
      ->excludes(symmetric)
      ->group(group);
}

void AddMethod(CLI::App* app, ConfigArguments* config) {
  const std::string group = "Method: a preset, a method, or a preset changed";
  app->add_option("--preset", config->preset,
                  "NF4, NF4-dq, FP4, W4A16 or W8A16 (see capabilities)")
      ->type_name("NAME")
      ->group(group);
  app->add_option("--method", config->method, "nf4 or rtn")
      ->type_name("NAME")
      ->check(OneOf({"nf4", "rtn"}))
      ->group(group);
  app->add_option("--profile", config->profile,
                  "best: lower error [yes]; reference: the library's own bits")
      ->type_name("NAME")
      ->check(OneOf({"reference", "best"}))
      ->group(group);
  AddMethodOptions(app, config, group);
}

void AddSelection(CLI::App* app, ConfigArguments* config) {
  const std::string group = "Selection and target";
  app->add_option("--include", config->include,
                  "Tensors by name; repeat for more [all]")
      ->type_name("GLOB")
      ->allow_extra_args(false)
      ->group(group);
  app->add_option("--exclude", config->exclude, "Wins over --include")
      ->type_name("GLOB")
      ->allow_extra_args(false)
      ->group(group);
  app->add_option("--target", config->target,
                  "Engine that will load the result; its rules are checked:\n"
                  "vllm, transformers or bitsandbytes")
      ->type_name("NAME")
      ->check(OneOf({"vllm", "transformers", "bitsandbytes"}))
      ->group(group);
  app->add_option("--tensor-parallel", config->tensor_parallel,
                  "1 to 4096 ranks that will share the weights [1]")
      ->type_name("N")
      ->check(Between(1, 4096))
      ->group(group);
}

void AddInput(CLI::App* app, Arguments* a) {
  app->add_option("IN", a->input, "Checkpoint directory or .safetensors file")
      ->type_name("")
      ->required();
}

CLI::App* AddCommand(CLI::App* root, Arguments* a, Command command,
                     const char* name, const char* description) {
  CLI::App* app = root->add_subcommand(name, description);
  app->footer(kExitCodes);
  app->callback([a, command] { a->command = command; });
  return app;
}

void AddQuantize(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(root, a, Command::kQuantize, "quantize",
                             "Quantizes a checkpoint");
  AddInput(app, a);
  app->add_option("-o,--output", a->output,
                  "A directory for a directory, a file for a file")
      ->type_name("OUT")
      ->required();
  app->add_option("--json", a->json_file, "Where to put the whole report")
      ->type_name("FILE");
  app->add_flag("--overwrite", a->overwrite, "Replace what OUT names");
  app->add_option("--streams", a->streams,
                  "1 to 64 streams at once, a connection each [2]")
      ->type_name("N")
      ->check(Between(1, kMaxStreams));
  AddMethod(app, &a->config);
  AddSelection(app, &a->config);
  AddServer(app, &a->server);
}

void AddPlan(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(root, a, Command::kPlan, "plan",
                             "Says what quantize would do; sends no weight");
  AddInput(app, a);
  app->add_flag("--json", a->json, "JSON on standard output");
  AddMethod(app, &a->config);
  AddSelection(app, &a->config);
  AddServer(app, &a->server);
}

void AddReport(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(root, a, Command::kReport, "report",
                             "Shows what quantize --json wrote");
  app->add_option("FILE", a->input, "The report")->type_name("")->required();
  app->add_option("--html", a->html_file,
                  "Where to put one self-contained page with charts")
      ->type_name("FILE");
}

void AddInfo(CLI::App* root, Arguments* a) {
  CLI::App* app =
      AddCommand(root, a, Command::kCapabilities, "capabilities",
                 "Shows the server's methods, presets, limits and engines");
  app->add_flag("--json", a->json, "JSON on standard output");
  AddServer(app, &a->server);
  AddServer(AddCommand(root, a, Command::kHealth, "health",
                       "Exit code 0 when the server is ready"),
            &a->server);
}

absl::Status Wrong(const std::string& text) {
  return absl::InvalidArgumentError(text);
}

absl::Status CheckMethod(const ConfigArguments& c) {
  if (c.preset.empty() && c.method.empty()) {
    return Wrong(
        "--preset and --method: got none, allowed one of them or both");
  }
  return c.method.empty() ? absl::OkStatus() : CheckMethodOptions(c, c.method);
}

absl::Status Check(const Arguments& a) {
  if (a.server.tls_cert.empty() != a.server.tls_key.empty()) {
    return Wrong(
        "--tls-cert and --tls-key: got one of them, allowed both or none");
  }
  const bool configured =
      a.command == Command::kQuantize || a.command == Command::kPlan;
  return configured ? CheckMethod(a.config) : absl::OkStatus();
}

ParsedArguments Refuse(const std::string& text) {
  ParsedArguments parsed;
  parsed.exit_code = 2;
  parsed.error = absl::StrCat("quantctl: ", text, " (see quantctl --help)\n");
  return parsed;
}

}  // namespace

ParsedArguments ParseArguments(const std::vector<std::string>& args) {
  Arguments arguments;
  CLI::App app("quantctl: quantizes checkpoints with a quantd server",
               "quantctl");
  app.set_version_flag("--version", std::string("quantctl ") + kVersion);
  app.require_subcommand(1);
  app.footer(std::string(kExample) + kExitCodes);
  AddQuantize(&app, &arguments);
  AddPlan(&app, &arguments);
  AddReport(&app, &arguments);
  AddInfo(&app, &arguments);
  // The parser itself only says that a command is missing.
  const std::vector<std::string> names = {"quantize", "plan", "report",
                                          "capabilities", "health"};
  if (!args.empty() && !args[0].starts_with("-") &&
      std::find(names.begin(), names.end(), args[0]) == names.end()) {
    return Refuse(absl::StrCat("command: got \"", args[0], "\", allowed ",
                               absl::StrJoin(names, ", ")));
  }
  try {
    std::vector<std::string> reversed(args.rbegin(), args.rend());
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& e) {
    std::ostringstream text;
    std::ostringstream error;
    if (app.exit(e, text, error) != 0) return Refuse(e.what());
    ParsedArguments help;
    help.out = text.str();
    return help;
  }
  const absl::Status status = Check(arguments);
  if (!status.ok()) return Refuse(std::string(status.message()));
  ParsedArguments parsed;
  parsed.arguments = std::move(arguments);
  return parsed;
}

}  // namespace qs::cli
