// Tested by tests/service/history/history_checker_test.cc.
#include <algorithm>
#include <limits>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/service/history/history_checker.h"

namespace qs::testing {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// What is known of one upload and its tensor.
struct Facts {
  int64_t made = kNever;      // acknowledged
  int64_t complete = kNever;  // acknowledged
  int64_t delete_begun = kNever;
  int64_t deleted = kNever;              // acknowledged
  std::map<int64_t, int64_t> persisted;  // most that was acknowledged, by time
};

using AllFacts = std::map<std::string, Facts>;

bool IsAbout(const Operation& op, const char* call) { return op.call == call; }

void Learn(const Operation& op, Facts* facts) {
  if (IsAbout(op, "DeleteTensor")) {
    if (op.outcome == Operation::kRefused) return;
    facts->delete_begun = std::min(facts->delete_begun, op.start);
    if (op.outcome == Operation::kDone) {
      facts->deleted = std::min(facts->deleted, op.end);
    }
    return;
  }
  if (op.outcome == Operation::kDone)
    facts->made = std::min(facts->made, op.end);
  if (!op.digest.empty()) facts->complete = std::min(facts->complete, op.end);
  int64_t most = 0;
  for (const int64_t size : op.numbers) most = std::max(most, size);
  int64_t& known = facts->persisted[op.end];
  known = std::max(known, most);
}

AllFacts LearnAll(const History& history) {
  AllFacts all;
  for (const Operation& op : history) {
    const bool upload =
        absl::EndsWith(op.call, "Upload") || absl::EndsWith(op.call, "Tensor");
    if (upload && !op.object.empty()) Learn(op, &all[op.object]);
  }
  for (auto& [id, facts] : all) {
    int64_t most = 0;
    for (auto& [time, size] : facts.persisted)
      size = most = std::max(most, size);
  }
  return all;
}

// The most that was acknowledged before `time`.
int64_t PersistedBefore(const Facts& facts, int64_t time) {
  auto it = facts.persisted.lower_bound(time);
  return it == facts.persisted.begin() ? 0 : std::prev(it)->second;
}

void CheckSizes(const Operation& op, const Facts& facts,
                std::vector<Violation>* out) {
  int64_t least = PersistedBefore(facts, op.start);
  for (const int64_t size : op.numbers) {
    if (size < least) {
      Report("PERSISTED_SHRANK", op,
             absl::StrCat("got ", size, ", it was ", least), out);
    }
    least = std::max(least, size);
  }
}

// An upload that is not complete cannot be read.
void CheckThere(const Operation& op, const Facts& facts,
                std::vector<Violation>* out) {
  const bool missing = absl::StartsWith(op.error, "NOT_FOUND");
  const bool may_be_gone = facts.delete_begun < op.end;
  if (missing && !may_be_gone) {
    if (facts.complete < op.start) {
      Report("TENSOR_LOST", op, op.error, out);
    } else if (facts.made < op.start && !IsAbout(op, "ReadTensor")) {
      Report("UPLOAD_LOST", op, op.error, out);
    }
  }
  if (op.outcome == Operation::kDone && facts.deleted < op.start) {
    Report("TENSOR_BACK", op, "it was deleted", out);
  }
}

void CheckList(const Operation& list, const AllFacts& all,
               std::vector<Violation>* out) {
  for (const auto& [id, facts] : all) {
    const bool listed =
        std::find(list.names.begin(), list.names.end(), id) != list.names.end();
    if (!listed && facts.complete < list.start &&
        facts.delete_begun >= list.end) {
      Report("TENSOR_LOST", list, id + " is not listed", out);
    }
    if (listed && facts.deleted < list.start) {
      Report("TENSOR_BACK", list, id + " is listed", out);
    }
  }
}

}  // namespace

void CheckUploads(const History& history, std::vector<Violation>* out) {
  const AllFacts all = LearnAll(history);
  for (const Operation& op : history) {
    if (IsAbout(op, "ListTensors") && op.outcome == Operation::kDone) {
      CheckList(op, all, out);
    }
    const auto facts = all.find(op.object);
    if (facts == all.end()) continue;
    if (!op.digest.empty() && op.digest != op.expected) {
      Report("WRONG_BYTES", op,
             absl::StrCat("got ", op.digest, ", sent ", op.expected), out);
    }
    if (IsAbout(op, "DeleteTensor")) continue;
    CheckSizes(op, facts->second, out);
    CheckThere(op, facts->second, out);
  }
}

}  // namespace qs::testing
