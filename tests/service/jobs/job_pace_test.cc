#include "service/jobs/job_pace.h"

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

RunSize Size(const std::string& algorithm, double core_seconds) {
  RunSize size;
  size.algorithm = algorithm;
  size.core_seconds = core_seconds;
  return size;
}

double Seconds(const JobPace& pace, const RunSize& size) {
  return absl::ToDoubleSeconds(pace.Estimate(size));
}

TEST_CASE("the first estimate is the plan's, on all cores", "[job_pace]") {
  CHECK(Seconds(JobPace(1), Size("a", 10)) == Approx(10.05));
  CHECK(Seconds(JobPace(4), Size("a", 10)) == Approx(2.55));
}

TEST_CASE("jobs correct the estimates of their method", "[job_pace]") {
  JobPace pace(2);
  pace.Learn(Size("a", 10), absl::Seconds(15.05));  // 3 times as long
  CHECK(Seconds(pace, Size("a", 20)) == Approx(30.05));
  CHECK(Seconds(pace, Size("b", 20)) == Approx(10.05));
  pace.Learn(Size("a", 10), absl::Seconds(5.05));  // as foreseen: half way
  CHECK(Seconds(pace, Size("a", 20)) == Approx(20.05));
}

TEST_CASE("an accident does not make estimates useless", "[job_pace]") {
  JobPace pace(1);
  pace.Learn(Size("a", 1e-9), absl::Hours(1));
  CHECK(Seconds(pace, Size("a", 1)) <= 1001);
  pace.Learn(Size("b", 10), absl::ZeroDuration());
  CHECK(Seconds(pace, Size("b", 1e6)) > 1);
  pace.Learn(Size("c", 0), absl::Seconds(1));
  CHECK(Seconds(pace, Size("c", 1)) == Approx(1.05));
}

}  // namespace
}  // namespace qs
