// PollerRest: threads of gRPC's that stay out of each other's way while one
// stream sends.
//
// gRPC's callback threads take turns at polling: the one that takes an event
// first wakes another one, which polls on. Where CPU workers (and a client on
// the same machine) keep all processors busy, these turns are six switches of
// threads a MiB, a tenth of a stream's time (tests/bench/RESULTS.md). A thread
// that rests takes no part in them.
//
// Others hardly wait for it: one thread of the process polls on, and when that
// one is kept by something else, those that rest are back after two slices at
// most. They also come back when their stream has sent all or ended, or when
// another stream begins, since several may have work for several threads.
// Other calls neither prevent a rest nor end one. Slices are of the wall clock,
// as all waits of Abseil's.
// Thread: thread-safe.
#ifndef QS_SERVICE_STREAM_POLLER_REST_H_
#define QS_SERVICE_STREAM_POLLER_REST_H_

#include <atomic>
#include <cstdint>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qs {

class PollerRest {
 public:
  // A rest ends with a slice that has no event of the stream. Events come every
  // 0.3 ms from a client on the same machine.
  static constexpr absl::Duration kSlice = absl::Milliseconds(5);
  // None rests for so long after a slice that began a rest and had no event, as
  // all would have if there were no other thread.
  static constexpr absl::Duration kPause = absl::Milliseconds(50);

  // So many threads rest at most; 0: none ever does.
  explicit PollerRest(int most, absl::Duration slice = kSlice,
                      absl::Duration pause = kPause)
      : most_(most), slice_(slice), pause_(pause) {}
  PollerRest(const PollerRest&) = delete;
  PollerRest& operator=(const PollerRest&) = delete;

  // For a process that may use `cpus` of a machine with `all_cpus`: all threads
  // but one of those that gRPC 1.51 starts there (half of the processors, 2 to
  // 16) where there are one or two to use, else none.
  static int MostThatRest(int cpus, int all_cpus);

  // Around the time in which a stream sends; its address stands for it. A
  // thread that rests for one comes back when it ends, so tell before gRPC is
  // asked for anything that waits for that thread. To end again is fine.
  void StreamBegins(const void* stream);
  void StreamEnds(const void* stream);

  // Each event of a stream, by the thread that took it.
  void CountEvent() { events_.fetch_add(1, std::memory_order_relaxed); }

  // By a thread that has taken in what it came with for `stream`: returns when
  // it should poll again, at once where it need not rest or the stream has
  // ended.
  void Rest(const void* stream);

  int resting() const;    // threads, now
  int64_t rests() const;  // begun so far

 private:
  bool MayRest(const void* stream) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int most_;
  const absl::Duration slice_;
  const absl::Duration pause_;
  std::atomic<uint64_t> events_{0};
  mutable absl::Mutex mutex_;
  std::set<const void*> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;  // of streams_
  int resting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t rests_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Time not_before_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_POLLER_REST_H_
