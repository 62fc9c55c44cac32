// Used by tests/service/history/history_run.cc.
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/rpc/error_details.pb.h"
#include "service/access/file_uri.h"
#include "tests/service/history/workload.h"

namespace qs::testing {
namespace {

using JobStub = v1::JobService::Stub;

// What a job's number makes of it: its destination's name begins with it.
struct Kind {
  const char* name;
  const char* preset;
};
constexpr Kind kKinds[] = {
    {"nf4", "NF4"}, {"rtn", "W4A16"}, {"gptq", "W4A16-gptq"}};

const Kind& KindOf(int number) { return kKinds[number % 3]; }

JobView ViewOf(const v1::Job& job) {
  JobView view;
  view.id = IdOf(job.name());
  view.revision = job.revision();
  view.state = v1::Job::State_Name(job.state());
  view.attempt = job.attempt();
  view.cancelling = job.cancelling();
  const std::string& uri = job.destination().uri();
  view.destination = uri.substr(uri.rfind('/') + 1);
  view.digest = job.summary().digest();
  google::rpc::ErrorInfo info;
  if (job.error().details_size() > 0) job.error().details(0).UnpackTo(&info);
  view.error = info.reason();
  return view;
}

// False: the event is no news of the state.
bool ViewOf(const v1::JobEvent& event, const std::string& id, JobView* view) {
  if (event.has_snapshot()) {
    *view = ViewOf(event.snapshot());
    view->snapshot = true;
    return true;
  }
  if (!event.has_change()) return false;
  if (event.change().has_job()) *view = ViewOf(event.change().job());
  view->id = id;
  view->revision = event.revision();
  view->state = v1::Job::State_Name(event.change().state());
  view->attempt = event.change().attempt();
  view->cancelling = event.change().cancelling();
  return true;
}

bool IsDone(const std::string& state) {
  return state != "QUEUED" && state != "RUNNING";
}

}  // namespace

std::string JobDestination(int number) {
  return absl::StrCat(KindOf(number).name, "-", number);
}

void HistoryClient::ActOnJob() {
  const int number = board_.jobs.Pick(&random_);
  const std::string id = CreateJob(number);
  if (OneIn(3)) {
    std::vector<JobView> all;
    ListJobs(&all);
  }
  if (id.empty()) return;
  if (OneIn(3)) GetJob(id);
  if (OneIn(5)) CancelJob(id);
  if (OneIn(2)) WatchJob(id, /*to_the_end=*/false);
  if (OneIn(4)) DeleteJob(number, id);
}

std::string HistoryClient::CreateJob(int number) {
  Operation op = Begin("CreateJob", "");
  op.request = absl::StrCat("job-", number);
  op.expected = JobDestination(number);
  v1::CreateJobRequest request;
  request.set_request_id(op.request);
  v1::Job* job = request.mutable_job();
  job->mutable_source()->set_uri(FileUriOf(board_.data + "/tiny-llama"));
  job->mutable_quantization()->set_preset(KindOf(number).preset);
  job->mutable_destination()->set_uri(
      FileUriOf(board_.out + "/" + op.expected));
  if (number % 3 == 2) {
    job->mutable_calibration()->set_uri(
        FileUriOf(board_.data + "/tiny-llama-calibration.safetensors"));
    job->mutable_quantization()->set_profile(v1::REFERENCE);
  }
  v1::Job made;
  const grpc::Status status = Call(*jobs_, &JobStub::CreateJob, request, &made);
  if (status.ok()) op.jobs = {ViewOf(made)};
  op.object = IdOf(made.name());
  const std::string id = op.object;
  End(std::move(op), status);
  return id;
}

void HistoryClient::GetJob(const std::string& id) {
  Operation op = Begin("GetJob", id);
  v1::GetJobRequest request;
  request.set_name(NameOf("jobs", id));
  v1::Job job;
  const grpc::Status status = Call(*jobs_, &JobStub::GetJob, request, &job);
  if (status.ok()) op.jobs = {ViewOf(job)};
  End(std::move(op), status);
}

void HistoryClient::CancelJob(const std::string& id) {
  Operation op = Begin("CancelJob", id);
  v1::CancelJobRequest request;
  request.set_name(NameOf("jobs", id));
  v1::Job job;
  const grpc::Status status = Call(*jobs_, &JobStub::CancelJob, request, &job);
  if (status.ok()) op.jobs = {ViewOf(job)};
  End(std::move(op), status);
}

void HistoryClient::DeleteJob(int number, const std::string& id) {
  Operation op = Begin("DeleteJob", id);
  v1::DeleteJobRequest request;
  request.set_name(NameOf("jobs", id));
  google::protobuf::Empty response;
  const grpc::Status status =
      Call(*jobs_, &JobStub::DeleteJob, request, &response);
  if (status.ok()) board_.jobs.Retire(number);
  End(std::move(op), status);
}

void HistoryClient::WatchJob(const std::string& id, bool to_the_end) {
  int64_t revision = OneIn(2) ? 1 : 0;
  while (!WatchOnce(id, to_the_end, &revision)) {
    if (!to_the_end && OneIn(2)) return;
    absl::SleepFor(absl::Milliseconds(20));
    if (to_the_end) continue;
  }
}

bool HistoryClient::WatchOnce(const std::string& id, bool to_the_end,
                              int64_t* revision) {
  Operation op = Begin("WatchJob", id);
  op.from = *revision;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  v1::WatchJobRequest request;
  request.set_name(NameOf("jobs", id));
  request.set_from_revision(*revision);
  const auto stream = jobs_->WatchJob(&context, request);
  v1::JobEvent event;
  while (stream->Read(&event)) {
    JobView view;
    if (ViewOf(event, id, &view)) {
      op.jobs.push_back(view);
      if (!to_the_end && OneIn(5)) context.TryCancel();
    }
    *revision = event.revision();
  }
  const grpc::Status status = stream->Finish();
  const bool over = status.ok() ||
                    status.error_code() == grpc::StatusCode::NOT_FOUND ||
                    status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  End(std::move(op), status);
  return over;
}

bool HistoryClient::ListJobs(std::vector<JobView>* jobs) {
  Operation op = Begin("ListJobs", "");
  v1::ListJobsRequest request;
  request.set_page_size(13);
  v1::ListJobsResponse response;
  grpc::Status status;
  do {
    status = Call(*jobs_, &JobStub::ListJobs, request, &response);
    for (const v1::Job& job : response.jobs()) {
      op.jobs.push_back(ViewOf(job));
    }
    request.set_page_token(response.next_page_token());
  } while (status.ok() && !request.page_token().empty());
  *jobs = op.jobs;
  End(std::move(op), status);
  return status.ok();
}

void HistoryClient::SettleJobs(absl::Time limit) {
  while (absl::Now() < limit) {
    std::vector<JobView> jobs;
    bool done = ListJobs(&jobs);
    for (const JobView& job : jobs) {
      if (IsDone(job.state)) continue;
      done = false;
      WatchJob(job.id, /*to_the_end=*/true);
    }
    if (done) break;
  }
  End(Begin("Settled", ""), grpc::Status::OK);
}

}  // namespace qs::testing
