// Jobs as text, and the flags that make one.
#include "service/cli/job_text.h"

#include "service/cli/arguments.h"
#include "service/cli/job_arguments.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Args = std::vector<std::string>;

TEST_CASE("paths become URIs, ids become names") {
  CHECK(UriOf("/a/b c%") == "file:///a/b%20c%25");
  CHECK(UriOf("file:///a%20b") == "file:///a%20b");
  CHECK(JobNameOf("17") == "projects/-/jobs/17");
  CHECK(JobNameOf("projects/p/jobs/17") == "projects/p/jobs/17");
  CHECK(CalibrationNameOf("c") == "projects/-/calibrations/c");
  CHECK(CalibrationNameOf("projects/p/calibrations/c") ==
        "projects/p/calibrations/c");
}

TEST_CASE("the flags of jobs create") {
  const ParsedArguments parsed = ParseArguments(
      {"jobs", "create", "/in", "-o", "/out/a", "--preset", "W4A16-gptq",
       "--calibration", "/cal", "--priority", "urgent", "--label", "a=b",
       "--label", "c=d", "--queue-timeout", "1.5", "--wait"});
  INFO(parsed.error);
  REQUIRE(parsed.arguments);
  const JobArguments& job = parsed.arguments->job;
  CHECK(parsed.arguments->command == Command::kJobsCreate);
  CHECK(job.source == "file:///in");
  CHECK(job.destination == "file:///out/a");
  CHECK(job.calibration == "file:///cal");
  CHECK(PriorityOf(job.priority) == v1::Job::URGENT);
  CHECK(job.labels == Args{"a=b", "c=d"});
  CHECK(job.queue_timeout == 1.5);
  CHECK(job.wait);
  const ParsedArguments stored =
      ParseArguments({"jobs", "create", "/in", "--preset", "NF4"});
  REQUIRE(stored.arguments);
  CHECK(stored.arguments->job.destination.empty());
  const ParsedArguments result =
      ParseArguments({"jobs", "result", "17", "/out"});
  REQUIRE(result.arguments);
  CHECK(result.arguments->command == Command::kJobsResult);
  CHECK(result.arguments->job.name == "projects/-/jobs/17");
  CHECK(result.arguments->output == "/out");
  const ParsedArguments named = ParseArguments(
      {"jobs", "create", "/in", "-o", "/out/a", "--preset", "W4A16-gptq",
       "--calibration-name", "c", "--delete-calibration"});
  REQUIRE(named.arguments);
  CHECK(named.arguments->job.calibration_name == "projects/-/calibrations/c");
  CHECK(named.arguments->job.delete_calibration);
  const ParsedArguments uploaded = ParseArguments(
      {"jobs", "create", "--tensors", "model.*", "--model-config", "c.json",
       "-o", "/out/a", "--preset", "NF4"});
  REQUIRE(uploaded.arguments);
  CHECK(uploaded.arguments->job.tensors == "model.*");
  CHECK(uploaded.arguments->job.model_config == "c.json");
  CHECK(uploaded.arguments->job.source.empty());
  for (const Args& wrong :
       {Args{"jobs"}, Args{"jobs", "get"},
        Args{"jobs", "create", "-o", "/out", "--preset", "NF4"},
        Args{"jobs", "create", "/in", "--tensors", "*", "-o", "/out",
             "--preset", "NF4"},
        Args{"jobs", "create", "/in", "--model-config", "c.json", "-o", "/out",
             "--preset", "NF4"},
        Args{"jobs", "create", "/in", "-o", "/out", "--preset", "W4A16-gptq",
             "--calibration", "/c", "--calibration-name", "c"},
        Args{"jobs", "create", "/in", "-o", "/out", "--preset", "NF4",
             "--delete-calibration"},
        Args{"jobs", "create", "/in", "-o", "/out"},  // no method
        Args{"jobs", "result", "1"},                  // no directory
        Args{"jobs", "create", "/in", "-o", "/out", "--preset", "NF4",
             "--priority", "high"}}) {
    CHECK(ParseArguments(wrong).exit_code == 2);
  }
}

