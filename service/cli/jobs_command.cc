// Tested by tests/e2e/quantctl_jobs_test.py.
#include <google/protobuf/duration.pb.h>
#include <openssl/rand.h>

#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/utf8.h"
#include "quant/v1/jobs.grpc.pb.h"
#include "service/checkpoint/fault.h"
#include "service/cli/channel.h"
#include "service/cli/commands.h"
#include "service/cli/config_file.h"
#include "service/cli/exit_code.h"
#include "service/cli/job_arguments.h"
#include "service/cli/job_text.h"
#include "service/cli/job_watch.h"
#include "service/cli/plan_client.h"
#include "service/cli/proto_json.h"
#include "service/cli/result_fetch.h"
#include "service/cli/run_control.h"
#include "service/cli/signal_watcher.h"
#include "service/server/error.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Stub = v1::JobService::Stub;
using Json = nlohmann::ordered_json;

// Of one call: the plan of the largest checkpoint takes seconds.
constexpr auto kDeadline = std::chrono::seconds(60);
constexpr int kPage = 1000;
constexpr int64_t kMaxModelConfigBytes = int64_t{1} << 20;  // of the .proto

std::string FreshRequestId() {
  std::array<unsigned char, 16> bytes{};
  RAND_bytes(bytes.data(), static_cast<int>(bytes.size()));
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void SetDuration(double seconds, google::protobuf::Duration* out) {
  const double whole = std::floor(seconds);
  out->set_seconds(static_cast<int64_t>(whole));
  out->set_nanos(static_cast<int32_t>((seconds - whole) * 1e9));
}

// One connection and the signals that end what runs on it.
class JobsRun {
 public:
  JobsRun(const Arguments& arguments, const Console& console)
      : arguments_(arguments), console_(console), signals_(control_) {}

  absl::Status Run() {
    QS_ASSIGN_OR_RETURN(channel_, MakeChannel(arguments_.server));
    stub_ = v1::JobService::NewStub(channel_);
    switch (arguments_.command) {
      case Command::kJobsCreate:
        return Create();
      case Command::kJobsList:
        return List();
      case Command::kJobsCancel:
        return ShowOne(&Stub::CancelJob, v1::CancelJobRequest());
      case Command::kJobsDelete:
        return Delete();
      case Command::kJobsWatch:
        return Watch(arguments_.job.name);
      case Command::kJobsResult:
        return Result();
      default:
        return ShowOne(&Stub::GetJob, v1::GetJobRequest());
    }
  }

 private:
  // Tries again what may go well then: every call here may come twice.
  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response) {
    for (int retries = 0;; ++retries) {
      grpc::ClientContext context;
      RunControl::Call call(control_, context);
      context.set_deadline(std::chrono::system_clock::now() + kDeadline);
      const grpc::Status end = ((*stub_).*method)(&context, request, response);
      if (control_.failed()) return control_.status();
      const absl::Status status = FromServer(end, arguments_.server.address);
      if (status.ok() || !IsRetryable(status) || retries == kMaxRetries ||
          !WaitToRetry(*channel_, control_, RetryDelay(retries))) {
        return status;
      }
    }
  }

  void Show(const v1::Job& job) {
    console_.out << (arguments_.json ? MessageToJson(job).dump(1) + "\n"
                                     : JobText(job));
  }

  template <typename Method, typename Request>
  absl::Status ShowOne(Method method, Request request) {
    request.set_name(arguments_.job.name);
    v1::Job job;
    QS_RETURN_IF_ERROR(Call(method, request, &job));
    Show(job);
    return absl::OkStatus();
  }

  absl::Status Delete() {
    v1::DeleteJobRequest request;
    request.set_name(arguments_.job.name);
    google::protobuf::Empty empty;
    return Call(&Stub::DeleteJob, request, &empty);
  }

  absl::Status List();
  absl::StatusOr<v1::CreateJobRequest> Request();
  absl::Status AddSource(v1::JobSource* source) const;
  absl::Status AddLabels(v1::Job* job) const;
  absl::Status Create();
  absl::Status Watch(const std::string& name);
  absl::Status Result();

  const Arguments& arguments_;
  const Console& console_;
  RunControl control_;
  const SignalWatcher signals_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Stub> stub_;
};

absl::Status JobsRun::List() {
  std::vector<v1::Job> jobs;
  v1::ListJobsRequest request;
  request.set_filter(arguments_.job.filter);
  const auto limit = static_cast<size_t>(arguments_.job.limit);
  while (jobs.size() < limit) {
    request.set_page_size(static_cast<int>(
        std::min(limit - jobs.size(), static_cast<size_t>(kPage))));
    v1::ListJobsResponse page;
    QS_RETURN_IF_ERROR(Call(&Stub::ListJobs, request, &page));
    for (v1::Job& job : *page.mutable_jobs()) jobs.push_back(std::move(job));
    if (page.next_page_token().empty()) break;
    request.set_page_token(page.next_page_token());
  }
  if (!arguments_.json) {
    console_.out << JobTable(jobs);
    return absl::OkStatus();
  }
  Json json = Json::array();
  for (const v1::Job& job : jobs) json.push_back(MessageToJson(job));
  console_.out << json.dump(1) << "\n";
  return absl::OkStatus();
}

