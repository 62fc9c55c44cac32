// Tested by tests/service/history/history_checker_test.cc.
#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/service/history/history_checker.h"

namespace qs::testing {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

bool IsEnd(const std::string& state) {
  return state == "SUCCEEDED" || state == "FAILED" || state == "CANCELLED";
}

bool MayFollow(const JobView& before, const JobView& after) {
  if (before.state == "QUEUED") return after.state != "SUCCEEDED";
  if (before.state == "RUNNING") return true;
  return false;
}

// What is known of one job.
struct Facts {
  int64_t made = kNever;  // acknowledged
  int64_t delete_begun = kNever;
  int64_t deleted = kNever;  // acknowledged
  std::string destination;
  std::map<int64_t, int64_t> seen;  // highest revision, by time
  std::map<int64_t, JobView> revisions;
  std::optional<JobView> end;
  bool cancelling = false;  // some answer said so
};

using AllFacts = std::map<std::string, Facts>;

class JobChecker {
 public:
  JobChecker(const History& history, std::vector<Violation>* out)
      : history_(history), out_(out) {}

  void Check() {
    for (const Operation& op : history_) Learn(op);
    for (auto& [id, facts] : all_) {
      int64_t most = 0;
      for (auto& [time, revision] : facts.seen) {
        revision = most = std::max(most, revision);
      }
      CheckChanges(id, facts);
    }
    for (const Operation& op : history_) {
      CheckOperation(op);
      if (op.call == "WatchJob") CheckWatch(op);
      if (op.call == "ListJobs" && op.outcome == Operation::kDone)
        CheckList(op);
      if (op.call == "Settled") CheckSettled(op);
    }
    CheckResults();
  }

 private:
  void Learn(const Operation& op) {
    if (op.call == "DeleteJob") {
      if (op.outcome == Operation::kRefused) return;
      Facts& facts = all_[op.object];
      facts.delete_begun = std::min(facts.delete_begun, op.start);
      if (op.outcome == Operation::kDone) {
        facts.deleted = std::min(facts.deleted, op.end);
      }
      return;
    }
    for (const JobView& view : op.jobs) LearnView(op, view);
  }

  void LearnView(const Operation& op, const JobView& view) {
    Facts& facts = all_[view.id];
    facts.made = std::min(facts.made, op.end);
    int64_t& seen = facts.seen[op.end];
    seen = std::max(seen, view.revision);
    facts.cancelling = facts.cancelling || view.cancelling;
    if (facts.destination.empty()) facts.destination = view.destination;
    if (!view.destination.empty() && view.destination != facts.destination) {
      Report("SPEC_CHANGED", op, view.destination, out_);
    }
    const auto [it, fresh] = facts.revisions.emplace(view.revision, view);
    const JobView& other = it->second;
    if (!fresh && std::tie(other.state, other.attempt, other.cancelling) !=
                      std::tie(view.state, view.attempt, view.cancelling)) {
      Report(
          "REVISION_DIFFERS", op,
          absl::StrCat(view.revision, " is ", view.state, " and ", other.state),
          out_);
    }
    LearnEnd(op, view, &facts);
  }

  void LearnEnd(const Operation& op, const JobView& view, Facts* facts) {
    if (!IsEnd(view.state)) return;
    if (!facts->end) facts->end = view;
    const JobView& end = *facts->end;
    if (std::tie(end.state, end.revision, end.digest, end.error) !=
        std::tie(view.state, view.revision, view.digest, view.error)) {
      Report(
          "TWO_ENDS", op,
          absl::StrCat(end.state, " ", end.revision, " ", end.digest, " and ",
                       view.state, " ", view.revision, " ", view.digest),
          out_);
    }
    if (view.state == "FAILED" && view.error != "WORKER_CRASHED" &&
        view.error != "DISK_FULL") {
      Report("JOB_FAILED", op, view.error, out_);
    }
  }

  // Revisions that follow each other.
  void CheckChanges(const std::string& id, const Facts& facts) {
    Operation about;
    about.object = id;
    const JobView* before = nullptr;
    for (const auto& [revision, view] : facts.revisions) {
      if (before != nullptr) {
        const bool next = before->revision + 1 == revision;
        if ((next && !MayFollow(*before, view)) || IsEnd(before->state) ||
            view.attempt < before->attempt) {
          Report("ILLEGAL_CHANGE", about,
                 absl::StrCat(before->state, " ", before->revision, " to ",
                              view.state, " ", revision),
                 out_);
        }
      }
      before = &view;
    }
    if (facts.cancelling && facts.end && facts.end->state != "CANCELLED") {
      Report("CANCEL_FORGOTTEN", about, facts.end->state, out_);
    }
  }

