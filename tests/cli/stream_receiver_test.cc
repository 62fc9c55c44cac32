#include "service/cli/stream_receiver.h"

#include <sstream>
#include <string>
#include <vector>

#include "service/cli/exit_code.h"
#include "service/cli/stream_sender.h"
#include "service/server/proto_convert.h"
#include "service/stream/crc32c.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

// Batch 0: a group of tensors 0 and 1. Batch 1: tensor 2 by itself.
struct Fixture {
  Fixture()
      : checkpoint(Checkpoint::Open(QS_TEST_DATA "/tiny-llama")),
        planned(checkpoint.value()),
        board(planned,
              {{"g", {}, {{0, "", false}, {1, "", false}}},
               {"", {}, {{2, "", false}}}},
              ""),
        progress(out, 0, 1, 3),
        receiver(planned, board, progress, /*with_digest=*/true) {}

  // The smallest answer for a tensor: one frame of one byte, and a report.
  std::vector<v1::QuantizeResponse> Answer(size_t tensor) {
    const SafetensorsEntry& entry = checkpoint->tensors()[tensor].entry;
    std::vector<v1::QuantizeResponse> answers(2);
    v1::Frame* frame = answers[0].mutable_frame();
    frame->set_handle(TensorHandle(tensor));
    frame->set_tensor(entry.name);
    frame->set_dtype(v1::U8);
    frame->add_shape(1);
    frame->set_data("x");
    const uint8_t byte = 'x';
    frame->set_crc32c(Crc32c({&byte, 1}));
    frame->set_last(true);
    v1::TensorReport* report = answers[1].mutable_report();
    report->set_handle(TensorHandle(tensor));
    report->set_name(entry.name);
    report->set_dtype(DTypeToProto(entry.dtype));
    report->mutable_shape()->Add(entry.shape.begin(), entry.shape.end());
    report->set_bytes_out(1);
    report->add_output_tensors(entry.name);
    return answers;
  }

  void TakeAnswer(size_t tensor) {
    for (const v1::QuantizeResponse& response : Answer(tensor)) {
      const absl::Status status = receiver.Take(response);
      INFO(status.ToString());
      REQUIRE(status.ok());
    }
  }

  std::ostringstream out;
  absl::StatusOr<Checkpoint> checkpoint;
  PlannedCheckpoint planned;
  WorkBoard board;
  Progress progress;
  StreamReceiver receiver;
};

TEST_CASE("a group is complete with its last report, and not before") {
  Fixture f;
  REQUIRE(f.receiver.Begin(0).ok());
  REQUIRE(f.receiver.Begin(1).ok());
  f.TakeAnswer(1);
  CHECK(f.board.Reports().empty());
  CHECK_FALSE(f.receiver.any_completed());
  CHECK(f.receiver.Incomplete() == std::vector<size_t>{0, 1});
  f.TakeAnswer(2);
  CHECK(f.board.Reports().size() == 1);
  CHECK(f.receiver.Incomplete() == std::vector<size_t>{0});
  f.TakeAnswer(0);
  CHECK(f.board.Reports().size() == 3);
  CHECK(f.receiver.Incomplete().empty());
  int64_t bytes = 0;
  for (size_t i = 0; i < 3; ++i) {
    const SafetensorsEntry& entry = f.checkpoint->tensors()[i].entry;
    bytes += entry.end - entry.begin;
  }
  CHECK(f.receiver.completed_bytes() == bytes);
}

TEST_CASE("a group that is solved is shown until its end") {
  Fixture f;
  v1::QuantizeResponse response;
  response.mutable_progress()->set_handle(9);
  response.mutable_progress()->set_done(0.5);
  REQUIRE(f.receiver.Take(response).ok());
  CHECK(f.progress.solving().groups == 1);
  response.mutable_progress()->set_done(1);
  REQUIRE(f.receiver.Take(response).ok());
  CHECK(f.progress.solving().groups == 0);
}

TEST_CASE("answers for what is not out are broken promises") {
  Fixture f;
  REQUIRE(f.receiver.Begin(1).ok());
  CHECK(ExitCodeOf(f.receiver.Take(f.Answer(0)[0])) == ExitCode::kUnexpected);
  f.TakeAnswer(2);
  // A second answer.
  CHECK(ExitCodeOf(f.receiver.Take(f.Answer(2)[0])) == ExitCode::kUnexpected);
  CHECK(ExitCodeOf(f.receiver.Take(v1::QuantizeResponse())) ==
        ExitCode::kUnexpected);
}

TEST_CASE("the end needs every report, a summary and the digest") {
  Fixture f;
  REQUIRE(f.receiver.Begin(0).ok());
  f.TakeAnswer(0);
  CHECK(std::string(f.receiver.CheckComplete().message()).find("report") !=
        std::string::npos);
  f.TakeAnswer(1);
  CHECK(std::string(f.receiver.CheckComplete().message()).find("summary") !=
        std::string::npos);
  v1::QuantizeResponse summary;
  summary.mutable_summary()->set_digest("sha256:00");
  REQUIRE(f.receiver.Take(summary).ok());
  CHECK(std::string(f.receiver.CheckComplete().message()).find("digest") !=
        std::string::npos);
}

}  // namespace
}  // namespace qs::cli
