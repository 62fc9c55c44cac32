// service_bench [FILTER] [--bytes N] [--runs N] [--quantd PATH]: streams one
// BF16 tensor through Quantize and the same bytes through an RPC that throws
// them away, in turns, and prints one JSON line a row:
//   {"name", "bytes", "seconds" (median), "empty_seconds", "ratio" (of the
//    medians), "gb_per_s", "least_seconds", "empty_least_seconds",
//    "server_cpu_seconds" (as all processor times: the least of the runs),
//    "client_cpu_seconds", "empty_server_cpu_seconds",
//    "empty_client_cpu_seconds", "bytes_back", "peak_memory_bytes" (of the
//    server, VmHWM), "runs"}
// and one row of eight streams at once under --memory-budget.
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "service/server/server.h"
#include "tests/bench/stream_load.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

struct Settings {
  std::string filter;
  int64_t bytes = int64_t{1} << 30;
  int runs = 5;
  std::string quantd;
  std::string self;
  std::string work;  // a temporary folder
};

struct Row {
  std::string name;
  v1::QuantizeConfig config;
  bool crc = false;
};

Row MakeRow(const std::string& preset, v1::Profile profile, bool report,
            bool digest, bool crc = false) {
  Row row;
  row.name = preset + (profile == v1::BEST ? "/best" : "/reference") +
             (report ? "/report" : "/no_report") +
             (digest ? "/digest" : "/no_digest") + (crc ? "/crc" : "");
  row.config.mutable_quantization()->set_preset(preset);
  row.config.mutable_quantization()->set_profile(profile);
  row.config.set_skip_error_report(!report);
  row.config.set_skip_digest(!digest);
  row.crc = crc;
  return row;
}

std::vector<Row> Rows() {
  std::vector<Row> rows;
  for (const char* preset : {"NF4", "NF4-dq", "W4A16"}) {
    for (const v1::Profile profile : {v1::REFERENCE, v1::BEST}) {
      for (const bool report : {false, true}) {
        rows.push_back(MakeRow(preset, profile, report, true));
      }
    }
  }
  for (const char* preset : {"NF4", "W4A16"}) {
    rows.push_back(MakeRow(preset, v1::REFERENCE, false, false));
    rows.push_back(MakeRow(preset, v1::BEST, false, false));
  }
  rows.push_back(MakeRow("NF4", v1::REFERENCE, false, false, true));
  return rows;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle]
                                : (values[middle - 1] + values[middle]) / 2;
}

double Least(const std::vector<double>& values) {
  return *std::min_element(values.begin(), values.end());
}

