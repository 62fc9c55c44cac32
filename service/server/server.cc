// Tested by tests/service/server_test.cc.
#include "service/server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <list>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/backend.h"
#include "kernels/base/status_macros.h"
#include "service/access/file_access.h"
#include "service/access/uri_roots.h"
#include "service/base/file_watch.h"
#include "service/calibrations/calibration_server.h"
#include "service/jobs/job_server.h"
#include "service/run/checkpoint_run.h"
#include "service/server/acceptor.h"
#include "service/server/capabilities.h"
#include "service/server/channel_arguments.h"
#include "service/server/config_check.h"
#include "service/server/log.h"
#include "service/server/machine.h"
#include "service/server/metrics_server.h"
#include "service/server/quantize_service.h"
#include "service/server/self_ping.h"
#include "service/server/server_metrics.h"
#include "service/server/stores.h"
#include "service/server/stream_guard.h"
#include "service/server/tls.h"
#include "service/server/workers.h"
#include "service/store/sqlite_job_records.h"
#include "service/tensors/tensor_server.h"

namespace qs {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

constexpr milliseconds kPollInterval{50};
// Of one connection, those included that its client has reset.
constexpr int64_t kMaxLiveStreams = 10 * kMaxStreamsPerConnection;
// How often files that may change while the server runs are looked at.
constexpr absl::Duration kFileInterval = absl::Seconds(1);
// How long a stream that is ended may take to get its last message out.
constexpr milliseconds kEndGrace{500};
// How long Shutdown waits for calls that were told to end.
constexpr milliseconds kShutdownGrace{2000};

QuantizeContextOptions ContextOptions(
    const ServerOptions& options,
    std::vector<std::unique_ptr<Backend>>* backends,
    WorkerPool::OnLost on_lost) {
  QuantizeContextOptions out;
  out.limits = LimitsOf(options);
  out.stream_idle_timeout = absl::Seconds(options.stream_idle_timeout);
  out.make_backends = [backends] { return std::move(*backends); };
  out.on_lost = std::move(on_lost);
  if (options.workers.partitions > 0) {
    out.most_pollers_that_rest =
        PollerRest::MostThatRest(UsableCpus(), ConfiguredCpus());
  }
  return out;
}

// Written aside and renamed, so that a reader never sees half a number.
absl::Status WritePortFile(const std::string& path, int port) {
  const absl::Status replaceable = CheckPortFile(path);
  if (!replaceable.ok()) return absl::InternalError(replaceable.message());
  const std::string aside = path + ".new";
  std::ofstream out(aside);
  out << port << "\n";
  out.close();
  if (out && std::rename(aside.c_str(), path.c_str()) == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(
      absl::StrCat("port-file: cannot write \"", path, "\""));
}

JobPaths PathsOf(const UriRoots& roots) {
  JobPaths paths;
  paths.existing = [&roots](
                       const std::string& project, const std::string& uri,
                       const std::string& field) -> absl::StatusOr<InputPath> {
    QS_ASSIGN_OR_RETURN(InputPath path,
                        roots.ResolveExisting(project, uri, field));
    QS_RETURN_IF_ERROR(CheckCheckpointTree(path, field));
    return path;
  };
  paths.fresh = [&roots](const std::string& project, const std::string& uri,
                         const std::string& field) {
    return roots.ResolveNew(project, uri, field);
  };
  return paths;
}

JobServerOptions JobOptions(const ServerOptions& options) {
  JobServerOptions out;
  out.scheduler.max_running = options.max_running_jobs;
  out.scheduler.max_running_in_project = MaxRunningInProject(options);
  out.scheduler.max_open_in_project = MaxWaitingInProject(options);
  out.scheduler.history = options.job_history;
  out.max_queued = options.max_queued_jobs;
  out.max_reads = options.max_tensor_streams;
  out.stream_idle_timeout = absl::Seconds(options.stream_idle_timeout);
  return out;
}

}  // namespace

class Server::Impl {
 public:
  // `file_access` null: everybody may do everything.
  Impl(const ServerOptions& options, std::shared_ptr<FileAccess> file_access,
       std::vector<std::unique_ptr<Backend>> backends, const GpuProvider* gpus)
      : options_(options),
        file_access_(std::move(file_access)),
        context_(ContextOptions(
            options, &backends,
            [this](const Backend& backend, const absl::Status& why, int left) {
              LostDevice(backend, why, left);
            })),
        plans_{{options.max_plan_tensors, options.max_plan_bytes},
               options.max_plans},
        service_(access(), context_, plans_, MakeCapabilities(options, gpus),
                 options.workers.threads) {}

