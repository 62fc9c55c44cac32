#include "quant/formats/utf8.h"

#include <string>

#include "tests/testing/catch_compat.h"

namespace qs::testing {

TEST_CASE("UTF-8 as RFC 3629 has it", "[utf8]") {
  for (const char* good :
       {"", "plain", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
        "\xed\x9f\xbf", "\xee\x80\x80", "\xf4\x8f\xbf\xbf", "\xc2\x80"}) {
    INFO(good);
    CHECK(IsUtf8(good));
  }
  CHECK(IsUtf8(std::string(1, '\0')));
  for (const char* bad :
       {"\xff", "a\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xc3",
        "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xed\xa0\x80", "\xed\xbf\xbf", "\xc3(", "\xe2\x28\xa1"}) {
    INFO(EscapeControls(bad));
    CHECK_FALSE(IsUtf8(bad));
  }
}

TEST_CASE("characters are counted, stray bytes singly", "[utf8]") {
  CHECK(Utf8Length("") == 0);
  CHECK(Utf8Length("abc") == 3);
  CHECK(Utf8Length("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80") == 3);
  CHECK(Utf8Length("\xff\xe2\x82") == 3);
}

TEST_CASE("nothing that a terminal obeys is left", "[utf8]") {
  CHECK(EscapeControls("a\x1b[31mb\a\x7f") == "a\\x1b[31mb\\x07\\x7f");
  CHECK(EscapeControls("a\nb\tc\rd") == "a\\nb\\tc\\rd");
  CHECK(EscapeControlsInLines("a\nb\tc\rd") == "a\nb\\tc\\rd");
  // CSI in one character; what turns the direction; a line separator.
  CHECK(EscapeControls("\xc2\x9b\xe2\x80\xae\xe2\x80\xa8") ==
        "\\xc2\\x9b\\xe2\\x80\\xae\\xe2\\x80\\xa8");
  CHECK(EscapeControls("\xff\xc3") == "\\xff\\xc3");
  CHECK(EscapeControls(std::string("\0", 1)) == "\\x00");
  // What is harmless stays as it is, also twice.
  const std::string plain = "model.\xc3\xa9\\x1b \"q\" \xe6\xbc\xa2";
  CHECK(EscapeControls(plain) == plain);
  CHECK(EscapeControls(EscapeControls("\x1b")) == "\\x1b");
}

}  // namespace qs::testing
