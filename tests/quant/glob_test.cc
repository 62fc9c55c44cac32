// GlobMatch: the shell's rules, with * across dots, in bounded time.
#include <string>

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

// With a retry per star this would take more than the age of the universe.
TEST_CASE("Many stars do not multiply") {
  std::string pattern;
  for (int i = 0; i < 50; ++i) pattern += "*a";
  pattern += "*b";
  CHECK_FALSE(GlobMatch(pattern, std::string(5000, 'a')));
}

}  // namespace
}  // namespace qs
