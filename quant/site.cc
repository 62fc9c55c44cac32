// Tested by tests/quant/site_test.cc.
#include "quant/site.h"

#include <utility>

namespace qs {

void Site::Fill(SiteMoments moments) {
  absl::MutexLock lock(&mutex_);
  moments_.emplace(std::move(moments));
}

void Site::Fail(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  moments_.emplace(std::move(status));
}

absl::StatusOr<const SiteMoments*> Site::Moments() const {
  absl::MutexLock lock(&mutex_);
  const auto filled = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return moments_.has_value();
  };
  mutex_.Await(absl::Condition(&filled));
  if (!moments_->ok()) return moments_->status();
  return &**moments_;
}

absl::StatusOr<Site::Derived> Site::Derive(
    const std::string& key,
    const std::function<absl::StatusOr<Derived>(const SiteMoments&)>& make) {
  std::shared_ptr<Slot> slot;
  {
    absl::MutexLock lock(&mutex_);
    std::shared_ptr<Slot>& found = derived_[key];
    if (found != nullptr) {
      slot = found;
      mutex_.Await(absl::Condition(&slot->done));
      return slot->value;
    }
    found = slot = std::make_shared<Slot>();
  }
  const absl::StatusOr<const SiteMoments*> moments = Moments();
  absl::StatusOr<Derived> value =
      moments.ok() ? make(**moments) : moments.status();
  absl::MutexLock lock(&mutex_);
  slot->value = std::move(value);
  slot->done = true;
  return slot->value;
}

}  // namespace qs
