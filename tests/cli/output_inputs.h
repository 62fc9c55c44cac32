// Inputs: what the tests of outputs quantize — in/ with a shard, and
// single.safetensors beside it. Thread: one.
#ifndef QS_TESTS_CLI_OUTPUT_INPUTS_H_
#define QS_TESTS_CLI_OUTPUT_INPUTS_H_

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "service/cli/output_place.h"
#include "tests/cli/temporary_directory.h"

namespace qs::cli {

struct Inputs {
  Inputs() {
    std::filesystem::create_directory(dir / "in");
    WriteAll(dir / "in/model.safetensors", "weights");
    WriteAll(dir / "single.safetensors", "weights");
  }
  absl::StatusOr<OutputTarget> Resolve(const std::string& out, bool overwrite,
                                       const std::string& in = "in") const {
    return ResolveOutput(dir / out, dir / in, overwrite);
  }
  TemporaryDirectory dir;
};

}  // namespace qs::cli

#endif  // QS_TESTS_CLI_OUTPUT_INPUTS_H_
