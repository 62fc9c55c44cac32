// Tested by tests/service/history/history_checker_test.cc.
#include "tests/service/history/history_checker.h"

#include <algorithm>
#include <array>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qs::testing {
namespace {

// What a client of the workload may meet beside success. Everything else is an
// error of the server or of the workload.
bool IsExpected(const Operation& op) {
  // Two clients at one upload, shard or job; a thing that another has deleted;
  // a server that ends; a disk that a failpoint made full.
  constexpr std::array kAllowed = {
      "ABORTED CONCURRENT_WRITER",
      "NOT_FOUND UPLOAD_EXPIRED",
      "NOT_FOUND TENSOR_NOT_FOUND",
      "NOT_FOUND JOB_NOT_FOUND",
      "NOT_FOUND CALIBRATION_NOT_FOUND",
      "ALREADY_EXISTS CALIBRATION_EXISTS",
      "ALREADY_EXISTS DESTINATION_EXISTS",
      "ALREADY_EXISTS DESTINATION_IN_USE",
      "FAILED_PRECONDITION BAD_STATE",
      "FAILED_PRECONDITION SITE_SEALED",
      "FAILED_PRECONDITION SITE_NOT_SEALED",
      "ABORTED SITE_CHANGED",
      "RESOURCE_EXHAUSTED DISK_FULL",
      "UNAVAILABLE DRAINING",
  };
  return std::any_of(kAllowed.begin(), kAllowed.end(),
                     [&op](const char* error) { return op.error == error; });
}

void CheckErrors(const History& history, std::vector<Violation>* out) {
  for (const Operation& op : history) {
    if (op.outcome == Operation::kRefused && !IsExpected(op)) {
      Report("UNEXPECTED_ERROR", op, op.error, out);
    }
  }
}

// One thing for each request_id, until somebody wants it deleted.
void CheckRequests(const History& history, std::vector<Violation>* out) {
  std::map<std::string, int64_t> deleted;  // since when it may be gone
  for (const Operation& op : history) {
    if (!absl::StartsWith(op.call, "Delete")) continue;
    const auto [it, fresh] = deleted.emplace(op.object, op.start);
    if (!fresh) it->second = std::min(it->second, op.start);
  }
  std::map<std::string, const Operation*> made;
  for (const Operation& op : history) {
    if (!absl::StartsWith(op.call, "Create") || op.request.empty() ||
        op.outcome != Operation::kDone) {
      continue;
    }
    const auto [it, fresh] = made.emplace(op.call + op.request, &op);
    const Operation& other = *it->second;
    if (fresh || other.object == op.object) continue;
    const auto gone = [&](const std::string& object) {
      const auto found = deleted.find(object);
      return found != deleted.end() &&
             found->second < std::max(op.end, other.end);
    };
    if (!gone(op.object) && !gone(other.object)) {
      Report("REQUEST_TWICE", op, "another one is " + other.object, out);
    }
    if (gone(other.object)) it->second = &op;
  }
}

// Processes that ended, and what was found on the disk afterwards.
void CheckProcess(const History& history, std::vector<Violation>* out) {
  for (const Operation& op : history) {
    if (op.call == "Drain" && op.numbers != std::vector<int64_t>{0}) {
      Report("BAD_EXIT", op,
             op.numbers.empty() ? "none in time" : absl::StrCat(op.numbers[0]),
             out);
    }
    if (op.call == "Orphans") {
      for (const std::string& name : op.names) Report("ORPHAN", op, name, out);
    }
  }
}

}  // namespace

std::string Describe(const Operation& op) {
  return absl::StrFormat("%s of client %d at %.6f s (%s %s)", op.call,
                         op.client, static_cast<double>(op.start) * 1e-6,
                         op.object, op.request);
}

void Report(const std::string& rule, const Operation& operation,
            const std::string& text, std::vector<Violation>* out) {
  out->push_back({rule, Describe(operation) + ": " + text});
}

std::vector<Violation> CheckHistory(const History& history) {
  std::vector<Violation> out;
  CheckErrors(history, &out);
  CheckRequests(history, &out);
  CheckProcess(history, &out);
  CheckUploads(history, &out);
  CheckJobs(history, &out);
  CheckCalibrations(history, &out);
  return out;
}

}  // namespace qs::testing
