// WorkerPool: turns between lanes, dropping, stopping.
#include "service/stream/worker_pool.h"

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

std::function<std::unique_ptr<Backend>()> MakeBackend() {
  return [] { return NewCpuBackend(1); };
}

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
  WorkerPool pool(1, MakeBackend());
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
  WorkerPool pool(1, MakeBackend());
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
  std::atomic<int> made{0};
  WorkerPool pool(3, [&made] {
    ++made;
    return NewCpuBackend(1);
  });
  REQUIRE(pool.workers() == 3);
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
  REQUIRE(made == 3);
  std::lock_guard<std::mutex> lock(mutex);
  REQUIRE(backends[0] != backends[1]);
  REQUIRE(backends[1] != backends[2]);
  REQUIRE(backends[0] != backends[2]);
}

TEST_CASE("the end waits for running tasks and drops queued ones",
          "[worker_pool]") {
  const auto held = std::make_shared<int>(1);
  std::atomic<bool> finished{false};
  std::atomic<bool> dropped_ran{false};
  absl::Notification entered;
  {
    WorkerPool pool(1, MakeBackend());
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

TEST_CASE("many threads, many lanes: each task runs once", "[worker_pool]") {
  std::atomic<int> ran{0};
  {
    WorkerPool pool(4, MakeBackend());
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
