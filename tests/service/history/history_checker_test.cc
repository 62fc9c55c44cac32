// A good history passes; each rule catches a history that breaks it.
#include "tests/service/history/history_checker.h"

#include <algorithm>
#include <set>

#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

// The rules that a history breaks.
std::set<std::string> Broken(const History& history) {
  std::set<std::string> rules;
  for (const Violation& violation : CheckHistory(history)) {
    rules.insert(violation.rule);
  }
  return rules;
}

using Rules = std::set<std::string>;

// From microsecond `start` on, ten long.
Operation Op(int64_t start, const std::string& call,
             const std::string& object) {
  Operation op;
  op.start = start;
  op.end = start + 10;
  op.call = call;
  op.object = object;
  return op;
}

Operation Refused(Operation op, const std::string& error) {
  op.outcome = Operation::kRefused;
  op.error = error;
  return op;
}

Operation Unknown(Operation op) {
  op.outcome = Operation::kUnknown;
  op.error = "UNAVAILABLE ";
  return op;
}

Operation Write(int64_t start, const std::vector<int64_t>& acks,
                const std::string& digest = "") {
  Operation op = Op(start, "WriteTensor", "u");
  op.numbers = acks;
  op.digest = digest;
  op.expected = "d";
  return op;
}

Operation CreateUpload(int64_t start, const std::string& id,
                       int64_t persisted) {
  Operation op = Op(start, "CreateUpload", id);
  op.request = "r";
  op.numbers = {persisted};
  return op;
}

Operation ListTensors(int64_t start, const std::vector<std::string>& names) {
  Operation op = Op(start, "ListTensors", "");
  op.names = names;
  return op;
}

TEST_CASE("history: uploads", "[history]") {
  const Operation create = CreateUpload(0, "u", 0);
  const Operation write = Write(20, {0, 5, 9}, "d");
  const Operation remove = Op(60, "DeleteTensor", "u");
  const Operation gone =
      Refused(Op(80, "ReadTensor", "u"), "NOT_FOUND TENSOR_NOT_FOUND");
  CHECK(Broken({create, write, ListTensors(40, {"u"}), remove, gone,
                ListTensors(80, {}), CreateUpload(90, "v", 0)}) == Rules{});
  // Acknowledged within the call counts even when the call was lost.
  CHECK(Broken({create, Unknown(Write(20, {0, 5})), Write(40, {4})}) ==
        Rules{"PERSISTED_SHRANK"});
  CHECK(Broken({create, Write(20, {5, 4})}) == Rules{"PERSISTED_SHRANK"});
  // At the same time anything goes.
  CHECK(Broken({create, Write(20, {5}), Write(25, {0})}) == Rules{});
  CHECK(Broken({create, Refused(Op(20, "GetUpload", "u"),
                                "NOT_FOUND UPLOAD_EXPIRED")}) ==
        Rules{"UPLOAD_LOST"});
  CHECK(Broken({create, write, gone}) == Rules{"TENSOR_LOST"});
  CHECK(Broken({create, write, ListTensors(40, {})}) == Rules{"TENSOR_LOST"});
  CHECK(Broken({create, write, Unknown(remove), ListTensors(80, {})}) ==
        Rules{});
  CHECK(Broken({create, write, remove, ListTensors(80, {"u"})}) ==
        Rules{"TENSOR_BACK"});
  CHECK(Broken({create, write, remove, Op(80, "ReadTensor", "u")}) ==
        Rules{"TENSOR_BACK"});
  CHECK(Broken({create, Write(20, {}, "another")}) == Rules{"WRONG_BYTES"});
}

JobView View(int64_t revision, const std::string& state) {
  JobView view;
  view.id = "j";
  view.revision = revision;
  view.state = state;
  view.destination = "nf4-1";
  if (state == "SUCCEEDED") view.digest = "d";
  if (state == "FAILED") view.error = "WORKER_CRASHED";
  return view;
}

Operation Job(int64_t start, const std::string& call, const JobView& view) {
  Operation op = Op(start, call, view.id);
  op.expected = "nf4-1";
  op.jobs = {view};
  return op;
}

Operation CreateJob(int64_t start, const JobView& view) {
  Operation op = Job(start, "CreateJob", view);
  op.request = "r";
  return op;
}

Operation Watch(int64_t start, int64_t from,
                const std::vector<JobView>& views) {
  Operation op = Op(start, "WatchJob", "j");
  op.from = from;
  op.jobs = views;
  for (JobView& view : op.jobs) view.destination.clear();
  return op;
}

Operation Result(const std::string& object, const std::string& digest,
                 const std::vector<std::string>& names = {}) {
  Operation op = Op(900, "Result", object);
  op.digest = digest;
  op.names = names;
  return op;
}

Operation List(int64_t start, const std::vector<JobView>& views) {
  Operation op = Op(start, "ListJobs", "");
  op.jobs = views;
  return op;
}

