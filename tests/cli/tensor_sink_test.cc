#include "service/cli/tensor_sink.h"

#include <signal.h>
#include <sys/resource.h>

#include <functional>
#include <string>
#include <vector>

#include "service/cli/exit_code.h"
#include "service/stream/crc32c.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

CheckpointTensor Source() {
  CheckpointTensor tensor;
  tensor.entry = {"w", DType::kBF16, {2, 4}, 0, 16};
  return tensor;
}

v1::Frame MakeFrame(const std::string& name, int64_t size, int64_t offset,
                    const std::string& data, bool last) {
  v1::Frame frame;
  frame.set_tensor(name);
  frame.set_dtype(v1::U8);
  frame.add_shape(size);
  frame.set_offset(offset);
  frame.set_data(data);
  frame.set_crc32c(
      Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()}));
  frame.set_last(last);
  return frame;
}

v1::TensorReport MakeReport() {
  v1::TensorReport report;
  report.set_name("w");
  report.set_dtype(v1::BF16);
  report.add_shape(2);
  report.add_shape(4);
  report.set_bytes_out(6);
  for (const char* name : {"w", "w.absmax"}) {
    report.add_output_tensors(std::string(name));
  }
  return report;
}

struct Fixture {
  Fixture() : spill(SpillFile::Create(dir.path())) {}
  TemporaryDirectory dir;
  absl::StatusOr<std::unique_ptr<SpillFile>> spill;
  CheckpointTensor source = Source();
};

