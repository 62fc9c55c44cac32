// GET /metrics by a plain socket.
#ifndef QS_TESTS_SERVICE_SCRAPE_H_
#define QS_TESTS_SERVICE_SCRAPE_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <sstream>
#include <string>

#include "tests/testing/catch_compat.h"

namespace qs::testing {

// A port of loopback that nobody listens on.
inline int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof where;
  REQUIRE(bind(fd, reinterpret_cast<sockaddr*>(&where), size) == 0);
  REQUIRE(getsockname(fd, reinterpret_cast<sockaddr*>(&where), &size) == 0);
  close(fd);
  return ntohs(where.sin_port);
}

// The whole answer, headers first.
inline std::string HttpGet(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof where) == 0);
  const timeval limit{20, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  REQUIRE(write(fd, request.data(), request.size()) ==
          static_cast<ssize_t>(request.size()));
  std::string answer;
  char piece[4096];
  for (ssize_t n; (n = read(fd, piece, sizeof piece)) > 0;) {
    answer.append(piece, static_cast<size_t>(n));
  }
  close(fd);
  return answer;
}

// Values by series, as "name{label="value"}".
class Scrape {
 public:
  explicit Scrape(int port) {
    const std::string answer = HttpGet(port, "/metrics");
    INFO(answer.substr(0, 500));
    REQUIRE(answer.find("HTTP/1.1 200") == 0);
    std::istringstream in(answer.substr(answer.find("\r\n\r\n") + 4));
    for (std::string line; std::getline(in, line);) {
      const size_t space = line.rfind(' ');
      if (line.empty() || line[0] == '#' || space == std::string::npos) {
        continue;
      }
      // No series comes twice.
      REQUIRE(
          values_
              .emplace(line.substr(0, space), std::stod(line.substr(space + 1)))
              .second);
    }
  }

  bool Has(const std::string& series) const {
    return values_.count(series) > 0;
  }
  // 0 for a series that is not there yet.
  double operator[](const std::string& series) const {
    const auto found = values_.find(series);
    return found == values_.end() ? 0 : found->second;
  }
  const std::map<std::string, double>& values() const { return values_; }

 private:
  std::map<std::string, double> values_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_SCRAPE_H_
