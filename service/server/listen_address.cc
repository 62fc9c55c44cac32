// Tested by tests/service/options_test.cc and acceptor_test.cc.
#include "service/server/listen_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

constexpr int kBacklog = 1024;

absl::Status Malformed(std::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("listen: got \"", std::string(text),
                   "\", allowed HOST:PORT or [HOST]:PORT, port 0 to 65535"));
}

absl::Status SocketError(const char* what, const ListenAddress& address) {
  return absl::UnavailableError(absl::StrCat("listen: ", what, " ",
                                             address.host, ":", address.port,
                                             ": ", std::strerror(errno)));
}

int BoundPort(int fd) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6
                   ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                   : reinterpret_cast<sockaddr_in&>(bound).sin_port);
}

absl::StatusOr<int> ListenOn(const addrinfo& info, int port,
                             const ListenAddress& address) {
  sockaddr_storage where{};
  std::memcpy(&where, info.ai_addr, info.ai_addrlen);
  const uint16_t network_port = htons(static_cast<uint16_t>(port));
  if (info.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(where).sin6_port = network_port;
  } else {
    reinterpret_cast<sockaddr_in&>(where).sin_port = network_port;
  }
  const int fd =
      socket(info.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return SocketError("socket for", address);
  const int on = 1;
  // No SO_REUSEPORT: a second server on the port must be an error.
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (info.ai_family == AF_INET6) {
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  }
  if (bind(fd, reinterpret_cast<sockaddr*>(&where), info.ai_addrlen) != 0 ||
      listen(fd, kBacklog) != 0) {
    const absl::Status error = SocketError("bind", address);
    close(fd);
    return error;
  }
  return fd;
}

}  // namespace

bool ListenAddress::loopback() const {
  if (host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return (ntohl(v4.s_addr) >> 24) == 127;
  }
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 &&
         IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return Malformed(text);
  ListenAddress address;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  const bool has_colon = host.find(':') != std::string_view::npos;
  if (host.empty() || bracketed != has_colon) return Malformed(text);
  address.host = std::string(host);
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] =
      std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size() ||
      address.port < 0 || address.port > 65535) {
    return Malformed(text);
  }
  return address;
}

absl::StatusOr<Listener> Listen(const ListenAddress& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(address.host.c_str(), nullptr, &hints, &found);
  if (code != 0) {
    return absl::UnavailableError(
        absl::StrCat("listen: host ", address.host, ": ", gai_strerror(code)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found,
                                                                 freeaddrinfo);
  Listener listener;
  listener.port = address.port;
  absl::Status error;
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    const absl::StatusOr<int> fd = ListenOn(*info, listener.port, address);
    if (!fd.ok()) {
      error = fd.status();
      continue;
    }
    listener.fds.push_back(*fd);
    listener.port = BoundPort(*fd);
  }
  // A machine without IPv6 still serves "localhost"; a port that is taken on
  // one of the addresses is refused.
  const bool taken =
      !error.ok() &&
      absl::StrContains(error.message(), std::strerror(EADDRINUSE));
  if (!listener.fds.empty() && !taken) return listener;
  for (const int fd : listener.fds) close(fd);
  return error;
}

}  // namespace qs
