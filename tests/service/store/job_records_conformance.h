// What every JobRecords must do. A test of an implementation gives an opener:
// the same records again after what was opened first is gone.
#ifndef QS_TESTS_SERVICE_STORE_JOB_RECORDS_CONFORMANCE_H_
#define QS_TESTS_SERVICE_STORE_JOB_RECORDS_CONFORMANCE_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/store/job_records.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

struct OpenRecords {
  virtual ~OpenRecords() = default;
  virtual JobRecords& records() = 0;
};
using RecordsOpener = std::function<std::unique_ptr<OpenRecords>()>;

constexpr int64_t kManyQueued = 1000;

inline absl::Time At(int64_t seconds) { return absl::FromUnixSeconds(seconds); }

inline JobRecord NewJob(const std::string& id,
                        const std::string& project = "default") {
  JobRecord job;
  job.key = {project, id};
  job.request_hash = "hash of " + id;
  job.spec = std::string("\0spec\xff", 6);
  job.plan = "plan";
  job.destination = "/out/" + project + "/" + id;
  job.priority = 2;
  job.created = At(100);
  return job;
}

inline JobRecord Put(JobRecords& records, const JobRecord& job) {
  const auto made = records.Create(job, kManyQueued);
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  REQUIRE(made->outcome == JobRecords::Created::kMade);
  return made->job;
}

inline absl::Status ToRunning(JobRecord& job) {
  job.state = JobState::kRunning;
  job.started = At(200);
  return absl::OkStatus();
}

inline absl::Status ToSucceeded(JobRecord& job) {
  job.state = JobState::kSucceeded;
  job.ended = At(300);
  job.summary = "summary";
  return absl::OkStatus();
}

inline JobRecords::Updated Change(JobRecords& records, const JobKey& key,
                                  const JobRecords::Change& change,
                                  absl::Time now = At(150)) {
  auto out = records.Update(key, now, change);
  INFO(out.status().ToString());
  REQUIRE(out.ok());
  return *std::move(out);
}

inline std::vector<std::string> Ids(const std::vector<JobRecord>& jobs) {
  std::vector<std::string> ids;
  for (const JobRecord& job : jobs) ids.push_back(job.key.id);
  return ids;
}

inline std::vector<std::string> ListIds(JobRecords& records,
                                        const JobQuery& query) {
  const auto jobs = records.List(query);
  INFO(jobs.status().ToString());
  REQUIRE(jobs.ok());
  return Ids(*jobs);
}

using Strings = std::vector<std::string>;

inline void CheckKeptOverRestart(const RecordsOpener& open) {
  {
    const auto opened = open();
    JobRecord job = NewJob("a");
    job.request_id = "r";
    job.trace = "00-t";
    job.queue_deadline = At(900);
    Put(opened->records(), job);
    Change(opened->records(), job.key, [](JobRecord& j) {
      j.fingerprint = "f";
      j.progress = "p";
      j.crashes = 2;
      return ToRunning(j);
    });
  }
  const auto opened = open();
  const auto job = opened->records().Get({"default", "a"});
  REQUIRE(job.ok());
  REQUIRE(job->spec == std::string("\0spec\xff", 6));
  REQUIRE(job->plan == "plan");
  REQUIRE(job->trace == "00-t");
  REQUIRE(job->request_id == "r");
  REQUIRE(job->destination == "/out/default/a");
  REQUIRE(job->state == JobState::kRunning);
  REQUIRE(job->crashes == 2);
  REQUIRE(job->fingerprint == "f");
  REQUIRE(job->progress == "p");
  REQUIRE(job->created == At(100));
  REQUIRE(job->started == At(200));
  REQUIRE(job->ended == absl::InfinitePast());
  REQUIRE(job->queue_deadline == At(900));
  REQUIRE(job->revision == 2);
}

inline void CheckCreateOnce(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  constexpr int kThreads = 8;
  std::vector<JobRecords::Created> made(kThreads);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        JobRecord job = NewJob(absl::StrCat("job", i));
        job.request_id = "same";
        auto out = records.Create(job, kManyQueued);
        if (out.ok()) made[static_cast<size_t>(i)] = *std::move(out);
      });
    }
  }
  int fresh = 0;
  for (const auto& one : made) {
    REQUIRE(one.job.key.id == made[0].job.key.id);
    fresh += one.outcome == JobRecords::Created::kMade ? 1 : 0;
  }
  REQUIRE(fresh == 1);
  const auto found = records.FindRequest("default", "same");
  REQUIRE(found.ok());
  REQUIRE((*found)->key == made[0].job.key);
  REQUIRE_FALSE(records.FindRequest("other", "same")->has_value());
  // Another project's ids are its own.
  JobRecord other = NewJob("x", "other");
  other.request_id = "same";
  Put(records, other);
}

