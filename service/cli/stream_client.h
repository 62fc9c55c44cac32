// Streams of one run: batches are sent from their shards while results come
// back. Several streams share a WorkBoard. A stream that breaks is opened again
// with the batches that were not complete, a few times.
#ifndef QS_SERVICE_CLI_STREAM_CLIENT_H_
#define QS_SERVICE_CLI_STREAM_CLIENT_H_

#include <cstdint>
#include <thread>
#include <vector>

#include "quant/v1/quantization.pb.h"
#include "service/checkpoint/planned_checkpoint.h"
#include "service/checkpoint/work_batch.h"
#include "service/cli/arguments.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"
#include "service/cli/work_board.h"

namespace qs::cli {

// What every stream of a run shares; all of it outlives them.
struct StreamContext {
  const ServerArguments& server;
  const quant::v1::QuantizeConfig& config;
  const PlannedCheckpoint& checkpoint;
  const Calibration* calibration;  // or null
  WorkBoard& board;
  Progress& progress;
  RunControl& control;
};

// Blocks. A failure that cannot be mended goes to RunControl::Fail: FromServer,
// kBadInput (a file cannot be read), kOutput, kUnexpected (a broken promise).
void RunStreams(const StreamContext& context);

// `streams` of them at once, each in its own thread, until all are done;
// `meanwhile` runs in the caller's thread.
template <typename Function>
void RunInParallel(const StreamContext& context, int64_t streams,
                   const Function& meanwhile) {
  std::vector<std::jthread> threads;
  for (int64_t i = 0; i < streams; ++i) {
    threads.emplace_back([&context] { RunStreams(context); });
  }
  meanwhile();
}

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_STREAM_CLIENT_H_
