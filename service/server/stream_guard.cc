// Tested by tests/service/http2_flood_test.cc.
#include "service/server/stream_guard.h"

#include <grpc/grpc.h>
#include <grpc/support/alloc.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "service/base/metrics.h"
#include "service/server/log.h"

namespace qs {
namespace {

using Json = nlohmann::json;

// A core reads the headers of some 50,000 streams a second.
constexpr absl::Duration kInterval = absl::Milliseconds(20);
// A look takes some 20 us a connection; this is its share of a core at most.
constexpr double kLookShare = 0.2;
// See the header.
constexpr int64_t kManyStreams = 10;
constexpr int64_t kShareOfMany = 5;
constexpr int64_t kEndedStreams = 2;

// What channelz says; null when it knows nothing of it any more.
Json Channelz(char* text) {
  if (text == nullptr) return nullptr;
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  gpr_free(text);
  return json.is_object() ? json : Json();
}

// A field that may lack, as do counts of 0; channelz writes numbers as text.
const Json& Field(const Json& json, const char* name) {
  static const Json kNull;
  const auto found = json.is_object() ? json.find(name) : json.end();
  return json.is_object() && found != json.end() ? *found : kNull;
}

int64_t Number(const Json& json, const char* name) {
  const Json& field = Field(json, name);
  if (field.is_number_integer()) return field.get<int64_t>();
  int64_t value = 0;
  if (!field.is_string() ||
      !absl::SimpleAtoi(field.get_ref<const std::string&>(), &value)) {
    return 0;
  }
  return value;
}

int64_t LiveStreams(const Json& socket) {
  const Json& data = Field(socket, "data");
  return Number(data, "streamsStarted") - Number(data, "streamsSucceeded") -
         Number(data, "streamsFailed");
}

Peer PeerOf(const Json& socket) {
  const Json& address = Field(Field(socket, "remote"), "tcpip_address");
  Peer peer;
  peer.port = static_cast<int>(Number(address, "port"));
  const Json& ip = Field(address, "ip_address");
  if (!ip.is_string() ||
      !absl::Base64Unescape(ip.get_ref<const std::string&>(), &peer.ip)) {
    peer.ip.clear();
  }
  return peer;
}

}  // namespace

StreamGuard::StreamGuard(int64_t max_streams, Acceptor& acceptor)
    : max_streams_(max_streams),
      acceptor_(acceptor),
      thread_([this] { Run(); }) {}

StreamGuard::~StreamGuard() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void StreamGuard::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kInterval);
      if (stopping_) return;
    }
    // Of the whole process; the acceptor does not find another server's.
    const Json answer = Channelz(grpc_channelz_get_servers(0));
    for (const Json& server : Field(answer, "server")) {
      Look(Number(Field(server, "ref"), "serverId"),
           Number(Field(server, "data"), "callsStarted"));
    }
    WaitForEnded();
  }
}

void StreamGuard::Look(int64_t server_id, int64_t started) {
  const absl::Time now = absl::Now();
  if (started < seen_started_ + max_streams_ / 4 || now < next_look_) return;
  seen_started_ = started;
  LookAtAll(server_id);
  next_look_ = now + (absl::Now() - now) / kLookShare;
}

void StreamGuard::LookAtAll(int64_t server_id) {
  const bool many = live_streams_ > kManyStreams * max_streams_;
  const int64_t allowed = many ? max_streams_ / kShareOfMany : max_streams_;
  live_streams_ = 0;
  for (int64_t from = 0;;) {
    const Json answer =
        Channelz(grpc_channelz_get_server_sockets(server_id, from, 1000));
    for (const Json& socket : Field(answer, "socketRef")) {
      const int64_t id = Number(socket, "socketId");
      LookAtOne(id, allowed);
      from = id + 1;
    }
    if (answer.is_null() || Field(answer, "end") == true) return;
  }
}

void StreamGuard::LookAtOne(int64_t socket_id, int64_t allowed) {
  const Json answer = Channelz(grpc_channelz_get_socket(socket_id));
  const Json& socket = Field(answer, "socket");
  const int64_t streams = LiveStreams(socket);
  live_streams_ += streams;
  if (streams <= allowed || !acceptor_.Abort(PeerOf(socket))) return;
  ended_.insert(socket_id);
  CountRejection("STREAM_FLOOD");
  const Json& name = Field(Field(socket, "ref"), "name");
  Log(LogLevel::kWarning, "connection_ended",
      {{"reason", "STREAM_FLOOD"},
       {"peer", name.is_string() ? name.get<std::string>() : ""},
       {"streams", streams},
       {"allowed", allowed}});
}

void StreamGuard::WaitForEnded() {
  int64_t streams = 0;
  for (auto it = ended_.begin(); it != ended_.end();) {
    const Json answer = Channelz(grpc_channelz_get_socket(*it));
    const int64_t left = LiveStreams(Field(answer, "socket"));
    streams += left;
    it = left > 0 ? std::next(it) : ended_.erase(it);
  }
  const bool pause = streams > kEndedStreams * max_streams_;
  if (pause != paused_) acceptor_.Pause(pause);
  paused_ = pause;
}

}  // namespace qs
