// TextOutput: a text that goes where the user says (--json, --html): into a
// file, which appears complete or not at all, or into what a shell names like
// one: a FIFO, a device, a descriptor (/dev/stdout, "--json >(jq .)").
// Thread: call from one thread.
#ifndef QS_SERVICE_CLI_TEXT_OUTPUT_H_
#define QS_SERVICE_CLI_TEXT_OUTPUT_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/posix_file.h"
#include "service/cli/output_place.h"
#include "service/cli/run_control.h"

namespace qs::cli {

class TextOutput {
 public:
  // Before the work, so that what cannot be written is said at once. "": Write
  // does nothing. A FIFO or device is opened here, but for a FIFO that nobody
  // reads yet. `inputs` and `output` as of CheckFileTarget. Errors: kOutput —
  // also a directory, a block device or a socket, and what may not be written.
  static absl::StatusOr<TextOutput> Open(const std::string& file,
                                         const std::vector<std::string>& inputs,
                                         const OutputTarget& output);

  // What Write writes, by whatever name `file` said it: a file's own path
  // behind all links, also before it is there; else `file`.
  const std::string& place() const {
    return target_.path.empty() ? file_ : target_.path;
  }

  // Once. A file is replaced, that is, what a symbolic link names and not the
  // link; the rest is written as it is. Waits for a reader of a FIFO until
  // there is one. Nothing is written when `control`, which may be null, has
  // failed before; what waits ends when it does. Errors: kOutput; `control`'s.
  absl::Status Write(const std::string& text, RunControl* control);

 private:
  absl::Status OpenStream();
  absl::Status CheckStream();
  absl::Status OpenDescriptor(int number);
  absl::Status WaitForReader(RunControl* control);
  absl::Status WriteStream(std::string_view text, RunControl* control);

  std::string file_;     // as the user says it; or ""
  OutputTarget target_;  // of a file; else without a path
  UniqueFd stream_;      // of what is no file, when it is open
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_TEXT_OUTPUT_H_
