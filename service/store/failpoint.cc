// Tested by tests/service/store/blob_store_test.cc. Empty without
// QS_FAILPOINTS.
#include "service/store/failpoint.h"

#if defined(QS_FAILPOINTS)

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"

namespace qs {
namespace {

struct Plan {
  std::string action;
  int64_t left = 0;
};

absl::Mutex mutex;

std::map<std::string, Plan> Parse(const std::string& text) {
  std::map<std::string, Plan> plans;
  for (const auto item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> named = absl::StrSplit(item, '=');
    const std::pair<std::string, std::string> when =
        absl::StrSplit(named.second, '@');
    Plan plan;
    plan.action = when.first;
    if (!absl::SimpleAtoi(when.second, &plan.left)) std::abort();
    plans[named.first] = plan;
  }
  return plans;
}

std::map<std::string, Plan>& Plans() {
  static auto* const plans = new std::map<std::string, Plan>([] {
    const char* const text = std::getenv("QS_FAILPOINTS");
    return Parse(text == nullptr ? "" : text);
  }());
  return *plans;
}

}  // namespace

int HitFailpoint(const char* name) {
  absl::MutexLock lock(&mutex);
  const auto found = Plans().find(name);
  if (found == Plans().end() || --found->second.left != 0) return 0;
  const std::string& action = found->second.action;
  if (action == "kill") ::kill(::getpid(), SIGKILL);
  if (action == "segv") ::raise(SIGSEGV);
  if (action == "ENOSPC") return ENOSPC;
  if (action == "EIO") return EIO;
  std::abort();
}

void SetFailpointsForTest(const std::string& text) {
  absl::MutexLock lock(&mutex);
  Plans() = Parse(text);
}

}  // namespace qs

#endif  // QS_FAILPOINTS
