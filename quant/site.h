// Site: one input of the model while its readers are solved — the second
// moments of the input, and what all readers derive from them once.
//
// The moments may come after the site is handed out: readers wait for them.
// Whoever fills the site must have started before any task that waits runs, or
// the waiter's thread may be the one that was to fill it.
//
// Freed when the last reader lets go of it.
// Thread: thread-safe.
#ifndef QS_QUANT_SITE_H_
#define QS_QUANT_SITE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/base/content_id.h"
#include "quant/calibration/site_moments.h"

namespace qs {

class Site {
 public:
  Site(std::string name, int64_t inputs)
      : name_(std::move(name)), inputs_(inputs) {}
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  const std::string& name() const { return name_; }
  int64_t inputs() const { return inputs_; }
  // Of the second moment that Moments gives.
  ContentId moment_id() const { return moment_id_; }

  // One of the two, once. REQUIRES: moments.inputs() == inputs().
  void Fill(SiteMoments moments);
  void Fail(absl::Status status);
  // Fill with moments that others helped out: `pool`, or null, is blended in as
  // far as these are few (waits for it), and the whole is checked. Fails the
  // site on an error, and returns it.
  absl::Status FillBlended(SiteMoments moments, const Site* pool);

  // Waits for Fill or Fail. Valid as long as the site. Errors: Fail's.
  absl::StatusOr<const SiteMoments*> Moments() const;

  // What readers derive alike, such as a factor: the first caller with a key
  // makes it, the others wait for it. An error is every caller's.
  using Derived = std::shared_ptr<const void>;
  absl::StatusOr<Derived> Derive(
      const std::string& key,
      const std::function<absl::StatusOr<Derived>(const SiteMoments&)>& make);

 private:
  struct Slot {
    bool done = false;
    absl::StatusOr<Derived> value = absl::InternalError("not made yet");
  };

  const std::string name_;
  const int64_t inputs_;
  const ContentId moment_id_ = NewContentId();
  mutable absl::Mutex mutex_;
  std::optional<absl::StatusOr<SiteMoments>> moments_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Slot>> derived_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_QUANT_SITE_H_