absl::Status JobsRun::AddLabels(v1::Job* job) const {
  for (const std::string& label : arguments_.job.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos) {
      return UsageError(
          absl::StrCat("--label: got \"", label, "\", allowed KEY=VALUE"));
    }
    (*job->mutable_labels())[label.substr(0, equals)] =
        label.substr(equals + 1);
  }
  return absl::OkStatus();
}

absl::Status JobsRun::AddSource(v1::JobSource* source) const {
  const JobArguments& from = arguments_.job;
  if (from.tensors.empty()) {
    source->set_uri(from.source);
    return absl::OkStatus();
  }
  source->mutable_tensors()->set_glob(from.tensors);
  if (from.model_config.empty()) return absl::OkStatus();
  absl::StatusOr<std::string> text =
      ReadSmallFile(from.model_config, kMaxModelConfigBytes);
  if (!text.ok()) return InputFault(text.status());
  source->mutable_tensors()->set_config_json(*std::move(text));
  return absl::OkStatus();
}

absl::StatusOr<v1::CreateJobRequest> JobsRun::Request() {
  QS_ASSIGN_OR_RETURN(const ConfigArguments config,
                      WithConfigFile(arguments_.config));
  const JobArguments& from = arguments_.job;
  v1::CreateJobRequest request;
  request.set_request_id(from.request_id.empty() ? FreshRequestId()
                                                 : from.request_id);
  request.set_validate_only(from.validate_only);
  v1::Job* job = request.mutable_job();
  QS_ASSIGN_OR_RETURN(*job->mutable_quantization(),
                      FetchConfig(arguments_.server, config, control_));
  *job->mutable_target() = TargetOf(config);
  QS_RETURN_IF_ERROR(AddSource(job->mutable_source()));
  for (const std::string& glob : config.include) {
    job->mutable_source()->add_include(glob);
  }
  for (const std::string& glob : config.exclude) {
    job->mutable_source()->add_exclude(glob);
  }
  SetOverrides(config, job->mutable_overrides());
  if (!from.calibration.empty()) {
    job->mutable_calibration()->set_uri(from.calibration);
  }
  if (!from.calibration_name.empty()) {
    job->mutable_calibration()->set_name(from.calibration_name);
    job->mutable_calibration()->set_delete_after_use(from.delete_calibration);
  }
  if (!from.destination.empty()) {
    job->mutable_destination()->set_uri(from.destination);
  }
  job->set_priority(PriorityOf(from.priority));
  if (from.queue_timeout > 0) {
    SetDuration(from.queue_timeout, job->mutable_queue_timeout());
  }
  if (from.execution_timeout > 0) {
    SetDuration(from.execution_timeout, job->mutable_execution_timeout());
  }
  QS_RETURN_IF_ERROR(AddLabels(job));
  return request;
}

absl::Status JobsRun::Create() {
  QS_ASSIGN_OR_RETURN(const v1::CreateJobRequest request, Request());
  v1::Job job;
  QS_RETURN_IF_ERROR(Call(&Stub::CreateJob, request, &job));
  if (request.validate_only() && !arguments_.json) {
    console_.out << PlanText(job.plan());
    return absl::OkStatus();
  }
  if (!arguments_.job.wait || request.validate_only()) {
    Show(job);
    return absl::OkStatus();
  }
  console_.error << EscapeControls(job.name()) << "\n" << PlanText(job.plan());
  return Watch(job.name());
}

absl::Status JobsRun::Watch(const std::string& name) {
  absl::StatusOr<v1::Job> job =
      WatchToEnd(*stub_, name, arguments_.server.address, console_, control_);
  if (!job.ok()) {
    return control_.failed() ? WithText(job.status(), "; the job goes on")
                             : job.status();
  }
  Show(*job);
  return CheckSucceeded(*job);
}

// Shows the job, as watch does.
absl::Status JobsRun::Result() {
  v1::GetJobRequest request;
  request.set_name(arguments_.job.name);
  v1::Job job;
  QS_RETURN_IF_ERROR(Call(&Stub::GetJob, request, &job));
  const absl::Status fetched =
      FetchResult(*stub_, job.name(), arguments_.output,
                  arguments_.server.address, console_, control_);
  if (!fetched.ok() && ErrorReason(fetched) != "NO_RESULT") return fetched;
  QS_RETURN_IF_ERROR(Call(&Stub::GetJob, request, &job));
  QS_RETURN_IF_ERROR(CheckSucceeded(job));
  QS_RETURN_IF_ERROR(fetched);
  Show(job);
  return absl::OkStatus();
}

}  // namespace

absl::Status RunJobs(const Arguments& arguments, const Console& console) {
  return JobsRun(arguments, console).Run();
}

}  // namespace qs::cli