  ~Impl() { Stop(); }

  absl::Status Start() {
    QS_RETURN_IF_ERROR(OpenData());
    QS_ASSIGN_OR_RETURN(const auto credentials, MakeCredentials());
    QS_ASSIGN_OR_RETURN(const ListenAddress address,
                        ParseListenAddress(options_.listen));
    QS_ASSIGN_OR_RETURN(Listener listener, Listen(address));
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    SetChannelArguments(options_, &builder);
    handoff_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        credentials);
    builder.RegisterService(&service_);
    if (tensors_ != nullptr) builder.RegisterService(&tensors_->service());
    if (jobs_ != nullptr) builder.RegisterService(&jobs_->service());
    if (calibrations_ != nullptr) {
      builder.RegisterService(&calibrations_->service());
    }
    acceptor_.emplace(
        std::move(listener), options_.max_connections,
        [this](int listener_fd, int fd) { HandOver(listener_fd, fd); },
        absl::Seconds(options_.stream_idle_timeout));
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC did not start");
    if (jobs_ != nullptr) QS_RETURN_IF_ERROR(jobs_->Start());
    SetServing("liveness", true);
    SetServing("readiness", true);
    ping_.emplace(server_.get());
    guard_.emplace(kMaxLiveStreams, *acceptor_);
    WatchFiles();
    metrics_ = ServerMetrics(context_, *acceptor_, tls_files_.get());
    if (!options_.metrics_listen.empty()) {
      QS_ASSIGN_OR_RETURN(metrics_server_,
                          MetricsServer::Start(options_.metrics_listen));
    }
    acceptor_->Start();
    if (options_.port_file.empty()) return absl::OkStatus();
    return WritePortFile(options_.port_file, acceptor_->port());
  }

  void Drain(const std::function<bool()>& hurry) {
    SetServing("", false);
    SetServing("readiness", false);  // who sees it finds the other set, too
    const bool hurried =
        WaitFor([] { return false; }, After(options_.drain_delay), hurry);
    context_.StartDraining();
    if (tensors_ != nullptr) tensors_->StartDraining();
    if (jobs_ != nullptr) jobs_->StartDraining();
    if (calibrations_ != nullptr) calibrations_->StartDraining();
    if (!hurried) {
      WaitFor([this] { return Idle(); }, After(options_.drain_timeout), hurry);
    }
    Log(LogLevel::kInfo, "drained", {{"streams_left", LiveStreams()}});
    Stop();
  }

  int port() const { return acceptor_->port(); }
  int metrics_port() const {
    return metrics_server_ == nullptr ? 0 : metrics_server_->port();
  }
  bool lost() const { return lost_; }
  QuantizeContext& context() { return context_; }

 private:
  const AccessControl& access() const {
    if (file_access_ != nullptr) return *file_access_;
    return open_access_;
  }

  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials() {
    if (!options_.tls()) return grpc::InsecureServerCredentials();
    QS_ASSIGN_OR_RETURN(tls_files_, TlsFiles::Open(options_));
    return tls_files_->NewCredentials();
  }

