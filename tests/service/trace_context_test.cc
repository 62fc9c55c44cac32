// traceparent, to the letter of the standard.
#include "service/server/trace_context.h"

#include <set>
#include <string>

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kParent = "00f067aa0ba902b7";

TEST_CASE("a traceparent is taken over with a span of its own", "[trace]") {
  const auto context = ParseTraceparent("00-" + kTrace + "-" + kParent + "-01");
  REQUIRE(context);
  REQUIRE(context->trace_id == kTrace);
  REQUIRE(context->parent_id == kParent);
  REQUIRE(context->sampled);
  REQUIRE(context->span_id.size() == 16);
  REQUIRE(context->span_id != kParent);
  REQUIRE(context->Traceparent() ==
          "00-" + kTrace + "-" + context->span_id + "-01");
  // What goes on is a good one again.
  const auto next = ParseTraceparent(context->Traceparent());
  REQUIRE(next);
  REQUIRE(next->trace_id == kTrace);
  REQUIRE(next->parent_id == context->span_id);
}

TEST_CASE("flags and later versions", "[trace]") {
  const auto sampled = [](const std::string& version,
                          const std::string& rest) -> int {
    const auto context =
        ParseTraceparent(version + "-" + kTrace + "-" + kParent + "-" + rest);
    return context ? context->sampled : -1;
  };
  REQUIRE(sampled("00", "00") == 0);
  REQUIRE(sampled("00", "02") == 0);
  REQUIRE(sampled("00", "ff") == 1);
  REQUIRE(sampled("00", "0e") == 0);
  REQUIRE(sampled("00", "01-x") == -1);
  REQUIRE(sampled("cc", "01") == 1);
  REQUIRE(sampled("cc", "01-what the future brings") == 1);
  REQUIRE(sampled("cc", "01.x") == -1);
  REQUIRE(sampled("ff", "01") == -1);
}

TEST_CASE("what is no traceparent is not taken", "[trace]") {
  const std::string zeros(32, '0');
  for (const std::string& text : {
           std::string(),
           std::string("00"),
           "00-" + kTrace + "-" + kParent,
           "00-" + kTrace + "-" + kParent + "-0",
           "00-" + kTrace + "-" + kParent + "-0g",
           "00-" + kTrace + "-" + kParent + "-01 ",
           " 00-" + kTrace + "-" + kParent + "-01",
           "0-" + kTrace + "-" + kParent + "-001",
           "00_" + kTrace + "-" + kParent + "-01",
           "00-" + kTrace + "_" + kParent + "-01",
           "00-" + zeros + "-" + kParent + "-01",
           "00-" + kTrace + "-" + zeros.substr(16) + "-01",
           "00-" + std::string(32, 'A') + "-" + kParent + "-01",
           "00-" + kTrace.substr(1) + "-" + kParent + "-01x",
           "0x-" + kTrace + "-" + kParent + "-01",
       }) {
    INFO(text);
    REQUIRE_FALSE(ParseTraceparent(text));
  }
}

TEST_CASE("new traces differ", "[trace]") {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const TraceContext context = NewTrace();
    REQUIRE(context.parent_id.empty());
    REQUIRE_FALSE(context.sampled);
    REQUIRE(ParseTraceparent(context.Traceparent()));
    ids.insert(context.trace_id);
    ids.insert(context.span_id);
  }
  REQUIRE(ids.size() == 2000);
}

}  // namespace
}  // namespace qs