inline void CheckCreateLimits(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  Put(records, NewJob("a"));
  Put(records, NewJob("b"));
  const auto full = records.Create(NewJob("c"), 2);
  REQUIRE(full.ok());
  REQUIRE(full->outcome == JobRecords::Created::kQueueFull);
  REQUIRE_FALSE(records.Get({"default", "c"}).ok());
  JobRecord same = NewJob("d");
  same.destination = NewJob("a").destination;
  REQUIRE(records.Create(same, 9)->outcome ==
          JobRecords::Created::kDestinationInUse);
  // A running one holds its place; one that is done does not.
  Change(records, {"default", "a"}, ToRunning);
  REQUIRE(records.Create(same, 9)->outcome ==
          JobRecords::Created::kDestinationInUse);
  Change(records, {"default", "a"}, ToSucceeded);
  REQUIRE(records.Create(same, 9)->outcome == JobRecords::Created::kMade);
}

inline void CheckUpdates(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  const JobKey key = Put(records, NewJob("a")).key;
  REQUIRE(records.Update({"default", "z"}, At(1), ToRunning).status().code() ==
          absl::StatusCode::kNotFound);
  // An error of the change changes nothing.
  const auto refused = records.Update(key, At(1), [](JobRecord& job) {
    job.attempt = 7;
    return absl::OutOfRangeError("no");
  });
  REQUIRE(refused.status().code() == absl::StatusCode::kOutOfRange);
  REQUIRE(records.Get(key)->attempt == 1);
  // Progress is no event.
  const auto quiet = Change(records, key, [](JobRecord& job) {
    job.progress = "half";
    return absl::OkStatus();
  });
  REQUIRE_FALSE(quiet.event);
  REQUIRE(quiet.job.revision == 1);
  const auto run = Change(records, key, ToRunning, At(7));
  REQUIRE(run.event);
  REQUIRE(run.event->revision == 2);
  REQUIRE(run.event->state == JobState::kRunning);
  REQUIRE(run.event->time == At(7));
  const auto events = records.Events(key, 0);
  REQUIRE(events->size() == 2);
  REQUIRE(events->front().state == JobState::kQueued);
  REQUIRE(records.Events(key, 1)->size() == 1);
  REQUIRE(records.Events(key, 2)->empty());
}

// States that there cannot be are refused by the records themselves.
inline void CheckIllegalStates(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  const JobKey key = Put(records, NewJob("a")).key;
  const std::vector<JobRecords::Change> illegal = {
      [](JobRecord& job) {  // done, but when?
        job.state = JobState::kCancelled;
        return absl::OkStatus();
      },
      [](JobRecord& job) {  // failed without an error
        job.state = JobState::kFailed;
        job.ended = At(1);
        return absl::OkStatus();
      },
      [](JobRecord& job) {  // an error, but not failed
        job.error = "e";
        return absl::OkStatus();
      },
      [](JobRecord& job) {  // told to stop while it is queued
        job.cancel_requested = true;
        return absl::OkStatus();
      },
      [](JobRecord& job) {  // both ways at once
        job.cancel_requested = true;
        job.publishing = true;
        job.summary = "s";
        return ToRunning(job);
      },
      [](JobRecord& job) {
        job.state = static_cast<JobState>(6);
        return absl::OkStatus();
      }};
  for (const JobRecords::Change& change : illegal) {
    REQUIRE(records.Update(key, At(1), change).status().code() ==
            absl::StatusCode::kFailedPrecondition);
  }
  REQUIRE(records.Get(key)->state == JobState::kQueued);
  REQUIRE(records.Events(key, 0)->size() == 1);
}

inline void CheckTrimmedEvents(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  const JobKey key = Put(records, NewJob("a")).key;
  for (int64_t i = 0; i < JobRecords::kMaxEvents; ++i) {
    Change(records, key, [](JobRecord& job) {
      ++job.attempt;
      return absl::OkStatus();
    });
  }
  const auto events = records.Events(key, 0);
  REQUIRE(events->size() == static_cast<size_t>(JobRecords::kMaxEvents));
  REQUIRE(events->front().revision == 2);
  REQUIRE(events->back().revision == JobRecords::kMaxEvents + 1);
}