  void WatchFiles() {
    if (file_access_ == nullptr && tls_files_ == nullptr) return;
    files_.emplace(kFileInterval);
    if (file_access_ != nullptr) {
      files_->Add({options_.access_file},
                  [access = file_access_] { return access->Reload(); });
    }
    if (tls_files_ != nullptr) {
      files_->Add(tls_files_->paths(), [this] { return tls_files_->Reload(); });
    }
  }

  // From a worker's thread. What was accepted is done on the host; readiness
  // sends new work elsewhere.
  void LostDevice(const Backend& backend, const absl::Status& why, int left) {
    Log(LogLevel::kError, "device_lost",
        {{"worker", backend.name()},
         {"error", std::string(why.message())},
         {"workers_left", left}});
    if (left > 0) return;
    lost_ = true;
    SetServing("readiness", false);
    if (options_.exit_when_lost) ::kill(::getpid(), SIGTERM);
  }

  // What a server with a data directory has beside its streams.
  absl::Status OpenData() {
    if (options_.data_dir.empty()) return absl::OkStatus();
    QS_ASSIGN_OR_RETURN(stores_, Stores::Open(options_));
    QS_ASSIGN_OR_RETURN(tensors_,
                        TensorServer::Open(*stores_, access(), options_,
                                           [this](const std::string& project) {
                                             return results_->BytesOf(project);
                                           }));
    QS_ASSIGN_OR_RETURN(calibrations_, CalibrationServer::Open(
                                           *stores_, access(), context_.pool(),
                                           context_.budget(), options_));
    QS_RETURN_IF_ERROR(stores_->CollectGarbage());
    QS_ASSIGN_OR_RETURN(
        roots_, UriRoots::Open(
                    options_.read_roots, options_.write_roots,
                    options_.follow_links ? Links::kBeneath : Links::kRefused));
    job_records_ = NewSqliteJobRecords(
        stores_->records(),
        [stores = stores_.get()](std::vector<std::string> freed) {
          stores->pool().Run([stores, freed = std::move(freed)] {
            const absl::Status status = stores->keeper().Collect(freed);
            if (status.ok()) return;
            Log(LogLevel::kError, "blobs_left",
                {{"error", std::string(status.message())}});
          });
        });
    QS_ASSIGN_OR_RETURN(
        results_,
        JobResults::Open(options_.data_dir + "/results", stores_->blobs(),
                         {&tensors_->records(), options_.max_project_bytes}));
    JobsContext jobs{*job_records_,
                     stores_->pool(),
                     context_.pool(),
                     context_.budget(),
                     CheckpointRun::Prepare,
                     PathsOf(roots_),
                     options_.max_plan_tensors,
                     std::make_shared<JobPace>(options_.workers.cores())};
    jobs.calibrations = &calibrations_->store();
    jobs.tensors = &tensors_->records();
    jobs.blobs = &stores_->blobs();
    jobs.results = results_.get();
    jobs_ = std::make_unique<JobServer>(std::move(jobs), access(),
                                        JobOptions(options_));
    calibrations_->SetUsers(jobs_->calibrations());
    return absl::OkStatus();
  }

  int64_t LiveStreams() const {
    return context_.live_streams() +
           (tensors_ == nullptr ? 0 : tensors_->live_streams()) +
           (jobs_ == nullptr ? 0 : jobs_->live_streams()) +
           (calibrations_ == nullptr ? 0 : calibrations_->live_streams());
  }
  bool JobsRun() const { return jobs_ != nullptr && !jobs_->idle(); }

  void HandOver(int listener_fd, int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters
        connection;
    connection.listener_fd = listener_fd;
    connection.fd = fd;
    handoff_->HandleNewConnection(&connection);
  }

  bool Idle() { return LiveStreams() == 0 && !JobsRun(); }

  static steady_clock::time_point After(double seconds) {
    return steady_clock::now() + std::chrono::duration_cast<milliseconds>(
                                     std::chrono::duration<double>(seconds));
  }