TEST_CASE("a spill file that cannot grow names its directory") {
  Fixture f;
  REQUIRE(f.spill.ok());
  rlimit before;
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {1, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  const absl::Status status =
      (*f.spill)->Write(0, std::vector<uint8_t>(100, 1));
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  CHECK(ExitCodeOf(status) == ExitCode::kOutput);
  CHECK(std::string(status.message()) ==
        "write a temporary file in \"" + f.dir.path() + "\": File too large");
}

TEST_CASE("frames end up in the spill file") {
  Fixture f;
  REQUIRE(f.spill.ok());
  CHECK(f.dir.Names().empty());  // it has no name
  // Another tensor's place comes first.
  const int64_t before = (*f.spill)->Reserve(5);
  CHECK(before == 0);
  TensorSink sink(f.source, f.spill->get());
  REQUIRE(sink.TakeFrame(MakeFrame("w", 4, 0, "abc", false)).ok());
  REQUIRE(sink.TakeFrame(MakeFrame("w", 4, 3, "d", true)).ok());
  REQUIRE(sink.TakeFrame(MakeFrame("w.absmax", 2, 0, "ef", true)).ok());
  REQUIRE(sink.TakeReport(MakeReport()).ok());
  REQUIRE(sink.outputs().size() == 2);
  CHECK(sink.outputs()[1].name == "w.absmax");
  CHECK(sink.outputs()[1].shape == std::vector<int64_t>{2});
  const auto bytes = (*f.spill)->Map();
  REQUIRE(bytes.ok());
  CHECK(std::string(bytes->begin() + 5, bytes->end()) == "abcdef");
}

TEST_CASE("a zero-sized output is one empty frame") {
  Fixture f;
  REQUIRE(f.spill.ok());
  TensorSink sink(f.source, f.spill->get());
  CHECK(sink.TakeFrame(MakeFrame("w", 0, 0, "", true)).ok());
  const auto bytes = (*f.spill)->Map();
  REQUIRE(bytes.ok());
  CHECK(bytes->empty());
}

TEST_CASE("without a spill file data are checked and dropped") {
  Fixture f;
  TensorSink sink(f.source, nullptr);
  REQUIRE(sink.TakeFrame(MakeFrame("w", 4, 0, "abcd", true)).ok());
  REQUIRE(sink.TakeFrame(MakeFrame("w.absmax", 2, 0, "ef", true)).ok());
  CHECK(sink.TakeReport(MakeReport()).ok());
  v1::Frame flipped = MakeFrame("w.x", 4, 0, "abcd", true);
  flipped.set_data("abcD");
  CHECK_FALSE(sink.TakeFrame(flipped).ok());
}

TEST_CASE("a fold-only tensor comes back as itself") {
  const auto answer = [](const std::string& name, v1::DataType dtype,
                         int64_t rows) {
    Fixture f;
    TensorSink sink(f.source, f.spill->get(), /*fold_only=*/true);
    const std::string data(static_cast<size_t>(rows * 8), 'x');
    v1::Frame frame = MakeFrame(name, rows, 0, data, true);
    frame.add_shape(4);
    frame.set_dtype(dtype);
    v1::TensorReport report = MakeReport();
    report.set_bytes_out(rows * 8);
    report.clear_output_tensors();
    report.add_output_tensors(name);
    const absl::Status taken = sink.TakeFrame(frame);
    return taken.ok() ? sink.TakeReport(report) : taken;
  };
  CHECK(answer("w", v1::BF16, 2).ok());
  for (const absl::Status& status :
       {answer("v", v1::BF16, 2), answer("w", v1::F16, 2),
        answer("w", v1::BF16, 1)}) {
    INFO(status.ToString());
    CHECK(ExitCodeOf(status) == ExitCode::kUnexpected);
  }
}

// Frames of which the last one breaks a promise; `says` is in the error.
void CheckBroken(const std::vector<v1::Frame>& frames, const char* says) {
  Fixture f;
  REQUIRE(f.spill.ok());
  TensorSink sink(f.source, f.spill->get());
  for (size_t i = 0; i + 1 < frames.size(); ++i) {
    REQUIRE(sink.TakeFrame(frames[i]).ok());
  }
  const absl::Status status = sink.TakeFrame(frames.back());
  INFO(status.ToString());
  CHECK(ExitCodeOf(status) == ExitCode::kUnexpected);
  CHECK(std::string(status.message()).find(says) != std::string::npos);
}

TEST_CASE("broken promises of frames") {
  const v1::Frame first = MakeFrame("w", 4, 0, "ab", false);
  CheckBroken({first, MakeFrame("w", 4, 1, "cd", true)}, "offset");
  CheckBroken({first, MakeFrame("v", 4, 2, "cd", true)}, "more of w");
  CheckBroken({first, MakeFrame("w", 5, 2, "cde", true)}, "first frame");
  CheckBroken({first, MakeFrame("w", 4, 2, "cde", true)}, "length");
  CheckBroken({first, MakeFrame("w", 4, 2, "c", true)}, "length");
  CheckBroken({MakeFrame("w", 4, 0, "abcd", false)}, "length");
  CheckBroken({MakeFrame("w", int64_t{1} << 40, 0, "a", false)}, "shape");
  CheckBroken({MakeFrame("w", -1, 0, "a", false)}, "shape");
  v1::Frame flipped = MakeFrame("w", 4, 0, "abcd", true);
  flipped.set_data("abcD");
  CheckBroken({flipped}, "crc32c");
  v1::Frame unknown = MakeFrame("w", 4, 0, "abcd", true);
  unknown.set_dtype(v1::DATA_TYPE_UNSPECIFIED);
  CheckBroken({unknown}, "dtype");
}

TEST_CASE("broken promises of the report") {
  using Change = std::function<void(v1::TensorReport&)>;
  const Change changes[] = {
      [](v1::TensorReport& r) { r.set_name("v"); },
      [](v1::TensorReport& r) { r.set_dtype(v1::F16); },
      [](v1::TensorReport& r) { r.add_shape(1); },
      [](v1::TensorReport& r) { r.set_bytes_out(7); },
      [](v1::TensorReport& r) { r.mutable_output_tensors()->RemoveLast(); },
  };
  for (const Change& change : changes) {
    Fixture f;
    REQUIRE(f.spill.ok());
    TensorSink sink(f.source, f.spill->get());
    CHECK_FALSE(sink.TakeReport(MakeReport()).ok());  // before any frame
    REQUIRE(sink.TakeFrame(MakeFrame("w", 4, 0, "abcd", true)).ok());
    REQUIRE(sink.TakeFrame(MakeFrame("w.absmax", 2, 0, "e", false)).ok());
    CHECK_FALSE(sink.TakeReport(MakeReport()).ok());  // in the middle
    REQUIRE(sink.TakeFrame(MakeFrame("w.absmax", 2, 1, "f", true)).ok());
    v1::TensorReport report = MakeReport();
    REQUIRE(sink.TakeReport(report).ok());
    change(report);
    const absl::Status status = sink.TakeReport(report);
    INFO(status.ToString());
    CHECK(ExitCodeOf(status) == ExitCode::kUnexpected);
  }
}

}  // namespace
}  // namespace qs::cli
