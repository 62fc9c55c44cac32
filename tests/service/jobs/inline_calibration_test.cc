// Calibrations in a message: what is one, and what is read from it.
#include "service/jobs/inline_calibration.h"

#include "service/server/error.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

namespace v1 = quant::v1;

// Two inputs that saw (1, 2) and (3, -1).
v1::InlineCalibration Small() {
  v1::InlineCalibration calibration;
  v1::InlineSite* const site = calibration.add_sites();
  site->set_name("in");
  site->add_modules("block.q");
  site->add_modules("block.k");
  site->set_token_count(2);
  for (const float value : {4, 3}) site->add_abs_sum(value);
  for (const float value : {10, -1, 5}) site->add_second_moment(value);
  return calibration;
}

TEST_CASE("numbers are read as a file's are", "[inline]") {
  v1::InlineCalibration calibration = Small();
  v1::InlineSite* const other = calibration.add_sites();
  other->set_name("before");
  other->add_modules("o");
  other->set_token_count(3);
  other->add_abs_sum(2);
  other->add_second_moment(4);
  if (GENERATE(true, false)) {
    calibration.mutable_sites(0)->clear_second_moment();
    for (const float value : {10, -1, -1, 5}) {
      calibration.mutable_sites(0)->add_second_moment(value);
    }
  }
  REQUIRE(CheckInlineCalibration(calibration).ok());
  const auto source = NewInlineSource(calibration);
  REQUIRE(source.ok());
  const auto& sites = (*source)->sites();  // by name
  REQUIRE(sites.size() == 2);
  CHECK(sites[0].name == "before");
  CHECK(sites[1].inputs == 2);
  CHECK(sites[1].modules == std::vector<std::string>{"block.q", "block.k"});
  const auto moments = (*source)->Load(1);
  REQUIRE(moments.ok());
  CHECK(moments->tokens() == 2);
  CHECK(std::vector<float>(moments->second_moment(),
                           moments->second_moment() + 4) ==
        std::vector<float>{10, -1, -1, 5});
  CHECK(moments->abs_sum()[1] == 3);
  // Of the numbers, whatever order the sites come in.
  const std::string identity = (*source)->Identity();
  calibration.mutable_sites()->SwapElements(0, 1);
  CHECK((*NewInlineSource(calibration))->Identity() == identity);
  calibration.mutable_sites(0)->set_token_count(4);
  CHECK((*NewInlineSource(calibration))->Identity() != identity);
}

TEST_CASE("without its numbers a calibration says what it was of", "[inline]") {
  v1::InlineCalibration calibration = Small();
  DropNumbers(&calibration);
  const v1::InlineSite& site = calibration.sites(0);
  CHECK(site.inputs() == 2);
  CHECK(site.modules_size() == 2);
  CHECK(site.token_count() == 2);
  CHECK(site.abs_sum_size() == 0);
  CHECK(site.second_moment_size() == 0);
}

TEST_CASE("what is no calibration is refused by its field", "[inline]") {
  using Change = void (*)(v1::InlineCalibration*);
  struct Case {
    Change change;
    const char* field;
  };
  for (const Case& c : {
           Case{[](auto* in) { in->clear_sites(); }, "sites:"},
           Case{[](auto* in) { in->mutable_sites(0)->clear_name(); },
                "sites[0].name:"},
           Case{[](auto* in) { *in->add_sites() = in->sites(0); },
                "sites[1].name:"},
           Case{[](auto* in) { in->mutable_sites(0)->clear_modules(); },
                "sites[0].modules:"},
           Case{[](auto* in) {
                  in->mutable_sites(0)->set_modules(1, "block.q");
                },
                "sites[0].modules:"},
           Case{[](auto* in) { in->mutable_sites(0)->clear_abs_sum(); },
                "sites[0].abs_sum:"},
           Case{[](auto* in) { in->mutable_sites(0)->add_abs_sum(1); },
                "sites[0].second_moment:"},
           Case{[](auto* in) { in->mutable_sites(0)->set_token_count(-1); },
                "sites[0].token_count:"},
       }) {
    v1::InlineCalibration calibration = Small();
    c.change(&calibration);
    const absl::Status status = CheckInlineCalibration(calibration);
    INFO(status.ToString());
    CHECK(ErrorReason(status) == "BAD_FIELD");
    CHECK(std::string(status.message())
              .find(std::string("job.calibration.inline.") + c.field) !=
          std::string::npos);
  }
}

TEST_CASE("numbers that no inputs have are refused", "[inline]") {
  v1::InlineCalibration calibration = Small();
  calibration.mutable_sites(0)->set_second_moment(0, -10);
  CHECK(ErrorReason(NewInlineSource(calibration).status()) ==
        "BAD_CALIBRATION");
  calibration = Small();
  calibration.mutable_sites(0)->set_token_count(0);
  CHECK(ErrorReason(NewInlineSource(calibration).status()) ==
        "BAD_CALIBRATION");
}

}  // namespace
}  // namespace qs::testing
