// Tested by tests/service/options_test.cc.
#include "service/server/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/access/uri_roots.h"
#include "service/base/number_check.h"
#include "service/server/config_check.h"
#include "service/server/listen_address.h"
#include "service/server/machine.h"
#include "service/server/metrics_server.h"

namespace qs {
namespace {

constexpr int kMaxWorkers = 1024;

absl::Status WorkersError(const std::string& text) {
  return absl::InvalidArgumentError(absl::StrCat(
      "workers: got \"", text,
      "\", allowed one of N and NxT (or cpu:N, "
      "cpu:NxT), N and T from 1 to ",
      kMaxWorkers, ", and gpu:INDEX for each GPU, separated by commas"));
}

absl::StatusOr<int> ParseCount(const std::string& whole,
                               std::string_view text) {
  int value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 ||
      value > kMaxWorkers) {
    return WorkersError(whole);
  }
  return value;
}

// One of the parts between commas.
absl::Status AddWorkers(const std::string& whole, std::string_view part,
                        WorkerLayout* layout) {
  if (part.substr(0, 4) == "gpu:") {
    int index = 0;
    if (part.substr(4) != "0") {
      QS_ASSIGN_OR_RETURN(index, ParseCount(whole, part.substr(4)));
    }
    const auto& gpus = layout->gpus;
    if (std::find(gpus.begin(), gpus.end(), index) != gpus.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "workers: got \"", whole, "\", which names gpu:", index,
          " twice; allowed once (--gpu-lanes is how many tasks it has)"));
    }
    layout->gpus.push_back(index);
    return absl::OkStatus();
  }
  if (part.substr(0, 4) == "cpu:") part.remove_prefix(4);
  if (layout->partitions > 0) return WorkersError(whole);
  const size_t by = part.find('x');
  QS_ASSIGN_OR_RETURN(layout->partitions,
                      ParseCount(whole, part.substr(0, by)));
  if (by != std::string_view::npos) {
    QS_ASSIGN_OR_RETURN(layout->threads,
                        ParseCount(whole, part.substr(by + 1)));
  }
  return absl::OkStatus();
}

void AddAddress(CLI::App* app, ServerOptions* o) {
  const std::string group = "Address and encryption";
  app->add_option("--listen", o->listen,
                  "HOST:PORT or [HOST]:PORT to accept on; port 0 takes a free "
                  "one. Not loopback: needs TLS or --insecure")
      ->group(group);
  app->add_option("--port-file", o->port_file,
                  "File that gets the bound port once the server answers")
      ->group(group);
  app->add_option("--tls-cert", o->tls_cert, "PEM file: certificate chain")
      ->group(group);
  app->add_option("--tls-key", o->tls_key, "PEM file: its private key")
      ->group(group);
  app->add_option("--tls-client-ca", o->tls_client_ca,
                  "PEM file: clients must show a certificate signed by it")
      ->group(group);
  app->add_flag("--insecure", o->insecure,
                "Plaintext on an address that is not loopback")
      ->group(group);
  app->add_option("--access-file", o->access_file,
                  "JSON file: who may call, by token or client certificate; "
                  "read again when it changes. None: everybody")
      ->group(group);
}

void AddConnections(CLI::App* app, ServerOptions* o) {
  const std::string group = "Connections";
  app->add_option("--max-connections", o->max_connections,
                  "Connections open at once; one more is closed at once")
      ->check(NumberBetween(1, 1 << 20))
      ->group(group);
  app->add_option("--max-connection-age", o->max_connection_age,
                  "Seconds, then the client is told to reconnect while its "
                  "streams go on; 0: never")
      ->check(NumberBetween(0, 1e9))
      ->group(group);
  app->add_option("--max-connection-idle", o->max_connection_idle,
                  "Seconds without a call until a connection is closed; 0: "
                  "never")
      ->check(NumberBetween(0, 1e9))
      ->group(group);
  app->add_option("--handshake-timeout", o->handshake_timeout,
                  "Seconds that a new connection may take for TLS and HTTP/2's "
                  "first frames")
      ->check(NumberBetween(0.1, 1e6))
      ->group(group);
  app->add_option("--connection-memory", o->connection_memory,
                  "Bytes that connections may hold: messages on their way, "
                  "calls. Above it streams are ended")
      ->transform(CLI::AsSizeValue(false))
      ->check(NumberBetween(64 << 20, 1e15))
      ->group(group);
  app->add_flag("--bdp-probe", o->bdp_probe,
                "Let windows grow with the round trip: faster for distant "
                "clients, up to 64 MiB more memory a stream")
      ->group(group);
  app->add_flag("--tcp-read-chunks", o->tcp_read_chunks,
                "gRPC's reads in small pieces: slower, a little less memory")
      ->group(group);
}

