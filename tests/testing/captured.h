// What a piece of a test writes to standard error.
#ifndef QS_TESTS_TESTING_CAPTURED_H_
#define QS_TESTS_TESTING_CAPTURED_H_

#include <unistd.h>

#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs::testing {

// What `body` writes to standard error, as lines.
template <typename Body>
std::vector<std::string> Captured(const Body& body) {
  std::fflush(stderr);
  std::FILE* const file = std::tmpfile();
  REQUIRE(file != nullptr);
  const int saved = dup(STDERR_FILENO);
  dup2(fileno(file), STDERR_FILENO);
  body();
  std::fflush(stderr);
  dup2(saved, STDERR_FILENO);
  close(saved);
  std::rewind(file);
  std::string all;
  char piece[4096];
  for (size_t n; (n = std::fread(piece, 1, sizeof piece, file)) > 0;) {
    all.append(piece, n);
  }
  std::fclose(file);
  std::vector<std::string> lines;
  std::istringstream in(all);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_CAPTURED_H_
