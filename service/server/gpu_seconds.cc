// Tested by tests/service/gpu_workers_test.cc.
#include "service/server/gpu_seconds.h"

#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "service/base/metrics.h"

namespace qs {
namespace {

// Metrics are the process's, so this is, too.
struct Descriptions {
  absl::Mutex mutex;
  std::set<std::string> all ABSL_GUARDED_BY(mutex);
};

Descriptions& Gpus() {
  static Descriptions* const gpus = new Descriptions;
  return *gpus;
}

bool IsGpu(const std::string& description) {
  Descriptions& gpus = Gpus();
  absl::MutexLock lock(&gpus.mutex);
  return gpus.all.count(description) > 0;
}

}  // namespace

void AddGpuDescription(std::string description) {
  Descriptions& gpus = Gpus();
  absl::MutexLock lock(&gpus.mutex);
  gpus.all.insert(std::move(description));
}

void CountGpuSeconds(const quant::v1::TensorReport& report) {
  if (!IsGpu(report.device())) return;
  const std::string method =
      report.algorithm().substr(0, report.algorithm().find('-'));
  const quant::v1::PhaseSeconds& phases = report.phases();
  const google::protobuf::Descriptor& fields = *phases.GetDescriptor();
  for (int i = 0; i < fields.field_count(); ++i) {
    const google::protobuf::FieldDescriptor* const phase = fields.field(i);
    const double seconds = phases.GetReflection()->GetDouble(phases, phase);
    if (seconds <= 0 || phase->name() == "wait") continue;
    CounterOf("quantd_gpu_kernel_seconds_total",
              "Time that GPUs' workers have spent on tensors that are done, by "
              "phase: kernels with the copies around them, and what the host "
              "did in their place",
              {{"method", method}, {"phase", phase->name()}})
        .Increment(seconds);
  }
}

}  // namespace qs