void AddWork(CLI::App* app, ServerOptions* o, std::string* workers) {
  const std::string group = "Work and memory";
  app->add_option("--workers", *workers,
                  "Who quantizes: N or NxT (or cpu:NxT), N workers on T "
                  "threads each; gpu:0,gpu:1,cpu:4: GPUs and CPUs")
      ->group(group);
  app->add_option("--gpu-lanes", o->gpu_lanes,
                  "Tasks at once of each GPU's worker, each with a thread and "
                  "a CUDA stream: one copies while another's kernels run. Each "
                  "pins 16 MiB of host memory; all share the GPU's memory")
      ->check(NumberBetween(1, 16))
      ->group(group);
  app->add_flag("--exit-when-lost", o->exit_when_lost,
                "Drain and end with code 3 when the last GPU failed and no CPU "
                "worker is there, to be started again")
      ->group(group);
  app->add_option("--memory-budget", o->memory_budget,
                  "Bytes for tensors in flight; streams wait for it")
      ->transform(CLI::AsSizeValue(false))
      ->check(NumberBetween(1 << 20, 1e15))
      ->group(group);
  app->add_option(
         "--max-tensor-bytes", o->max_tensor_bytes,
         "Bytes of one tensor that is sent or uploaded; larger ones are "
         "refused. A job's, which is read where it lies, need only fit "
         "--memory-budget")
      ->transform(CLI::AsSizeValue(false))
      ->check(NumberBetween(1, 1e15))
      ->group(group);
  app->add_option("--max-streams", o->max_streams,
                  "Quantize streams at once; one more is refused")
      ->check(NumberBetween(1, 100000))
      ->group(group);
  app->add_option("--max-open-tensors", o->max_open_tensors,
                  "Tensors of one stream that are begun and not complete")
      ->check(NumberBetween(1, 100000))
      ->group(group);
  app->add_option("--max-plans", o->max_plans,
                  "PlanCheckpoint calls at once; one more is refused")
      ->check(NumberBetween(1, 100000))
      ->group(group);
  app->add_option("--max-plan-tensors", o->max_plan_tensors,
                  "Tensors of one plan")
      ->check(NumberBetween(1, 1e8))
      ->group(group);
  app->add_option("--max-plan-bytes", o->max_plan_bytes,
                  "Bytes of one plan's requests")
      ->transform(CLI::AsSizeValue(false))
      ->check(NumberBetween(1, 1e12))
      ->group(group);
}

void AddData(CLI::App* app, ServerOptions* o) {
  const std::string group = "Kept data";
  app->add_option("--data-dir", o->data_dir,
                  "Directory of this server alone, on a local file system; "
                  "without it nothing is kept: no uploads and no jobs")
      ->group(group);
  app->add_option("--max-store-bytes", o->max_store_bytes,
                  "Bytes of tensors, open uploads, results of jobs without a "
                  "destination, and calibrations together; one more is refused")
      ->transform(CLI::AsSizeValue(false))
      ->check(NumberBetween(1, 1e17))
      ->group(group);
  app->add_option("--max-project-bytes", o->max_project_bytes,
                  "Bytes of one project's tensors, open uploads and stored "
                  "results; calibrations have limits of their own. 0: only "
                  "--max-store-bytes")
      ->transform(CLI::AsSizeValue(false))
      ->check(NumberBetween(0, 1e17))
      ->group(group);
  app->add_option("--upload-expiry", o->upload_expiry,
                  "Seconds after its last byte until an upload that is not "
                  "complete is discarded")
      ->check(NumberBetween(1, 1e9))
      ->group(group);
  app->add_option("--max-tensor-streams", o->max_tensor_streams,
                  "WriteTensor and ReadTensor calls at once, up to 8 MiB of "
                  "memory each, and as many of CalibrationService and of "
                  "ReadResult; one more is refused")
      ->check(NumberBetween(1, 100000))
      ->group(group);
  app->add_option("--io-threads", o->io_threads,
                  "Threads for files, records and hashes")
      ->check(NumberBetween(1, 1024))
      ->group(group);
}

