// Counters, sources, and their text on a port.
#include "service/base/metrics.h"

#include <prometheus/metric_family.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "service/server/metrics_server.h"
#include "tests/service/scrape.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using testing::HttpGet;
using testing::Scrape;

std::unique_ptr<MetricsServer> Serve() {
  auto server = MetricsServer::Start("127.0.0.1:0");
  INFO(server.status().ToString());
  REQUIRE(server.ok());
  return *std::move(server);
}

TEST_CASE("one name and labels are one counter, whoever asks", "[metrics]") {
  const auto server = Serve();
  Counter& first = CounterOf("test_things_total", "Things", {{"kind", "a"}});
  REQUIRE(&first == &CounterOf("test_things_total", "Things", {{"kind", "a"}}));
  REQUIRE(&first != &CounterOf("test_things_total", "Things", {{"kind", "b"}}));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&first] {
      for (int n = 0; n < 1000; ++n) first.Increment();
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Scrape scrape(server->port());
  REQUIRE(scrape["test_things_total{kind=\"a\"}"] == 4000);
  REQUIRE(scrape["test_things_total{kind=\"b\"}"] == 0);
}

TEST_CASE("a histogram of seconds", "[metrics]") {
  const auto server = Serve();
  Histogram& times =
      HistogramOf("test_times_seconds", "Times", SecondsBuckets());
  times.Observe(0.003);
  times.Observe(100000);
  const Scrape scrape(server->port());
  REQUIRE(scrape["test_times_seconds_bucket{le=\"0.001\"}"] == 0);
  REQUIRE(scrape["test_times_seconds_bucket{le=\"0.004\"}"] == 1);
  REQUIRE(scrape["test_times_seconds_bucket{le=\"+Inf\"}"] == 2);
  REQUIRE(scrape["test_times_seconds_count"] == 2);
}

TEST_CASE("sources are read at each scrape, as long as they live",
          "[metrics]") {
  const auto server = Serve();
  double length = 3;
  {
    const MetricSource source(
        MetricKind::kGauge, "test_queue_jobs", "Jobs", [&length] {
          return MetricValues{{{{"state", "QUEUED"}}, length},
                              {{{"state", "RUNNING"}}, 1}};
        });
    REQUIRE(Scrape(server->port())["test_queue_jobs{state=\"QUEUED\"}"] == 3);
    length = 5;
    // A second one of the name, as of a second server in the process.
    const MetricSource other(MetricKind::kGauge, "test_queue_jobs", "Jobs", [] {
      return MetricValues{{{{"state", "QUEUED"}}, 10}};
    });
    const Scrape scrape(server->port());
    REQUIRE(scrape["test_queue_jobs{state=\"QUEUED\"}"] == 15);
    REQUIRE(scrape["test_queue_jobs{state=\"RUNNING\"}"] == 1);
  }
  REQUIRE_FALSE(
      Scrape(server->port()).Has("test_queue_jobs{state=\"QUEUED\"}"));
}

TEST_CASE("sources come and go while others scrape", "[metrics]") {
  const auto server = Serve();
  std::atomic<bool> done{false};
  std::thread scraper([&] {
    while (!done) {
      for (const auto& metrics : AllMetrics()) metrics->Collect();
    }
  });
  for (int i = 0; i < 2000; ++i) {
    const auto value = std::make_unique<double>(i);
    const MetricSource source(MetricKind::kGauge, "test_short_lived",
                              "Gone at once", [&value] {
                                return MetricValues{{{}, *value}};
                              });
    CounterOf("test_many_total", "Made at once", {{"n", std::to_string(i % 7)}})
        .Increment();
  }
  done = true;
  scraper.join();
  REQUIRE(Scrape(server->port())["test_many_total{n=\"6\"}"] == 285);
}

TEST_CASE("addresses of the metrics, and what is served there", "[metrics]") {
  const auto server = Serve();
  REQUIRE(HttpGet(server->port(), "/").find("HTTP/1.1 404") == 0);
  REQUIRE(HttpGet(server->port(), "/metrics/../x").find("HTTP/1.1 404") == 0);
  const std::string taken = "127.0.0.1:" + std::to_string(server->port());
  const absl::Status status = MetricsServer::Start(taken).status();
  REQUIRE(status.code() == absl::StatusCode::kUnavailable);
  REQUIRE(std::string(status.message()).find("metrics-listen: ") == 0);
  REQUIRE(CheckMetricsAddress("[::1]:9464").ok());
  REQUIRE(CheckMetricsAddress("localhost:9464").ok());
  for (const char* address :
       {"9464", ":9464", "host.example:9464", "127.0.0.1", "127.0.0.1:x"}) {
    INFO(address);
    const absl::Status wrong = CheckMetricsAddress(address);
    REQUIRE(wrong.code() == absl::StatusCode::kInvalidArgument);
    REQUIRE(std::string(wrong.message()).find("metrics-listen: got") == 0);
  }
}

}  // namespace
}  // namespace qs