inline void CheckPages(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  std::vector<JobRecord> jobs;
  for (int i = 0; i < 7; ++i) {
    JobRecord job = NewJob(absl::StrCat(i));
    job.labels = {{"team", i % 2 == 0 ? "even" : "odd"}, {"n", "1"}};
    jobs.push_back(Put(records, job));
  }
  Put(records, NewJob("x", "other"));
  JobQuery query;
  query.project = "default";
  query.limit = 3;
  REQUIRE(ListIds(records, query) == Strings{"6", "5", "4"});
  // A new job does not shift the next page.
  Put(records, NewJob("7"));
  query.before = jobs[4].sequence;
  REQUIRE(ListIds(records, query) == Strings{"3", "2", "1"});
  query.before = jobs[1].sequence;
  REQUIRE(ListIds(records, query) == Strings{"0"});

  query = {};
  query.project = "default";
  query.labels = {{"team", "even"}, {"n", "1"}};
  REQUIRE(ListIds(records, query) == Strings{"6", "4", "2", "0"});
  query.labels = {{"team", "even"}, {"n", "2"}};
  REQUIRE(ListIds(records, query).empty());
  Change(records, jobs[2].key, ToRunning);
  query.labels = {{"team", "even"}};
  query.state = JobState::kRunning;
  REQUIRE(ListIds(records, query) == Strings{"2"});
}

inline void CheckTimesOfLists(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  for (int i = 0; i < 5; ++i) {
    JobRecord job = NewJob(absl::StrCat(i));
    job.created = At(100) + absl::Microseconds(i);
    job.labels = {{"n", i % 2 == 0 ? "even" : "odd"}};
    Put(records, job);
  }
  JobQuery query;
  query.project = "default";
  query.created_after = At(100) + absl::Microseconds(1);
  REQUIRE(ListIds(records, query) == Strings{"4", "3", "2"});
  query.created_before = At(100) + absl::Microseconds(3);
  REQUIRE(ListIds(records, query) == Strings{"2"});
  // Between microseconds.
  query.created_after -= absl::Nanoseconds(1);
  query.created_before += absl::Nanoseconds(1);
  REQUIRE(ListIds(records, query) == Strings{"3", "2", "1"});
  query.labels = {{"n", "odd"}};
  query.state = JobState::kQueued;
  REQUIRE(ListIds(records, query) == Strings{"3", "1"});
  query.created_after = absl::InfinitePast();
  query.created_before = At(99);
  REQUIRE(ListIds(records, query).empty());
}

// Numbers that jobs bring with them are there while the job is not done.
inline void CheckInlineCalibrations(const RecordsOpener& open) {
  const std::string numbers("\0numbers\xff", 9);
  JobRecord job = NewJob("x");
  job.inline_calibration = numbers;
  {
    const auto opened = open();
    REQUIRE(Put(opened->records(), job).inline_calibration.empty());
    Put(opened->records(), NewJob("without"));
    Change(opened->records(), job.key, ToRunning);
  }
  const auto opened = open();
  JobRecords& records = opened->records();
  REQUIRE(*records.InlineCalibration(job.key) == numbers);
  REQUIRE(records.InlineCalibration({"default", "without"})->empty());
  REQUIRE(records.InlineCalibration({"default", "no"}).status().code() ==
          absl::StatusCode::kNotFound);
  // All of one project's together; another project has room of its own.
  JobRecord large = NewJob("large");
  large.inline_calibration = std::string(JobRecords::kMaxInlineBytes, 'x');
  const auto refused = records.Create(large, kManyQueued);
  REQUIRE(refused.ok());
  REQUIRE(refused->outcome == JobRecords::Created::kInlineFull);
  JobRecord other = NewJob("large", "other");
  other.inline_calibration = large.inline_calibration;
  Put(records, other);
  Change(records, job.key, ToSucceeded);
  REQUIRE(records.InlineCalibration(job.key)->empty());
  Put(records, large);
  // One that is deleted leaves nothing behind.
  Change(records, large.key, [](JobRecord& j) {
    j.state = JobState::kCancelled;
    j.ended = At(5);
    return absl::OkStatus();
  });
  REQUIRE(
      records
          .Delete(large.key, [](const JobRecord&) { return absl::OkStatus(); })
          .ok());
  large.key.id = "again";
  Put(records, large);
}

