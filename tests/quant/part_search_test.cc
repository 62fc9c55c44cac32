// PartSearch against a search of every text in every name.
#include "quant/plan/part_search.h"

#include <random>
#include <string>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Names = std::vector<std::string>;

std::vector<std::string> Search(const Names& texts, const Names& names) {
  PartSearch search(texts);
  for (const std::string& name : names) search.Read(name);
  const std::vector<std::string_view> found = search.Finish();
  return {found.begin(), found.end()};
}

std::string SlowSearch(const std::string& text, const Names& names) {
  std::string first;
  if (text.empty()) return first;
  for (const std::string& name : names) {
    for (size_t at = name.find(text); at != name.npos;
         at = name.find(text, at + 1)) {
      const std::string end = name.substr(at);
      if (first.empty() || end < first) first = end;
    }
  }
  return first;
}

TEST_CASE("A text is found as the first end that begins with it") {
  const Names names = {"x.a.mixer.b", "a.mixed", "model.layers.10.up"};
  CHECK(Search({"a.mix", "a.mixe", "a.mixer", "x", "b"}, names) ==
        Names{"a.mixed", "a.mixed", "a.mixer.b", "x.a.mixer.b", "b"});
  CHECK(Search({"layers.1", "layers.11", "up.", ""}, names) ==
        Names{"layers.10.up", "", "", ""});
  CHECK(Search({"a", "a"}, {"a"}) == Names{"a", "a"});
  CHECK(Search({"a", ""}, {}) == Names{"", ""});
  CHECK(Search({}, names).empty());
  CHECK(Search({"\xff"}, {"a\xff\x01", "a\xff\x80", ""}) == Names{"\xff\x01"});
}

TEST_CASE("As a search of every text in every name finds it") {
  std::mt19937 random(1);
  const auto draw = [&](size_t count, size_t most, std::string_view alphabet) {
    Names names(random() % (count + 1));
    for (std::string& name : names) {
      name.resize(random() % (most + 1));
      for (char& c : name) c = alphabet[random() % alphabet.size()];
    }
    return names;
  };
  size_t parts = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::string_view alphabet = i % 2 == 0 ? "ab." : "abc\x80\xff.";
    const Names names = draw(20, 30, alphabet);
    const Names texts = draw(40, 8, alphabet);
    const std::vector<std::string> found = Search(texts, names);
    REQUIRE(found.size() == texts.size());
    for (size_t k = 0; k < texts.size(); ++k) {
      INFO("round " << i << ", text " << texts[k]);
      REQUIRE(found[k] == SlowSearch(texts[k], names));
      parts += found[k].empty() ? 0 : 1;
    }
  }
  CHECK(parts > 10000);
}

}  // namespace
}  // namespace qs
