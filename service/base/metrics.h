// What the process counts, for Prometheus: counters, gauges and histograms by
// name, made by whoever has something to count, and sources whose values are
// asked for at each scrape.
//
//   static Counter& bytes = CounterOf("quantd_upload_bytes_total",
//                                     "Bytes that uploads have stored");
//   bytes.Increment(n);
//
// Names: quantd_, base units (_seconds, _bytes), _total for counters. Labels
// come from closed sets (methods, codes, reasons): never an id, a name that a
// client chose, a project or an address, each of which would be a series for
// ever. The README lists every metric.
// Thread: thread-safe. Increment, Set and the like take no lock (a histogram's
// Observe does); the ...Of functions do, so what counts often keeps the
// reference, which is good as long as the process lives.
#ifndef QS_SERVICE_BASE_METRICS_H_
#define QS_SERVICE_BASE_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/labels.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace qs {

using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;
using MetricLabels = prometheus::Labels;  // by label name

// The one of this name and these labels, made when it is asked for first.
Counter& CounterOf(const std::string& name, const std::string& help,
                   const MetricLabels& labels = {});
Gauge& GaugeOf(const std::string& name, const std::string& help,
               const MetricLabels& labels = {});
// `buckets`: upper bounds, ascending; those of the first call count.
Histogram& HistogramOf(const std::string& name, const std::string& help,
                       const std::vector<double>& buckets,
                       const MetricLabels& labels = {});
// For times of calls and jobs: 1 ms to about 3 hours, in steps of 4.
const std::vector<double>& SecondsBuckets();

// Values that are read when they are scraped, such as the length of a queue:
//   MetricSource queue(MetricKind::kGauge, "quantd_queue_jobs", "Jobs by
//   state",
//                      [this] { return MetricValues{{{{"state", "QUEUED"}},
//                      n}}; });
// Sources of one name add up, label set by label set. The function may block
// for a moment, not for long: the scrape waits. It makes no other source.
enum class MetricKind { kCounter, kGauge };
using MetricValues = std::vector<std::pair<MetricLabels, double>>;

class MetricSource {
 public:
  using Read = std::function<MetricValues()>;
  MetricSource(MetricKind kind, std::string name, std::string help, Read read);
  // Waits for a scrape that reads this one.
  ~MetricSource();
  MetricSource(const MetricSource&) = delete;
  MetricSource& operator=(const MetricSource&) = delete;

 private:
  friend class MetricSources;
  const MetricKind kind_;
  const std::string name_;
  const std::string help_;
  const Read read_;
};

// Everything above, for who serves it. They live as long as the process.
std::vector<std::shared_ptr<prometheus::Collectable>> AllMetrics();

// ---------------------------------------------- what several parts count alike

// CHUNK_CRC_MISMATCH was answered.
void CountChunkCrcError();
// Something was refused for now, since a limit is reached: `reason` of the
// error (service/server/error.h).
void CountRejection(const std::string& reason);
// The counter of it, for who must not need memory or a descriptor then.
Counter& RejectionsOf(const std::string& reason);
// A tensor was quantized, by this method ("gptq").
void CountQuantized(const std::string& method, int64_t bytes_in,
                    int64_t bytes_out);

}  // namespace qs

#endif  // QS_SERVICE_BASE_METRICS_H_
