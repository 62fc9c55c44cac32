// Tested by tests/service/byte_budget_test.cc.
#include "service/stream/byte_budget.h"

namespace qs {

void Reservation::Reset() {
  ByteBudget* budget = std::exchange(budget_, nullptr);
  const int64_t bytes = std::exchange(bytes_, 0);
  if (budget != nullptr) budget->GiveBack(bytes);
}

void Reservation::ShrinkTo(int64_t bytes) {
  if (bytes >= bytes_) return;
  const int64_t surplus = bytes_ - bytes;
  bytes_ = bytes;
  budget_->GiveBack(surplus);
}

bool ByteBudget::Take(int64_t bytes) {
  if (bytes > capacity_ - reserved_) return false;
  reserved_ += bytes;
  return true;
}

std::optional<Reservation> ByteBudget::TryReserve(int64_t bytes) {
  if (bytes == 0) return Reservation(this, 0);
  absl::MutexLock lock(&mutex_);
  if (!line_.empty() || !Take(bytes)) return std::nullopt;
  return Reservation(this, bytes);
}

std::optional<Reservation> ByteBudget::TryReserveSpare(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (bytes > capacity_ / 2 - reserved_) return std::nullopt;
  if (!line_.empty() || !Take(bytes)) return std::nullopt;
  return Reservation(this, bytes);
}

std::optional<Reservation> ByteBudget::ReserveOrWait(int64_t bytes,
                                                     Granted granted,
                                                     Ticket* ticket) {
  absl::MutexLock lock(&mutex_);
  if (line_.empty() && Take(bytes)) return Reservation(this, bytes);
  *ticket = next_ticket_++;
  line_.push_back({*ticket, bytes, std::move(granted)});
  return std::nullopt;
}

bool ByteBudget::Abandon(Ticket ticket) {
  std::list<Waiter> removed;  // destroyed without the lock
  std::vector<Waiter> served;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = line_.begin(); it != line_.end(); ++it) {
      if (it->ticket != ticket) continue;
      removed.splice(removed.begin(), line_, it);
      served = TakeServable();  // it may have been the one that blocked
      break;
    }
  }
  Serve(std::move(served));
  return !removed.empty();
}

void ByteBudget::GiveBack(int64_t bytes) {
  std::vector<Waiter> served;
  {
    absl::MutexLock lock(&mutex_);
    reserved_ -= bytes;
    served = TakeServable();
  }
  Serve(std::move(served));
}

std::vector<ByteBudget::Waiter> ByteBudget::TakeServable() {
  std::vector<Waiter> served;
  while (!line_.empty() && Take(line_.front().bytes)) {
    served.push_back(std::move(line_.front()));
    line_.pop_front();
  }
  return served;
}

void ByteBudget::Serve(std::vector<Waiter> served) {
  for (Waiter& waiter : served) {
    waiter.granted(Reservation(this, waiter.bytes));
  }
}

int64_t ByteBudget::reserved() const {
  absl::MutexLock lock(&mutex_);
  return reserved_;
}

int64_t ByteBudget::waiting() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int64_t>(line_.size());
}

}  // namespace qs