TEST_CASE("a plan as a line") {
  v1::JobPlan plan;
  plan.set_tensors(3);
  plan.set_shards(2);
  const auto line = [&plan](int64_t seconds, int32_t nanos) {
    plan.mutable_estimated_time()->set_seconds(seconds);
    plan.mutable_estimated_time()->set_nanos(nanos);
    return PlanText(plan);
  };
  CHECK(line(0, 234'000'000).find("3 tensors, ") != std::string::npos);
  CHECK(line(0, 234'000'000).find(", about 0.23 s\n") != std::string::npos);
  CHECK(line(89, 0).find(", about 89 s\n") != std::string::npos);
  CHECK(line(150, 0).find(", about 2 min\n") != std::string::npos);
  CHECK(line(360'000, 0).find(", about 100.0 h\n") != std::string::npos);
}

TEST_CASE("what a job waits for") {
  v1::Job job;
  v1::JobWaiting* const waiting = job.mutable_waiting_for();
  waiting->set_calibration("projects/p/calibrations/c");
  waiting->set_open_sites(2);
  waiting->add_first_sites("a");
  waiting->add_first_sites("b");
  CHECK(JobText(job).find("waiting for: 2 sites of projects/p/calibrations/c: "
                          "a, b\n") != std::string::npos);
  waiting->set_open_sites(7);
  CHECK(JobText(job).find("a, b, ...\n") != std::string::npos);
  waiting->clear_first_sites();
  waiting->add_first_sites("a");
  waiting->set_open_sites(1);
  CHECK(JobText(job).find("waiting for: 1 site of projects/p/calibrations/c: "
                          "a\n") != std::string::npos);
  CHECK(JobText(job).find("wait for sites") == std::string::npos);
  job.mutable_progress()->set_tensors_waiting(3);
  CHECK(JobText(job).find("; 3 tensors wait for sites\n") != std::string::npos);
  job.mutable_progress()->set_tensors_waiting(1);
  CHECK(JobText(job).find("; 1 tensor waits for sites\n") != std::string::npos);
}

TEST_CASE("a job as a block and in a table") {
  v1::Job job;
  job.set_name("projects/p/jobs/17");
  job.set_state(v1::Job::RUNNING);
  job.set_attempt(2);
  job.set_cancelling(true);
  job.mutable_quantization()->mutable_gptq();
  job.mutable_destination()->set_uri("file:///out/a");
  job.mutable_progress()->set_bytes_done(30);
  job.mutable_progress()->set_bytes_total(120);
  job.mutable_create_time()->set_seconds(0);
  const std::string table = JobTable({job});
  CHECK(table.find("17") != std::string::npos);
  CHECK(table.find("RUNNING, attempt 2, cancelling") != std::string::npos);
  CHECK(table.find("25 %") != std::string::npos);
  CHECK(table.find("1970-01-01 00:00:00") != std::string::npos);
  job.set_state(v1::Job::FAILED);
  job.mutable_error()->set_message("it went wrong");
  const std::string text = JobText(job);
  CHECK(text.find("method:      gptq\n") != std::string::npos);
  CHECK(text.find("error:       it went wrong ()\n") != std::string::npos);
  CHECK(text.find("digest") == std::string::npos);
}

TEST_CASE("a job's summary, of this server and of an older one") {
  v1::Job job;
  v1::JobSummary& summary = *job.mutable_summary();
  summary.set_tensors(2);
  summary.mutable_error()->set_count(4);
  summary.mutable_error()->set_mean_squared_error(0.25);
  summary.mutable_error()->set_sqnr_db(12);
  summary.mutable_rtn()->set_count(4);
  summary.set_digest("sha256:00");
  std::string text = JobText(job);
  INFO(text);
  CHECK(text.find("\nmse:         2.500e-01, ") != std::string::npos);
  CHECK(text.find("figures") == std::string::npos);
  CHECK(text.find("worker time") == std::string::npos);

  summary.mutable_error()->set_cosine_similarity(0.75);
  v1::ReportTotals& totals = *summary.mutable_totals();
  totals.set_worker_seconds(4);
  totals.mutable_phases()->set_search(3);
  totals.mutable_phases()->set_encode(1);
  totals.set_memory_bytes(2'000'000);
  totals.mutable_solver()->set_dead_columns(6);
  totals.add_algorithms("awq-best/2");
  totals.add_devices("cpu:0");
  totals.add_devices("gpu:0");
  v1::WorstGroup& worst = *totals.add_worst_groups();
  worst.set_tensor("a.weight");
  worst.set_group(9);
  worst.set_mean_squared_error(0.5);
  v1::CarriedTensors& carried =
      *job.mutable_plan()->mutable_summary()->add_carried();
  carried.set_reason("norm");
  carried.set_tensors(9);
  carried.set_bytes(4610);
  text = JobText(job);
  for (const char* line :
       {"carried:     4.61 kB in 9 tensors: norm\n",
        "figures:     MSE 2.500e-01, mean |e| 0, max |e| 0, relative 0%, SQNR "
        "12.00 dB, cosine 0.75000\n",
        "solver:      6 dead columns\n",
        "worker time: 4.00 s: search 75%, encode 25%\n",
        "memory:      at most 2.00 MB of the server's for a tensor or a "
        "group\n",
        "made by:     awq-best/2 on cpu:0, gpu:0\n",
        "worst group: MSE 5.000e-01 in a.weight, group 9\n",
        "digest:      sha256:00\n"}) {
    INFO(line);
    CHECK(text.find(line) != std::string::npos);
  }
}

}  // namespace
}  // namespace qs::cli