void AddRoots(CLI::App* app, ServerOptions* o) {
  const std::string group = "Files that clients may name";
  app->add_option("--read-root", o->read_roots,
                  "Directory below which file:// URIs may name what is read: "
                  "PATH, or PROJECT=PATH for one project; may be repeated")
      ->default_str("")  // what is printed for none is read as none
      ->group(group);
  app->add_option("--write-root", o->write_roots,
                  "The same for what is written; the same path as a read root, "
                  "or apart from all of them")
      ->default_str("")
      ->group(group);
  app->add_flag("--follow-links", o->follow_links,
                "Read over symbolic links that are relative and stay below "
                "their read root, as in a Hugging Face cache; without it every "
                "link is refused")
      ->group(group);
}

void AddJobs(CLI::App* app, ServerOptions* o) {
  const std::string group = "Jobs";
  app->add_option("--max-running-jobs", o->max_running_jobs,
                  "Jobs at once; they share the workers")
      ->check(NumberBetween(1, 1000))
      ->group(group);
  app->add_option("--max-running-jobs-per-project",
                  o->max_running_jobs_per_project,
                  "Jobs of one project at once; 0: as many as "
                  "--max-running-jobs")
      ->check(NumberBetween(0, 1000))
      ->group(group);
  app->add_option("--max-waiting-jobs-per-project",
                  o->max_waiting_jobs_per_project,
                  "Jobs of one project that are begun while sites of their "
                  "calibrations are open; half done they wait beside those "
                  "that run, and others in the queue; 0: as many as "
                  "--max-running-jobs")
      ->check(NumberBetween(0, 1000))
      ->group(group);
  app->add_option("--max-queued-jobs", o->max_queued_jobs,
                  "Jobs in the queue of one project; one more is refused")
      ->check(NumberBetween(1, 1e6))
      ->group(group);
  app->add_option("--job-history", o->job_history,
                  "Jobs that are done and kept; the oldest goes first")
      ->check(NumberBetween(0, 1e6))
      ->group(group);
}

void AddTimeAndLogs(CLI::App* app, ServerOptions* o) {
  const std::string group = "Time, logs and metrics";
  app->add_option("--stream-idle-timeout", o->stream_idle_timeout,
                  "Seconds without progress by the client until its stream is "
                  "ended")
      ->check(NumberBetween(0.1, 1e9))
      ->group(group);
  app->add_option("--drain-delay", o->drain_delay,
                  "Seconds after SIGTERM that new calls are still taken while "
                  "readiness is off already, for who balances calls to notice")
      ->check(NumberBetween(0, 1e9))
      ->group(group);
  app->add_option("--drain-timeout", o->drain_timeout,
                  "Seconds that running streams may go on after SIGTERM and "
                  "--drain-delay")
      ->check(NumberBetween(0, 1e9))
      ->group(group);
  app->add_option("--metrics-listen", o->metrics_listen,
                  "IP:PORT for Prometheus' GET /metrics, by plain HTTP; port 0 "
                  "takes a free one. None: no metrics")
      ->group(group);
  app->add_option("--log-level", o->log_level,
                  "debug, info, warning, error or off")
      ->check(CLI::IsMember({"debug", "info", "warning", "error", "off"}))
      ->group(group);
}

// "--listen" shows the text that makes an equal value again.
CommandLine Print(std::string text) {
  CommandLine out;
  out.out = std::move(text);
  return out;
}

CommandLine Refuse(std::string text) {
  CommandLine out;
  out.exit_code = 2;
  out.error = absl::StrCat("quantd: ", text, "\n");
  return out;
}

// Null behind the last one.
CLI::Validator* ValidatorOf(CLI::Option* option, int index) {
  try {
    return option->get_validator(index);
  } catch (const CLI::OptionNotFound&) {
    return nullptr;
  }
}

// For people: the parser shows its own types and checks ("INT:SIZE [b,
// kb(=1024b), ...]:FLOAT in [6.71089e+07 - 1e+15]").
void ShowPlainTypes(CLI::App* app) {
  for (CLI::Option* option : app->get_options()) {
    const std::string type = option->get_type_name();
    if (absl::StrContains(type, "SIZE")) {
      option->type_name("SIZE");
      option->description(option->get_description() +
                          " (or with KiB, MiB, GiB, TiB)");
    } else if (absl::StartsWith(type, "INT") ||
               absl::StartsWith(type, "FLOAT")) {
      option->type_name("N");
    }
    for (int i = 0; CLI::Validator* check = ValidatorOf(option, i); ++i) {
      check->description("");
    }
  }
}

}  // namespace

