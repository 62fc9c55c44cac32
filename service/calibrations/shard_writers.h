// ShardWriters: which call writes which shard — one at most.
// Thread: thread-safe.
#ifndef QS_SERVICE_CALIBRATIONS_SHARD_WRITERS_H_
#define QS_SERVICE_CALIBRATIONS_SHARD_WRITERS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/tensors/live_calls.h"

namespace qs {

class ShardWriters {
 public:
  // The right to write; given back when it is destroyed.
  class Token {
   public:
    using Key = std::pair<int64_t, std::string>;
    Token(ShardWriters& writers, Key key)
        : writers_(writers), key_(std::move(key)) {}
    ~Token();
    Token(const Token&) = delete;
    Token& operator=(const Token&) = delete;

   private:
    ShardWriters& writers_;
    const Key key_;
  };

  // Errors: ABORTED CONCURRENT_WRITER with RetryInfo — another call has it,
  // which is ended the same way: it may be a lost connection's.
  absl::StatusOr<std::unique_ptr<Token>> Take(
      int64_t calibration, const std::string& shard,
      const std::shared_ptr<LiveCall>& call);

 private:
  absl::Mutex mutex_;
  std::map<Token::Key, std::weak_ptr<LiveCall>> writers_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace qs

#endif  // QS_SERVICE_CALIBRATIONS_SHARD_WRITERS_H_
