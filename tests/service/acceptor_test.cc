// The accept loop: hands over, caps, survives a full descriptor table, stops.
#include "service/server/acceptor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "service/server/log.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

Fd Connect(int port) {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.get() < 0) return fd;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                  sizeof address) == 0);
  return fd;
}

// Whether the other side closed within the time.
bool ClosedWithin(const Fd& fd, int milliseconds) {
  pollfd polled{fd.get(), POLLIN, 0};
  if (poll(&polled, 1, milliseconds) <= 0) return false;
  char byte;
  return recv(fd.get(), &byte, 1, 0) <= 0;
}

// Keeps what it is handed.
class Keeper {
 public:
  explicit Keeper(int64_t cap) {
    auto listener = Listen({"127.0.0.1", 0});
    REQUIRE(listener.ok());
    acceptor_ = std::make_unique<Acceptor>(
        *std::move(listener), cap, [this](int, int fd) {
          std::lock_guard<std::mutex> lock(mutex_);
          kept_.emplace_back(fd);
        });
    acceptor_->Start();
  }
  ~Keeper() { acceptor_->Stop(); }

  Acceptor& acceptor() { return *acceptor_; }
  size_t kept() {
    std::lock_guard<std::mutex> lock(mutex_);
    return kept_.size();
  }
  void DropAll() {
    std::lock_guard<std::mutex> lock(mutex_);
    kept_.clear();
  }
  bool Holds(size_t count) {
    for (int i = 0; i < 2000 && kept() != count; ++i) usleep(1000);
    return kept() == count;
  }

 private:
  std::unique_ptr<Acceptor> acceptor_;
  std::mutex mutex_;
  std::vector<Fd> kept_;
};

TEST_CASE("connections are handed over", "[acceptor]") {
  Keeper keeper(10);
  REQUIRE(keeper.acceptor().port() > 0);
  const Fd a = Connect(keeper.acceptor().port());
  const Fd b = Connect(keeper.acceptor().port());
  REQUIRE(keeper.Holds(2));
  REQUIRE_FALSE(ClosedWithin(a, 20));
}

TEST_CASE("above the cap a connection is closed; room returns", "[acceptor]") {
  REQUIRE(SetLogLevel("off").ok());
  Keeper keeper(3);
  std::vector<Fd> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(Connect(keeper.acceptor().port()));
  }
  REQUIRE(keeper.Holds(3));
  const Fd fourth = Connect(keeper.acceptor().port());
  REQUIRE(ClosedWithin(fourth, 5000));
  REQUIRE(keeper.kept() == 3);
  keeper.DropAll();  // the owner closed them
  const Fd fifth = Connect(keeper.acceptor().port());
  REQUIRE(keeper.Holds(1));
  REQUIRE_FALSE(ClosedWithin(fifth, 20));
}

TEST_CASE("a full descriptor table is survived", "[acceptor]") {
  REQUIRE(SetLogLevel("off").ok());
  Keeper keeper(1000);
  // The client's sockets come first; then the table is filled up.
  std::vector<Fd> sockets;
  for (int i = 0; i < 3; ++i) {
    sockets.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit low = before;
  low.rlim_cur = 200;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
  std::vector<Fd> filler;
  while (true) {
    Fd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) break;
    filler.push_back(std::move(fd));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(keeper.acceptor().port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const auto connect_to = [&address](const Fd& fd) {
    return connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                   sizeof address) == 0;
  };
  const bool connected = connect_to(sockets[0]) && connect_to(sockets[1]);
  const bool shed = connected && ClosedWithin(sockets[0], 5000) &&
                    ClosedWithin(sockets[1], 5000);
  filler.clear();
  setrlimit(RLIMIT_NOFILE, &before);
  REQUIRE(connected);
  REQUIRE(shed);
  REQUIRE(keeper.kept() == 0);
  REQUIRE(connect_to(sockets[2]));  // and it accepts again
  REQUIRE(keeper.Holds(1));
}

Peer PeerOf(const Fd& client) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  REQUIRE(getsockname(client.get(), reinterpret_cast<sockaddr*>(&address),
                      &size) == 0);
  return {std::string(reinterpret_cast<char*>(&address.sin_addr), 4),
          ntohs(address.sin_port)};
}

TEST_CASE("one connection is ended, the others are not", "[acceptor]") {
  Keeper keeper(10);
  const Fd a = Connect(keeper.acceptor().port());
  const Fd b = Connect(keeper.acceptor().port());
  REQUIRE(keeper.Holds(2));
  Peer other = PeerOf(a);
  other.ip[3] = 2;
  REQUIRE_FALSE(keeper.acceptor().Abort(other));
  REQUIRE(keeper.acceptor().Abort(PeerOf(a)));
  REQUIRE(ClosedWithin(a, 2000));
  REQUIRE_FALSE(ClosedWithin(b, 20));
  // It is no connection any more, though its owner still has it.
  REQUIRE_FALSE(keeper.acceptor().Abort(PeerOf(a)));
  keeper.DropAll();
  REQUIRE_FALSE(keeper.acceptor().Abort(PeerOf(b)));
}

TEST_CASE("paused, connections wait", "[acceptor]") {
  Keeper keeper(10);
  keeper.acceptor().Pause(true);
  const Fd a = Connect(keeper.acceptor().port());
  usleep(50'000);
  REQUIRE(keeper.kept() == 0);
  keeper.acceptor().Pause(false);
  REQUIRE(keeper.Holds(1));
  REQUIRE_FALSE(ClosedWithin(a, 20));
  keeper.acceptor().Pause(true);  // and is stopped while it is
}

TEST_CASE("after the stop nobody listens", "[acceptor]") {
  Keeper keeper(10);
  const int port = keeper.acceptor().port();
  keeper.acceptor().Stop();
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address),
                  sizeof address) != 0);
}

TEST_CASE("a port in use is refused, all addresses share one port",
          "[acceptor]") {
  auto first = Listen({"localhost", 0});
  REQUIRE(first.ok());
  REQUIRE_FALSE(first->fds.empty());
  const auto second = Listen({"127.0.0.1", first->port});
  REQUIRE(second.status().code() == absl::StatusCode::kUnavailable);
  REQUIRE(std::string(second.status().message()).find("in use") !=
          std::string::npos);
  for (const int fd : first->fds) close(fd);
  REQUIRE(Listen({"no.such.host.invalid", 0}).status().code() ==
          absl::StatusCode::kUnavailable);
}

TEST_CASE("the descriptor limit is raised to the hard one", "[acceptor]") {
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit low = before;
  low.rlim_cur = 64;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &low) == 0);
  const int64_t raised = RaiseDescriptorLimit();
  REQUIRE(raised == static_cast<int64_t>(before.rlim_max));
  REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
}

}  // namespace
}  // namespace qs
