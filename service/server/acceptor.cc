// Tested by tests/service/acceptor_test.cc and server_test.cc.
#include "service/server/acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "service/server/log.h"

namespace qs {
namespace {

constexpr int kPauseMs = 10;
// Also packets that are lost take time.
constexpr int64_t kLeastUnreadMs = 1000;

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

double Now() {
  const std::chrono::duration<double> now =
      std::chrono::steady_clock::now().time_since_epoch();
  return now.count();
}

// Whether a descriptor still is the socket that it was.
bool IsSocket(int fd, ino_t inode) {
  struct stat info {};
  return fstat(fd, &info) == 0 && S_ISSOCK(info.st_mode) &&
         info.st_ino == inode;
}

Peer PeerOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  Peer peer;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return peer;
  }
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    peer.ip.assign(reinterpret_cast<const char*>(&in.sin_addr), 4);
    peer.port = ntohs(in.sin_port);
  } else if (address.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
    const auto* const ip = reinterpret_cast<const char*>(&in.sin6_addr);
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
      peer.ip.assign(ip + 12, 4);
    } else {
      peer.ip.assign(ip, 16);
    }
    peer.port = ntohs(in.sin6_port);
  }
  return peer;
}

}  // namespace

int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int64_t>(limit.rlim_cur);
}

Acceptor::Acceptor(Listener listener, int64_t max_connections,
                   NewConnection new_connection, absl::Duration unread_limit)
    : listener_(std::move(listener)),
      max_connections_(max_connections),
      new_connection_(std::move(new_connection)),
      unread_limit_(unread_limit),
      too_many_(RejectionsOf("MAX_CONNECTIONS")),
      no_descriptors_(RejectionsOf("NO_DESCRIPTORS")),
      spare_fd_(OpenSpare()),
      wake_fd_(eventfd(0, EFD_CLOEXEC)) {}

void Acceptor::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Acceptor::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    // The counter cannot overflow, so the write cannot fail.
    (void)!write(wake_fd_, &one, sizeof one);
    thread_.join();
  }
  for (const int fd : std::exchange(listener_.fds, {})) close(fd);
  for (int* fd : {&spare_fd_, &wake_fd_}) {
    if (*fd >= 0) close(std::exchange(*fd, -1));
  }
}

void Acceptor::Run() {
  std::vector<pollfd> polled{{wake_fd_, POLLIN, 0}};
  for (const int fd : listener_.fds) polled.push_back({fd, POLLIN, 0});
  while (true) {
    const bool paused = paused_;
    const int ready = paused ? poll(polled.data(), 1, kPauseMs)
                             : poll(polled.data(), polled.size(), -1);
    if (ready < 0) continue;  // EINTR
    if (polled[0].revents != 0) return;
    // Also when it is paused since; what poll() said of others is old then.
    if (paused || paused_) continue;
    for (size_t i = 1; i < polled.size(); ++i) {
      // One each in turn, so that a stop is seen under a flood.
      if (polled[i].revents != 0) AcceptOne(polled[i].fd);
    }
  }
}

bool Acceptor::AcceptOne(int listener_fd) {
  const int fd =
      accept4(listener_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) {
    Admit(listener_fd, fd);
    return true;
  }
  if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
      errno == ENOMEM) {
    ShedOne(listener_fd);
  }
  return false;
}

void Acceptor::Admit(int listener_fd, int fd) {
  if (!Remember(fd)) {
    close(fd);
    too_many_.Increment();
    if (Now() - last_warning_ > 1) {
      last_warning_ = Now();
      Log(LogLevel::kWarning, "connection_refused",
          {{"reason", "max-connections"}, {"allowed", max_connections_}});
    }
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (unread_limit_ < absl::Hours(24)) {
    const auto ms = static_cast<unsigned>(std::max<int64_t>(
        kLeastUnreadMs, absl::ToInt64Milliseconds(unread_limit_)));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof ms);
  }
  new_connection_(listener_fd, fd);
}

bool Acceptor::Remember(int fd) {
  absl::MutexLock lock(&mutex_);
  if (static_cast<int64_t>(open_.size()) >= max_connections_ &&
      CountOpen() >= max_connections_) {
    return false;
  }
  struct stat info {};
  if (fstat(fd, &info) == 0) open_[fd] = info.st_ino;
  return true;
}

int64_t Acceptor::CountOpen() {
  for (auto it = open_.begin(); it != open_.end();) {
    it = IsSocket(it->first, it->second) ? std::next(it) : open_.erase(it);
  }
  return static_cast<int64_t>(open_.size());
}

int64_t Acceptor::open_connections() {
  absl::MutexLock lock(&mutex_);
  return CountOpen();
}

bool Acceptor::Abort(const Peer& peer) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [fd, inode] : open_) {
    if (!(PeerOf(fd) == peer) || !IsSocket(fd, inode)) continue;
    // gRPC, which owns the descriptor, meets a broken connection. After
    // shutdown() it would still read, and serve, all that has come.
    sockaddr nobody{};
    nobody.sa_family = AF_UNSPEC;
    return connect(fd, &nobody, sizeof nobody) == 0;
  }
  return false;
}

void Acceptor::ShedOne(int listener_fd) {
  const int error = errno;
  if (spare_fd_ >= 0) close(std::exchange(spare_fd_, -1));
  const int fd = accept4(listener_fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd >= 0) close(fd);
  spare_fd_ = OpenSpare();
  no_descriptors_.Increment();
  if (Now() - last_warning_ > 1) {
    last_warning_ = Now();
    Log(LogLevel::kWarning, "connection_refused",
        {{"reason", std::strerror(error)}});
  }
  // Somebody else took the spare: wait rather than spin.
  if (fd < 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

}  // namespace qs
