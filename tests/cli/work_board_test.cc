#include "service/cli/work_board.h"

#include <string>
#include <thread>
#include <vector>

#include "service/cli/exit_code.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

// The tiny-llama checkpoint: two shards; every second tensor is selected.
struct Fixture {
  Fixture()
      : checkpoint(Checkpoint::Open(QS_TEST_DATA "/tiny-llama")),
        planned(checkpoint.value()) {}
  // Batches of one tensor.
  std::vector<WorkBatch> Every(size_t step) const {
    std::vector<WorkBatch> batches;
    for (size_t i = 0; i < checkpoint->tensors().size(); i += step) {
      batches.push_back({"", {}, {{i, "", false}}});
    }
    return batches;
  }
  TemporaryDirectory dir;
  absl::StatusOr<Checkpoint> checkpoint;
  PlannedCheckpoint planned;
  RunControl control;
};

TEST_CASE("a shard is ready when its last tensor completes") {
  Fixture f;
  REQUIRE(f.checkpoint.ok());
  WorkBoard board(f.planned, f.Every(2), f.dir.path());
  std::vector<size_t> taken;
  while (const auto batch = board.NextBatch()) {
    taken.push_back(board.batches()[*batch].tensors[0].tensor);
  }
  REQUIRE(taken.size() == (f.checkpoint->tensors().size() + 1) / 2);
  CHECK_FALSE(board.HasBatches());
  board.GiveBack({1, 2});
  CHECK(board.HasBatches());
  CHECK(board.NextBatch() == 1);
  CHECK(board.NextBatch() == 2);

  // Completed in reverse by another thread, so the second shard is first.
  std::jthread streams([&] {
    for (auto it = taken.rbegin(); it != taken.rend(); ++it) {
      quant::v1::TensorReport report;
      report.set_name(f.checkpoint->tensors()[*it].entry.name);
      board.Complete({{*it, {{report.name(), DType::kU8, {1}, 0, 1}}, report}});
    }
  });
  CHECK(board.NextShard(f.control) == 1);
  CHECK(board.NextShard(f.control) == 0);
  CHECK(board.NextShard(f.control) == std::nullopt);
  const ArrivedShard first = board.TakeShard(0);
  const ArrivedShard second = board.TakeShard(1);
  CHECK(first.outputs.size() + second.outputs.size() == taken.size());
  const auto reports = board.Reports();
  REQUIRE(reports.size() == taken.size());
  for (size_t i = 0; i < taken.size(); ++i) {
    CHECK(reports[i].name() == f.checkpoint->tensors()[taken[i]].entry.name);
  }
}

TEST_CASE("shards without work are ready at once") {
  Fixture f;
  REQUIRE(f.checkpoint.ok());
  WorkBoard board(f.planned, {}, f.dir.path());
  CHECK_FALSE(board.HasBatches());
  CHECK(board.NextShard(f.control) == 0);
  CHECK(board.TakeShard(0).spill == nullptr);
  CHECK(board.NextShard(f.control) == 1);
  CHECK(board.NextShard(f.control) == std::nullopt);
}

TEST_CASE("a group's tensors count for the shards that they lie in") {
  Fixture f;
  REQUIRE(f.checkpoint.ok());
  const size_t last = f.checkpoint->tensors().size() - 1;
  REQUIRE(f.checkpoint->tensors()[last].shard == 1);
  WorkBatch group = {
      "g", {}, {{0, "", false}, {1, "", true}, {last, "", false}}};
  WorkBoard board(f.planned, {group}, "");
  CHECK(*board.SpillOf(0) == nullptr);  // nothing is kept
  REQUIRE(board.NextBatch() == 0);
  board.GiveBack({0});
  REQUIRE(board.NextBatch() == 0);
  CHECK_FALSE(board.HasBatches());
  std::vector<CompletedTensor> done;
  for (const BatchTensor& tensor : group.tensors) {
    done.push_back({tensor.tensor, {}, {}});
  }
  board.Complete(done);
  CHECK(board.NextShard(f.control) == 0);
  CHECK(board.NextShard(f.control) == 1);
  CHECK(board.Reports().size() == 3);
}

TEST_CASE("a failure ends the wait, and the first one is kept") {
  Fixture f;
  REQUIRE(f.checkpoint.ok());
  WorkBoard board(f.planned, f.Every(1), f.dir.path());
  std::jthread other([&] {
    f.control.Fail(UsageError("first"));
    f.control.Fail(UnexpectedError("second"));
  });
  CHECK(board.NextShard(f.control) == std::nullopt);
  CHECK_FALSE(f.control.Sleep(absl::Minutes(5)));
  CHECK(f.control.status().message() == "first");
}

}  // namespace
}  // namespace qs::cli
