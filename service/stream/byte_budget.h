// ByteBudget: the one counter behind "memory stays under its limit whatever
// clients do". Streams reserve before they allocate and give back when the
// memory is free.
//
// First come, first served: while somebody waits, nobody overtakes, so a large
// tensor is not starved by small ones.
// Thread: thread-safe.
#ifndef QS_SERVICE_STREAM_BYTE_BUDGET_H_
#define QS_SERVICE_STREAM_BYTE_BUDGET_H_

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace qs {

class ByteBudget;

// Owner of reserved bytes; gives them back when destroyed, which may run
// waiters' callbacks: destroy it without holding locks that they take.
class Reservation {
 public:
  Reservation() = default;
  ~Reservation() { Reset(); }
  Reservation(Reservation&& other) noexcept { Swap(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    Reservation taken(std::move(other));
    Swap(taken);
    return *this;
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  void Reset();
  // Gives back what is above `bytes`.
  void ShrinkTo(int64_t bytes);
  int64_t bytes() const { return bytes_; }

 private:
  friend class ByteBudget;
  Reservation(ByteBudget* budget, int64_t bytes)
      : budget_(budget), bytes_(bytes) {}
  void Swap(Reservation& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(bytes_, other.bytes_);
  }

  ByteBudget* budget_ = nullptr;
  int64_t bytes_ = 0;
};

class ByteBudget {
 public:
  // Called once, on the thread that gave bytes back, with no lock held.
  using Granted = std::function<void(Reservation)>;
  using Ticket = uint64_t;

  explicit ByteBudget(int64_t capacity) : capacity_(capacity) {}
  ByteBudget(const ByteBudget&) = delete;
  ByteBudget& operator=(const ByteBudget&) = delete;

  // Nullopt when the bytes do not fit now, or others wait for theirs; who needs
  // none has them at once. REQUIRES: 0 <= bytes.
  std::optional<Reservation> TryReserve(int64_t bytes);

  // TryReserve, of what only makes work faster: half of the capacity is left to
  // others.
  std::optional<Reservation> TryReserveSpare(int64_t bytes);

  // Reserves now, or leaves `granted` in the line and sets `*ticket`.
  // REQUIRES: 0 <= bytes <= capacity().
  std::optional<Reservation> ReserveOrWait(int64_t bytes, Granted granted,
                                           Ticket* ticket);

  // Leaves the line. False: the ticket's callback has run or is about to.
  bool Abandon(Ticket ticket);

  int64_t capacity() const { return capacity_; }
  int64_t reserved() const;
  // The most that TryReserveSpare gives now; may be negative.
  int64_t spare() const { return capacity_ / 2 - reserved(); }
  int64_t waiting() const;

 private:
  friend class Reservation;
  struct Waiter {
    Ticket ticket;
    int64_t bytes;
    Granted granted;
  };

  bool Take(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveBack(int64_t bytes);
  // Reserves for and removes the waiters that fit now, in order.
  std::vector<Waiter> TakeServable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Serve(std::vector<Waiter> served);

  const int64_t capacity_;
  mutable absl::Mutex mutex_;
  int64_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  Ticket next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  std::list<Waiter> line_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_BYTE_BUDGET_H_
