// Parts of the work for a group, for who tells how far it is.
#ifndef QS_QUANT_GROUP_PARTS_H_
#define QS_QUANT_GROUP_PARTS_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/gptq_ops.h"
#include "quant/group_info.h"

namespace qs {

// The checkpoint of a step that is [begin, end] of the whole: what it has done,
// 0 to 1, is told as done there. Null for null.
inline PanelCheck PartOf(const PanelCheck& whole, double begin, double end) {
  if (whole == nullptr) return nullptr;
  return [whole, begin, end](double done) {
    return whole(begin + (end - begin) * done);
  };
}

// The part of all at which the work for each site ends, about; the last is 1. A
// site that nothing quantized reads has no part. REQUIRES: ValidateGroup is OK.
std::vector<double> SiteEnds(const GroupInfo& info);

// How far sites are that are worked at side by side, as one figure.
// Thread: thread-safe.
class SiteParts {
 public:
  // `tell`: called with the sum, 0 to 1, one call at a time; it never falls.
  SiteParts(const GroupInfo& info, std::function<void(double)> tell);
  void Set(size_t site, double done);

 private:
  const std::function<void(double)> tell_;
  const std::vector<double> ends_;
  absl::Mutex mutex_;
  std::vector<double> done_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_QUANT_GROUP_PARTS_H_
