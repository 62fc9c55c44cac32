// CheckpointRuns that do what a test says: shards and ends come when it wants.
#ifndef QS_TESTS_SERVICE_JOBS_FAKE_RUNS_H_
#define QS_TESTS_SERVICE_JOBS_FAKE_RUNS_H_

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "service/jobs/jobs_context.h"

namespace qs::testing {

template <typename Done>
bool WaitUntil(const Done& done, absl::Duration limit = absl::Seconds(20)) {
  const absl::Time end = absl::Now() + limit;
  while (!done()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

class FakeRun final : public CheckpointRun {
 public:
  FakeRun(CheckpointRunSpec spec, RunSize size, std::string fingerprint)
      : spec_(std::move(spec)),
        size_(size),
        fingerprint_(std::move(fingerprint)) {}

  const CheckpointRunSpec& spec() const override { return spec_; }
  const quant::v1::PlanSummary& plan() const override { return plan_; }
  const RunSize& size() const override { return size_; }
  std::vector<quant::v1::Finding> findings() const override { return {}; }
  const std::string& fingerprint() const override { return fingerprint_; }

  void Start(const RunPlace&, const std::set<int>& committed,
             CheckpointRunObserver& observer,
             std::function<void(absl::Status)> done) override {
    std::filesystem::create_directories(spec_.output);
    absl::MutexLock lock(&mutex_);
    committed_ = committed;
    observer_ = &observer;
    done_ = std::move(done);
  }
  void Stop() override {
    if (stops_) End(absl::CancelledError("stopped"));
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }

  // One tensor, then its shard, whose file holds `content`.
  absl::Status CommitShard(int shard) {
    return CommitShard(shard, absl::StrCat("shard ", shard));
  }
  absl::Status CommitShard(int shard, const std::string& content) {
    const std::string file = absl::StrCat("model-", shard, ".safetensors");
    std::ofstream(spec_.output + "/" + file) << content;
    quant::v1::TensorReport report;
    report.set_name(absl::StrCat("t", shard));
    report.set_bytes_in(100);
    report.set_bytes_out(25);
    report.mutable_error()->set_count(50);
    report.mutable_error()->set_mean_squared_error(0.5);
    observer_->OnBytes(100);
    const absl::Status status = observer_->OnTensor(shard, report, {});
    return status.ok() ? observer_->OnShard(shard, file, 25) : status;
  }
  // Tensors wait for sites; parked: all of those that are left.
  void Wait(int64_t tensors, bool parked) {
    observer_->OnWaiting(tensors, parked);
  }
  void Succeed() {
    std::ofstream(spec_.output + "/config.json") << "{}";
    End(absl::OkStatus());
  }
  void End(const absl::Status& status) {
    std::function<void(absl::Status)> done;
    {
      absl::MutexLock lock(&mutex_);
      done.swap(done_);
    }
    if (done) done(status);
  }
  // Stop does nothing from now on: the test ends the run itself.
  void IgnoreStop() { stops_ = false; }

  bool started() const {
    absl::MutexLock lock(&mutex_);
    return observer_ != nullptr;
  }
  bool stopped() const {
    absl::MutexLock lock(&mutex_);
    return stopped_;
  }
  std::set<int> committed() const {
    absl::MutexLock lock(&mutex_);
    return committed_;
  }

 private:
  const CheckpointRunSpec spec_;
  const quant::v1::PlanSummary plan_;
  const RunSize size_;
  const std::string fingerprint_;
  std::atomic<bool> stops_ = true;
  mutable absl::Mutex mutex_;
  std::set<int> committed_;
  CheckpointRunObserver* observer_ = nullptr;
  std::function<void(absl::Status)> done_;
  bool stopped_ = false;
};

// By the path of the input.
class FakeRuns {
 public:
  RunFactory Factory() {
    return [this](CheckpointRunSpec spec)
               -> absl::StatusOr<std::shared_ptr<CheckpointRun>> {
      absl::MutexLock lock(&mutex_);
      ++prepared_;
      if (!error_.ok()) return error_;
      const std::string input = spec.input;
      auto run =
          std::make_shared<FakeRun>(std::move(spec), size_, fingerprint_);
      runs_[input].push_back(run);
      return std::shared_ptr<CheckpointRun>(run);
    };
  }
  void Refuse(const absl::Status& error) {
    absl::MutexLock lock(&mutex_);
    error_ = error;
  }
  void SetFingerprint(const std::string& fingerprint) {
    absl::MutexLock lock(&mutex_);
    fingerprint_ = fingerprint;
  }
  void SetSize(const RunSize& size) {
    absl::MutexLock lock(&mutex_);
    size_ = size;
  }
  int prepared() const {
    absl::MutexLock lock(&mutex_);
    return prepared_;
  }
  // The run of that input that was started last, or null.
  std::shared_ptr<FakeRun> Started(const std::string& input) const {
    absl::MutexLock lock(&mutex_);
    const auto found = runs_.find(input);
    if (found == runs_.end()) return nullptr;
    for (auto run = found->second.rbegin(); run != found->second.rend();
         ++run) {
      if ((*run)->started()) return *run;
    }
    return nullptr;
  }
  // The same, when it comes within the time.
  std::shared_ptr<FakeRun> WaitStarted(const std::string& input) const {
    std::shared_ptr<FakeRun> run;
    WaitUntil([&] { return (run = Started(input)) != nullptr; });
    return run;
  }
  void Forget() {
    absl::MutexLock lock(&mutex_);
    runs_.clear();
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::string, std::vector<std::shared_ptr<FakeRun>>> runs_;
  absl::Status error_;
  std::string fingerprint_ = "sha256:one";
  RunSize size_ = {.tensors = 2,
                   .bytes = 200,
                   .bytes_out = 50,
                   .batches = 2,
                   .shards = 2,
                   .largest_batch_bytes = 1000};
  int prepared_ = 0;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_JOBS_FAKE_RUNS_H_
