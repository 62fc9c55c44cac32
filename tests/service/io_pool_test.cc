// IoPool and IoStrand: order, one at a time, the cap, the end.
#include "service/base/io_pool.h"

#include <atomic>
#include <latch>
#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

TEST_CASE("every thread of the pool takes a task", "[io_pool]") {
  std::latch all(3);
  IoPool pool(3, 10);
  // Each waits for the others: with fewer threads none would end.
  for (int i = 0; i < 3; ++i) {
    REQUIRE(pool.TryRun([&all] { all.arrive_and_wait(); }));
  }
}

TEST_CASE("the pool refuses what is beyond its cap, and takes it later",
          "[io_pool]") {
  absl::Notification begun;
  absl::Notification go_on;
  absl::Notification last;
  std::atomic<int> ran{0};
  IoPool pool(1, 2);
  REQUIRE(pool.TryRun([&] {
    begun.Notify();
    go_on.WaitForNotification();
  }));
  begun.WaitForNotification();
  const auto count = [&ran] { ++ran; };
  CHECK(pool.TryRun(count));
  CHECK(pool.TryRun(count));
  CHECK_FALSE(pool.TryRun(count));
  // Who bounds what it adds is not refused.
  pool.Run([&last] { last.Notify(); });
  CHECK_FALSE(pool.TryRun(count));
  go_on.Notify();
  last.WaitForNotification();
  CHECK(ran == 2);
  CHECK(pool.TryRun(count));
}

TEST_CASE("the pool's end waits for what is queued", "[io_pool]") {
  std::atomic<int> ran{0};
  {
    IoPool pool(2, 1000);
    for (int i = 0; i < 500; ++i) {
      REQUIRE(pool.TryRun([&ran] { ++ran; }));
    }
  }
  CHECK(ran == 500);
}

// Tasks append to a list without a lock: a strand is one.
struct Owner {
  explicit Owner(IoPool& pool) : strand(pool) {}
  IoStrand strand;
  std::vector<int> order;
  std::atomic<int> inside{0};
  bool overlapped = false;
};

void AddTasks(const std::shared_ptr<Owner>& owner, int count) {
  for (int i = 0; i < count; ++i) {
    owner->strand.Run([owner, i] {
      if (++owner->inside != 1) owner->overlapped = true;
      owner->order.push_back(i);
      --owner->inside;
    });
  }
}

TEST_CASE("a strand keeps the order and runs one task at a time", "[io_pool]") {
  constexpr int kTasks = 2000;
  std::vector<std::shared_ptr<Owner>> owners;
  {
    IoPool pool(4, 1);
    for (int i = 0; i < 5; ++i) {
      owners.push_back(std::make_shared<Owner>(pool));
    }
    for (const auto& owner : owners) AddTasks(owner, kTasks);
  }
  std::vector<int> expected;
  for (int i = 0; i < kTasks; ++i) expected.push_back(i);
  for (const auto& owner : owners) {
    CHECK(owner->order == expected);
    CHECK_FALSE(owner->overlapped);
  }
}

TEST_CASE("strands do not wait for each other", "[io_pool]") {
  absl::Notification go_on;
  absl::Notification done;
  IoPool pool(2, 10);
  const auto slow = std::make_shared<Owner>(pool);
  const auto quick = std::make_shared<Owner>(pool);
  slow->strand.Run([&go_on, slow] { go_on.WaitForNotification(); });
  AddTasks(quick, 100);
  quick->strand.Run([&done, quick] { done.Notify(); });
  done.WaitForNotification();
  CHECK(quick->order.size() == 100);
  go_on.Notify();
}

TEST_CASE("a strand may add to itself, and go with its last task",
          "[io_pool]") {
  std::weak_ptr<Owner> seen;
  std::atomic<int> ran{0};
  {
    IoPool pool(2, 10);
    auto owner = std::make_shared<Owner>(pool);
    seen = owner;
    owner->strand.Run([&ran, held = owner] {
      ++ran;
      held->strand.Run([&ran, held] { ++ran; });
    });
    owner = nullptr;
  }
  CHECK(ran == 2);
  CHECK(seen.expired());
}

}  // namespace
}  // namespace qs::testing
