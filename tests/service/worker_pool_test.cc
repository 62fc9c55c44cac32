// WorkerPool: turns between lanes, dropping, stopping.
#include "service/stream/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "service/server/log.h"
#include "tests/testing/captured.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

// Computes on the host; its device is lost when the test says so.
class Losable final : public Backend {
 public:
  // `device_bytes`: of its device's memory; 0: it has no device.
  explicit Losable(std::string name, int lanes = 1, int64_t device_bytes = 0)
      : name_(std::move(name)), lanes_(lanes), device_bytes_(device_bytes) {}
  std::string name() const override { return name_; }
  std::string description() const override { return host_->description(); }
  Stream& stream() override { return host_->stream(); }
  Nf4Ops& nf4() override { return host_->nf4(); }
  AffineOps& affine() override { return host_->affine(); }
  StatsOps& stats() override { return host_->stats(); }
  HqqOps& hqq() override { return host_->hqq(); }
  GramOps& gram() override { return host_->gram(); }
  GptqOps& gptq() override { return host_->gptq(); }
  AwqOps& awq() override { return host_->awq(); }
  absl::Status health() const override {
    return lost_ ? absl::InternalError(name_ + " is lost") : absl::OkStatus();
  }
  int lanes() const override { return lanes_; }
  DeviceMemoryUse memory() const override {
    return {.cap = device_bytes_,
            .high_water = high_water_,
            .host_calls = host_calls_,
            .host_reason = "no memory"};
  }
  void Lose() { lost_ = true; }
  void Need(int64_t bytes) { high_water_ = bytes; }
  void LeaveToHost(int64_t operations) { host_calls_ += operations; }

 private:
  const std::string name_;
  const int lanes_;
  const int64_t device_bytes_;
  const std::unique_ptr<Backend> host_ = NewCpuBackend(1);
  std::atomic<bool> lost_ = false;
  std::atomic<int64_t> high_water_ = 0;
  std::atomic<int64_t> host_calls_ = 0;
};

// Keeps the only worker busy until Open, so that tasks queue in known order.
class Gate {
 public:
  Gate(WorkerPool& pool, const std::shared_ptr<WorkerPool::Lane>& lane) {
    pool.Submit(lane, [this](Backend&) {
      entered_.Notify();
      open_.WaitForNotification();
    });
    entered_.WaitForNotification();
  }
  void Open() { open_.Notify(); }

 private:
  absl::Notification entered_;
  absl::Notification open_;
};

TEST_CASE("lanes take turns, each in its own order", "[worker_pool]") {
  WorkerPool pool(NewCpuBackends(1, 1));
  const auto a = pool.NewLane();
  const auto b = pool.NewLane();
  const auto idle = pool.NewLane();
  Gate gate(pool, idle);
  std::string order;
  absl::Notification done;
  for (int i = 0; i < 3; ++i) {
    pool.Submit(a, [&order](Backend&) { order += 'a'; });
  }
  for (int i = 0; i < 2; ++i) {
    pool.Submit(b, [&order](Backend&) { order += 'b'; });
  }
  pool.Submit(a, [&done](Backend&) { done.Notify(); });
  REQUIRE(pool.queued() == 6);
  gate.Open();
  done.WaitForNotification();
  REQUIRE(order == "ababa");
}

TEST_CASE("dropped tasks do not run and free what they hold", "[worker_pool]") {
  WorkerPool pool(NewCpuBackends(1, 1));
  const auto idle = pool.NewLane();
  const auto lane = pool.NewLane();
  Gate gate(pool, idle);
  const auto held = std::make_shared<int>(1);
  std::atomic<bool> ran{false};
  for (int i = 0; i < 3; ++i) {
    pool.Submit(lane, [&ran, held](Backend&) { ran = true; });
  }
  REQUIRE(held.use_count() == 4);
  REQUIRE(pool.Drop(lane) == 3);
  REQUIRE(held.use_count() == 1);
  REQUIRE(pool.queued() == 0);
  REQUIRE(pool.Drop(lane) == 0);
  absl::Notification after;
  pool.Submit(lane, [&after](Backend&) { after.Notify(); });
  gate.Open();
  after.WaitForNotification();  // the lane works on
  REQUIRE_FALSE(ran);
}

