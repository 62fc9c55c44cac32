// PollerRest: who rests, and what ends it. Where a rest must not end by itself,
// its slice is longer than what ends it may take.
#include "service/stream/poller_rest.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

constexpr absl::Duration kLong = absl::Seconds(60);
constexpr absl::Duration kLimit = absl::Seconds(30);

// Two streams.
constexpr int kStreams[2] = {};
constexpr const void* kStream = &kStreams[0];
constexpr const void* kOther = &kStreams[1];

template <class Done>
bool Eventually(const Done& done) {
  const absl::Time end = absl::Now() + kLimit;
  while (!done()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// A thread that rests once.
class Resting {
 public:
  explicit Resting(PollerRest& rest, const void* stream = kStream)
      : thread_([this, &rest, stream] {
          rest.Rest(stream);
          back_ = true;
        }) {}
  ~Resting() { thread_.join(); }

  bool back() const { return back_; }
  bool AwaitBack() const {
    return Eventually([this] { return back(); });
  }

 private:
  std::atomic<bool> back_{false};
  std::thread thread_;
};

bool AwaitResting(const PollerRest& rest, int threads) {
  return Eventually([&] { return rest.resting() == threads; });
}

TEST_CASE("as many threads rest as leave one of gRPC's", "[poller_rest]") {
  REQUIRE(PollerRest::MostThatRest(1, 1) == 1);
  REQUIRE(PollerRest::MostThatRest(2, 2) == 1);
  REQUIRE(PollerRest::MostThatRest(2, 5) == 1);
  REQUIRE(PollerRest::MostThatRest(2, 8) == 3);
  REQUIRE(PollerRest::MostThatRest(1, 256) == 15);
  REQUIRE(PollerRest::MostThatRest(3, 3) == 0);
  REQUIRE(PollerRest::MostThatRest(64, 64) == 0);
}

TEST_CASE("a rest ends with its stream", "[poller_rest]") {
  PollerRest rest(1, kLong);
  rest.StreamBegins(kStream);
  {
    const Resting thread(rest);
    REQUIRE(AwaitResting(rest, 1));
    rest.StreamEnds(kStream);
    REQUIRE(thread.AwaitBack());
  }
  REQUIRE(rest.resting() == 0);
  rest.StreamBegins(kStream);  // nothing of the last one is in the way
  const Resting thread(rest);
  REQUIRE(AwaitResting(rest, 1));
  rest.StreamEnds(kStream);
}

TEST_CASE("a rest ends with its stream though another one begins at once",
          "[poller_rest]") {
  PollerRest rest(1, kLong);
  rest.StreamBegins(kStream);
  for (int i = 0; i < 100; ++i) {
    const Resting thread(rest);
    REQUIRE(AwaitResting(rest, 1));
    rest.StreamEnds(kStream);
    rest.StreamBegins(kStream);
    REQUIRE(thread.AwaitBack());
  }
}

TEST_CASE("a rest ends as a second stream begins, and none begins beside it",
          "[poller_rest]") {
  PollerRest rest(1, kLong);
  rest.StreamBegins(kStream);
  const Resting thread(rest);
  REQUIRE(AwaitResting(rest, 1));
  rest.StreamBegins(kOther);
  REQUIRE(thread.AwaitBack());
  rest.Rest(kStream);  // returns
  rest.Rest(kOther);
  rest.StreamEnds(kStream);
  rest.StreamEnds(kOther);
}

TEST_CASE("nobody rests for a stream that has ended", "[poller_rest]") {
  PollerRest rest(1, kLong);
  rest.StreamBegins(kStream);
  rest.StreamBegins(kOther);
  rest.StreamEnds(kStream);
  rest.Rest(kStream);  // returns
  const Resting thread(rest, kOther);
  REQUIRE(AwaitResting(rest, 1));
  rest.StreamEnds(kStream);  // again: nothing to come back for
  absl::SleepFor(absl::Milliseconds(50));
  const bool back = thread.back();
  rest.StreamEnds(kOther);
  REQUIRE_FALSE(back);
}

TEST_CASE("no more threads rest than may", "[poller_rest]") {
  PollerRest rest(2, kLong);
  rest.StreamBegins(kStream);
  const Resting first(rest);
  const Resting second(rest);
  REQUIRE(AwaitResting(rest, 2));
  rest.Rest(kStream);  // returns
  REQUIRE_FALSE(first.back());
  REQUIRE_FALSE(second.back());
  rest.StreamEnds(kStream);

  PollerRest none(0, kLong);
  none.StreamBegins(kStream);
  none.Rest(kStream);
  REQUIRE(none.rests() == 0);
}

TEST_CASE("nobody rests while no stream is there", "[poller_rest]") {
  PollerRest rest(1, kLong);
  rest.Rest(kStream);  // returns
  REQUIRE(rest.rests() == 0);
}

TEST_CASE("a rest outlasts events and ends when none comes", "[poller_rest]") {
  constexpr absl::Duration kSlice = absl::Milliseconds(200);
  PollerRest rest(1, kSlice);
  rest.StreamBegins(kStream);
  const Resting thread(rest);
  REQUIRE(AwaitResting(rest, 1));
  const absl::Time begin = absl::Now();
  absl::Time last = begin;
  absl::Duration longest;  // between events, for a machine that stalls
  while (last - begin < 3 * kSlice) {
    rest.CountEvent();
    absl::SleepFor(absl::Milliseconds(1));
    longest = std::max(longest, absl::Now() - last);
    last = absl::Now();
  }
  if (longest < kSlice / 2) REQUIRE_FALSE(thread.back());
  REQUIRE(thread.AwaitBack());  // without another event
  rest.StreamEnds(kStream);
}

TEST_CASE("after a rest without an event none is taken for a while",
          "[poller_rest]") {
  constexpr absl::Duration kSlice = absl::Milliseconds(200);
  const auto time_of_rests = [&](int rests, absl::Duration pause) {
    PollerRest rest(1, kSlice, pause);
    rest.StreamBegins(kStream);
    const absl::Time begin = absl::Now();
    for (int i = 0; i < rests; ++i) rest.Rest(kStream);
    return absl::Now() - begin;
  };
  REQUIRE(time_of_rests(3, absl::ZeroDuration()) >= 3 * kSlice);
  REQUIRE(time_of_rests(1, kLong) >= kSlice);
  REQUIRE(time_of_rests(30, kLong) < 30 * kSlice);
}

}  // namespace
}  // namespace qs