inline void CheckLongSpecs(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  for (int i = 0; i < 6; ++i) {
    JobRecord job = NewJob(absl::StrCat(i));
    job.spec = std::string(JobRecords::kMaxListBytes / 4, 'x');
    Put(records, job);
  }
  JobQuery query;
  query.project = "default";
  REQUIRE(ListIds(records, query) == Strings{"5", "4", "3", "2", "1"});
}

inline void CheckQueueOrder(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  REQUIRE_FALSE(records.NextQueued({})->has_value());
  const auto put = [&](const char* id, const char* project, int priority) {
    JobRecord job = NewJob(id, project);
    job.priority = priority;
    Put(records, job);
  };
  put("low", "a", 1);
  put("first", "b", 2);
  put("second", "a", 2);
  put("urgent", "c", 4);
  const auto next = [&](const std::set<std::string>& full) {
    const auto job = records.NextQueued(full);
    REQUIRE(job.ok());
    return job->has_value() ? (*job)->key.id : "";
  };
  REQUIRE(next({}) == "urgent");
  REQUIRE(next({"c"}) == "first");
  REQUIRE(next({"b", "c"}) == "second");
  REQUIRE(next({"a", "b", "c"}).empty());
  Change(records, {"c", "urgent"}, ToRunning);
  REQUIRE(next({}) == "first");
  const auto counts = records.QueueCounts();
  REQUIRE(counts.ok());
  REQUIRE(counts->size() == 3);
  REQUIRE((*counts)[0].priority == 1);
  REQUIRE((*counts)[1].jobs == 2);
  REQUIRE((*counts)[1].estimate == absl::ZeroDuration());
  REQUIRE((*counts)[1].oldest == At(100));
  REQUIRE((*counts)[2].state == JobState::kRunning);
  const auto running = records.Running();
  REQUIRE(running->size() == 1);
  REQUIRE(running->front() == JobKey{"c", "urgent"});
}

inline JobRecord NewWaiting(const std::string& id, std::vector<int64_t> sites,
                            const std::string& project = "default") {
  JobRecord job = NewJob(id, project);
  job.calibration = "c";
  // It needs all of them to begin.
  if (!sites.empty()) job.waiting = {sites, "waits", {sites}};
  return job;
}

// A job of two tensors with a site each.
inline void CheckPartsThatWait(const RecordsOpener& open) {
  const CalibrationKey c = {"default", "c"};
  const JobKey key = {"default", "a"};
  {
    const auto opened = open();
    JobRecords& records = opened->records();
    JobRecord job = NewWaiting("a", {1, 2, 3});
    job.waiting.first = {{1, 3}, {2}};
    Put(records, job);
    REQUIRE_FALSE(records.NextQueued({})->has_value());
  }
  const auto opened = open();
  JobRecords& records = opened->records();
  REQUIRE(records.Get(key)->waiting ==
          JobWait{{1, 2, 3}, "waits", {{1, 3}, {2}}});
  const auto set = [&](const JobWait& to) {
    const auto starts =
        records.UpdateWaiting(c, [&](JobWait& wait) { wait = to; });
    REQUIRE(starts.ok());
    REQUIRE(records.Get(key)->waiting == to);
    return *starts;
  };
  REQUIRE_FALSE(set({{1, 2}, "waits", {{1}, {2}}}));
  // One can begin, and the job with it where jobs with open sites may.
  REQUIRE(set({{2}, "waits"}));
  REQUIRE((*records.NextQueued({}))->key.id == "a");
  REQUIRE_FALSE(records.NextQueued({}, {"default"})->has_value());
  Put(records, NewWaiting("b", {}));
  REQUIRE((*records.NextQueued({}))->key.id == "a");
  REQUIRE((*records.NextQueued({}, {"default"}))->key.id == "b");
  REQUIRE((*records.NextQueued({}, {"other"}))->key.id == "a");
  REQUIRE_FALSE(records.NextQueued({"default"}, {"default"})->has_value());
  // It waits on while it runs.
  Change(records, key, ToRunning);
  REQUIRE(*records.Awaited() == std::vector<CalibrationKey>{c});
  REQUIRE(records.Get(key)->waiting == JobWait{{2}, "waits"});
  REQUIRE(set({}));
  REQUIRE(records.Awaited()->empty());
}