TEST_CASE("every worker has a backend of its own and all work",
          "[worker_pool]") {
  WorkerPool pool(NewCpuBackends(3, 1));
  REQUIRE(pool.threads() == 3);
  const auto lane = pool.NewLane();
  std::atomic<int> inside{0};
  absl::Notification all;
  std::mutex mutex;
  std::vector<Backend*> backends;
  for (int i = 0; i < 3; ++i) {
    pool.Submit(lane, [&](Backend& backend) {
      {
        std::lock_guard<std::mutex> lock(mutex);
        backends.push_back(&backend);
      }
      if (++inside == 3) all.Notify();
      all.WaitForNotification();  // so that each task has another worker
    });
  }
  all.WaitForNotification();
  std::lock_guard<std::mutex> lock(mutex);
  REQUIRE(backends[0] != backends[1]);
  REQUIRE(backends[1] != backends[2]);
  REQUIRE(backends[0] != backends[2]);
}

TEST_CASE("a pool has a GPU where one of its workers is one", "[worker_pool]") {
  for (const int64_t device_bytes : {0, 1 << 20}) {
    std::vector<std::unique_ptr<Backend>> backends = NewCpuBackends(1, 1);
    backends.push_back(
        std::make_unique<Losable>("second", 1, /*device_bytes=*/device_bytes));
    const WorkerKinds kinds = WorkerPool(std::move(backends)).kinds();
    CHECK_FALSE(kinds.prefer_large);
    CHECK(kinds.any_gpu == (device_bytes > 0));
  }
}

TEST_CASE("the end waits for running tasks and drops queued ones",
          "[worker_pool]") {
  const auto held = std::make_shared<int>(1);
  std::atomic<bool> finished{false};
  std::atomic<bool> dropped_ran{false};
  absl::Notification entered;
  {
    WorkerPool pool(NewCpuBackends(1, 1));
    const auto lane = pool.NewLane();
    pool.Submit(lane, [&](Backend&) {
      entered.Notify();
      // Long enough for the destructor to have begun; it must wait.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      finished = true;
    });
    entered.WaitForNotification();
    pool.Submit(lane, [&dropped_ran, held](Backend&) { dropped_ran = true; });
    REQUIRE(pool.running() == 1);
  }
  REQUIRE(finished);
  REQUIRE_FALSE(dropped_ran);
  REQUIRE(held.use_count() == 1);
}

TEST_CASE("a worker whose device is lost leaves the work to the others",
          "[worker_pool]") {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const char* name : {"gpu:0", "gpu:1"}) {
    backends.push_back(std::make_unique<Losable>(name));
  }
  std::mutex mutex;
  std::vector<std::string> lost;
  WorkerPool pool(std::move(backends), [&](const Backend& backend,
                                           const absl::Status& why, int left) {
    std::lock_guard<std::mutex> lock(mutex);
    lost.push_back(backend.name() + ": " + std::string(why.message()) + ", " +
                   std::to_string(left) + " left");
  });
  const auto lane = pool.NewLane();
  // Runs tasks until one has run on `name`, which then loses its device.
  const auto lose = [&](const std::string& name) {
    std::atomic<bool> done = false;
    while (!done) {
      absl::Notification ran;
      pool.Submit(lane, [&](Backend& backend) {
        if (backend.name() == name) {
          static_cast<Losable&>(backend).Lose();
          done = true;
        }
        ran.Notify();
      });
      ran.WaitForNotification();
    }
  };
  const auto names = [&] {
    std::set<std::string> ran_on;
    for (int i = 0; i < 20; ++i) {
      absl::Notification ran;
      pool.Submit(lane, [&](Backend& backend) {
        ran_on.insert(backend.name());
        ran.Notify();
      });
      ran.WaitForNotification();
    }
    return ran_on;
  };
  lose("gpu:1");
  while (pool.running() > 0) std::this_thread::yield();
  REQUIRE(names() == std::set<std::string>{"gpu:0"});
  lose("gpu:0");
  while (pool.running() > 0) std::this_thread::yield();
  REQUIRE(names() == std::set<std::string>{"gpu:0"});  // on its host
  std::lock_guard<std::mutex> lock(mutex);
  REQUIRE(lost == std::vector<std::string>{"gpu:1: gpu:1 is lost, 1 left",
                                           "gpu:0: gpu:0 is lost, 0 left"});
  REQUIRE(pool.backends().size() == 2);
}