const JobView kQueued = View(1, "QUEUED");
const JobView kRunning = View(2, "RUNNING");
const JobView kSucceeded = View(3, "SUCCEEDED");
const JobView kFailed = View(3, "FAILED");
const JobView kCancelled = View(2, "CANCELLED");

TEST_CASE("history: jobs that are kept", "[history]") {
  const Operation create = CreateJob(0, kQueued);
  const Operation missing =
      Refused(Op(80, "GetJob", "j"), "NOT_FOUND JOB_NOT_FOUND");
  const Operation remove = Op(60, "DeleteJob", "j");
  CHECK(Broken({create, Watch(20, 1, {kRunning, kSucceeded}),
                Job(40, "GetJob", kSucceeded), List(40, {kSucceeded}), remove,
                missing, List(80, {}), Op(200, "Settled", ""),
                Result("nf4-1", "d"), Result("nf4-2", "")}) == Rules{});
  CHECK(Broken({create, missing}) == Rules{"JOB_LOST"});
  CHECK(Broken({create, List(20, {})}) == Rules{"JOB_LOST"});
  CHECK(Broken({create, remove, List(80, {kQueued})}) == Rules{"JOB_BACK"});
  CHECK(Broken({create, Op(200, "Settled", "")}) == Rules{"UNFINISHED"});
  JobView other = kQueued;
  other.destination = "nf4-2";
  CHECK(Broken({create, Job(20, "GetJob", other)}) == Rules{"SPEC_CHANGED"});
  CHECK(Broken({create, Job(20, "GetJob", kRunning),
                Job(40, "GetJob", kQueued)}) == Rules{"REVISION_SHRANK"});
  other = kQueued;
  other.cancelling = true;
  CHECK(Broken({create, Job(20, "GetJob", other)}) ==
        Rules{"REVISION_DIFFERS"});
  JobView second = kQueued;
  second.id = "k";
  CHECK(Broken({create, CreateJob(20, second)}) == Rules{"REQUEST_TWICE"});
  CHECK(Broken({create, remove, CreateJob(80, second)}) == Rules{});
  Operation again = Op(20, "CreateJob", "");
  again.expected = "nf4-1";
  CHECK(Broken({create, Refused(again, "ALREADY_EXISTS DESTINATION_EXISTS")}) ==
        Rules{"NOT_IDEMPOTENT"});
}

TEST_CASE("history: ends of jobs", "[history]") {
  const Operation create = CreateJob(0, kQueued);
  const Operation done = Watch(20, 1, {kRunning, kSucceeded});
  CHECK(Broken({create, done, Job(40, "GetJob", View(4, "CANCELLED"))}) ==
        Rules{"TWO_ENDS", "ILLEGAL_CHANGE"});
  CHECK(Broken({create, Job(20, "GetJob", View(2, "SUCCEEDED"))}) ==
        Rules{"ILLEGAL_CHANGE"});
  JobView view = kRunning;
  view.cancelling = true;
  CHECK(Broken({create, Watch(20, 1, {kRunning}),
                Job(40, "GetJob", kFailed)}) == Rules{"WATCH_UNENDED"});
  CHECK(Broken({create, Job(20, "CancelJob", view),
                Job(40, "GetJob", kSucceeded)}) == Rules{"CANCEL_FORGOTTEN"});
  view = kFailed;
  view.error = "JOB_FAILED";
  CHECK(Broken({create, Job(40, "GetJob", view)}) == Rules{"JOB_FAILED"});
  CHECK(Broken({create, done, Result("nf4-1", "another")}) ==
        Rules{"WRONG_RESULT"});
  CHECK(Broken({create, done, Result("nf4-1", "")}) == Rules{"WRONG_RESULT"});
  CHECK(Broken({create, done, Result("nf4-1", "d", {".nf4-1.j"})}) ==
        Rules{"LEFT_BEHIND"});
  CHECK(Broken({create, Job(20, "GetJob", kCancelled), Result("nf4-1", "d")}) ==
        Rules{"LEFT_BEHIND"});
  JobView other = kSucceeded;
  other.id = "k";
  other.destination = "nf4-2";
  other.digest = "e";
  CHECK(Broken({create, done, Job(20, "GetJob", other), Result("nf4-1", "d"),
                Result("nf4-2", "e")}) == Rules{"RESULTS_DIFFER"});
}

TEST_CASE("history: watches", "[history]") {
  const Operation create = CreateJob(0, kQueued);
  JobView snapshot = kRunning;
  snapshot.snapshot = true;
  CHECK(Broken({create, Unknown(Watch(20, 0, {snapshot})),
                Watch(40, 2, {kSucceeded}), Watch(60, 3, {})}) == Rules{});
  CHECK(Broken({create, Watch(20, 1, {kSucceeded})}) == Rules{"WATCH_SKIPPED"});
  CHECK(Broken({create, Unknown(Watch(20, 1, {kRunning, kRunning}))}) ==
        Rules{"WATCH_SKIPPED"});
  CHECK(Broken({create, Unknown(Watch(20, 1, {kRunning, snapshot}))}) ==
        Rules{"WATCH_SKIPPED"});
  CHECK(Broken({create, Watch(20, 1, {})}) == Rules{"WATCH_UNENDED"});
}

