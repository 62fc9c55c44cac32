// Tested by tests/service/metrics_test.cc.
#include "service/base/metrics.h"

#include <prometheus/family.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <list>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace qs {

// Metrics are never destroyed: threads may count until the process ends.
class MetricSources final : public prometheus::Collectable {
 public:
  static const std::shared_ptr<MetricSources>& Get() {
    static const auto* const sources =
        new std::shared_ptr<MetricSources>(std::make_shared<MetricSources>());
    return *sources;
  }

  void Add(const MetricSource* source) {
    absl::MutexLock lock(&mutex_);
    sources_.push_back(source);
  }
  void Remove(const MetricSource* source) {
    absl::MutexLock lock(&mutex_);
    sources_.remove(source);
  }

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::map<std::string, std::pair<const MetricSource*, Sums>> by_name;
    absl::MutexLock lock(&mutex_);
    for (const MetricSource* source : sources_) {
      auto& [first, sums] = by_name[source->name_];
      if (first == nullptr) first = source;
      for (const auto& [labels, value] : source->read_()) sums[labels] += value;
    }
    std::vector<prometheus::MetricFamily> families;
    for (const auto& [name, entry] : by_name) {
      families.push_back(ToFamily(*entry.first, entry.second));
    }
    return families;
  }

 private:
  using Sums = std::map<MetricLabels, double>;

  static prometheus::MetricFamily ToFamily(const MetricSource& source,
                                           const Sums& sums) {
    const bool counter = source.kind_ == MetricKind::kCounter;
    prometheus::MetricFamily family;
    family.name = source.name_;
    family.help = source.help_;
    family.type = counter ? prometheus::MetricType::Counter
                          : prometheus::MetricType::Gauge;
    for (const auto& [labels, value] : sums) {
      prometheus::ClientMetric metric;
      for (const auto& [label, text] : labels) {
        metric.label.push_back({label, text});
      }
      (counter ? metric.counter.value : metric.gauge.value) = value;
      family.metric.push_back(std::move(metric));
    }
    return family;
  }

  mutable absl::Mutex mutex_;
  std::list<const MetricSource*> sources_ ABSL_GUARDED_BY(mutex_);
};

namespace {

const std::shared_ptr<prometheus::Registry>& Registry() {
  static const auto* const registry = new std::shared_ptr<prometheus::Registry>(
      std::make_shared<prometheus::Registry>());
  return *registry;
}

std::vector<double> MakeSecondsBuckets() {
  std::vector<double> buckets;
  for (double bound = 0.001; bound < 20000; bound *= 4) {
    buckets.push_back(bound);
  }
  return buckets;
}

}  // namespace

Counter& CounterOf(const std::string& name, const std::string& help,
                   const MetricLabels& labels) {
  return prometheus::BuildCounter()
      .Name(name)
      .Help(help)
      .Register(*Registry())
      .Add(labels);
}

Gauge& GaugeOf(const std::string& name, const std::string& help,
               const MetricLabels& labels) {
  return prometheus::BuildGauge()
      .Name(name)
      .Help(help)
      .Register(*Registry())
      .Add(labels);
}

Histogram& HistogramOf(const std::string& name, const std::string& help,
                       const std::vector<double>& buckets,
                       const MetricLabels& labels) {
  return prometheus::BuildHistogram()
      .Name(name)
      .Help(help)
      .Register(*Registry())
      .Add(labels, buckets);
}

const std::vector<double>& SecondsBuckets() {
  static const auto* const buckets =
      new std::vector<double>(MakeSecondsBuckets());
  return *buckets;
}

MetricSource::MetricSource(MetricKind kind, std::string name, std::string help,
                           Read read)
    : kind_(kind),
      name_(std::move(name)),
      help_(std::move(help)),
      read_(std::move(read)) {
  MetricSources::Get()->Add(this);
}

MetricSource::~MetricSource() { MetricSources::Get()->Remove(this); }

std::vector<std::shared_ptr<prometheus::Collectable>> AllMetrics() {
  return {Registry(), MetricSources::Get()};
}

void CountChunkCrcError() {
  static Counter& errors =
      CounterOf("quantd_chunk_crc_errors_total",
                "Chunks whose CRC32C was not that of their data");
  errors.Increment();
}

void CountRejection(const std::string& reason) {
  RejectionsOf(reason).Increment();
}

Counter& RejectionsOf(const std::string& reason) {
  return CounterOf(
      "quantd_admission_rejections_total",
      "Calls, streams and connections refused at a limit, by the reason "
      "of the error",
      {{"reason", reason}});
}

void CountQuantized(const std::string& method, int64_t bytes_in,
                    int64_t bytes_out) {
  const MetricLabels labels = {{"method", method}};
  CounterOf("quantd_quantized_tensors_total", "Tensors quantized", labels)
      .Increment();
  CounterOf("quantd_quantized_input_bytes_total",
            "Bytes of weights that were quantized", labels)
      .Increment(static_cast<double>(bytes_in));
  CounterOf("quantd_quantized_output_bytes_total",
            "Bytes that they became, scales included", labels)
      .Increment(static_cast<double>(bytes_out));
}

}  // namespace qs
