#include "quant/formats/json.h"

#include <string>

#include "absl/status/status.h"
#include "tests/formats/format_files.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

TEST_CASE("objects keep the order of their keys", "[json]") {
  const auto json = ParseJsonObject(R"({"b": 1, "a": [true, null, -2.5, "x"],
                                        "c": {"z": 18446744073709551615}})",
                                    "config");
  REQUIRE(json.ok());
  CHECK(json->dump() ==
        R"({"b":1,"a":[true,null,-2.5,"x"],"c":{"z":18446744073709551615}})");
}

TEST_CASE("the limits of JSON count exactly", "[json]") {
  const JsonLimits limits = {.max_bytes = 20, .max_depth = 2, .max_values = 4};
  CHECK(ParseJsonObject(R"({"a":[1,2]})", "w", limits).ok());
  CHECK(ParseJsonObject(R"({"a":[1,2]}         )", "w", limits).ok());
  CHECK(IsInvalid(
      ParseJsonObject(R"({"a":[1,2]}          )", "w", limits).status(),
      "w: got 21 bytes, allowed: at most 20"));
  CHECK(IsInvalid(ParseJsonObject(R"({"a":[1,2,3]})", "w", limits).status(),
                  "w: got more values than allowed: 4"));
  CHECK(IsInvalid(ParseJsonObject(R"({"a":[[]]})", "w", limits).status(),
                  "w: got more depth than allowed: 2"));
}

TEST_CASE("only objects are taken", "[json]") {
  for (const char* text : {"[]", "7", "\"x\"", "null", "true"}) {
    const auto json = ParseJsonObject(text, "index");
    INFO(text << " " << Text(json.status()));
    CHECK(IsInvalid(json.status(), "allowed: an object"));
  }
  CHECK(IsInvalid(ParseJsonObject("", "index").status(), "index: byte"));
  CHECK(IsInvalid(
      ParseJsonObject("{\"a\":1,\"b\":{\"c\":1,\"c\":2}}", "index").status(),
      "index: key \"c\": got twice, allowed: once"));
}

TEST_CASE("many keys take linear time and are still compared", "[json]") {
  std::string text = "{\"k\":0";
  for (int i = 0; i < 200000; ++i) text += ",\"k" + std::to_string(i) + "\":0";
  CHECK(ParseJsonObject(text + "}", "index").ok());
  CHECK(IsInvalid(ParseJsonObject(text + ",\"k777\":0}", "index").status(),
                  "key \"k777\": got twice"));
}

TEST_CASE("what errors quote is short and printable", "[json]") {
  CHECK(QuoteForError("a\"b\n\x01") == "\"a\\\"b\\n\\x01\"");
  // Nor what a terminal takes for a control, nor what is no UTF-8.
  CHECK(QuoteForError("\xc2\x9b\xff\xc3\xa9") == "\"\\xc2\\x9b\\xff\xc3\xa9\"");
  CHECK(QuoteForError(std::string(120, 'x')) ==
        "\"" + std::string(120, 'x') + "\"");
  CHECK(QuoteForError(std::string(121, 'x')) ==
        "\"" + std::string(120, 'x') + "...\"");
  // A character of two bytes across the cut goes as a whole.
  CHECK(QuoteForError(std::string(119, 'x') + "\xc3\xa9\xc3\xa9") ==
        "\"" + std::string(119, 'x') + "...\"");
  CHECK(JsonForError(nlohmann::ordered_json::parse("[1]")) == "an array");
  CHECK(JsonForError(nlohmann::ordered_json::parse("{}")) == "an object");
  CHECK(JsonForError(nlohmann::ordered_json::parse("\"a\"")) == "\"a\"");
  CHECK(JsonForError(nlohmann::ordered_json::parse("-1.5")) == "-1.5");
}

}  // namespace qs::testing