inline void CheckWaiting(const RecordsOpener& open) {
  const CalibrationKey c = {"default", "c"};
  {
    const auto opened = open();
    JobRecords& records = opened->records();
    Put(records, NewWaiting("a", {0, 2, 9999}));
    Put(records, NewWaiting("b", {2}));
    Put(records, NewWaiting("other", {2}, "other"));
    Put(records, NewWaiting("ready", {}));
    JobRecord late = NewWaiting("late", {1});
    late.queue_deadline = At(10);
    Put(records, late);
    REQUIRE((*records.NextQueued({}))->key.id == "ready");
    REQUIRE(records.QueueTimedOut(At(10))->size() == 1);
    Change(records, {"default", "ready"}, ToRunning);
    REQUIRE_FALSE(records.NextQueued({})->has_value());
  }
  const auto opened = open();
  JobRecords& records = opened->records();
  REQUIRE(*records.Awaited() == std::vector<CalibrationKey>{c, {"other", "c"}});
  const JobWait kept = records.Get({"default", "a"})->waiting;
  REQUIRE(kept == JobWait{{0, 2, 9999}, "waits", {{0, 2, 9999}}});
  // Nothing of it changes, then one of two sites, then the last.
  REQUIRE_FALSE(*records.UpdateWaiting(c, [](JobWait&) {}));
  const auto drop = [&](int64_t site) {
    const auto starts = records.UpdateWaiting(c, [site](JobWait& wait) {
      std::erase(wait.sites, site);
      for (auto& first : wait.first) std::erase(first, site);
      wait.text = "less";
    });
    REQUIRE(starts.ok());
    return *starts;
  };
  REQUIRE_FALSE(drop(9999));
  REQUIRE(records.Get({"default", "a"})->waiting ==
          JobWait{{0, 2}, "less", {{0, 2}}});
  REQUIRE(drop(2));
  REQUIRE((*records.NextQueued({}))->key.id == "b");
  REQUIRE(records.Get({"default", "b"})->waiting == JobWait{});
  REQUIRE(records.Get({"default", "a"})->waiting ==
          JobWait{{0}, "less", {{0}}});
  REQUIRE(records.Get({"other", "other"})->waiting ==
          JobWait{{2}, "waits", {{2}}});
  // A job that cannot begin does not run.
  REQUIRE_FALSE(records.Update({"default", "a"}, At(1), ToRunning).ok());
}

inline void CheckCalibrationUsers(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  const CalibrationKey c = {"default", "c"};
  const auto user = [&](const std::string& except) {
    const auto found = records.UserOf(c, {"default", except});
    REQUIRE(found.ok());
    return found->has_value() ? (*found)->id : "";
  };
  Put(records, NewJob("without"));
  Put(records, NewWaiting("far", {}, "other"));
  REQUIRE(user("").empty());
  Put(records, NewWaiting("a", {1}));
  REQUIRE(user("") == "a");
  REQUIRE(user("a").empty());
  REQUIRE(*records.UserOf(c, {"other", "a"}) == JobKey{"default", "a"});
  Put(records, NewWaiting("b", {}));
  REQUIRE(user("a") == "b");
  Change(records, {"default", "b"}, ToRunning);
  REQUIRE(user("a") == "b");
  Change(records, {"default", "b"}, ToSucceeded);
  REQUIRE(user("a").empty());
}

// `add` makes something of a project refer to a blob, `drop` takes all of that
// away; `freed`: blobs that nobody refers to since a job was done.
struct RefsOfTest {
  std::function<void(const std::string& project, const std::string& digest)>
      add;
  std::function<void()> drop;
  std::vector<std::string>& freed;
};

