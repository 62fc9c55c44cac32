// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/shard_writers.h"

#include "absl/strings/str_cat.h"
#include "service/server/error.h"

namespace qs {

ShardWriters::Token::~Token() {
  absl::MutexLock lock(&writers_.mutex_);
  writers_.writers_.erase(key_);
}

absl::StatusOr<std::unique_ptr<ShardWriters::Token>> ShardWriters::Take(
    int64_t calibration, const std::string& shard,
    const std::shared_ptr<LiveCall>& call) {
  Token::Key key(calibration, shard);
  std::shared_ptr<LiveCall> other;
  {
    absl::MutexLock lock(&mutex_);
    const auto [found, is_new] = writers_.emplace(key, call);
    if (is_new) return std::make_unique<Token>(*this, std::move(key));
    other = found->second.lock();
  }
  const absl::Status error = RetryableError(
      absl::StatusCode::kAborted, "CONCURRENT_WRITER",
      absl::StrCat("shard_id: got \"", shard, "\", which has another writer"),
      {{"shard_id", shard}});
  if (other != nullptr) other->End(error);
  return error;
}

}  // namespace qs