TEST_CASE("a worker runs a task for each of its backend's lanes",
          "[worker_pool]") {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::make_unique<Losable>("gpu:0", 3));
  Losable& gpu = static_cast<Losable&>(*backends[0]);
  std::atomic<int> losses = 0;
  std::atomic<int> left = -1;
  WorkerPool pool(std::move(backends),
                  [&](const Backend&, const absl::Status&, int workers) {
                    ++losses;
                    left = workers;
                  });
  REQUIRE(pool.threads() == 3);
  REQUIRE(pool.backends().size() == 1);
  REQUIRE(pool.busy_seconds() == std::vector<double>{0});
  const auto lane = pool.NewLane();
  const auto all_at_once = [&] {
    std::atomic<int> inside = 0;
    absl::Notification all;
    for (int i = 0; i < 3; ++i) {
      pool.Submit(lane, [&](Backend&) {
        const bool last = ++inside == 3;
        if (last) gpu.Lose();
        if (last) all.Notify();
        all.WaitForNotification();
      });
    }
    all.WaitForNotification();
    while (pool.running() > 0) std::this_thread::yield();
  };
  all_at_once();
  REQUIRE(losses == 1);
  REQUIRE(left == 0);
  all_at_once();  // the last worker: all its threads go on
  REQUIRE(losses == 1);
}

TEST_CASE("a lost worker's idle threads take no more", "[worker_pool]") {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::make_unique<Losable>("gpu:0", 2));
  backends.push_back(std::make_unique<Losable>("cpu"));
  Losable& gpu = static_cast<Losable&>(*backends[0]);
  WorkerPool pool(std::move(backends));
  const auto lane = pool.NewLane();
  std::atomic<bool> saw_loss = false;
  while (!saw_loss) {  // until a thread of the lost one has ended a task
    absl::Notification ran;
    pool.Submit(lane, [&](Backend& backend) {
      if (&backend == &gpu) {
        gpu.Lose();
        saw_loss = true;
      }
      ran.Notify();
    });
    ran.WaitForNotification();
  }
  while (pool.running() > 0) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) {
    absl::Notification ran;
    std::string name;
    pool.Submit(lane, [&](Backend& backend) {
      name = backend.name();
      ran.Notify();
    });
    ran.WaitForNotification();
    REQUIRE(name == "cpu");
  }
}

// The name of the worker that ran a task of its own lane.
std::string RanOn(WorkerPool& pool, int64_t device_bytes) {
  std::string name;
  absl::Notification ran;
  pool.Submit(pool.NewLane(),
              [&](Backend& backend) {
                name = backend.name();
                ran.Notify();
              },
              {.taken = device_bytes});
  ran.WaitForNotification();
  return name;
}

