// Tested by tests/quant/glob_test.cc.
#include <optional>

#include "quant/plan/draft.h"
#include "quant/plan/plan.h"

namespace qs {
namespace {

bool InRange(char low, char c, char high) {
  const auto value = static_cast<unsigned char>(c);
  return static_cast<unsigned char>(low) <= value &&
         value <= static_cast<unsigned char>(high);
}

// A pattern's elements: each takes one character of the text.
class Elements {
 public:
  explicit Elements(std::string_view pattern)
      : pattern_(pattern), last_close_(pattern.rfind(']')) {}

  // How many characters of the pattern, from `at`, take `c`; 0: they do not. No
  // more than these are looked at, whether they do or not.
  size_t Match(size_t at, char c) const {
    if (at == pattern_.size()) return 0;
    if (pattern_[at] == '?') return 1;
    if (IsClass(at)) return MatchClass(at, c);
    return pattern_[at] == c ? 1 : 0;
  }

 private:
  bool IsNegated(size_t at) const {
    return at + 1 < pattern_.size() && pattern_[at + 1] == '!';
  }

  // Where the members of a class begin. A ']' there is one, as in the shell.
  size_t Members(size_t at) const { return at + (IsNegated(at) ? 2 : 1); }

  // A '[' that nothing closes is literal. To look for what closes each anew
  // would be the square of a pattern's length for each character of a text.
  bool IsClass(size_t at) const {
    return pattern_[at] == '[' && last_close_ != pattern_.npos &&
           last_close_ > Members(at);
  }

  size_t MatchClass(size_t at, char c) const;

  const std::string_view pattern_;
  const size_t last_close_;  // the last ']'; npos: none
};

// IsClass(at): a ']' behind the first member ends the loop.
size_t Elements::MatchClass(size_t at, char c) const {
  const size_t first = Members(at);
  bool found = false;
  size_t i = first;
  while (i == first || pattern_[i] != ']') {
    // '-' is a member where it is the last one.
    if (i + 2 < pattern_.size() && pattern_[i + 1] == '-' &&
        pattern_[i + 2] != ']') {
      found = found || InRange(pattern_[i], c, pattern_[i + 2]);
      i += 3;
    } else {
      found = found || pattern_[i] == c;
      ++i;
    }
  }
  return found != IsNegated(at) ? i + 1 - at : 0;
}

}  // namespace

// Only the last * is ever tried again: a longer earlier one could not match
// more. A try passes over what is behind that * once, whole classes included.
// So the time is bounded by the product of the lengths.
bool GlobMatch(std::string_view pattern, std::string_view text) {
  const Elements elements(pattern);
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
    if (const size_t step = elements.Match(p, text[t])) {
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
