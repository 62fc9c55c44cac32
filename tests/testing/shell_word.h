// A text as one word of a shell's command.
#ifndef QS_TESTS_TESTING_SHELL_WORD_H_
#define QS_TESTS_TESTING_SHELL_WORD_H_

#include <string>

namespace qs::testing {

// The folder of a build may have spaces and quotes in its name.
inline std::string ShellWord(const std::string& text) {
  std::string word = "'";
  for (const char byte : text) {
    if (byte == '\'') {
      word += "'\\''";
    } else {
      word += byte;
    }
  }
  return word + "'";
}

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_SHELL_WORD_H_