TEST_CASE("a task goes to a worker whose device has the memory for it",
          "[worker_pool]") {
  const auto pool_of = [](std::vector<std::pair<std::string, int64_t>> all) {
    std::vector<std::unique_ptr<Backend>> backends;
    for (const auto& [name, bytes] : all) {
      backends.push_back(std::make_unique<Losable>(name, 2, bytes));
    }
    return std::make_unique<WorkerPool>(std::move(backends));
  };
  const auto mixed = pool_of({{"gpu:0", 100}, {"gpu:1", 200}, {"cpu", 0}});
  for (int i = 0; i < 50; ++i) {
    REQUIRE(RanOn(*mixed, 201) == "cpu");
    REQUIRE(RanOn(*mixed, 101) != "gpu:0");
  }
  const auto gpus = pool_of({{"gpu:0", 100}, {"gpu:1", 200}});
  for (int i = 0; i < 50; ++i) REQUIRE(RanOn(*gpus, 101) == "gpu:1");
  // With nobody whose device has it, any worker's host does it.
  const auto small = pool_of({{"gpu:0", 100}});
  REQUIRE(RanOn(*small, 201) == "gpu:0");
  while (small->running() > 0) std::this_thread::yield();
  REQUIRE(small->device_claims()[0].most.total() == 201);
  REQUIRE(small->device_claims()[0].now == 0);
}

TEST_CASE("tasks of one device fit into its memory together, in turn",
          "[worker_pool]") {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::make_unique<Losable>("gpu:0", 3, 100));
  WorkerPool pool(std::move(backends));
  std::atomic<int64_t> now = 0;
  std::atomic<bool> too_much = false;
  std::mutex mutex;
  std::string order;
  const auto lane = pool.NewLane();
  const auto submit = [&](char name, int64_t bytes,
                          absl::Notification* until = nullptr) {
    pool.Submit(lane,
                [&, name, bytes, until](Backend&) {
                  if ((now += bytes) > 100) too_much = true;
                  {
                    std::lock_guard<std::mutex> lock(mutex);
                    order += name;
                  }
                  if (until != nullptr) until->WaitForNotification();
                  now -= bytes;
                },
                {.taken = bytes - bytes / 3, .kept = bytes / 3});
  };
  absl::Notification first;
  submit('a', 60, &first);
  submit('b', 60);  // waits for a, and holds up the small ones behind it
  for (int i = 0; i < 3; ++i) submit('c', 10);
  const auto ran = [&] {
    std::lock_guard<std::mutex> lock(mutex);
    return order;
  };
  while (ran().empty()) std::this_thread::yield();
  REQUIRE(pool.device_claims()[0].now == 60);
  REQUIRE(pool.queued() == 4);
  REQUIRE(ran() == "a");
  first.Notify();
  while (pool.queued() + pool.running() > 0) std::this_thread::yield();
  REQUIRE(order.size() == 5);
  // As many as fit, whatever comes.
  for (int i = 0; i < 200; ++i) submit('d', 1 + i * 7 % 100);
  while (pool.queued() + pool.running() > 0) std::this_thread::yield();
  REQUIRE(order.size() == 205);
  REQUIRE_FALSE(too_much);
}

// How often the log tells that a device needed more than was estimated, when
// its tasks, one after the other, take and keep that much and need as much as
// is said; each on two lanes at once.
struct Need {
  DeviceBytes estimate;
  int64_t high_water = 0;
};
int64_t TimesTold(const std::vector<Need>& tasks) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::make_unique<Losable>("gpu:0", 2, 10000));
  Losable& gpu = static_cast<Losable&>(*backends[0]);
  REQUIRE(SetLogLevel("warning").ok());
  const auto log = testing::Captured([&] {
    WorkerPool pool(std::move(backends));
    const auto lane = pool.NewLane();
    for (const Need& need : tasks) {
      std::atomic<int> inside = 0;
      absl::Notification both;
      for (int i = 0; i < 2; ++i) {
        pool.Submit(
            lane,
            [&](Backend&) {
              const bool last = ++inside == 2;
              if (last) gpu.Need(need.high_water);
              if (last) both.Notify();
              both.WaitForNotification();
            },
            need.estimate);
      }
      both.WaitForNotification();
      while (pool.queued() + pool.running() > 0) std::this_thread::yield();
    }
  });
  REQUIRE(SetLogLevel("off").ok());
  return std::count_if(log.begin(), log.end(), [](const std::string& line) {
    return absl::StrContains(line, "gpu_memory_above_estimate");
  });
}