ServerOptions DefaultOptions() {
  ServerOptions options;
  options.workers.partitions = UsableCpus();
  options.memory_budget =
      std::min(options.memory_budget, UsableMemoryBytes() / 2);
  return options;
}

absl::StatusOr<WorkerLayout> ParseWorkers(const std::string& text) {
  WorkerLayout workers;
  workers.partitions = 0;
  std::string_view rest = text;
  while (true) {
    const size_t comma = rest.find(',');
    QS_RETURN_IF_ERROR(AddWorkers(text, rest.substr(0, comma), &workers));
    if (comma == std::string_view::npos) return workers;
    rest.remove_prefix(comma + 1);
  }
}

std::string FormatWorkers(const WorkerLayout& workers) {
  std::string text;
  for (const int gpu : workers.gpus) absl::StrAppend(&text, "gpu:", gpu, ",");
  if (workers.partitions == 0) {
    text.pop_back();
    return text;
  }
  if (!text.empty()) text += "cpu:";
  absl::StrAppend(&text, workers.partitions);
  if (workers.threads > 1) absl::StrAppend(&text, "x", workers.threads);
  return text;
}

absl::Status ValidateOptions(const ServerOptions& options) {
  QS_ASSIGN_OR_RETURN(const ListenAddress address,
                      ParseListenAddress(options.listen));
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "tls-cert and tls-key: got one of them, allowed both or none");
  }
  if (!options.tls_client_ca.empty() && !options.tls()) {
    return absl::InvalidArgumentError(
        "tls-client-ca: got it without tls-cert and tls-key");
  }
  if (options.insecure && options.tls()) {
    return absl::InvalidArgumentError(
        "insecure: got it together with TLS, allowed one of them");
  }
  if (!address.loopback() && !options.tls() && !options.insecure) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen: got ", options.listen,
        ", which is not loopback; allowed with tls-cert and tls-key, or with "
        "insecure"));
  }
  QS_RETURN_IF_ERROR(CheckUriRoots(options.read_roots, options.write_roots));
  if (options.metrics_listen.empty()) return absl::OkStatus();
  return CheckMetricsAddress(options.metrics_listen);
}

CommandLine ParseCommandLine(const std::vector<std::string>& args) {
  CommandLine out;
  out.options = DefaultOptions();
  std::string workers = FormatWorkers(out.options.workers);
  bool check_config = false;
  CLI::App app("quantd: quantizes weights over gRPC", "quantd");
  app.option_defaults()->always_capture_default();
  app.set_version_flag("--version", std::string("quantd ") + kServerVersion);
  CLI::Option* config = app.set_config(
      "--config", "", "File with the same options (TOML or INI)");
  CLI::Option* check =
      app.add_flag("--check-config", check_config,
                   "Print every option in force, in the form that --config "
                   "reads, and end; 2 when one is wrong, or a file or "
                   "directory that it names");
  config->configurable(false);
  check->configurable(false);
  app.allow_config_extras(CLI::config_extras_mode::error);
  AddAddress(&app, &out.options);
  AddConnections(&app, &out.options);
  AddWork(&app, &out.options, &workers);
  AddData(&app, &out.options);
  AddJobs(&app, &out.options);
  AddRoots(&app, &out.options);
  AddTimeAndLogs(&app, &out.options);
  ShowPlainTypes(&app);
  try {
    std::vector<std::string> reversed(args.rbegin(), args.rend());
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& e) {
    std::ostringstream text;
    std::ostringstream error;
    if (app.exit(e, text, error) == 0) return Print(text.str());
    return Refuse(absl::StrCat(e.what(), " (see quantd --help)"));
  }
  std::erase(out.options.read_roots, "");
  std::erase(out.options.write_roots, "");
  absl::StatusOr<WorkerLayout> layout = ParseWorkers(workers);
  if (!layout.ok()) return Refuse(std::string(layout.status().message()));
  out.options.workers = *layout;
  const absl::Status valid = ValidateOptions(out.options);
  if (!valid.ok()) return Refuse(std::string(valid.message()));
  if (check_config) {
    const absl::Status files = CheckConfigFiles(out.options);
    if (!files.ok()) return Refuse(std::string(files.message()));
    return Print(app.config_to_str(true, true));
  }
  out.serve = true;
  return out;
}

}  // namespace qs
