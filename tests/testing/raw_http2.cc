// Tested by tests/service/http2_test.cc.
#include "tests/testing/raw_http2.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace qs::testing {
namespace {

constexpr size_t kHeadBytes = 9;
constexpr int64_t kDataBytes = 16384;  // of a frame that any server takes
// Of a frame of the server's; it sends none so large.
constexpr size_t kMostFrameBytes = 1 << 24;

uint32_t NumberAt(const std::string& bytes, size_t at, size_t size) {
  uint32_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  }
  return value;
}

// A string of HPACK (RFC 7541, 5.2) of less than 127 bytes, or of up to 16 MiB.
std::string HpackString(const std::string& text) {
  if (text.size() < 127) {
    return std::string(1, static_cast<char>(text.size())) + text;
  }
  std::string out = "\x7f";
  size_t rest = text.size() - 127;
  for (; rest >= 128; rest >>= 7) {
    out += static_cast<char>(0x80 | (rest & 0x7f));
  }
  return out + static_cast<char>(rest) + text;
}

using Fields = std::vector<std::pair<std::string, std::string>>;

Fields FieldsOf(const std::string& path) {
  return {{":method", "POST"}, {":scheme", "http"},
          {":path", path},     {":authority", "test"},
          {"te", "trailers"},  {"content-type", "application/grpc"}};
}

}  // namespace

std::string Http2Number(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) {
    out += static_cast<char>(value >> shift);
  }
  return out;
}

std::string FrameHead(size_t size, uint8_t type, uint8_t flags,
                      uint32_t stream) {
  return Http2Number(static_cast<uint32_t>(size)).substr(1) +
         static_cast<char>(type) + static_cast<char>(flags) +
         Http2Number(stream);
}

std::string MakeFrame(uint8_t type, uint8_t flags, uint32_t stream,
                      const std::string& payload) {
  return FrameHead(payload.size(), type, flags, stream) + payload;
}

std::string ResetFrame(uint32_t stream, uint32_t code) {
  return MakeFrame(kRstStream, 0, stream, Http2Number(code));
}

std::string Http2Greeting() {
  return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + MakeFrame(kSettings, 0, 0, "");
}

std::string HeaderField(const std::string& name, const std::string& value) {
  return std::string(1, '\0') + HpackString(name) + HpackString(value);
}

std::string CallHeaders(const std::string& path) {
  std::string out;
  for (const auto& [name, value] : FieldsOf(path)) {
    out += HeaderField(name, value);
  }
  return out;
}

std::string LearnedCallHeaders(const std::string& path) {
  std::string out;
  for (const auto& [name, value] : FieldsOf(path)) {
    out += '\x40' + HpackString(name) + HpackString(value);
  }
  return out;
}

std::string ShortCallHeaders() {
  // Behind the 61 that are always known, the last one first.
  std::string out;
  for (size_t i = FieldsOf("").size(); i > 0; --i) {
    out += static_cast<char>(0x80 | (61 + i));
  }
  return out;
}

std::string GrpcMessage(uint8_t flag, uint32_t size,
                        const std::string& message) {
  return static_cast<char>(flag) + Http2Number(size) + message;
}

std::string GrpcMessage(const std::string& message) {
  return GrpcMessage(0, static_cast<uint32_t>(message.size()), message);
}

int GrpcStatusOf(const std::string& headers) {
  const std::string name = "grpc-status";
  const size_t found = headers.find(name);
  if (found == std::string::npos) return -1;
  size_t at = found + name.size();
  if (at >= headers.size()) return -1;
  const size_t size = static_cast<uint8_t>(headers[at++]);
  if (size < 1 || size > 2 || at + size > headers.size()) return -1;
  int status = 0;
  for (size_t i = 0; i < size; ++i)
    status = 10 * status + headers[at + i] - '0';
  return status;
}

RawHttp2::RawHttp2(int port, bool silent) : silent_(silent) {
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd_ >= 0 &&
      connect(fd_, reinterpret_cast<sockaddr*>(&where), sizeof where) != 0) {
    Close();
  }
  const int on = 1;
  if (open()) setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

RawHttp2::~RawHttp2() { Close(); }

void RawHttp2::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

int RawHttp2::Wait(int events, absl::Duration limit) const {
  pollfd polled{fd_, static_cast<short>(events), 0};
  const int64_t ms = absl::ToInt64Milliseconds(limit);
  if (poll(&polled, 1, ms > 0 ? static_cast<int>(ms) : 0) <= 0) return 0;
  return polled.revents;
}

bool RawHttp2::Send(const std::string& bytes, absl::Duration limit) {
  return SendSome(bytes, limit, /*read=*/true);
}

bool RawHttp2::SendOnly(const std::string& bytes, absl::Duration limit) {
  return SendSome(bytes, limit, /*read=*/false);
}