inline void CheckInputs(const RecordsOpener& open, const RefsOfTest& refs) {
  const std::vector<JobInput> inputs = {{"a", DType::kBF16, {2, 3}, "sha256:1"},
                                        {"b", DType::kF32, {}, "sha256:2"},
                                        {"c", DType::kF32, {4}, "sha256:1"}};
  JobRecord job = NewJob("x");
  job.inputs = inputs;
  {
    const auto opened = open();
    JobRecords& records = opened->records();
    refs.add("default", "sha256:1");
    refs.add("other", "sha256:2");
    const auto made = records.Create(job, kManyQueued);
    REQUIRE(made.ok());
    REQUIRE(made->outcome == JobRecords::Created::kInputGone);
    refs.add("default", "sha256:2");
    Put(records, job);
    refs.drop();
    Change(records, job.key, ToRunning);
  }
  const auto opened = open();
  JobRecords& records = opened->records();
  REQUIRE(*records.Inputs(job.key) == inputs);
  REQUIRE(refs.freed.empty());
  Change(records, job.key, ToSucceeded);
  REQUIRE(refs.freed == Strings{"sha256:1", "sha256:2"});
  REQUIRE(records.Inputs(job.key)->empty());
  // One that others refer to, too, is not free.
  refs.freed.clear();
  refs.add("default", "sha256:1");
  refs.add("default", "sha256:2");
  job.key.id = "y";
  job.destination = "/out/y";
  Put(records, job);
  Change(records, job.key, [](JobRecord& j) {
    j.state = JobState::kCancelled;
    j.ended = At(5);
    return absl::OkStatus();
  });
  REQUIRE(refs.freed.empty());
}

inline void CheckQueueDeadlines(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  Put(records, NewJob("never"));
  for (const int64_t at : {50, 40, 60}) {
    JobRecord job = NewJob(absl::StrCat("at", at));
    job.queue_deadline = At(at);
    Put(records, job);
  }
  REQUIRE(records.QueueTimedOut(At(39))->empty());
  REQUIRE(records.QueueTimedOut(At(50))->size() == 2);
  Change(records, {"default", "at40"}, ToRunning);
  REQUIRE(records.QueueTimedOut(At(50))->size() == 1);
}

inline void CheckCommits(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  const JobKey key = Put(records, NewJob("a")).key;
  const ShardRecord shard = {3, "model-3.safetensors", 99};
  const JobTensorRecord tensor = {"w", 8, "first"};
  REQUIRE(records.Commit(key, 1, shard, {tensor}).code() ==
          absl::StatusCode::kFailedPrecondition);
  Change(records, key, [](JobRecord& job) {
    job.crashes = 2;
    return ToRunning(job);
  });
  REQUIRE(records.Commit(key, 2, shard, {tensor}).code() ==
          absl::StatusCode::kFailedPrecondition);
  REQUIRE(records.Shards(key)->empty());
  REQUIRE(records.Commit(key, 1, std::nullopt, {tensor}).ok());
  REQUIRE(records.Get(key)->crashes == 2);
  REQUIRE(
      records.Commit(key, 1, shard, {{"w", 8, "again"}, {"v", 4, ""}}).ok());
  REQUIRE(records.Get(key)->crashes == 0);
  REQUIRE(records.Get(key)->revision == 2);
  const auto shards = records.Shards(key);
  REQUIRE(shards->size() == 1);
  REQUIRE(shards->front().shard == 3);
  REQUIRE(shards->front().file == shard.file);
  REQUIRE(shards->front().bytes == 99);
  Strings seen;
  REQUIRE(records
              .Tensors(key,
                       [&](const JobTensorRecord& t) {
                         seen.push_back(t.name + t.report);
                         return absl::OkStatus();
                       })
              .ok());
  REQUIRE(seen == Strings{"v", "wagain"});
  REQUIRE(records.StartOver(key).ok());
  REQUIRE(records.Shards(key)->empty());
}

