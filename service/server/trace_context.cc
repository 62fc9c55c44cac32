// Tested by tests/service/trace_context_test.cc.
#include "service/server/trace_context.h"

#include <openssl/rand.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace qs {
namespace {

// "00-" trace "-" parent "-" flags
constexpr size_t kLength = 55;
constexpr size_t kTraceIdBytes = 16;
constexpr size_t kSpanIdBytes = 8;

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

// All zero means "none".
bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

// As hex, not all zero.
std::string RandomId(size_t bytes) {
  std::string raw(bytes, 0);
  auto* const data = reinterpret_cast<unsigned char*>(raw.data());
  const bool random = RAND_bytes(data, static_cast<int>(bytes)) == 1;
  if (!random || raw.find_first_not_of('\0') == std::string::npos) {
    // Ids are no secrets: what is not random still tells calls apart.
    static std::atomic<uint64_t> next{1};
    for (uint64_t rest = next++; rest != 0; rest >>= 8) {
      raw[--bytes] = static_cast<char>(rest & 255);
    }
  }
  return absl::BytesToHexString(raw);
}

}  // namespace

std::string TraceContext::Traceparent() const {
  return absl::StrCat("00-", trace_id, "-", span_id, sampled ? "-01" : "-00");
}

std::optional<TraceContext> ParseTraceparent(std::string_view text) {
  if (text.size() < kLength) return std::nullopt;
  const std::string_view version = text.substr(0, 2);
  const std::string_view trace = text.substr(3, 32);
  const std::string_view parent = text.substr(36, 16);
  const std::string_view flags = text.substr(53, 2);
  const bool dashes = text[2] == '-' && text[35] == '-' && text[52] == '-';
  // A later version may have more behind another dash.
  const bool ends =
      text.size() == kLength || (version != "00" && text[kLength] == '-');
  if (!dashes || !ends || !IsHex(version) || version == "ff" || !IsId(trace) ||
      !IsId(parent) || !IsHex(flags)) {
    return std::nullopt;
  }
  TraceContext context;
  context.trace_id = std::string(trace);
  context.parent_id = std::string(parent);
  context.span_id = RandomId(kSpanIdBytes);
  const char low = flags[1];
  context.sampled = ((low <= '9' ? low - '0' : low - 'a' + 10) & 1) != 0;
  return context;
}

TraceContext NewTrace() {
  return {RandomId(kTraceIdBytes), "", RandomId(kSpanIdBytes), false};
}

TraceContext TraceOf(const grpc::CallbackServerContext& call) {
  const auto [begin, end] = call.client_metadata().equal_range("traceparent");
  if (begin == end || std::next(begin) != end) return NewTrace();
  const auto parsed =
      ParseTraceparent({begin->second.data(), begin->second.size()});
  return parsed ? *parsed : NewTrace();
}

}  // namespace qs
