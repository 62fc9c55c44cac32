// PlanCheckpoint's messages to quant/plan's vocabulary and back.
#ifndef QS_SERVICE_SERVER_PLAN_CONVERT_H_
#define QS_SERVICE_SERVER_PLAN_CONVERT_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "quant/plan/plan.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

struct PlanLimits {
  int64_t max_tensors = 0;
  int64_t max_bytes = 0;  // of all requests together
};

// Collects the requests of one call. Thread: one caller at a time.
class PlanInput {
 public:
  // `cancelled`: PlanRequest's.
  explicit PlanInput(const PlanLimits& limits,
                     const std::atomic<bool>* cancelled = nullptr)
      : limits_(limits) {
    request_.cancelled = cancelled;
  }

  // Errors: the .proto's for PlanCheckpoint.
  absl::Status Add(const quant::v1::PlanCheckpointRequest& request);
  // After the last one: the config must have come.
  absl::Status Complete() const;

  const PlanRequest& request() const { return request_; }
  int64_t bytes() const { return bytes_; }  // of all requests so far

 private:
  absl::Status AddConfig(const quant::v1::PlanConfig& config);
  absl::Status AddTensors(const quant::v1::TensorHeaders& headers);
  absl::Status AddFiles(const quant::v1::FileList& files);

  const PlanLimits limits_;
  bool has_config_ = false;
  int64_t bytes_ = 0;
  PlanRequest request_;
};

// MakePlan with the .proto's reasons on its errors.
absl::StatusOr<Plan> PlanWithReasons(const PlanRequest& request);

// Messages of about 256 KiB each, the summary last, in several where its
// quantization_config_json fills more than one. `plan` is `request`'s.
std::vector<quant::v1::PlanCheckpointResponse> PlanToProto(
    const Plan& plan, const PlanRequest& request);

// Whether each can be sent. Errors: PLAN_TOO_LARGE.
absl::Status CheckSizes(
    const std::vector<quant::v1::PlanCheckpointResponse>& responses);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_PLAN_CONVERT_H_
