// Tested by tests/service/solve_group_stream_test.cc.
#include "service/stream/group_progress.h"

namespace qs {

std::optional<quant::v1::QuantizeResponse> GroupProgress::Next(double done,
                                                               absl::Time now) {
  {
    absl::MutexLock lock(&mutex_);
    if (!(done > told_)) return std::nullopt;
    if (done < 1 && now - told_at_ < absl::Seconds(1)) return std::nullopt;
    told_ = done;
    told_at_ = now;
  }
  quant::v1::QuantizeResponse response;
  response.mutable_progress()->set_handle(handle_);
  response.mutable_progress()->set_done(done);
  return response;
}

}  // namespace qs
