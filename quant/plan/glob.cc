// Tested by tests/quant/glob_test.cc.
#include <optional>

#include "quant/plan/draft.h"
#include "quant/plan/plan.h"

namespace qs {
namespace {

struct ClassMatch {
  bool matches = false;
  size_t length = 0;  // of the class in the pattern, with brackets
};

bool InRange(char low, char c, char high) {
  const auto value = static_cast<unsigned char>(c);
  return static_cast<unsigned char>(low) <= value &&
         value <= static_cast<unsigned char>(high);
}

// `pattern` begins with '['. None: the class never ends, so '[' is literal. A
// ']' right after the opening is a member, as in the shell.
std::optional<ClassMatch> MatchClass(std::string_view pattern, char c) {
  size_t i = 1;
  const bool negated = i < pattern.size() && pattern[i] == '!';
  if (negated) ++i;
  bool found = false;
  for (const size_t first = i; i < pattern.size(); ++i) {
    if (pattern[i] == ']' && i > first) {
      return ClassMatch{found != negated, i + 1};
    }
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' &&
        pattern[i + 2] != ']') {
      found = found || InRange(pattern[i], c, pattern[i + 2]);
      i += 2;
    } else {
      found = found || pattern[i] == c;
    }
  }
  return std::nullopt;
}

// How many characters of the pattern take `c`; 0: they do not.
size_t MatchOne(std::string_view pattern, char c) {
  if (pattern.empty()) return 0;
  if (pattern[0] == '?') return 1;
  if (pattern[0] == '[') {
    if (const auto set = MatchClass(pattern, c)) {
      return set->matches ? set->length : 0;
    }
  }
  return pattern[0] == c ? 1 : 0;
}

}  // namespace

// Only the last * is ever tried again: a longer earlier one could not match
// more. So the time is bounded by the product of the lengths.
bool GlobMatch(std::string_view pattern, std::string_view text) {
  size_t p = 0;
  size_t t = 0;
  std::optional<size_t> star;  // behind the last *
  size_t star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = ++p;
      star_text = t;
      continue;
    }
    if (const size_t step = MatchOne(pattern.substr(p), text[t])) {
      p += step;
      ++t;
    } else if (star) {
      p = *star;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool MatchesAny(const std::vector<std::string>& globs, std::string_view name) {
  for (const std::string& glob : globs) {
    if (GlobMatch(glob, name)) return true;
  }
  return false;
}

}  // namespace qs
