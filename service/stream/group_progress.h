// GroupProgress: which of the many steps of a group's solution the client is
// told of.
#ifndef QS_SERVICE_STREAM_GROUP_PROGRESS_H_
#define QS_SERVICE_STREAM_GROUP_PROGRESS_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Thread: thread-safe.
class GroupProgress {
 public:
  explicit GroupProgress(int64_t handle) : handle_(handle) {}

  // What to send of `done`, 0 to 1: nothing within a second of the last one,
  // except the end, once.
  std::optional<quant::v1::QuantizeResponse> Next(double done, absl::Time now);

 private:
  const int64_t handle_;
  absl::Mutex mutex_;
  double told_ ABSL_GUARDED_BY(mutex_) = -1;
  absl::Time told_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_GROUP_PROGRESS_H_
