// What one client did and was answered: the history of a run is a list of
// these, which history_checker.h judges.
//
// Names in it are those of the workload: calls are RPCs ("CreateJob"), objects
// are resource IDs as the server gave them, requests are request_ids. Times are
// microseconds of one clock: an operation had its effect between `start` and
// `end`, if it had one.
#ifndef QS_TESTS_SERVICE_HISTORY_OPERATION_H_
#define QS_TESTS_SERVICE_HISTORY_OPERATION_H_

#include <cstdint>
#include <string>
#include <vector>

namespace qs::testing {

// A job as an answer or an event showed it.
struct JobView {
  std::string id;
  int64_t revision = 0;
  std::string state;  // "QUEUED"
  int attempt = 1;
  bool cancelling = false;
  bool snapshot = false;    // of a watch: the whole job, not a change
  std::string destination;  // empty: the event did not say
  std::string digest;       // of a SUCCEEDED one
  std::string error;        // reason of a FAILED one
};

// A site as an answer showed it.
struct SiteView {
  std::string name;
  bool sealed = false;
  int64_t tokens = 0;
  std::string digest;
};

struct Operation {
  enum Outcome {
    kDone,
    kRefused,  // it had no effect, and never will
    kUnknown,  // the connection was lost, or the disk failed
  };
  int64_t start = 0;
  int64_t end = 0;
  int client = 0;
  std::string call;
  std::string object;
  std::string request;
  Outcome outcome = kDone;
  std::string error;  // of what was not kDone: "CODE REASON"

  // --- what was asked
  std::string
      expected;      // digest of the tensor's true bytes; a job's destination
  int64_t from = 0;  // WatchJob's from_revision
  int64_t sent = 0;  // WriteActivations: the highest seq
  int64_t counter = -1;  // WriteSecondMoments: the input that counts it
  std::string site;

  // --- what was answered, of kUnknown as far as it came
  std::vector<int64_t> numbers;  // persisted_size or durable_seq, in order; of
                                 // ReadSite how often each counter was added
  std::string digest;
  bool already_added = false;
  std::vector<JobView> jobs;
  std::vector<SiteView> sites;
  std::vector<std::string> names;  // ListTensors; files that were found
};

// --- the workload, as far as the checker must know it

// A calibration's sites have so many inputs, each a counter: one token adds 1
// to one of them, so that abs_sum says how often each thing was added.
constexpr int64_t kShardCounters = 24;  // batches of a shard, both sites
constexpr int64_t kHistoryShards = 2;
constexpr int64_t kMomentCounters = 16;
constexpr int64_t kSiteInputs =
    kShardCounters * kHistoryShards + kMomentCounters;

inline std::string SiteOfBatch(int64_t seq) { return seq % 2 == 0 ? "b" : "a"; }
// `shard` is "0" or "1".
inline int64_t CounterOfBatch(const std::string& shard, int64_t seq) {
  return (shard == "1" ? kShardCounters : 0) + seq - 1;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_HISTORY_OPERATION_H_
