// The fields of a new job, filters and page tokens.
#include "service/jobs/job_request.h"

#include <functional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "service/server/error.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

namespace v1 = quant::v1;

v1::CreateJobRequest Good() {
  v1::CreateJobRequest request;
  request.mutable_job()->mutable_source()->set_uri("file:///in");
  request.mutable_job()->mutable_destination()->set_uri("file:///out");
  return request;
}

TEST_CASE("what is output only is no part of what is asked for",
          "[job_request]") {
  v1::CreateJobRequest request = Good();
  const auto plain = SpecFromRequest(request);
  REQUIRE(plain.ok());
  REQUIRE(plain->priority() == v1::Job::NORMAL);
  v1::Job* job = request.mutable_job();
  job->set_name("x");
  job->set_state(v1::Job::FAILED);
  job->set_attempt(3);
  job->set_cancelling(true);
  job->mutable_plan();
  job->mutable_progress();
  job->mutable_error();
  job->mutable_summary();
  job->mutable_create_time();
  job->mutable_start_time();
  job->mutable_end_time();
  job->set_revision(9);
  job->set_priority(v1::Job::NORMAL);
  const auto full = SpecFromRequest(request);
  REQUIRE(full.ok());
  REQUIRE(DeterministicBytes(*full) == DeterministicBytes(*plain));
}

TEST_CASE("labels in any order are the same bytes", "[job_request]") {
  v1::Job a;
  v1::Job b;
  for (int i = 0; i < 16; ++i) {
    (*a.mutable_labels())[absl::StrCat("k", i)] = "v";
    (*b.mutable_labels())[absl::StrCat("k", 15 - i)] = "v";
  }
  REQUIRE(DeterministicBytes(a) == DeterministicBytes(b));
}

TEST_CASE("fields out of range", "[job_request]") {
  const auto refused =
      [](const std::string& field,
         const std::function<void(v1::CreateJobRequest*)>& change) {
        v1::CreateJobRequest request = Good();
        change(&request);
        const absl::Status status = SpecFromRequest(request).status();
        INFO(field << ": " << status.ToString());
        REQUIRE(ErrorReason(status) == "BAD_FIELD");
        REQUIRE(std::string(status.message()).rfind(field + ": got", 0) == 0);
      };
  refused("request_id", [](v1::CreateJobRequest* r) {
    r->set_request_id(std::string(129, 'x'));
  });
  refused("job.source.uri",
          [](v1::CreateJobRequest* r) { r->mutable_job()->clear_source(); });
  refused("job.destination.uri", [](v1::CreateJobRequest* r) {
    r->mutable_job()->mutable_destination()->set_uri(std::string(4097, 'x'));
  });
  refused("job.calibration.uri", [](v1::CreateJobRequest* r) {
    r->mutable_job()->mutable_calibration();
  });
  refused("job.source.include", [](v1::CreateJobRequest* r) {
    for (int i = 0; i < 1001; ++i) {
      r->mutable_job()->mutable_source()->add_exclude("x");
    }
  });
  refused("job.labels", [](v1::CreateJobRequest* r) {
    for (int i = 0; i < 17; ++i) {
      (*r->mutable_job()->mutable_labels())[absl::StrCat(i)] = "";
    }
  });
  for (const char* key : {"", "A", "a b", "a=b"}) {
    refused("job.labels", [key](v1::CreateJobRequest* r) {
      (*r->mutable_job()->mutable_labels())[key] = "v";
    });
  }
  refused("job.labels", [](v1::CreateJobRequest* r) {
    (*r->mutable_job()->mutable_labels())["a"] = "b c";
  });
  refused("job.priority", [](v1::CreateJobRequest* r) {
    r->mutable_job()->set_priority(v1::Job::Priority(5));
  });
  refused("job.queue_timeout", [](v1::CreateJobRequest* r) {
    r->mutable_job()->mutable_queue_timeout()->set_nanos(5);
  });
  refused("job.execution_timeout", [](v1::CreateJobRequest* r) {
    r->mutable_job()->mutable_execution_timeout()->set_seconds(-1);
  });
  refused("job", [](v1::CreateJobRequest* r) {
    for (int i = 0; i < 300; ++i) {
      r->mutable_job()->mutable_source()->add_include(std::string(1000, 'x'));
    }
  });
}

TEST_CASE("filters and pages", "[job_request]") {
  v1::ListJobsRequest request;
  auto query = QueryFromRequest(request);
  REQUIRE(query.ok());
  REQUIRE(query->limit == 50);
  REQUIRE(query->before == 0);
  request.set_filter("  state=QUEUED labels.a.b=C labels.d= ");
  request.set_page_size(1000);
  request.set_page_token(PageToken(request, 42));
  query = QueryFromRequest(request);
  REQUIRE(query.ok());
  REQUIRE(query->state == JobState::kQueued);
  REQUIRE(query->labels.size() == 2);
  REQUIRE(query->labels[0].first == "a.b");
  REQUIRE(query->labels[0].second == "C");
  REQUIRE(query->labels[1].second.empty());
  REQUIRE(query->limit == 1000);
  REQUIRE(query->before == 42);
  REQUIRE(query->created_after == absl::InfinitePast());
  v1::ListJobsRequest times;
  times.set_filter(
      "create_time>2026-11-01T00:00:00Z state=QUEUED "
      "create_time<\"2026-11-01T02:00:00.5+02:00\"");
  query = QueryFromRequest(times);
  REQUIRE(query.ok());
  const absl::Time start =
      absl::FromCivil(absl::CivilDay(2026, 11, 1), absl::UTCTimeZone());
  REQUIRE(query->created_after == start);
  REQUIRE(query->created_before == start + absl::Milliseconds(500));
  REQUIRE(query->state == JobState::kQueued);
  const auto refused = [](const v1::ListJobsRequest& r) {
    REQUIRE(ErrorReason(QueryFromRequest(r).status()) == "BAD_FIELD");
  };
  v1::ListJobsRequest other = request;
  other.set_filter("state=RUNNING");
  refused(other);  // another filter's token
  for (const char* token : {"1", "1.2.3", "-1.00000000", "x.00000000"}) {
    v1::ListJobsRequest bad;
    bad.set_page_token(token);
    refused(bad);
  }
  for (const char* filter :
       {"state", "state=STATE_UNSPECIFIED", "state=QUEUED state=QUEUED",
        "labels.=x", "labels.A=x", "name=x", "create_time>3",
        "create_time=2026-11-01T00:00:00Z", "create_time>infinite-future",
        "create_time>2026-11-01", "create_time>",
        "create_time<2026-11-01T00:00:00Z create_time<2026-11-01T00:00:00Z",
        "labels.a=1 labels.b=1 labels.c=1 labels.d=1 labels.e=1"}) {
    v1::ListJobsRequest bad;
    bad.set_filter(filter);
    INFO(filter);
    refused(bad);
  }
  for (const int size : {0, -1, 1001}) {
    v1::ListJobsRequest bad;
    bad.set_page_size(size);
    refused(bad);
  }
}

TEST_CASE("ids are short, different and in order of time", "[job_request]") {
  std::set<std::string> ids;
  std::string last;
  for (int i = 0; i < 100; ++i) {
    const std::string id =
        NewJobId(absl::FromUnixMillis(1'700'000'000'000 + i));
    REQUIRE(id.size() == 20);
    REQUIRE(id > last);
    last = id;
    ids.insert(NewJobId(absl::FromUnixMillis(1)));
  }
  REQUIRE(ids.size() == 100);
}

}  // namespace
}  // namespace qs::testing
