// EndSignals whichever thread of the process a signal reaches.
#include "service/base/end_signals.h"

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "absl/time/time.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

TEST_CASE("a signal on a thread that blocks nothing is waited for",
          "[signals]") {
  std::atomic<bool> end = false;
  // As a library would, that starts threads before main.
  std::thread foreign([&end] {
    while (!end) std::this_thread::yield();
  });
  {
    EndSignals signals;
    CHECK_FALSE(signals.Wait(absl::ZeroDuration()).has_value());
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
      pthread_kill(foreign.native_handle(), signal);
      CHECK(signals.Wait(absl::Seconds(10)) == signal);
    }
    raise(SIGINT);
    raise(SIGTERM);
    CHECK(signals.Wait(absl::InfiniteDuration()) == SIGINT);
    CHECK(signals.Wait(absl::InfiniteDuration()) == SIGTERM);
    CHECK_FALSE(signals.Wait(absl::Milliseconds(20)).has_value());
  }
  end = true;
  foreign.join();
}

TEST_CASE("handlers come back; an ignored SIGHUP stays ignored", "[signals]") {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  struct sigaction before;
  sigaction(SIGHUP, &ignore, &before);
  struct sigaction term_before;
  sigaction(SIGTERM, nullptr, &term_before);
  {
    EndSignals signals;
    raise(SIGHUP);
    CHECK_FALSE(signals.Wait(absl::Milliseconds(20)).has_value());
  }
  struct sigaction after;
  sigaction(SIGHUP, &before, &after);
  CHECK(after.sa_handler == SIG_IGN);
  sigaction(SIGTERM, nullptr, &after);
  CHECK(after.sa_handler == term_before.sa_handler);
}

}  // namespace
}  // namespace qs
