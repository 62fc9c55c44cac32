// ServerOptions: every limit and setting of quantd, in one place, with its
// default, its unit and its effect; and the command line and config file that
// set them. The same texts are in --help.
#ifndef QS_SERVICE_SERVER_OPTIONS_H_
#define QS_SERVICE_SERVER_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace qs {

// Fixed by the protocol, not options.
constexpr int64_t kMaxMessageBytes = int64_t{4} << 20;
constexpr int64_t kRecommendedChunkBytes = int64_t{1} << 20;
constexpr int64_t kMaxChunkBytes = int64_t{2} << 20;
// Of a tensor that is sent, uploaded or read by a job, and of a calibration's
// sites and modules.
constexpr size_t kMaxNameBytes = 512;
// Of a tensor whose header alone is sent, to be planned; it may be one that is
// only carried.
constexpr size_t kMaxPlanNameBytes = 1024;
constexpr int kMaxPlanDimensions = 64;
constexpr char kServerVersion[] = "0.1.0";
constexpr char kApiVersion[] = "quant.v1";

// Who quantizes: `partitions` workers on `threads` threads each, and one worker
// for each GPU. At least one of both.
struct WorkerLayout {
  int partitions = 1;
  int threads = 1;
  std::vector<int> gpus = {};  // indices
  int cores() const {
    return (partitions > 0 ? partitions : 1) * (threads > 0 ? threads : 1);
  }
  bool operator==(const WorkerLayout&) const = default;
};

struct ServerOptions {
  // --- address and encryption
  // HOST:PORT or [HOST]:PORT; port 0 takes a free one. An address that is not
  // loopback needs TLS or `insecure`.
  std::string listen = "127.0.0.1:50051";
  std::string port_file;  // gets the bound port as text; empty: none
  // PEM files; taken anew when they change.
  std::string tls_cert;       // certificate chain
  std::string tls_key;        // its private key
  std::string tls_client_ca;  // clients must show a certificate signed by it
  bool insecure = false;      // plaintext on any address
  // JSON file: tokens and certificate names with project and role, see
  // service/access/access_file.h; empty: every caller is the admin of project
  // "default".
  std::string access_file;

  // --- connections
  int64_t max_connections = 2048;    // open at once; more are closed at once
  double max_connection_age = 1800;  // seconds, then GOAWAY; streams go on; 0:
                                     // never
  double max_connection_idle = 900;  // seconds without a call; 0: never
  double handshake_timeout = 20;     // seconds for TLS and HTTP/2's greeting
  // Bytes of messages that are on their way, and of calls; above it streams are
  // ended. gRPC checks a message's size when it is complete, at up to 4 GiB.
  int64_t connection_memory = int64_t{1} << 30;
  bool bdp_probe = false;  // larger windows for distant clients, more memory
  bool tcp_read_chunks = false;  // gRPC's chunked reads; off is faster

  // --- work and memory
  WorkerLayout workers;         // default: one a core, one thread each, no GPU
  int gpu_lanes = 2;            // tasks at once of each GPU's worker, so that
                                // one copies while another's kernels run;
                                // each pins 16 MiB of host memory
  bool exit_when_lost = false;  // drain and end (code 3) when every device of
                                // the workers is lost
  int64_t memory_budget = int64_t{4} << 30;      // bytes for tensors in flight
  int64_t max_tensor_bytes = int64_t{16} << 30;  // of one input tensor
  int64_t max_streams = 64;           // Quantize streams on the whole server
  int64_t max_open_tensors = 64;      // a stream, begun and not complete
  int64_t max_plans = 8;              // PlanCheckpoint calls at once
  int64_t max_plan_tensors = 200000;  // of one plan
  int64_t max_plan_bytes = int64_t{64} << 20;  // of one plan's requests

  // --- what is kept (nothing without a data directory)
  std::string data_dir;  // of this server alone, a local file system
  // Of tensors, open uploads, results of jobs without a destination, and
  // calibrations.
  int64_t max_store_bytes = int64_t{1} << 40;
  int64_t max_project_bytes = 0;    // of one project; 0: only the one above
  double upload_expiry = 86400;     // seconds after its last byte
  int64_t max_tensor_streams = 32;  // WriteTensor and ReadTensor calls at once
  int64_t io_threads = 8;           // for files, records, hashes

  // --- files that clients may name (service/access/uri_roots.h)
  std::vector<std::string> read_roots;   // PATH or PROJECT=PATH
  std::vector<std::string> write_roots;  // the same; one of those, or apart
  bool follow_links = false;             // of what is read, below its root

  // --- jobs (none without a data directory)
  int64_t max_running_jobs = 2;              // at once
  int64_t max_running_jobs_per_project = 0;  // 0: as many as those
  // Of one project, begun while sites of their calibrations are open; they
  // stay, half done, beside those that run. 0: as many as max_running_jobs.
  int64_t max_waiting_jobs_per_project = 0;
  int64_t max_queued_jobs = 10'000;  // of one project
  int64_t job_history = 1000;        // jobs that are done and kept

  // --- time, seconds
  double stream_idle_timeout = 60;  // a stream without progress is ended
  // After SIGTERM: first readiness is off while all is still served, so that
  // who balances calls sends them elsewhere; then new calls are refused and
  // running ones may go on, until they are cancelled.
  double drain_delay = 0;
  double drain_timeout = 25;

  // --- logs and metrics
  // IP:PORT, [IP]:PORT or localhost:PORT for Prometheus' GET /metrics, port 0
  // takes a free one; empty: none.
  std::string metrics_listen;
  std::string log_level = "info";  // debug, info, warning, error, off

  bool tls() const { return !tls_cert.empty(); }
};

inline int64_t MaxRunningInProject(const ServerOptions& options) {
  return options.max_running_jobs_per_project == 0
             ? options.max_running_jobs
             : options.max_running_jobs_per_project;
}

inline int64_t MaxWaitingInProject(const ServerOptions& options) {
  return options.max_waiting_jobs_per_project == 0
             ? options.max_running_jobs
             : options.max_waiting_jobs_per_project;
}

// The defaults of this machine: workers from the CPUs and memory_budget from
// the memory that this process may use (affinity and cgroup limits counted).
ServerOptions DefaultOptions();

// Comma-separated: "4", "cpu:4", "4x2", "cpu:4x2" at most once, "gpu:0",
// "gpu:1", ... each once.
absl::StatusOr<WorkerLayout> ParseWorkers(const std::string& text);
std::string FormatWorkers(const WorkerLayout& workers);

// What the fields cannot say alone: TLS files come together, plaintext stays
// on loopback. Errors: INVALID_ARGUMENT "option: got, allowed".
absl::Status ValidateOptions(const ServerOptions& options);

// What main is to do: serve with `options`, or print and return.
struct CommandLine {
  ServerOptions options;
  bool serve = false;
  int exit_code = 0;  // when not to serve: 0, or 2 for a wrong option
  std::string out;    // for standard output: help, version, config
  std::string error;  // for standard error
};

// `args` without the program's name. Flags win over the file of --config (TOML
// or INI: max-streams = 8), which wins over the defaults.
CommandLine ParseCommandLine(const std::vector<std::string>& args);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_OPTIONS_H_