// What a result that the store keeps is read by.
inline void CheckResults(const RecordsOpener& open) {
  auto opened = open();
  JobRecord job = NewJob("a");
  job.stored = true;
  const JobKey key = Put(opened->records(), job).key;
  Change(opened->records(), key, ToRunning);
  const ShardRecord shard = {1, "b", 7, "sha256:1"};
  REQUIRE(opened->records()
              .Commit(key, 1, shard,
                      {{"y", 1, "ry", 1}, {"x", 2, "rx", 1}, {"z", 3, "rz", 0}})
              .ok());
  REQUIRE(opened->records().SetFiles(key, {{"gone", 1, ""}}).ok());
  REQUIRE(opened->records()
              .SetFiles(key, {{"b", 7, "sha256:1"}, {"a/c", 0, "sha256:2"}})
              .ok());
  REQUIRE(opened->records().SetFiles({"default", "no"}, {}).code() ==
          absl::StatusCode::kNotFound);
  opened = nullptr;
  opened = open();
  JobRecords& records = opened->records();
  REQUIRE(records.Get(key)->stored);
  REQUIRE(records.Shards(key)->front().digest == "sha256:1");
  const auto names = [&](int of, const std::string& after, int64_t limit) {
    Strings out;
    const auto tensors = records.ShardTensors(key, of, after, limit);
    REQUIRE(tensors.ok());
    for (const JobTensorRecord& tensor : *tensors) {
      out.push_back(tensor.name + tensor.report);
    }
    return out;
  };
  REQUIRE(names(1, "", 10) == Strings{"xrx", "yry"});
  REQUIRE(names(1, "", 1) == Strings{"xrx"});
  REQUIRE(names(1, "x", 10) == Strings{"yry"});
  REQUIRE(names(2, "", 10).empty());
  REQUIRE(records.Tensor(key, "z")->bytes == 3);
  REQUIRE(records.Tensor(key, "y")->shard == 1);
  REQUIRE(records.Tensor(key, "w").status().code() ==
          absl::StatusCode::kNotFound);
  const auto files = records.Files(key, 0, 10);
  REQUIRE(files->size() == 2);
  REQUIRE(files->front().file == "b");
  REQUIRE(files->front().bytes == 7);
  REQUIRE(records.Files(key, 1, 10)->front().digest == "sha256:2");
  REQUIRE(records.Files(key, 0, 1)->size() == 1);
  REQUIRE(records.Files(key, 2, 1)->empty());
  REQUIRE(records.StartOver(key).ok());
  REQUIRE(records.Files(key, 0, 10)->empty());
}

// A result that nobody may have read yet is not trimmed away.
inline void CheckStoredStay(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  int64_t at = 300;
  const auto end = [&](const char* id, bool stored, bool fails) {
    JobRecord job = NewJob(id);
    job.stored = stored;
    Put(records, job);
    Change(records, {"default", id}, ToRunning);
    Change(records, {"default", id}, [&](JobRecord& changed) {
      ToSucceeded(changed).IgnoreError();
      changed.ended = At(++at);
      if (!fails) return absl::OkStatus();
      changed.state = JobState::kFailed;
      changed.summary.clear();
      changed.error = "error";
      return absl::OkStatus();
    });
  };
  end("kept", true, false);
  end("failed", true, true);
  end("old", false, false);
  end("new", false, false);
  REQUIRE(records.TrimHistory(1).ok());
  JobQuery all;
  all.project = "default";
  REQUIRE(ListIds(records, all) == Strings{"new", "kept"});
}

inline void CheckDeleteAndHistory(const RecordsOpener& open) {
  const auto opened = open();
  JobRecords& records = opened->records();
  for (int i = 0; i < 4; ++i) {
    JobRecord job = NewJob(absl::StrCat(i));
    job.request_id = absl::StrCat("r", i);
    job.labels = {{"l", "1"}};
    Put(records, job);
  }
  const auto end = [&](const char* id, int64_t at) {
    Change(records, {"default", id}, ToRunning);
    REQUIRE(
        records
            .Commit({"default", id}, 1, ShardRecord{0, "f", 1}, {{"t", 1, "r"}})
            .ok());
    Change(records, {"default", id}, [at](JobRecord& job) {
      ToSucceeded(job).IgnoreError();
      job.ended = At(at);
      return absl::OkStatus();
    });
  };
  end("0", 500);
  end("1", 300);
  end("2", 400);
  const auto no = [](const JobRecord&) { return absl::AbortedError("no"); };
  const auto yes = [](const JobRecord&) { return absl::OkStatus(); };
  REQUIRE(records.Delete({"default", "0"}, no).code() ==
          absl::StatusCode::kAborted);
  REQUIRE(records.Delete({"default", "9"}, yes).code() ==
          absl::StatusCode::kNotFound);
  REQUIRE(records.TrimHistory(2).ok());
  JobQuery all;
  all.project = "default";
  REQUIRE(ListIds(records, all) == Strings{"3", "2", "0"});
  REQUIRE(records.Delete({"default", "0"}, yes).ok());
  REQUIRE(records.Get({"default", "0"}).status().code() ==
          absl::StatusCode::kNotFound);
  REQUIRE(records.Shards({"default", "0"})->empty());
  // A request id that is forgotten makes a new job.
  JobRecord again = NewJob("new");
  again.request_id = "r0";
  Put(records, again);
  REQUIRE(records.TrimHistory(0).ok());
  REQUIRE(ListIds(records, all) == Strings{"new", "3"});
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_STORE_JOB_RECORDS_CONFORMANCE_H_