std::vector<std::string> QuantdArgs(const Settings& s,
                                    const std::string& port_file,
                                    const std::vector<std::string>& more) {
  std::vector<std::string> args = {s.quantd,      "--listen", "127.0.0.1:0",
                                   "--port-file", port_file,  "--log-level",
                                   "warning"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// The runs of one RPC of a row.
struct Runs {
  std::vector<double> seconds;
  std::vector<double> server_cpu;
  std::vector<double> client_cpu;
  int64_t bytes_back = 0;
};

bool RunOnce(const Upload& upload, const ServerProcess& server, Runs* runs) {
  const double server_cpu = server.cpu_seconds();
  const double client_cpu = OwnCpuSeconds();
  const UploadResult result = RunUpload(upload);
  if (!result.status.ok()) {
    std::fprintf(stderr, "service_bench: %s: %s\n", upload.method.c_str(),
                 result.status.error_message().c_str());
    return false;
  }
  runs->seconds.push_back(result.seconds);
  runs->server_cpu.push_back(server.cpu_seconds() - server_cpu);
  runs->client_cpu.push_back(OwnCpuSeconds() - client_cpu);
  runs->bytes_back = result.bytes_back;
  return true;
}

void PrintRow(const Settings& s, const Row& row, const Runs& runs,
              const Runs& empty, int64_t peak_memory) {
  const double time = Median(runs.seconds);
  const double empty_time = Median(empty.seconds);
  std::printf(
      "{\"name\":\"%s\",\"bytes\":%lld,\"seconds\":%.4f,"
      "\"empty_seconds\":%.4f,\"ratio\":%.3f,\"gb_per_s\":%.3f,"
      "\"least_seconds\":%.4f,\"empty_least_seconds\":%.4f,"
      "\"server_cpu_seconds\":%.3f,\"client_cpu_seconds\":%.3f,"
      "\"empty_server_cpu_seconds\":%.3f,\"empty_client_cpu_seconds\":%.3f,"
      "\"bytes_back\":%lld,\"peak_memory_bytes\":%lld,\"runs\":%d}\n",
      row.name.c_str(), static_cast<long long>(s.bytes), time, empty_time,
      time / empty_time, static_cast<double>(s.bytes) / time / 1e9,
      Least(runs.seconds), Least(empty.seconds), Least(runs.server_cpu),
      Least(runs.client_cpu), Least(empty.server_cpu), Least(empty.client_cpu),
      static_cast<long long>(runs.bytes_back),
      static_cast<long long>(peak_memory), s.runs);
  std::fflush(stdout);
}

bool RunRow(const Settings& s, const Row& row, const ServerProcess& sink) {
  const std::string port_file = s.work + "/port";
  const ServerProcess server(QuantdArgs(s, port_file, {}), port_file);
  const Upload quantize{server.address(), kQuantizeMethod, row.config, s.bytes,
                        row.crc};
  const Upload discard{sink.address(), kDiscardMethod, row.config, s.bytes,
                       row.crc};
  Runs warm_up;
  if (!RunOnce(quantize, server, &warm_up)) return false;
  if (!RunOnce(discard, sink, &warm_up)) return false;
  Runs runs;
  Runs empty;
  for (int run = 0; run < s.runs; ++run) {
    if (!RunOnce(discard, sink, &empty)) return false;
    if (!RunOnce(quantize, server, &runs)) return false;
  }
  PrintRow(s, row, runs, empty, server.peak_memory());
  return true;
}

// Eight streams whose tensors together need more than the budget.
bool RunEight(const Settings& s) {
  constexpr int kStreams = 8;
  const std::string port_file = s.work + "/port";
  const int64_t budget = s.bytes * 2;
  const ServerProcess server(
      QuantdArgs(s, port_file, {"--memory-budget", std::to_string(budget)}),
      port_file);
  const Row row = MakeRow("NF4", v1::REFERENCE, true, true);
  const std::vector<UploadResult> results = RunUploads(std::vector<Upload>(
      kStreams,
      {server.address(), kQuantizeMethod, row.config, s.bytes / 2, false}));
  double slowest = 0;
  for (const UploadResult& result : results) {
    if (!result.status.ok()) {
      std::fprintf(stderr, "service_bench: eight streams: %s\n",
                   result.status.error_message().c_str());
      return false;
    }
    slowest = std::max(slowest, result.seconds);
  }
  std::printf(
      "{\"name\":\"eight_streams\",\"bytes\":%lld,\"seconds\":%.4f,"
      "\"gb_per_s\":%.3f,\"memory_budget_bytes\":%lld,"
      "\"peak_memory_bytes\":%lld}\n",
      static_cast<long long>(s.bytes / 2 * kStreams), slowest,
      static_cast<double>(s.bytes) / 2 * kStreams / slowest / 1e9,
      static_cast<long long>(budget),
      static_cast<long long>(server.peak_memory()));
  return true;
}

bool Wanted(const Settings& s, const std::string& name) {
  return name.find(s.filter) != std::string::npos;
}

bool RunAll(const Settings& s) {
  const std::string port_file = s.work + "/sink_port";
  const ServerProcess sink({s.self, "--serve-discard", port_file}, port_file);
  for (const Row& row : Rows()) {
    if (Wanted(s, row.name) && !RunRow(s, row, sink)) return false;
  }
  return !Wanted(s, "eight_streams") || RunEight(s);
}

bool ParseArgs(int argc, char** argv, Settings* s) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const bool has_value = i + 1 < argc;
    if (arg == "--bytes" && has_value) {
      s->bytes = std::atoll(argv[++i]) / 4096 * 4096;
    } else if (arg == "--runs" && has_value) {
      s->runs = std::atoi(argv[++i]);
    } else if (arg == "--quantd" && has_value) {
      s->quantd = argv[++i];
    } else if (arg[0] != '-') {
      s->filter = arg;
    } else {
      return false;
    }
  }
  return s->bytes > 0 && s->runs > 0;
}

}  // namespace
}  // namespace qs

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--serve-discard") {
    return qs::ServeDiscard(argv[2]);
  }
  qs::Settings settings;
  settings.self = std::filesystem::canonical("/proc/self/exe");
  settings.quantd =
      std::filesystem::path(settings.self).parent_path() / "quantd";
  if (!qs::ParseArgs(argc, argv, &settings)) {
    std::fprintf(stderr,
                 "usage: service_bench [FILTER] [--bytes N] [--runs N] "
                 "[--quantd PATH]\n");
    return 2;
  }
  qs::Server::PrepareProcess(false);
  char folder[] = "/tmp/service_bench.XXXXXX";
  if (mkdtemp(folder) == nullptr) return 1;
  settings.work = folder;
  const bool ok = qs::RunAll(settings);
  std::filesystem::remove_all(folder);
  return ok ? 0 : 1;
}
