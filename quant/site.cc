// Tested by tests/quant/site_test.cc.
#include "quant/site.h"

#include <utility>

#include "kernels/base/status_macros.h"

namespace qs {

void Site::Fill(SiteMoments moments) {
  absl::MutexLock lock(&mutex_);
  moments_.emplace(std::move(moments));
}

void Site::Fail(absl::Status status) {
  absl::MutexLock lock(&mutex_);
  moments_.emplace(std::move(status));
}

absl::Status Site::FillBlended(SiteMoments moments, const Site* pool) {
  const absl::Status status = [&]() -> absl::Status {
    if (pool != nullptr) {
      QS_ASSIGN_OR_RETURN(const SiteMoments* const others, pool->Moments());
      const double weight =
          PoolWeight(moments.tokens(), others->tokens(), moments.inputs());
      if (weight > 0) QS_RETURN_IF_ERROR(moments.BlendIn(*others, weight));
    }
    // A site that saw no token of its own lives from its pool.
    return moments.Check();
  }();
  if (status.ok()) {
    Fill(std::move(moments));
  } else {
    Fail(status);
  }
  return status;
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