  void CheckOperation(const Operation& op) {
    for (const JobView& view : op.jobs) {
      const Facts& facts = all_[view.id];
      auto seen = facts.seen.lower_bound(op.start);
      // A watch may repeat what came after the revision that it asked for.
      if (op.call != "WatchJob" && seen != facts.seen.begin() &&
          view.revision < std::prev(seen)->second) {
        Report("REVISION_SHRANK", op,
               absl::StrCat("got ", view.revision, ", it was ",
                            std::prev(seen)->second),
               out_);
      }
      if (facts.deleted < op.start) Report("JOB_BACK", op, view.id, out_);
    }
    if (op.outcome != Operation::kRefused) return;
    if (absl::StartsWith(op.error, "NOT_FOUND") && op.call != "DeleteJob") {
      CheckMissing(op);
    }
    if (op.call == "CreateJob" && absl::StartsWith(op.error, "ALREADY_")) {
      CheckRefusedCreate(op);
    }
  }

  void CheckMissing(const Operation& op) {
    const auto found = all_.find(op.object);
    if (found == all_.end()) return;
    if (found->second.made < op.start && found->second.delete_begun >= op.end) {
      Report("JOB_LOST", op, op.error, out_);
    }
  }

  // The same request must find its job.
  void CheckRefusedCreate(const Operation& op) {
    for (const auto& [id, facts] : all_) {
      if (facts.destination == op.expected && facts.made < op.start &&
          facts.delete_begun >= op.end) {
        Report("NOT_IDEMPOTENT", op, absl::StrCat(op.error, ", it made ", id),
               out_);
      }
    }
  }

  void CheckWatch(const Operation& op) {
    int64_t at = op.from;
    bool first = true;
    for (const JobView& view : op.jobs) {
      const bool good = view.snapshot ? first && view.revision >= at
                                      : view.revision == at + 1;
      if (!good) {
        Report("WATCH_SKIPPED", op,
               absl::StrCat(view.snapshot ? "snapshot " : "change ",
                            view.revision, " after ", at),
               out_);
      }
      at = view.revision;
      first = false;
    }
    const bool at_end = op.jobs.empty() ? op.from > 0 && KnewEnd(op)
                                        : IsEnd(op.jobs.back().state);
    if (op.outcome == Operation::kDone && !at_end) {
      Report("WATCH_UNENDED", op, "OK before the end", out_);
    }
  }

  // Asked for what comes after the end: nothing.
  bool KnewEnd(const Operation& op) {
    const Facts& facts = all_[op.object];
    return facts.end && facts.end->revision == op.from;
  }

  void CheckList(const Operation& list) {
    std::set<std::string> listed;
    for (const JobView& view : list.jobs) listed.insert(view.id);
    for (const auto& [id, facts] : all_) {
      if (listed.count(id) == 0 && facts.made < list.start &&
          facts.delete_begun >= list.end) {
        Report("JOB_LOST", list, id + " is not listed", out_);
      }
    }
  }

  // Everything had the time to end.
  void CheckSettled(const Operation& op) {
    for (const auto& [id, facts] : all_) {
      if (!facts.end && facts.delete_begun >= op.start) {
        Report("UNFINISHED", op, id, out_);
      }
    }
  }

  // `Result` operations: what lies at a destination (digest; empty: nothing)
  // and beside it (names).
  void CheckResults() {
    std::map<std::string, const JobView*> succeeded;
    std::map<std::string, std::string> digest_of_kind;
    for (const auto& [id, facts] : all_) {
      if (!facts.end || facts.end->state != "SUCCEEDED") continue;
      succeeded[facts.destination] = &*facts.end;
    }
    for (const Operation& op : history_) {
      if (op.call != "Result") continue;
      for (const std::string& name : op.names) {
        Report("LEFT_BEHIND", op, name, out_);
      }
      const auto job = succeeded.find(op.object);
      if (job == succeeded.end()) {
        if (!op.digest.empty() && !MayHaveResult(op.object)) {
          Report("LEFT_BEHIND", op, "a directory", out_);
        }
        continue;
      }
      if (op.digest != job->second->digest) {
        Report("WRONG_RESULT", op,
               absl::StrCat("got ", op.digest, ", its job says ",
                            job->second->digest),
               out_);
      }
      // Destinations of one kind of job: KIND-NUMBER.
      const std::string kind = op.object.substr(0, op.object.find('-'));
      const auto [known, fresh] = digest_of_kind.emplace(kind, op.digest);
      if (!fresh && known->second != op.digest) {
        Report("RESULTS_DIFFER", op, known->second, out_);
      }
    }
  }

  // Some job of the destination was deleted before anybody saw its end.
  bool MayHaveResult(const std::string& destination) {
    for (const auto& [id, facts] : all_) {
      if (facts.destination == destination && !facts.end) return true;
    }
    return false;
  }

  const History& history_;
  std::vector<Violation>* const out_;
  AllFacts all_;
};

}  // namespace

void CheckJobs(const History& history, std::vector<Violation>* out) {
  JobChecker(history, out).Check();
}

}  // namespace qs::testing