  // Waits until `done` or `end`; true if `hurry` said so first.
  static bool WaitFor(const std::function<bool()>& done,
                      steady_clock::time_point end,
                      const std::function<bool()>& hurry) {
    while (!done() && steady_clock::now() < end) {
      if (hurry()) return true;
      std::this_thread::sleep_for(kPollInterval);
    }
    return false;
  }

  void SetServing(const std::string& name, bool serving) {
    absl::MutexLock lock(&serving_mutex_);
    if (server_ == nullptr) return;
    server_->GetHealthCheckService()->SetServingStatus(name, serving);
  }

  void Stop() {
    if (acceptor_) acceptor_->Stop();
    files_.reset();
    ping_.reset();
    guard_.reset();
    if (server_ == nullptr) return;
    context_.StartDraining();
    context_.EndAll();
    if (tensors_ != nullptr) tensors_->EndAll();
    if (jobs_ != nullptr) {
      jobs_->StartDraining();
      jobs_->EndAll();
    }
    if (calibrations_ != nullptr) calibrations_->EndAll();
    WaitFor([this] { return Idle(); }, steady_clock::now() + kEndGrace,
            [] { return false; });
    context_.CancelAll();
    server_->Shutdown(system_clock::now() + kShutdownGrace);
    server_->Wait();
    absl::MutexLock lock(&serving_mutex_);
    server_.reset();
  }

  const ServerOptions options_;
  const OpenAccess open_access_;
  const std::shared_ptr<FileAccess> file_access_;
  std::unique_ptr<TlsFiles> tls_files_;  // null: plaintext
  std::atomic<bool> lost_ = false;
  // Held to set a status and to take the server away. Before the context, whose
  // workers may set one until they have ended.
  absl::Mutex serving_mutex_;
  std::unique_ptr<grpc::Server> server_;
  QuantizeContext context_;
  PlanContext plans_;
  std::unique_ptr<Stores> stores_;         // null: nothing is kept
  std::unique_ptr<TensorServer> tensors_;  // the same
  std::unique_ptr<CalibrationServer> calibrations_;
  UriRoots roots_;
  std::unique_ptr<JobRecords> job_records_;
  std::unique_ptr<JobResults> results_;
  std::unique_ptr<JobServer> jobs_;  // before the threads that it works on
  QuantizeServiceImpl service_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> handoff_;
  std::optional<Acceptor> acceptor_;
  std::optional<SelfPing> ping_;
  std::optional<StreamGuard> guard_;
  std::optional<FileWatch> files_;
  std::list<MetricSource> metrics_;  // of the members above
  std::unique_ptr<MetricsServer> metrics_server_;
};

void Server::PrepareProcess(bool tcp_read_chunks) {
  // Memory that was touched once stays: returning and faulting it again costs
  // more than the transfer.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
  if (!tcp_read_chunks) setenv("GRPC_EXPERIMENTS", "-tcp_read_chunks", 0);
  std::signal(SIGPIPE, SIG_IGN);
  // A file at its limit (ulimit -f) is a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  RaiseDescriptorLimit();
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options, const GpuProvider* gpus) {
  QS_RETURN_IF_ERROR(ValidateOptions(options));
  QS_ASSIGN_OR_RETURN(auto backends, OpenWorkers(options, gpus));
  std::shared_ptr<FileAccess> access;
  if (!options.access_file.empty()) {
    QS_ASSIGN_OR_RETURN(
        access,
        FileAccess::Open(options.access_file, !options.tls_client_ca.empty()));
  }
  auto impl = std::make_unique<Impl>(options, std::move(access),
                                     std::move(backends), gpus);
  QS_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

int Server::port() const { return impl_->port(); }
int Server::metrics_port() const { return impl_->metrics_port(); }
bool Server::lost() const { return impl_->lost(); }
QuantizeContext& Server::context() { return impl_->context(); }
void Server::Drain(const std::function<bool()>& hurry) { impl_->Drain(hurry); }

}  // namespace qs
