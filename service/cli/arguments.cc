// Tested by tests/cli/arguments_test.cc.
#include "service/cli/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <initializer_list>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"
#include "quant/formats/utf8.h"
#include "service/base/number_check.h"
#include "service/cli/argument_groups.h"
#include "service/cli/job_arguments.h"

namespace qs::cli {
namespace {

constexpr char kExitCodes[] =
    "Exit codes:\n"
    "  0    done\n"
    "  1    unexpected: a bug, or a server that breaks its contract\n"
    "  2    usage: a flag or a value is wrong\n"
    "  3    refused by the plan: the engine would not load the result, the\n"
    "       checkpoint is quantized already, or above the server's limits; no\n"
    "       weight was sent\n"
    "  4    server not reachable, lost, too busy, or closed to this caller\n"
    "  5    bad input: malformed files, NaN or infinity in a tensor, a\n"
    "       calibration that cannot be used, or values that the format has\n"
    "       no room for\n"
    "  6    output: exists, would replace an input, not writable, or the disk\n"
    "       is full\n"
    "  7    done, but a tensor's report has a warning and --fail-on-warning\n"
    "       was given\n"
    "  8    the job failed or was cancelled\n"
    "  130  ended by SIGINT; 143: by SIGTERM or SIGHUP\n"
    "After every code but 0 and 7 nothing is left of the output (a report\n"
    "that cannot be written, code 6, or that a signal ended while a FIFO was\n"
    "not read, leaves the complete output).";

constexpr char kExample[] =
    "Example:\n"
    "  quantctl quantize llama -o llama-W4A16 --preset W4A16 --target vllm\n"
    "  quantctl quantize llama -o llama-gptq --preset W4A16-gptq \\\n"
    "      --calibration llama-moments.safetensors --target vllm\n\n";

void AddInput(CLI::App* app, Arguments* a) {
  app->add_option("IN", a->input, "Checkpoint directory or .safetensors file")
      ->type_name("")
      ->required();
}

constexpr char kFileName[] = "the name of a file";

void AddFileOut(CLI::App* app, const char* flag, std::string* file,
                const char* description) {
  app->add_option(flag, *file, description)
      ->type_name("FILE")
      ->check(NotEmpty(kFileName));
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
      ->required()
      ->check(NotEmpty("the name of a directory or file"));
  AddFileOut(app, "--json", &a->json_file,
             "Where to put the whole report: a file, FIFO or /dev/stdout");
  app->add_flag("--overwrite", a->run.overwrite, "Replace what OUT names");
  AddStreams(app, &a->run);
  AddCalibration(app, &a->calibration);
  app->add_flag("--fail-on-warning", a->run.fail_on_warning,
                "Exit code 7 when a tensor's report has a warning");
  app->add_flag("--skip-error-report", a->run.skip_error_report,
                "No error statistics: faster");
  app->add_flag("--skip-digest", a->run.skip_digest,
                "No SHA-256 of the answer; each piece has its CRC32C anyway");
  AddMethod(app, &a->config);
  AddSelection(app, &a->config);
  AddServer(app, &a->server);
}

void AddPlan(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(root, a, Command::kPlan, "plan",
                             "Says what quantize would do, W4A16 unless told "
                             "otherwise; sends no weight");
  AddInput(app, a);
  app->add_flag("--json", a->json, "JSON on standard output");
  AddMethod(app, &a->config);
  AddSelection(app, &a->config);
  AddServer(app, &a->server);
}

void AddCompare(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(
      root, a, Command::kCompare, "compare",
      "Runs rtn, nf4, hqq, gptq and awq on the tensors; writes no checkpoint");
  AddInput(app, a);
  AddCalibration(app, &a->calibration);
  app->add_option("--bits", a->compare.bits,
                  "2 to 8; a method that lacks it says so [4]")
      ->type_name("N")
      ->check(NumberBetween(2, 8));
  app->add_option(
         "--group-size", a->compare.group_size,
         "Weights that share one scale; -1 is a row, which hqq lacks [128]")
      ->type_name("N");
  app->add_option("--profile", a->config.profile, "best [yes] or reference")
      ->type_name("NAME")
      ->check(OneOf({"reference", "best"}));
  AddGlobs(app, &a->config, "Options");
  AddFileOut(app, "--json", &a->json_file, "Where to put all reports");
  AddFileOut(app, "--html", &a->html_file,
             "Where to put one self-contained page with charts");
  AddStreams(app, &a->run);
  AddServer(app, &a->server);
}

void AddReport(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(root, a, Command::kReport, "report",
                             "Shows what quantize --json wrote");
  app->add_option("FILE", a->input, "The report")->type_name("")->required();
  AddFileOut(app, "--html", &a->html_file,
             "Where to put one self-contained page with charts");
}

void AddUpload(CLI::App* root, Arguments* a) {
  CLI::App* app = AddCommand(root, a, Command::kUpload, "upload",
                             "Brings tensors into the server's store");
  AddInput(app, a);
  AddGlobs(app, &a->config, "Options");
  AddStreams(app, &a->run);
  AddServer(app, &a->server);
}

void AddCalibrationFiles(CLI::App* root, Arguments* a) {
  CLI::App* app =
      root->add_subcommand("calibration", "Works on calibration files");
  app->footer(kExitCodes);
  app->require_subcommand(1);
  CLI::App* merge = AddCommand(app, a, Command::kCalibrationMerge, "merge",
                               "Sums files of one model into another");
  merge->add_option("OUT", a->output, "The file to write")
      ->type_name("")
      ->required()
      ->check(NotEmpty(kFileName));
  merge->add_option("IN", a->inputs, "Two or more files with the same sites")
      ->type_name("")
      ->expected(2, kMaxMergedFiles)
      ->required();
  merge->add_flag("--overwrite", a->run.overwrite, "Replace what OUT names");
  CLI::App* inspect = AddCommand(app, a, Command::kCalibrationInspect,
                                 "inspect", "Shows what a file knows");
  inspect->add_option("FILE", a->input, "The file")->type_name("")->required();
  inspect->add_flag("--json", a->json, "JSON on standard output");
}

void AddCalibrate(CLI::App* root, Arguments* a) {
  CLI::App* app = root->add_subcommand(
      "calibrate", "Works on calibrations that the server keeps");
  app->footer(kExitCodes);
  app->require_subcommand(1);
  CLI::App* upload =
      AddCommand(app, a, Command::kCalibrateUpload, "upload",
                 "Adds a file's sites to a calibration, once, and seals it");
  upload->add_option("FILE", a->input, "The calibration file")
      ->type_name("")
      ->required();
  upload->add_option("--name", a->name, "ID of the calibration")
      ->type_name("NAME")
      ->required();
  upload->add_flag("--keep-open", a->keep_open,
                   "Do not seal it: more is to come");
  AddServer(upload, &a->server);
  CLI::App* out = AddCommand(app, a, Command::kCalibrateExport, "export",
                             "Writes a sealed calibration to a file");
  out->add_option("NAME", a->name, "ID of the calibration")
      ->type_name("")
      ->required();
  out->add_option("-o,--output", a->output, "The file to write")
      ->type_name("FILE")
      ->required()
      ->check(NotEmpty(kFileName));
  out->add_flag("--overwrite", a->run.overwrite, "Replace FILE");
  AddServer(out, &a->server);
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

absl::Status CheckUtf8(const char* flag, const std::string& text) {
  if (IsUtf8(text)) return absl::OkStatus();
  return Wrong(
      absl::StrCat(flag, ": got ", QuoteForError(text), ", allowed UTF-8"));
}

// What goes to the server goes as UTF-8; names of local files may be anything.
absl::Status CheckUtf8(const Arguments& a) {
  const std::initializer_list<std::pair<const char*, const std::string*>> one =
      {{"--preset", &a.config.preset},
       {"--server", &a.server.address},
       {"--name", &a.name},
       {"JOB", &a.job.name},
       {"SOURCE", &a.job.source},
       {"--calibration", &a.job.calibration},
       {"--calibration-name", &a.job.calibration_name},
       {"DESTINATION", &a.job.destination},
       {"--tensors", &a.job.tensors},
       {"--request-id", &a.job.request_id},
       {"--filter", &a.job.filter}};
  for (const auto& [flag, text] : one) {
    QS_RETURN_IF_ERROR(CheckUtf8(flag, *text));
  }
  const std::initializer_list<
      std::pair<const char*, const std::vector<std::string>*>>
      many = {{"--include", &a.config.include},
              {"--exclude", &a.config.exclude},
              {"--label", &a.job.labels}};
  for (const auto& [flag, texts] : many) {
    for (const std::string& text : *texts) {
      QS_RETURN_IF_ERROR(CheckUtf8(flag, text));
    }
  }
  return absl::OkStatus();
}

absl::Status Check(const Arguments& a) {
  QS_RETURN_IF_ERROR(CheckUtf8(a));
  if (a.server.address.empty()) {
    return Wrong("--server: got \"\", allowed HOST:PORT");
  }
  if (a.server.tls_cert.empty() != a.server.tls_key.empty()) {
    return Wrong(
        "--tls-cert and --tls-key: got one of them, allowed both or none");
  }
  if (a.command == Command::kJobsCreate && a.job.source.empty() &&
      a.job.tensors.empty()) {
    return Wrong("SOURCE: got none, allowed one, or --tensors GLOB");
  }
  const bool configured = a.command == Command::kQuantize ||
                          a.command == Command::kPlan ||
                          a.command == Command::kJobsCreate;
  // What a file says is checked when it was read.
  return configured && a.config.config_file.empty() ? CheckConfig(a.config)
                                                    : absl::OkStatus();
}

// What is in a file is not known yet.
void AssumePreset(Arguments* a) {
  ConfigArguments& config = a->config;
  if (a->command != Command::kPlan || !config.preset.empty() ||
      !config.method.empty() || !config.config_file.empty()) {
    return;
  }
  config.preset = kPlanPreset;
  a->preset_assumed = true;
}

ParsedArguments Refuse(const std::string& text) {
  ParsedArguments parsed;
  parsed.exit_code = 2;
  parsed.error = absl::StrCat("quantctl: ", text, " (see quantctl --help)\n");
  return parsed;
}

}  // namespace

std::vector<std::string> FilesRead(const Arguments& a) {
  std::vector<std::string> files = a.inputs;
  for (const std::string* file :
       {&a.input, &a.calibration, &a.config.config_file, &a.job.model_config,
        &a.server.tls_ca, &a.server.tls_cert, &a.server.tls_key,
        &a.server.token_file}) {
    if (!file->empty()) files.push_back(*file);
  }
  return files;
}

ParsedArguments ParseArguments(const std::vector<std::string>& args) {
  Arguments arguments;
  CLI::App app("quantctl: quantizes checkpoints with a quantd server",
               "quantctl");
  app.set_version_flag("--version", std::string("quantctl ") + kVersion);
  app.require_subcommand(1);
  app.footer(std::string(kExample) + kExitCodes);
  AddQuantize(&app, &arguments);
  AddPlan(&app, &arguments);
  AddCompare(&app, &arguments);
  AddReport(&app, &arguments);
  AddUpload(&app, &arguments);
  AddCalibrationFiles(&app, &arguments);
  AddCalibrate(&app, &arguments);
  AddInfo(&app, &arguments);
  AddJobs(&app, &arguments, kExitCodes);
  // The parser itself only says that a command is missing.
  const std::vector<std::string> names = {
      "quantize",    "plan",      "compare",      "report", "upload",
      "calibration", "calibrate", "capabilities", "health", "jobs"};
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
  AssumePreset(&arguments);
  const absl::Status status = Check(arguments);
  if (!status.ok()) return Refuse(std::string(status.message()));
  ParsedArguments parsed;
  parsed.arguments = std::move(arguments);
  return parsed;
}

}  // namespace qs::cli
