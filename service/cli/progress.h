// Progress: how far a run is, on one line of a terminal or as plain lines.
#ifndef QS_SERVICE_CLI_PROGRESS_H_
#define QS_SERVICE_CLI_PROGRESS_H_

#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qs::cli {

// Groups that the server has and answers of which come only when it is through.
struct Solving {
  int64_t groups = 0;
  double done = 0;  // mean, 0 to 1
};

struct ProgressState {
  int64_t bytes = 0;
  int64_t total_bytes = 0;
  int64_t tensors = 0;
  int64_t total_tensors = 0;
  double seconds = 0;
  Solving solving = {};
};

// "[=====>    ]  52%  14/28 tensors  1.2 of 2.3 GB  310 MB/s  0:04 left", and
// with groups that are solved "  solving 2 groups: 40%", in less than
// `columns`, so that the cursor stays on the line.
std::string ProgressBar(const ProgressState& state, int columns);
// The same without the bar.
std::string ProgressLine(const ProgressState& state);

// Thread: thread-safe.
class Progress {
 public:
  // `columns` of a terminal: redraw one line ten times a second; 0: a line
  // every two seconds. `out` must outlive it.
  Progress(std::ostream& out, int columns, int64_t total_bytes,
           int64_t total_tensors);

  void AddBytes(int64_t bytes);  // negative: sent in vain
  void AddTensor();
  // How far a group of a stream is, 0 to 1; at 1 its answers come.
  void SetSolving(const void* stream, int64_t group, double done);
  // The stream has ended.
  void ForgetSolving(const void* stream);
  Solving solving() const {
    absl::MutexLock lock(&mutex_);
    return state_.solving;
  }
  // A line of its own.
  void Note(const std::string& text);
  // Takes the bar away, so that other text can follow.
  void Finish();

 private:
  void CountSolving() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Draw() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Clear() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::ostream& out_;
  const int columns_;
  const absl::Time started_;
  mutable absl::Mutex mutex_;
  ProgressState state_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<const void*, int64_t>, double> solving_
      ABSL_GUARDED_BY(mutex_);
  absl::Time drawn_ ABSL_GUARDED_BY(mutex_);
  bool bar_shown_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_PROGRESS_H_
