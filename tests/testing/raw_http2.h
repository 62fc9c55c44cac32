// RawHttp2: an HTTP/2 connection over a plain socket whose client sends what it
// is told to, also what no HTTP/2 library would; and the frames for it.
//
// Not a client to be used as one: it knows the window of its first stream
// only, and of header compression
// what the server of a first call sends (see GrpcStatusOf).
#ifndef QS_TESTS_TESTING_RAW_HTTP2_H_
#define QS_TESTS_TESTING_RAW_HTTP2_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "absl/time/time.h"

namespace qs::testing {

// RFC 9113, sections 6, 6.5.2 and 7.
enum Http2Type : uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kRstStream = 3,
  kSettings = 4,
  kPushPromise = 5,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};
constexpr uint8_t kEndStream = 1;
constexpr uint8_t kAck = 1;
constexpr uint8_t kEndHeaders = 4;
constexpr uint32_t kCancelStream = 8;
constexpr uint32_t kEnhanceYourCalm = 11;

struct Http2Frame {
  uint8_t type = 0;
  uint8_t flags = 0;
  uint32_t stream = 0;
  std::string payload;
};

// `value`, big endian, in 4 bytes.
std::string Http2Number(uint32_t value);
// The frame's 9 bytes of head, for a payload of `size` bytes.
std::string FrameHead(size_t size, uint8_t type, uint8_t flags,
                      uint32_t stream);
std::string MakeFrame(uint8_t type, uint8_t flags, uint32_t stream,
                      const std::string& payload);
std::string ResetFrame(uint32_t stream, uint32_t code = kCancelStream);

// What comes first on a connection: the preface and empty SETTINGS.
std::string Http2Greeting();
// A header as a literal that is not indexed, its name not either.
std::string HeaderField(const std::string& name, const std::string& value);
// The headers of a gRPC call: path "/grpc.health.v1.Health/Check".
std::string CallHeaders(const std::string& path);
// The same in few bytes: the first call of a connection that sends
// LearnedCallHeaders has the server remember them; later ones then are
// ShortCallHeaders. Nothing else may be learned on that connection.
std::string LearnedCallHeaders(const std::string& path);
std::string ShortCallHeaders();
// A gRPC message with its prefix; `size` and `flag` in place of the true ones.
std::string GrpcMessage(const std::string& message);
std::string GrpcMessage(uint8_t flag, uint32_t size,
                        const std::string& message);

// The grpc-status in a block of headers, or -1. Only for the first that comes
// on a connection: later ones may name it by an index.
int GrpcStatusOf(const std::string& headers);

class RawHttp2 {
 public:
  // Not connected (see open()) when nobody listens. SETTINGS and PINGs of the
  // server are answered unless `silent`.
  explicit RawHttp2(int port, bool silent = false);
  ~RawHttp2();
  RawHttp2(const RawHttp2&) = delete;
  RawHttp2& operator=(const RawHttp2&) = delete;

  bool open() const { return fd_ >= 0; }
  // All of it; takes in what comes meanwhile. False: the server closed the
  // connection, or took nothing for `limit`.
  bool Send(const std::string& bytes, absl::Duration limit = absl::Seconds(20));
  // The same, and reads nothing.
  bool SendOnly(const std::string& bytes,
                absl::Duration limit = absl::Seconds(20));

  // The next frame that came, or none: closed, or nothing within `limit`.
  std::optional<Http2Frame> Next(absl::Duration limit = absl::Seconds(20));
  // Sends `begin` and `more` other bytes as DATA of the stream, as fast as the
  // server's windows allow, on a connection whose only stream it is; the bytes
  // that went out until all did, the stream was ended, or the server wanted no
  // more for `limit`.
  int64_t SendData(uint32_t stream, const std::string& begin, int64_t more,
                   absl::Duration limit);
  // The status that ends the call of `stream`, or -1; frames of other streams
  // are dropped.
  int Status(uint32_t stream, absl::Duration limit = absl::Seconds(20));
  // Whether the server closes the connection; drops what comes before.
  bool Closed(absl::Duration limit = absl::Seconds(20));
  // Drops what came; the counts stay.
  void Drop() { frames_.clear(); }
  // Frames of a type that have come.
  int64_t count(uint8_t type) const;
  // The error code of the last RST_STREAM, -1 when none came.
  int64_t reset() const { return reset_; }
  // The error code of GOAWAY, -1 when none came.
  int64_t goaway() const { return goaway_; }

 private:
  bool SendSome(const std::string& bytes, absl::Duration limit, bool read);
  // Waits for `events` of poll(); 0 when none came.
  int Wait(int events, absl::Duration limit) const;
  // Reads once and takes the frames apart.
  void Receive();
  void Take(Http2Frame frame);
  void TakeSettings(const std::string& payload);
  void Close();

  int fd_ = -1;
  const bool silent_;
  std::string received_;  // less than a frame
  std::deque<Http2Frame> frames_;
  std::map<uint8_t, int64_t> counts_;
  int64_t goaway_ = -1;
  int64_t reset_ = -1;
  // That the server takes still, of the connection and of its first stream.
  int64_t connection_window_ = 65535;
  int64_t stream_window_ = 65535;
  int64_t initial_window_ = 65535;
};

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_RAW_HTTP2_H_