bool RawHttp2::SendSome(const std::string& bytes, absl::Duration limit,
                        bool read) {
  size_t sent = 0;
  absl::Time taken = absl::Now();
  while (open() && sent < bytes.size()) {
    const int ready =
        Wait(read ? POLLIN | POLLOUT : POLLOUT, taken + limit - absl::Now());
    if (ready == 0) return false;
    if ((ready & POLLOUT) != 0) {
      const ssize_t n = send(fd_, bytes.data() + sent, bytes.size() - sent,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN && errno != EINTR) {
        if (!read) return false;
        // The last frames of the server's may be there still.
        while (open()) Receive();
        return false;
      }
      if (n > 0) {
        sent += static_cast<size_t>(n);
        taken = absl::Now();
      }
    }
    if (read && (ready & ~POLLOUT) != 0) Receive();
    if (!read && (ready & (POLLERR | POLLHUP)) != 0) return false;
  }
  return open();
}

void RawHttp2::Receive() {
  char piece[64 << 10];
  const ssize_t n = recv(fd_, piece, sizeof piece, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return Close();
  received_.append(piece, static_cast<size_t>(n));
  size_t at = 0;
  while (received_.size() - at >= kHeadBytes) {
    const size_t size = NumberAt(received_, at, 3);
    if (size > kMostFrameBytes) return Close();
    if (received_.size() - at < kHeadBytes + size) break;
    Http2Frame frame;
    frame.type = static_cast<uint8_t>(received_[at + 3]);
    frame.flags = static_cast<uint8_t>(received_[at + 4]);
    frame.stream = NumberAt(received_, at + 5, 4) & 0x7fffffff;
    frame.payload = received_.substr(at + kHeadBytes, size);
    at += kHeadBytes + size;
    Take(std::move(frame));
  }
  received_.erase(0, at);
}

void RawHttp2::Take(Http2Frame frame) {
  ++counts_[frame.type];
  const bool ack = (frame.flags & kAck) != 0;
  if (frame.type == kGoAway && frame.payload.size() >= 8) {
    goaway_ = NumberAt(frame.payload, 4, 4);
  }
  if (frame.type == kRstStream && frame.payload.size() == 4) {
    reset_ = NumberAt(frame.payload, 0, 4);
  }
  if (frame.type == kWindowUpdate && frame.payload.size() == 4) {
    (frame.stream == 0 ? connection_window_ : stream_window_) +=
        NumberAt(frame.payload, 0, 4);
  }
  if (frame.type == kSettings) TakeSettings(frame.payload);
  if (!silent_ && !ack && open() &&
      (frame.type == kSettings || frame.type == kPing)) {
    // So little that the socket takes it whole, or the peer does not care.
    const std::string answer =
        MakeFrame(frame.type, kAck, 0,
                  frame.type == kPing ? frame.payload : std::string());
    send(fd_, answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  frames_.push_back(std::move(frame));
}

void RawHttp2::TakeSettings(const std::string& payload) {
  constexpr size_t kEntryBytes = 6;
  constexpr uint32_t kInitialWindow = 4;
  for (size_t at = 0; at + kEntryBytes <= payload.size(); at += kEntryBytes) {
    if (NumberAt(payload, at, 2) != kInitialWindow) continue;
    const int64_t window = NumberAt(payload, at + 2, 4);
    stream_window_ += window - initial_window_;
    initial_window_ = window;
  }
}

std::optional<Http2Frame> RawHttp2::Next(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (frames_.empty() && open()) {
    if (Wait(POLLIN, end - absl::Now()) == 0) return std::nullopt;
    Receive();
  }
  if (frames_.empty()) return std::nullopt;
  Http2Frame frame = std::move(frames_.front());
  frames_.pop_front();
  return frame;
}

int64_t RawHttp2::SendData(uint32_t stream, const std::string& begin,
                           int64_t more, absl::Duration limit) {
  const int64_t all = static_cast<int64_t>(begin.size()) + more;
  int64_t sent = 0;
  while (open() && reset_ < 0 && sent < all) {
    const int64_t size =
        std::min({kDataBytes, all - sent, connection_window_, stream_window_});
    if (size <= 0) {
      if (Wait(POLLIN, limit) == 0) break;
      Receive();
      continue;
    }
    std::string bytes = sent < static_cast<int64_t>(begin.size())
                            ? begin.substr(static_cast<size_t>(sent))
                            : std::string();
    bytes.resize(static_cast<size_t>(size), 'm');
    if (!Send(MakeFrame(kData, 0, stream, bytes), limit)) break;
    sent += size;
    connection_window_ -= size;
    stream_window_ -= size;
  }
  return sent;
}

int RawHttp2::Status(uint32_t stream, absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (const auto frame = Next(end - absl::Now())) {
    if (frame->type != kHeaders || frame->stream != stream) continue;
    const int status = GrpcStatusOf(frame->payload);
    if (status >= 0) return status;
  }
  return -1;
}

bool RawHttp2::Closed(absl::Duration limit) {
  const absl::Time end = absl::Now() + limit;
  while (Next(end - absl::Now())) continue;
  return !open();
}

int64_t RawHttp2::count(uint8_t type) const {
  const auto found = counts_.find(type);
  return found == counts_.end() ? 0 : found->second;
}

}  // namespace qs::testing
