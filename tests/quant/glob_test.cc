// GlobMatch: the shell's rules, with * across dots, in bounded time.
#include <random>
#include <set>
#include <string>
#include <vector>

#include "quant/plan/plan.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

struct Row {
  const char* pattern;
  const char* text;
  bool matches;
};

TEST_CASE("Globs match as in a shell") {
  const Row rows[] = {
      {"", "", true},
      {"", "a", false},
      {"*", "", true},
      {"*", "a.b.c", true},
      {"a*", "ba", false},
      {"model.layers.*.mlp.*", "model.layers.10.mlp.up_proj.weight", true},
      {"*.mlp.*.weight", "model.layers.0.self_attn.q_proj.weight", false},
      {"*q_proj.weight", "layers.0.q_proj.weight", true},
      {"*q_proj.weight", "layers.0.q_proj.weight.absmax", false},
      {"layers.?.a", "layers.1.a", true},
      {"layers.?.a", "layers.10.a", false},
      {"layers.[0-3].a", "layers.3.a", true},
      {"layers.[0-3].a", "layers.4.a", false},
      {"layers.[!0-3].a", "layers.4.a", true},
      {"layers.[!0-3].a", "layers.0.a", false},
      {"[qkv]_proj", "k_proj", true},
      {"[qkv]_proj", "o_proj", false},
      {"[]x]", "]", true},
      {"[!]x]", "]", false},
      {"[a-]", "-", true},
      {"[abc", "[abc", true},
      {"[abc", "a", false},
      {"a**b", "a.b", true},
      {"*a*b", "xxaxxbxxb", true},
      {"*ab", "aab", true},
      {"[\xff]", "\xff", true},
  };
  for (const Row& row : rows) {
    INFO("pattern " << row.pattern << ", text " << row.text);
    CHECK(GlobMatch(row.pattern, row.text) == row.matches);
  }
}

// A glob's element, spelled out: the characters that it takes.
struct Element {
  bool star = false;
  std::set<char> takes;
};

constexpr std::string_view kAlphabet = "ab-!?*[]";

// The end of the class that begins at `at`; npos: it is none.
size_t CloseOf(std::string_view pattern, size_t at) {
  const bool negated = pattern.substr(at + 1).starts_with('!');
  return pattern.find(']', at + (negated ? 3 : 2));
}

std::set<char> ClassOf(std::string_view members) {
  const bool negated = members.starts_with('!');
  if (negated) members.remove_prefix(1);
  std::set<char> in;
  while (!members.empty()) {
    const bool range = members.size() > 2 && members[1] == '-';
    for (const char c : kAlphabet) {
      const bool within = range && members[0] <= c && c <= members[2];
      if (within || (!range && c == members[0])) in.insert(c);
    }
    members.remove_prefix(range ? 3 : 1);
  }
  if (!negated) return in;
  std::set<char> out;
  for (const char c : kAlphabet) {
    if (!in.contains(c)) out.insert(c);
  }
  return out;
}

std::vector<Element> ElementsOf(std::string_view pattern) {
  std::vector<Element> elements;
  for (size_t i = 0; i < pattern.size(); ++i) {
    Element& element = elements.emplace_back();
    element.star = pattern[i] == '*';
    element.takes = {pattern[i]};
    if (pattern[i] == '?') element.takes = {kAlphabet.begin(), kAlphabet.end()};
    const size_t close = pattern[i] == '[' ? CloseOf(pattern, i) : pattern.npos;
    if (close == pattern.npos) continue;
    element.takes = ClassOf(pattern.substr(i + 1, close - i - 1));
    i = close;
  }
  return elements;
}

// Which beginnings of the text the elements so far match, one after the other.
bool SlowMatch(std::string_view pattern, std::string_view text) {
  std::vector<bool> matched(text.size() + 1);
  matched[0] = true;
  for (const Element& element : ElementsOf(pattern)) {
    std::vector<bool> next(text.size() + 1);
    for (size_t t = 0; t <= text.size(); ++t) {
      if (element.star) {
        next[t] = matched[t] || (t > 0 && next[t - 1]);
      } else {
        next[t] =
            t > 0 && matched[t - 1] && element.takes.contains(text[t - 1]);
      }
    }
    matched = next;
  }
  return matched[text.size()];
}

TEST_CASE("Globs match as one that tries every way") {
  std::mt19937 random(1);
  const auto draw = [&](size_t most) {
    std::string text(random() % (most + 1), ' ');
    for (char& c : text) c = kAlphabet[random() % kAlphabet.size()];
    return text;
  };
  int matched = 0;
  for (int i = 0; i < 200000; ++i) {
    const std::string pattern = draw(12);
    const std::string text = draw(6);
    const bool matches = SlowMatch(pattern, text);
    matched += matches ? 1 : 0;
    INFO("pattern " << pattern << ", text " << text);
    REQUIRE(GlobMatch(pattern, text) == matches);
  }
  CHECK(matched > 1000);
}

// With a retry per star this would take more than the age of the universe.
TEST_CASE("Many stars do not multiply") {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "*a";
  pattern += "*b";
  CHECK_FALSE(GlobMatch(pattern, std::string(5000, 'a')));
}

// 5e5 tries; each looked through the million that follows for a ']'.
TEST_CASE("A bracket that nothing closes is no search for what closes it") {
  const std::string open(1'000'000, '[');
  const std::string text = std::string(1000, '[') + "y";
  CHECK_FALSE(GlobMatch("*" + open + "x", text));
  CHECK_FALSE(GlobMatch("*[ab]*" + open + "x", "a" + text));
  CHECK_FALSE(GlobMatch("*" + open + "]", text));  // a class of '['
  CHECK(GlobMatch("*[a]*" + open, "a" + open));
}

// With a search per bracket, or a retry per star, hours.
TEST_CASE("A class is one element, however many brackets it has") {
  const std::string close = "[" + std::string(1000, '[') + "x]";
  std::string pattern;
  for (int i = 0; i < 20; ++i) pattern += "*" + close;
  const std::string text(5000, '[');
  CHECK(GlobMatch(pattern, text));
  CHECK_FALSE(GlobMatch(pattern + "y", text));
  CHECK_FALSE(GlobMatch("*" + close + close + close + "y", text));
}

}  // namespace
}  // namespace qs
