// TraceContext: which trace of the caller's a call belongs to, by the metadata
// "traceparent" of W3C Trace Context (https://www.w3.org/TR/trace-context/).
// Its ids stand in every log line of the call, and in the records of what the
// call leaves to be done later.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_TRACE_CONTEXT_H_
#define QS_SERVICE_SERVER_TRACE_CONTEXT_H_

#include <grpcpp/server_context.h>

#include <optional>
#include <string>
#include <string_view>

namespace qs {

struct TraceContext {
  std::string trace_id;   // 32 lower-case hex digits, not all zero
  std::string parent_id;  // 16: the caller's span; empty: the trace starts here
  std::string span_id;    // 16: this call's own
  bool sampled = false;   // the caller records the trace

  // What is sent on, or stored for later: this call as the parent.
  std::string Traceparent() const;
};

// A new span of the trace that `traceparent` names. Nullopt: it is not exactly
// what the standard says (version 00; of a later one, what 00 says, too).
std::optional<TraceContext> ParseTraceparent(std::string_view traceparent);

// A new trace with random ids.
TraceContext NewTrace();

// The call's, or a new one where it has none, a wrong one or several.
TraceContext TraceOf(const grpc::CallbackServerContext& call);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_TRACE_CONTEXT_H_