TEST_CASE("what a device needs above what its tasks said is told of once",
          "[worker_pool]") {
  const DeviceBytes estimate = {100, 20};
  CHECK(TimesTold({{estimate, 240}}) == 0);
  CHECK(TimesTold({{estimate, 241}}) == 1);
  CHECK(TimesTold({{estimate, 241}, {estimate, 242}}) == 1);
  CHECK(TimesTold({{estimate, 241}, {estimate, 400}, {estimate, 410}}) == 2);
}

TEST_CASE("... of all tasks: one's memory stays, another keeps copies",
          "[worker_pool]") {
  const std::vector<Need> tasks = {{{300, 0}, 600}, {{100, 150}, 900}};
  CHECK(TimesTold(tasks) == 0);
  CHECK(TimesTold({tasks[0], {{100, 150}, 901}}) == 1);
  CHECK(TimesTold({tasks[1]}) == 1);
}

// How many it had left to its host when that was told of, of tasks that leave
// as many to it as is said.
std::vector<std::string> ToldOfHost(const std::vector<int64_t>& tasks) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::make_unique<Losable>("gpu:0", 1, 10000));
  Losable& gpu = static_cast<Losable&>(*backends[0]);
  REQUIRE(SetLogLevel("warning").ok());
  const auto log = testing::Captured([&] {
    WorkerPool pool(std::move(backends));
    const auto lane = pool.NewLane();
    for (const int64_t operations : tasks) {
      pool.Submit(
          lane, [&gpu, operations](Backend&) { gpu.LeaveToHost(operations); });
    }
    while (pool.queued() + pool.running() > 0) std::this_thread::yield();
  });
  REQUIRE(SetLogLevel("off").ok());
  std::vector<std::string> told;
  for (const std::string& line : log) {
    const auto json = nlohmann::json::parse(line);
    CHECK(json["event"] == "gpu_work_on_host");
    CHECK(json["worker"] == "gpu:0");
    CHECK(json["last_reason"] == "no memory");
    told.push_back(json["operations"].dump());
  }
  return told;
}

TEST_CASE("what a device leaves to its host is told of, and when it is more",
          "[worker_pool]") {
  using Told = std::vector<std::string>;
  CHECK(ToldOfHost({0, 0}).empty());
  CHECK(ToldOfHost({0, 8, 0, 2, 0}) == Told{"8"});
  CHECK(ToldOfHost({8, 2, 1, 0, 100}) == Told{"8", "11", "111"});
}

TEST_CASE("the time that a worker computes grows, also in mid task",
          "[worker_pool]") {
  WorkerPool pool(NewCpuBackends(1, 1));
  REQUIRE(pool.busy_seconds() == std::vector<double>{0});
  absl::Notification begun;
  absl::Notification end;
  pool.Submit(pool.NewLane(), [&](Backend&) {
    begun.Notify();
    end.WaitForNotification();
  });
  begun.WaitForNotification();
  const double first = pool.busy_seconds()[0];
  double second = first;
  while (second <= first) second = pool.busy_seconds()[0];
  end.Notify();
  while (pool.running() > 0) std::this_thread::yield();
  const double last = pool.busy_seconds()[0];
  REQUIRE(last >= second);
  REQUIRE(pool.busy_seconds()[0] == last);
}

TEST_CASE("many threads, many lanes: each task runs once", "[worker_pool]") {
  std::atomic<int> ran{0};
  {
    WorkerPool pool(NewCpuBackends(4, 1));
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        const auto lane = pool.NewLane();
        for (int i = 0; i < 500; ++i) {
          pool.Submit(lane, [&ran](Backend&) { ++ran; });
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    while (pool.queued() + pool.running() > 0) std::this_thread::yield();
  }
  REQUIRE(ran == 2000);
}

}  // namespace
}  // namespace qs
