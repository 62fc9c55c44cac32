// Tested by tests/service/library_logs_test.cc.
#include "service/server/library_logs.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace qs {
namespace {

// Lets kLibraryLogBurst lines through, and another one for each second.
class Limiter {
 public:
  // False: not this one. Else how many were left out before it.
  bool Allow(int64_t* suppressed) {
    absl::MutexLock lock(&mutex_);
    const absl::Time now = absl::Now();
    room_ += absl::ToDoubleSeconds(now - filled_);
    filled_ = now;
    if (room_ > kLibraryLogBurst) room_ = kLibraryLogBurst;
    if (room_ < 1) {
      ++suppressed_;
      return false;
    }
    room_ -= 1;
    *suppressed = std::exchange(suppressed_, 0);
    return true;
  }

 private:
  absl::Mutex mutex_;
  double room_ ABSL_GUARDED_BY(mutex_) = kLibraryLogBurst;
  absl::Time filled_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  int64_t suppressed_ ABSL_GUARDED_BY(mutex_) = 0;
};

void LogLine(Limiter& limiter, LogLevel level, const char* library,
             const char* file, int line, std::string_view message) {
  int64_t suppressed = 0;
  if (!limiter.Allow(&suppressed)) return;
  while (!message.empty() && message.back() == '\n') message.remove_suffix(1);
  const std::string_view path(file == nullptr ? "" : file);
  const std::string name(path.substr(path.rfind('/') + 1));
  std::vector<LogField> fields = {{"message", message},
                                  {"at", absl::StrCat(name, ":", line)}};
  if (suppressed > 0) fields.emplace_back("suppressed", suppressed);
  Log(level, library, fields);
}

void LogGrpc(gpr_log_func_args* args) {
  static Limiter* const limiter = new Limiter;
  const LogLevel level =
      args->severity == GPR_LOG_SEVERITY_ERROR  ? LogLevel::kError
      : args->severity == GPR_LOG_SEVERITY_INFO ? LogLevel::kInfo
                                                : LogLevel::kDebug;
  LogLine(*limiter, level, "grpc", args->file, args->line, args->message);
}

void LogProtobuf(google::protobuf::LogLevel severity, const char* file,
                 int line, const std::string& message) {
  static Limiter* const limiter = new Limiter;
  const LogLevel level =
      severity == google::protobuf::LOGLEVEL_INFO      ? LogLevel::kInfo
      : severity == google::protobuf::LOGLEVEL_WARNING ? LogLevel::kWarning
                                                       : LogLevel::kError;
  LogLine(*limiter, level, "protobuf", file, line, message);
}

}  // namespace

void LogLibraries() {
  gpr_set_log_function(LogGrpc);
  google::protobuf::SetLogHandler(LogProtobuf);
}

}  // namespace qs
