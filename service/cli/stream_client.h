// StreamClient: sends tensors from a WorkBoard through Quantize streams, one
// stream at a time, until nothing is left to begin.
//
// Tensors of one stream follow each other without waiting for answers; the
// server's flow control holds the sender back. A stream that breaks is opened
// again with the tensors that had no report yet, a few times.
#ifndef QS_SERVICE_CLI_STREAM_CLIENT_H_
#define QS_SERVICE_CLI_STREAM_CLIENT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "quant/formats/checkpoint.h"
#include "quant/v1/quantization.pb.h"
#include "service/cli/arguments.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"
#include "service/cli/tensor_sink.h"
#include "service/cli/work_board.h"

namespace qs::cli {

// What every stream of a run shares; all of it outlives them.
struct StreamContext {
  const ServerArguments& server;
  const quant::v1::QuantizationConfig& quantization;
  const Checkpoint& checkpoint;
  WorkBoard& board;
  Progress& progress;
  RunControl& control;
};

// Blocks. A failure that cannot be mended goes to RunControl::Fail: FromServer,
// kBadInput (a file cannot be read), kOutput, kUnexpected (a broken promise).
void RunStreams(const StreamContext& context);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_STREAM_CLIENT_H_
