// Tested by tests/service/observability_test.cc.
#include "service/jobs/job_log.h"

#include <optional>
#include <utility>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "quant/v1/jobs.pb.h"
#include "service/server/trace_context.h"

namespace qs {
namespace {

std::string TraceIdOf(const JobRecord& job) {
  const std::optional<TraceContext> trace = ParseTraceparent(job.trace);
  return trace ? trace->trace_id : "";
}

std::string ReasonOf(const google::rpc::Status& error) {
  google::rpc::ErrorInfo info;
  for (const google::protobuf::Any& detail : error.details()) {
    if (detail.UnpackTo(&info)) return info.reason();
  }
  return "";
}

// Errors of a tensor begin with `tensor "NAME": `.
std::string TensorOf(const std::string& text) {
  constexpr char kPrefix[] = "tensor \"";
  constexpr size_t kPrefixBytes = sizeof(kPrefix) - 1;
  const size_t end = text.find("\": ");
  if (text.rfind(kPrefix, 0) != 0 || end == std::string::npos) return "";
  return text.substr(kPrefixBytes, end - kPrefixBytes);
}

}  // namespace

JobLog::JobLog(const JobRecord& job)
    : project_(job.key.project),
      job_(job.key.id),
      attempt_(job.attempt),
      trace_id_(TraceIdOf(job)) {}

JobLog::JobLog(const JobKey& job) : project_(job.project), job_(job.id) {}

void JobLog::Write(LogLevel level, std::string_view event,
                   std::vector<LogField> fields) const {
  std::vector<LogField> all = {{"project", project_}, {"job", job_}};
  if (attempt_ >= 0) all.emplace_back("attempt", attempt_);
  if (!trace_id_.empty()) all.emplace_back("trace_id", trace_id_);
  for (LogField& field : fields) all.push_back(std::move(field));
  Log(level, event, all);
}

void JobLog::WriteError(std::string_view event,
                        const absl::Status& error) const {
  Write(LogLevel::kError, event, {{"error", std::string(error.message())}});
}

void LogJobState(const JobRecord& job) {
  const auto state = static_cast<quant::v1::Job::State>(job.state);
  std::vector<LogField> fields = {{"state", quant::v1::Job::State_Name(state)}};
  google::rpc::Status error;
  const bool failed = job.state == JobState::kFailed;
  if (failed && error.ParseFromString(job.error)) {
    fields.emplace_back("reason", ReasonOf(error));
    fields.emplace_back("error", error.message());
    const std::string tensor = TensorOf(error.message());
    if (!tensor.empty()) fields.emplace_back("tensor", tensor);
  }
  JobLog(job).Write(failed ? LogLevel::kWarning : LogLevel::kInfo, "job",
                    std::move(fields));
}

}  // namespace qs
