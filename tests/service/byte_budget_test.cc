// ByteBudget: first come, first served; nothing above the capacity.
#include "service/stream/byte_budget.h"

#include <atomic>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

// Keeps what a waiter was granted.
struct Slot {
  std::optional<Reservation> reservation;
  ByteBudget::Ticket ticket = 0;

  bool Ask(ByteBudget& budget, int64_t bytes) {
    reservation = budget.ReserveOrWait(
        bytes, [this](Reservation r) { reservation = std::move(r); }, &ticket);
    return reservation.has_value();
  }
};

TEST_CASE("a reservation is given back when it goes", "[byte_budget]") {
  ByteBudget budget(100);
  {
    std::optional<Reservation> first = budget.TryReserve(60);
    REQUIRE(first);
    REQUIRE(first->bytes() == 60);
    REQUIRE_FALSE(budget.TryReserve(41));
    REQUIRE(budget.TryReserve(40));  // given back at once
    Reservation moved = *std::move(first);
    first.reset();
    REQUIRE(budget.reserved() == 60);
    moved.ShrinkTo(25);
    REQUIRE(budget.reserved() == 25);
    moved.ShrinkTo(50);  // never grows
    REQUIRE(moved.bytes() == 25);
  }
  REQUIRE(budget.reserved() == 0);
}

TEST_CASE("assigning over a reservation gives the old one back",
          "[byte_budget]") {
  ByteBudget budget(100);
  Reservation a = *budget.TryReserve(30);
  Reservation b = *budget.TryReserve(50);
  a = std::move(b);
  REQUIRE(budget.reserved() == 50);
  a.Reset();
  REQUIRE(budget.reserved() == 0);
}

TEST_CASE("what is spare leaves half to others", "[byte_budget]") {
  ByteBudget budget(101);
  REQUIRE_FALSE(budget.TryReserveSpare(51));
  const std::optional<Reservation> spare = budget.TryReserveSpare(20);
  REQUIRE(spare);
  CHECK(spare->bytes() == 20);
  CHECK_FALSE(budget.TryReserveSpare(31));
  CHECK(budget.TryReserveSpare(30));
  const std::optional<Reservation> others = budget.TryReserve(60);
  REQUIRE(others);
  CHECK_FALSE(budget.TryReserveSpare(0));
  CHECK(budget.reserved() == 80);
}

TEST_CASE("what is spare is not taken from those who wait", "[byte_budget]") {
  ByteBudget budget(100);
  const std::optional<Reservation> held = budget.TryReserve(10);
  Slot waiting;
  REQUIRE_FALSE(waiting.Ask(budget, 95));
  CHECK_FALSE(budget.TryReserveSpare(5));
  REQUIRE(budget.Abandon(waiting.ticket));
  CHECK(budget.TryReserveSpare(5));
}

TEST_CASE("nobody overtakes a waiter", "[byte_budget]") {
  ByteBudget budget(100);
  std::optional<Reservation> held = budget.TryReserve(50);
  Slot large;
  Slot small;
  REQUIRE_FALSE(large.Ask(budget, 80));
  REQUIRE_FALSE(small.Ask(budget, 10));  // would fit, but is second
  REQUIRE_FALSE(budget.TryReserve(10));
  REQUIRE(budget.TryReserve(0));  // takes nothing from them
  REQUIRE(budget.waiting() == 2);
  held.reset();
  REQUIRE(large.reservation);
  REQUIRE(small.reservation);
  REQUIRE(budget.reserved() == 90);
  REQUIRE(budget.waiting() == 0);
}

TEST_CASE("who leaves the line lets the next one in", "[byte_budget]") {
  ByteBudget budget(100);
  const std::optional<Reservation> held = budget.TryReserve(50);
  Slot large;
  Slot small;
  REQUIRE_FALSE(large.Ask(budget, 80));
  REQUIRE_FALSE(small.Ask(budget, 10));
  REQUIRE(budget.Abandon(large.ticket));
  REQUIRE_FALSE(large.reservation);
  REQUIRE(small.reservation);
  REQUIRE_FALSE(budget.Abandon(large.ticket));  // not in line any more
  REQUIRE_FALSE(budget.Abandon(small.ticket));  // served
}

TEST_CASE("a shrunken reservation serves a waiter", "[byte_budget]") {
  ByteBudget budget(100);
  std::optional<Reservation> held = budget.TryReserve(100);
  Slot waiter;
  REQUIRE_FALSE(waiter.Ask(budget, 30));
  held->ShrinkTo(71);
  REQUIRE_FALSE(waiter.reservation);
  held->ShrinkTo(70);
  REQUIRE(waiter.reservation);
}

TEST_CASE("threads never reserve more than the capacity", "[byte_budget]") {
  constexpr int64_t kCapacity = 1000;
  ByteBudget budget(kCapacity);
  std::atomic<int64_t> used{0};
  std::atomic<int64_t> most{0};
  std::atomic<int> granted{0};
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < 500; ++i) {
      const int64_t bytes = 1 + random() % 700;
      const auto use = [&, bytes](Reservation r) {
        const int64_t now = used += bytes;
        for (int64_t m = most; now > m && !most.compare_exchange_weak(m, now);)
          ;
        ++granted;
        used -= bytes;
        r.Reset();
      };
      ByteBudget::Ticket ticket = 0;
      std::optional<Reservation> r = budget.ReserveOrWait(bytes, use, &ticket);
      if (r) use(*std::move(r));
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  REQUIRE(granted == 4 * 500);
  REQUIRE(most <= kCapacity);
  REQUIRE(budget.reserved() == 0);
  REQUIRE(budget.waiting() == 0);
}

}  // namespace
}  // namespace qs
