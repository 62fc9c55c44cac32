#include "service/checkpoint/planned_checkpoint.h"

#include <functional>
#include <vector>

#include "quant/formats/safetensors.h"
#include "service/cli/exit_code.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Entries = std::vector<v1::PlanEntry>;

// A norm, a stack [2, 4, 3] and a head.
struct Fixture {
  Fixture() {
    const std::vector<uint8_t> data(2 * 24);
    const std::span<const uint8_t> bytes(data);
    const absl::Status written = WriteSafetensors(
        path,
        {{"a", DType::kBF16, {3}, bytes.subspan(0, 6)},
         {"b.experts.gate_up_proj", DType::kBF16, {2, 4, 3}, bytes},
         {"c", DType::kBF16, {3}, bytes.subspan(0, 6)}},
        {});
    INFO(written.ToString());
    REQUIRE(written.ok());
    auto opened = Checkpoint::Open(path);
    REQUIRE(opened.ok());
    checkpoint.emplace(*std::move(opened));
    Add("a", v1::PlanEntry::CARRY);
    Add("b.experts.gate_up_proj", v1::PlanEntry::SPLIT);
    for (int expert = 0; expert < 2; ++expert) {
      AddSlice(expert, 0);
      AddSlice(expert, 2);
    }
    Add("c", v1::PlanEntry::CARRY);
  }

  void Add(const std::string& name, v1::PlanEntry::Action action) {
    v1::PlanEntry& entry = entries.emplace_back();
    entry.set_name(name);
    entry.set_action(action);
  }
  void AddSlice(int expert, int first) {
    Add("b.experts." + std::to_string(expert) + (first > 0 ? ".up" : ".gate"),
        v1::PlanEntry::QUANTIZE);
    entries.back().set_rows(2);
    entries.back().set_cols(3);
    v1::TensorSlice* slice = entries.back().mutable_slice();
    slice->set_tensor("b.experts.gate_up_proj");
    slice->set_expert(expert);
    slice->set_first(first);
    slice->set_step(1);
  }

  TemporaryDirectory dir;
  std::string path = dir.path() + "/model.safetensors";
  std::optional<Checkpoint> checkpoint;
  Entries entries;
};

TEST_CASE("slices stand behind their stack, as the plan has them") {
  const Fixture f;
  const auto planned = PlannedCheckpoint::Make(*f.checkpoint, f.entries);
  INFO(planned.status().ToString());
  REQUIRE(planned.ok());
  REQUIRE(planned->tensors().size() == 7);
  CHECK_FALSE(planned->tensors()[1].slice);
  const PlannedTensor& up = planned->tensors()[5];
  CHECK(up.entry.name == "b.experts.1.up");
  CHECK(up.entry.shape == std::vector<int64_t>{2, 3});
  CHECK(up.entry.end - up.entry.begin == 12);
  REQUIRE(up.slice);
  CHECK(up.slice->begin == f.checkpoint->tensors()[1].entry.begin);
  CHECK(up.slice->expert == 1);
  CHECK(up.slice->first == 2);
  CHECK(planned->tensors()[6].entry.name == "c");
  CHECK(PlannedCheckpoint(*f.checkpoint).tensors().size() == 3);
}

TEST_CASE("a plan that does not fit the checkpoint is refused") {
  Fixture f;
  const auto refuses = [&](const std::string& what) {
    const absl::Status status =
        PlannedCheckpoint::Make(*f.checkpoint, f.entries).status();
    INFO(status.ToString());
    CHECK(ExitCodeOf(status) == ExitCode::kUnexpected);
    CHECK_THAT(std::string(status.message()), Catch::Matchers::Contains(what));
  };
  v1::TensorSlice* slice = f.entries[4].mutable_slice();
  SECTION("no entry") {
    f.entries.pop_back();
    refuses("no entry for c");
  }
  SECTION("one too many") {
    f.Add("d", v1::PlanEntry::CARRY);
    refuses("an entry for d");
  }
  SECTION("another order") {
    std::swap(f.entries[0], f.entries[6]);
    refuses("an entry for c");
  }
  SECTION("a slice missing") {
    f.entries.erase(f.entries.begin() + 4);
    refuses("slices of b.experts.gate_up_proj");
  }
  SECTION("a slice twice") {
    f.entries.insert(f.entries.begin() + 4, f.entries[4]);
    refuses("slices of b.experts.gate_up_proj");
  }
  SECTION("a slice of a tensor that is not split") {
    f.entries[1].set_action(v1::PlanEntry::CARRY);
    refuses("slices of b.experts.gate_up_proj");
  }
  SECTION("a slice of another tensor") {
    slice->set_tensor("a");
    refuses("a slice b.experts.1.gate of");
  }
  SECTION("a slice that is carried") {
    f.entries[4].set_action(v1::PlanEntry::CARRY);
    refuses("a slice b.experts.1.gate of");
  }
  SECTION("outside the stack") {
    SECTION("expert") { slice->set_expert(2); }
    SECTION("before") { slice->set_first(-1); }
    SECTION("behind") { slice->set_first(3); }
    SECTION("step") { slice->set_step(4); }
    SECTION("no step") { slice->set_step(0); }
    SECTION("huge step") { slice->set_step(int64_t{1} << 62); }
    SECTION("columns") { f.entries[4].set_cols(4); }
    SECTION("turned") { slice->set_transposed(true); }
    SECTION("rows") { f.entries[4].set_rows(5); }
    SECTION("no rows") { f.entries[4].set_rows(0); }
    refuses("rows of one of its matrices");
  }
}

}  // namespace
}  // namespace qs::cli
