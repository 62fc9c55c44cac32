// Tested by tests/e2e/quantctl_test.py.
#include "service/checkpoint/text_file.h"

#include <utility>

#include "quant/formats/posix_file.h"
#include "service/checkpoint/fault.h"

namespace qs {

absl::Status WriteTextFile(const std::string& path, const std::string& text) {
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(path);
  if (!file.ok()) return OutputFault(file.status());
  absl::Status status = file->Append(text);
  if (status.ok()) status = file->Commit();
  return OutputFault(status);
}

}  // namespace qs