Operation Activations(int64_t start, const std::vector<int64_t>& durable,
                      int64_t sent) {
  Operation op = Op(start, "WriteActivations", "c");
  op.request = "0";
  op.numbers = durable;
  op.sent = sent;
  return op;
}

Operation Moments(int64_t start, bool already) {
  Operation op = Op(start, "WriteSecondMoments", "c");
  op.request = "m";
  op.site = "a";
  op.counter = kSiteInputs - 1;
  op.already_added = already;
  return op;
}

// Site "a", whose batches are the odd ones.
Operation ReadSite(int64_t start, const std::vector<int64_t>& added) {
  Operation op = Op(start, "ReadSite", "c");
  op.site = "a";
  op.numbers.assign(kSiteInputs, 0);
  for (const int64_t counter : added) {
    ++op.numbers[static_cast<size_t>(counter)];
  }
  return op;
}

Operation Seal(int64_t start, int64_t tokens, const std::string& digest = "d") {
  Operation op = Op(start, "SealSites", "c");
  op.sites = {{"a", true, tokens, digest}};
  return op;
}

TEST_CASE("history: calibrations", "[history]") {
  const Operation create = Op(0, "CreateCalibration", "c");
  const int64_t last = kSiteInputs - 1;
  const Operation sent = Activations(20, {0, 3}, 5);
  CHECK(Broken({create, sent, Moments(20, false), Moments(30, true),
                Seal(40, 3), ReadSite(60, {0, 2, last})}) == Rules{});
  // What was sent and not acknowledged may be there or not.
  CHECK(Broken({create, sent, Seal(40, 3), ReadSite(60, {0, 2, 4})}) ==
        Rules{});
  CHECK(Broken({create, sent, Activations(40, {2}, 2)}) ==
        Rules{"DURABLE_SHRANK"});
  CHECK(Broken({create, Refused(Op(20, "GetCalibration", "c"),
                                "NOT_FOUND CALIBRATION_NOT_FOUND")}) ==
        Rules{"CALIBRATION_LOST"});
  CHECK(Broken({create, Moments(20, false), Moments(40, false)}) ==
        Rules{"ADDED_TWICE"});
  // Clients choose the IDs, so there may be another one after a delete.
  CHECK(Broken({create, sent, Moments(20, false),
                Op(40, "DeleteCalibration", "c"), create, Moments(60, false),
                Activations(60, {0}, 0)}) == Rules{});
  CHECK(Broken({create, sent, Seal(40, 1), ReadSite(60, {0})}) ==
        Rules{"COUNT_LOST"});
  CHECK(Broken({create, Moments(20, false), Seal(40, 0), ReadSite(60, {})}) ==
        Rules{"COUNT_LOST"});
  CHECK(Broken({create, sent, Seal(40, 3), ReadSite(60, {0, 2, last})}) ==
        Rules{"COUNT_INVENTED"});
  CHECK(Broken({create, sent, Seal(40, 3), ReadSite(60, {0, 2, 2})}) ==
        Rules{"COUNT_TWICE"});
  CHECK(Broken({create, Activations(20, {0}, 5), Seal(40, 1),
                ReadSite(60, {2})}) == Rules{"COUNT_GAP"});
  CHECK(Broken({create, sent, Seal(40, 1), ReadSite(60, {0, 2})}) ==
        Rules{"TOKENS_WRONG"});
  CHECK(Broken({create, Seal(40, 1), Seal(60, 1, "e")}) ==
        Rules{"SEALED_CHANGED"});
}

TEST_CASE("history: errors, exit codes and files", "[history]") {
  CHECK(Broken({Refused(Op(0, "GetJob", "j"), "INTERNAL STORE_FAILED")}) ==
        Rules{"UNEXPECTED_ERROR"});
  CHECK(Broken({Refused(Op(0, "GetJob", "j"), "UNAVAILABLE DRAINING")}) ==
        Rules{});
  Operation drain = Op(0, "Drain", "");
  CHECK(Broken({drain}) == Rules{"BAD_EXIT"});
  drain.numbers = {1};
  CHECK(Broken({drain}) == Rules{"BAD_EXIT"});
  drain.numbers = {0};
  CHECK(Broken({drain}) == Rules{});
  Operation files = Op(0, "Orphans", "");
  files.names = {"staging/u.x"};
  CHECK(Broken({files}) == Rules{"ORPHAN"});
}

}  // namespace
}  // namespace qs::testing
