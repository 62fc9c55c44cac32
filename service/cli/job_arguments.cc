// Tested by tests/cli/arguments_test.cc and tests/e2e/quantctl_jobs_test.py.
#include "service/cli/job_arguments.h"

#include <cctype>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "service/access/file_uri.h"
#include "service/base/number_check.h"
#include "service/cli/argument_groups.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

CLI::App* Add(CLI::App* jobs, Arguments* a, Command command, const char* name,
              const char* description, const char* exit_codes) {
  CLI::App* app = jobs->add_subcommand(name, description);
  app->footer(exit_codes);
  app->callback([a, command] { a->command = command; });
  app->add_flag("--json", a->json, "JSON on standard output");
  return app;
}

void AddName(CLI::App* app, Arguments* a) {
  app->add_option_function<std::string>(
         "JOB", [a](const std::string& text) { a->job.name = JobNameOf(text); },
         "ID or projects/PROJECT/jobs/ID")
      ->type_name("")
      ->required();
}

void AddUri(CLI::App* app, const char* flag, std::string* uri, const char* type,
            const char* help, bool required) {
  app->add_option_function<std::string>(
         flag, [uri](const std::string& text) { *uri = UriOf(text); }, help)
      ->type_name(type)
      ->required(required);
}

void AddCalibrations(CLI::App* app, JobArguments* job) {
  AddUri(app, "--calibration", &job->calibration, "URI",
         "Second moments of the inputs, a file of the server's", false);
  CLI::Option* name =
      app->add_option_function<std::string>(
             "--calibration-name",
             [job](const std::string& text) {
               job->calibration_name = CalibrationNameOf(text);
             },
             "The same, a calibration that the server keeps; the job waits "
             "until it is sealed")
          ->type_name("NAME")
          ->excludes("--calibration");
  app->add_flag("--delete-calibration", job->delete_calibration,
                "Delete that calibration when the job succeeded")
      ->needs(name);
}

void AddSource(CLI::App* app, JobArguments* job) {
  CLI::Option* const source =
      app->add_option_function<std::string>(
             "SOURCE",
             [job](const std::string& text) { job->source = UriOf(text); },
             "Checkpoint directory or .safetensors file of the server's, a "
             "path or file URI")
          ->type_name("");
  CLI::Option* const tensors =
      app->add_option("--tensors", job->tensors,
                      "In place of it: uploaded tensors whose names match")
          ->type_name("GLOB")
          ->excludes(source);
  app->add_option("--model-config", job->model_config,
                  "Their model's config.json, a file of yours")
      ->type_name("FILE")
      ->needs(tensors);
}

void AddCreate(CLI::App* app, Arguments* a) {
  AddSource(app, &a->job);
  AddUri(app, "-o,--output", &a->job.destination, "URI",
         "The directory that the server makes [its store keeps the result, for "
         "jobs result]",
         false);
  AddCalibrations(app, &a->job);
  app->add_option("--priority", a->job.priority,
                  "batch, normal [yes], interactive or urgent")
      ->type_name("NAME")
      ->check(OneOf(PriorityWords()));
  app->add_option("--queue-timeout", a->job.queue_timeout,
                  "Seconds in the queue, then it fails [none]")
      ->type_name("S")
      ->check(NumberBetween(1, 1e9));
  app->add_option("--execution-timeout", a->job.execution_timeout,
                  "Seconds of one attempt, then it fails [none]")
      ->type_name("S")
      ->check(NumberBetween(1, 1e9));
  app->add_option("--label", a->job.labels, "Repeat for more")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  app->add_option("--request-id", a->job.request_id,
                  "The same id gives the same job again [a fresh one]")
      ->type_name("TEXT");
  app->add_flag("--validate-only", a->job.validate_only,
                "Show the plan and make nothing");
  app->add_flag("--wait", a->job.wait, "Watch it to its end");
  AddMethod(app, &a->config);
  AddSelection(app, &a->config);
  AddServer(app, &a->server);
}

}  // namespace

std::vector<std::string> PriorityWords() {
  return {"batch", "normal", "interactive", "urgent"};
}

v1::Job::Priority PriorityOf(const std::string& word) {
  std::string name = word;
  for (char& c : name) {
    c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  v1::Job::Priority priority = v1::Job::PRIORITY_UNSPECIFIED;
  v1::Job::Priority_Parse(name, &priority);
  return priority;
}

std::string UriOf(const std::string& text) {
  return absl::StartsWith(text, "/") ? FileUriOf(text) : text;
}

std::string JobNameOf(const std::string& text) {
  return absl::StrContains(text, "/") ? text : "projects/-/jobs/" + text;
}

std::string CalibrationNameOf(const std::string& text) {
  return absl::StrContains(text, "/") ? text
                                      : "projects/-/calibrations/" + text;
}

void AddJobs(CLI::App* root, Arguments* a, const char* exit_codes) {
  CLI::App* jobs = root->add_subcommand(
      "jobs", "Work that the server does by itself, on files of its own");
  jobs->footer(exit_codes);
  jobs->require_subcommand(1);
  AddCreate(Add(jobs, a, Command::kJobsCreate, "create",
                "Plans a job and puts it in the queue", exit_codes),
            a);
  CLI::App* list = Add(jobs, a, Command::kJobsList, "list",
                       "Jobs of the project, newest first", exit_codes);
  list->add_option(
          "--filter", a->job.filter,
          "\"state=RUNNING labels.KEY=VALUE create_time>2026-11-01T00:00:00Z\"")
      ->type_name("TERMS");
  list->add_option("--limit", a->job.limit, "Jobs shown at most [50]")
      ->type_name("N")
      ->check(NumberBetween(1, 1'000'000));
  AddServer(list, &a->server);
  struct OfOne {
    Command command;
    const char* name;
    const char* description;
  };
  for (const OfOne& one :
       {OfOne{Command::kJobsGet, "get", "Shows a job"},
        OfOne{Command::kJobsCancel, "cancel", "Stops a job"},
        OfOne{Command::kJobsDelete, "delete",
              "Forgets a job that is done; its output stays, a result in the "
              "server's store is deleted"},
        OfOne{Command::kJobsWatch, "watch", "Shows a job until it is done"},
        OfOne{Command::kJobsResult, "result",
              "Makes a directory of a result in the server's store; waits for "
              "the job, and a second run goes on where the first one ended"}}) {
    CLI::App* app =
        Add(jobs, a, one.command, one.name, one.description, exit_codes);
    AddName(app, a);
    if (one.command == Command::kJobsResult) {
      app->add_option("OUT", a->output, "The directory, which is not there yet")
          ->type_name("")
          ->required()
          ->check(NotEmpty("the name of a directory"));
    }
    AddServer(app, &a->server);
  }
}

}  // namespace qs::cli
