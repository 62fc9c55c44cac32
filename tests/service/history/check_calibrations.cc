// Tested by tests/service/history/history_checker_test.cc.
#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/service/history/history_checker.h"

namespace qs::testing {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// How often a counter of a site may have been added.
struct Count {
  bool acknowledged = false;
  bool sent = false;
};

struct Facts {
  int64_t made = kNever;  // acknowledged
  int64_t delete_begun = kNever;
  std::map<std::pair<std::string, int64_t>, Count> counts;    // site, counter
  std::map<std::string, std::map<int64_t, int64_t>> durable;  // shard, time
  std::map<std::string, const Operation*> added;  // request_id, first answer
  std::map<std::string, SiteView> sealed;
};

class CalibrationChecker {
 public:
  CalibrationChecker(const History& history, std::vector<Violation>* out)
      : history_(history), out_(out) {}

  void Check() {
    for (const Operation& op : history_) LearnDelete(op);
    for (const Operation& op : history_) Learn(op);
    for (auto& [id, facts] : all_) {
      for (auto& [shard, durable] : facts.durable) {
        int64_t most = 0;
        for (auto& [time, seq] : durable) seq = most = std::max(most, seq);
      }
    }
    for (const Operation& op : history_) {
      const auto facts = all_.find(op.object);
      if (facts == all_.end()) continue;
      CheckThere(op, facts->second);
      if (!IsOfFirst(op)) continue;
      if (op.call == "WriteActivations") CheckDurable(op, facts->second);
      if (op.call == "ReadSite" && op.outcome == Operation::kDone) {
        CheckCounts(op, facts->second);
      }
    }
  }

 private:
  void LearnDelete(const Operation& op) {
    if (op.call != "DeleteCalibration") return;
    if (op.outcome == Operation::kRefused) return;
    int64_t& begun = all_[op.object].delete_begun;
    begun = std::min(begun, op.start);
  }

  // Clients choose the IDs: another calibration of the same one may follow a
  // delete.
  bool IsOfFirst(const Operation& op) {
    return op.end <= all_[op.object].delete_begun;
  }

  void Learn(const Operation& op) {
    if (op.call == "CreateCalibration" && op.outcome == Operation::kDone) {
      int64_t& made = all_[op.object].made;
      made = std::min(made, op.end);
    }
    if (op.call == "WriteActivations") LearnBatches(op);
    if (op.call == "WriteSecondMoments") LearnMoments(op);
    for (const SiteView& site : op.sites) LearnSite(op, site);
  }

  void LearnBatches(const Operation& op) {
    Facts& facts = all_[op.object];
    int64_t durable = 0;
    for (const int64_t seq : op.numbers) durable = std::max(durable, seq);
    for (int64_t seq = 1; seq <= std::max(op.sent, durable); ++seq) {
      Count& count =
          facts.counts[{SiteOfBatch(seq), CounterOfBatch(op.request, seq)}];
      count.sent = true;
      count.acknowledged =
          count.acknowledged || (seq <= durable && IsOfFirst(op));
    }
    if (!IsOfFirst(op)) return;
    int64_t& known = facts.durable[op.request][op.end];
    known = std::max(known, durable);
  }

  void LearnMoments(const Operation& op) {
    if (op.outcome == Operation::kRefused) return;
    Facts& facts = all_[op.object];
    Count& count = facts.counts[{op.site, op.counter}];
    count.sent = true;
    if (op.outcome != Operation::kDone || !IsOfFirst(op)) return;
    count.acknowledged = true;
    if (op.already_added) return;
    const auto [other, fresh] = facts.added.emplace(op.request, &op);
    if (!fresh) {
      Report("ADDED_TWICE", op, "before: " + Describe(*other->second), out_);
    }
  }

  void LearnSite(const Operation& op, const SiteView& site) {
    if (!site.sealed || !IsOfFirst(op)) return;
    const auto [it, fresh] = all_[op.object].sealed.emplace(site.name, site);
    const SiteView& other = it->second;
    if (!fresh &&
        (other.tokens != site.tokens || other.digest != site.digest)) {
      Report("SEALED_CHANGED", op,
             absl::StrCat(site.name, ": ", other.tokens, " ", other.digest,
                          " and ", site.tokens, " ", site.digest),
             out_);
    }
  }

  void CheckThere(const Operation& op, const Facts& facts) {
    if (op.outcome == Operation::kRefused && facts.made < op.start &&
        facts.delete_begun >= op.end &&
        absl::StartsWith(op.error, "NOT_FOUND")) {
      Report("CALIBRATION_LOST", op, op.error, out_);
    }
  }

  void CheckDurable(const Operation& op, const Facts& facts) {
    const auto& known = facts.durable.at(op.request);
    const auto before = known.lower_bound(op.start);
    int64_t least = before == known.begin() ? 0 : std::prev(before)->second;
    for (const int64_t seq : op.numbers) {
      if (seq < least) {
        Report("DURABLE_SHRANK", op,
               absl::StrCat("got ", seq, ", it was ", least), out_);
      }
      least = std::max(least, seq);
    }
  }

  void CheckCounts(const Operation& op, const Facts& facts) {
    for (size_t i = 0; i < op.numbers.size(); ++i) {
      const auto counter = static_cast<int64_t>(i);
      const int64_t times = op.numbers[i];
      const auto found = facts.counts.find({op.site, counter});
      const Count count = found == facts.counts.end() ? Count() : found->second;
      const std::string text = absl::StrCat(op.site, " ", counter, ": ", times);
      if (times == 0 && count.acknowledged)
        Report("COUNT_LOST", op, text, out_);
      if (times == 1 && !count.sent) Report("COUNT_INVENTED", op, text, out_);
      if (times != 0 && times != 1) Report("COUNT_TWICE", op, text, out_);
    }
    CheckOrder(op);
    const auto site = facts.sealed.find(op.site);
    const int64_t tokens =
        std::accumulate(op.numbers.begin(), op.numbers.end(), int64_t{0});
    if (site != facts.sealed.end() && site->second.tokens != tokens) {
      Report("TOKENS_WRONG", op,
             absl::StrCat("got ", site->second.tokens, ", counted ", tokens),
             out_);
    }
  }

  // Batches of a shard are durable in order.
  void CheckOrder(const Operation& op) {
    for (const char* const shard : {"0", "1"}) {
      bool missed = false;
      for (int64_t seq = 1; seq <= kShardCounters; ++seq) {
        if (SiteOfBatch(seq) != op.site) continue;
        const auto at = static_cast<size_t>(CounterOfBatch(shard, seq));
        if (at >= op.numbers.size()) return;
        if (op.numbers[at] == 0) missed = true;
        if (op.numbers[at] != 0 && missed) {
          Report("COUNT_GAP", op, absl::StrCat("before batch ", seq), out_);
          return;
        }
      }
    }
  }

  const History& history_;
  std::vector<Violation>* const out_;
  std::map<std::string, Facts> all_;
};

}  // namespace

void CheckCalibrations(const History& history, std::vector<Violation>* out) {
  CalibrationChecker(history, out).Check();
}

}  // namespace qs::testing
