#include "quant/time_estimate.h"

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

QuantSpec Spec(decltype(QuantSpec::method) method, Profile profile) {
  QuantSpec spec;
  spec.method = method;
  spec.profile = profile;
  return spec;
}

double Seconds(const QuantSpec& spec, int64_t rows = 4096,
               int64_t cols = 4096) {
  return EstimateCoreSeconds(spec, rows, cols, false);
}

TEST_CASE("estimates are near what was measured of 4096 x 4096",
          "[time_estimate]") {
  const auto near = [](double measured) {
    return Approx(measured).epsilon(0.25);
  };
  CHECK(Seconds(Spec(Nf4Spec{}, Profile::kReference)) == near(0.0039));
  CHECK(Seconds(Spec(Nf4Spec{}, Profile::kBest)) == near(0.0253));
  CHECK(Seconds(Spec(RtnSpec{}, Profile::kReference)) == near(0.0050));
  CHECK(Seconds(Spec(HqqSpec{}, Profile::kReference)) == near(0.0386));
  CHECK(Seconds(Spec(DefaultGptqSpec(Profile::kReference),
                     Profile::kReference)) == near(1.3));
  AwqSpec awq = DefaultAwqSpec(Profile::kReference);
  CHECK(Seconds(Spec(awq, Profile::kReference)) == near(14.6));
}

TEST_CASE("estimates grow with the work", "[time_estimate]") {
  const QuantSpec nf4 = Spec(Nf4Spec{}, Profile::kReference);
  CHECK(Seconds(nf4, 8192) > 1.9 * Seconds(nf4));
  CHECK(EstimateCoreSeconds(nf4, 4096, 4096, true) > 2 * Seconds(nf4));
  const QuantSpec gptq =
      Spec(DefaultGptqSpec(Profile::kReference), Profile::kReference);
  // Products of columns, and the factor.
  CHECK(Seconds(gptq, 4096, 8192) > 3.9 * Seconds(gptq));
  CHECK(Seconds(Spec(DefaultGptqSpec(Profile::kBest), Profile::kBest)) >
        3 * Seconds(gptq));
  HqqSpec small;
  small.group_size = 16;
  CHECK(Seconds(Spec(small, Profile::kReference)) >
        5 * Seconds(Spec(HqqSpec{}, Profile::kReference)));
}

TEST_CASE("nothing takes no time", "[time_estimate]") {
  for (const Profile profile : {Profile::kReference, Profile::kBest}) {
    CHECK(Seconds(Spec(Nf4Spec{}, profile), 1, 1) > 0);
    HqqSpec row;
    row.group_size = -1;
    CHECK(Seconds(Spec(row, profile), 1, 1) > 0);
  }
}

}  // namespace
}  // namespace qs
