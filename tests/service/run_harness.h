// What runs are tested with: workers and memory of their own, and who is told.
#ifndef QS_TESTS_SERVICE_RUN_HARNESS_H_
#define QS_TESTS_SERVICE_RUN_HARNESS_H_

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "service/run/checkpoint_run.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

class Recorder : public CheckpointRunObserver {
 public:
  void OnBytes(int64_t count) override { bytes += count; }
  absl::Status OnTensor(int shard, const quant::v1::TensorReport& report,
                        const QuantizedTensor& result) override {
    absl::MutexLock lock(&mutex_);
    CHECK(result.report.name == report.name());
    CHECK(shard >= 0);
    CHECK(reports_.emplace(report.name(), report).second);
    return fail_tensor;
  }
  absl::Status OnShard(int shard, const std::string&, int64_t count) override {
    absl::MutexLock lock(&mutex_);
    CHECK(count > 0);
    CHECK(shards_.insert(shard).second);
    if (on_shard) on_shard();
    return absl::OkStatus();
  }
  std::set<int> shards() {
    absl::MutexLock lock(&mutex_);
    return shards_;
  }
  std::map<std::string, quant::v1::TensorReport> reports() {
    absl::MutexLock lock(&mutex_);
    return reports_;
  }

  std::atomic<int64_t> bytes = 0;
  absl::Status fail_tensor;
  std::function<void()> on_shard;

 private:
  absl::Mutex mutex_;
  std::set<int> shards_;
  std::map<std::string, quant::v1::TensorReport> reports_;
};

// What a run works with, of a size of its own.
struct Machine {
  explicit Machine(int workers, int64_t memory = int64_t{1} << 30)
      : budget(memory), pool(NewCpuBackends(workers, 1)), io(2, 64) {}
  ByteBudget budget;
  WorkerPool pool;
  IoPool io;
};

// How a run ended. absl::Notification would do, but ThreadSanitizer does not
// see into it.
class End {
 public:
  std::function<void(absl::Status)> Taker() {
    return [this](absl::Status status) {
      absl::MutexLock lock(&mutex_);
      status_ = std::move(status);
    };
  }
  absl::Status Wait() {
    absl::MutexLock lock(&mutex_);
    const auto ended = [this] { return status_.has_value(); };
    REQUIRE(
        mutex_.AwaitWithTimeout(absl::Condition(&ended), absl::Seconds(120)));
    return *status_;
  }

 private:
  absl::Mutex mutex_;
  std::optional<absl::Status> status_;
};

inline std::shared_ptr<CheckpointRun> Prepare(const CheckpointRunSpec& spec) {
  auto run = CheckpointRun::Prepare(spec);
  INFO(run.status().ToString());
  REQUIRE(run.ok());
  return *std::move(run);
}

inline absl::Status Finish(CheckpointRun& run, Machine& machine,
                           Recorder& recorder,
                           const std::set<int>& committed = {}) {
  End end;
  run.Start({machine.pool, machine.budget, machine.io}, committed, recorder,
            end.Taker());
  absl::Status result = end.Wait();
  CHECK(machine.budget.reserved() == 0);
  CHECK(machine.budget.waiting() == 0);
  return result;
}

inline std::map<std::string, std::string> FilesOf(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    files[std::filesystem::relative(entry.path(), folder).string()] =
        text.str();
  }
  return files;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_RUN_HARNESS_H_
