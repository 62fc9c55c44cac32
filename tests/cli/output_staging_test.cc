#include "service/cli/output_staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "service/cli/exit_code.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;

// in/ with a shard, single.safetensors beside it.
struct Inputs {
  Inputs() {
    fs::create_directory(dir / "in");
    WriteAll(dir / "in/model.safetensors", "weights");
    WriteAll(dir / "single.safetensors", "weights");
  }
  absl::StatusOr<OutputTarget> Resolve(const std::string& out, bool overwrite,
                                       const std::string& in = "in") const {
    return ResolveOutput(dir / out, dir / in, overwrite);
  }
  TemporaryDirectory dir;
};

TEST_CASE("a directory appears complete under its name") {
  const Inputs inputs;
  const auto target = inputs.Resolve("out/", false);
  INFO(target.status().ToString());
  REQUIRE(target.ok());
  CHECK(target->path == inputs.dir / "out");
  auto staging = OutputStaging::Create(*target);
  REQUIRE(staging.ok());
  fs::create_directory((*staging)->directory() + "/sub");
  WriteAll((*staging)->directory() + "/sub/file", "data");
  CHECK_FALSE(fs::exists(inputs.dir / "out"));
  REQUIRE((*staging)->Publish().ok());
  staging->reset();
  CHECK(ReadAll(inputs.dir / "out/sub/file") == "data");
  CHECK(inputs.dir.Names().size() == 3);
}

TEST_CASE("without publish nothing is left") {
  const Inputs inputs;
  const auto target = inputs.Resolve("out", false);
  REQUIRE(target.ok());
  {
    const auto staging = OutputStaging::Create(*target);
    REQUIRE(staging.ok());
    WriteAll((*staging)->directory() + "/file", "data");
    CHECK(inputs.dir.Names().size() == 3);
  }
  CHECK(inputs.dir.Names().size() == 2);
}

TEST_CASE("overwrite replaces a checkpoint as a whole") {
  const Inputs inputs;
  fs::create_directory(inputs.dir / "out");
  WriteAll(inputs.dir / "out/old.safetensors", "old");
  CHECK(ExitCodeOf(inputs.Resolve("out", false).status()) == ExitCode::kOutput);
  const auto target = inputs.Resolve("out", true);
  INFO(target.status().ToString());
  REQUIRE(target.ok());
  {
    const auto staging = OutputStaging::Create(*target);
    REQUIRE(staging.ok());
    WriteAll((*staging)->directory() + "/new.safetensors", "new");
    REQUIRE((*staging)->Publish().ok());
  }
  CHECK(ReadAll(inputs.dir / "out/new.safetensors") == "new");
  CHECK_FALSE(fs::exists(inputs.dir / "out/old.safetensors"));
  CHECK(inputs.dir.Names().size() == 3);
}

TEST_CASE("a name that appeared meanwhile is not replaced") {
  const Inputs inputs;
  const auto target = inputs.Resolve("out", false);
  REQUIRE(target.ok());
  const auto staging = OutputStaging::Create(*target);
  REQUIRE(staging.ok());
  fs::create_directory(inputs.dir / "out");
  CHECK(ExitCodeOf((*staging)->Publish()) == ExitCode::kOutput);
}

TEST_CASE("what a killed run of the same output has left is removed") {
  const Inputs inputs;
  const pid_t gone = fork();
  if (gone == 0) _exit(0);
  REQUIRE(waitpid(gone, nullptr, 0) == gone);
  const std::string dead = std::to_string(gone);
  const std::string alive = std::to_string(getpid());
  const std::vector<std::string> stale = {".out.quantctl-" + dead,
                                          ".out.quantctl-" + dead + "-7"};
  const std::vector<std::string> others = {
      ".out.quantctl-" + alive, ".out.quantctl-" + dead + ".replaced",
      ".out.quantctl-0" + dead, ".out.quantctl-x",
      ".out.quantctl-",         ".out.quantctl-" + dead + "-",
      ".out2.quantctl-" + dead, "out.quantctl-" + dead};
  for (const auto* names : {&stale, &others}) {
    for (const std::string& name : *names) {
      fs::create_directories(inputs.dir / (name + "/sub"));
      WriteAll(inputs.dir / (name + "/sub/file"), "data");
    }
  }
  // In use, where process numbers are others.
  const std::string locked = inputs.dir / (".out.quantctl-" + dead + "-8");
  fs::create_directory(locked);
  const UniqueFd lock(open(locked.c_str(), O_RDONLY | O_DIRECTORY));
  REQUIRE(flock(lock.get(), LOCK_EX) == 0);
  const std::string file = ".out.quantctl-" + dead + "-9";
  WriteAll(inputs.dir / file, "no directory");
  const auto target = inputs.Resolve("out", false);
  REQUIRE(target.ok());
  REQUIRE(OutputStaging::Create(*target).ok());
  for (const std::string& name : stale) {
    CHECK_FALSE(fs::exists(inputs.dir / name));
  }
  for (const std::string& name : others) {
    INFO(name);
    CHECK(fs::exists(inputs.dir / (name + "/sub/file")));
  }
  CHECK(fs::exists(locked));
  CHECK(fs::exists(inputs.dir / file));
}

TEST_CASE("a link to a directory keeps pointing at what replaces it") {
  const Inputs inputs;
  fs::create_directory(inputs.dir / "real");
  WriteAll(inputs.dir / "real/old.safetensors", "old");
  fs::create_directory_symlink("real", inputs.dir / "out");
  const auto target = inputs.Resolve("out", true);
  INFO(target.status().ToString());
  REQUIRE(target.ok());
  {
    const auto staging = OutputStaging::Create(*target);
    REQUIRE(staging.ok());
    WriteAll((*staging)->directory() + "/new.safetensors", "new");
    REQUIRE((*staging)->Publish().ok());
  }
  CHECK(fs::is_symlink(inputs.dir / "out"));
  CHECK(ReadAll(inputs.dir / "out/new.safetensors") == "new");
  CHECK_FALSE(fs::exists(inputs.dir / "real/old.safetensors"));
  CHECK(inputs.dir.Names().size() == 4);
}

TEST_CASE("a single file") {
  const Inputs inputs;
  const auto target =
      inputs.Resolve("q.safetensors", false, "single.safetensors");
  INFO(target.status().ToString());
  REQUIRE(target.ok());
  CHECK_FALSE(target->is_directory);
  {
    const auto staging = OutputStaging::Create(*target);
    REQUIRE(staging.ok());
    WriteAll((*staging)->directory() + "/q.safetensors", "packed");
    REQUIRE((*staging)->Publish().ok());
  }
  CHECK(ReadAll(inputs.dir / "q.safetensors") == "packed");
  CHECK(inputs.dir.Names().size() == 3);
}

TEST_CASE("refused places") {
  const Inputs inputs;
  fs::create_directory(inputs.dir / "photos");
  WriteAll(inputs.dir / "photos/cat.jpg", "cat");
  auto exit_code = [&inputs](const char* out, bool overwrite,
                             const char* in = "in") {
    const auto target = inputs.Resolve(out, overwrite, in);
    INFO(out << ": " << target.status().ToString());
    return ExitCodeOf(target.status());
  };
  CHECK(exit_code("in", true) == ExitCode::kOutput);       // the input itself
  CHECK(exit_code(".", true) == ExitCode::kOutput);        // holds the input
  CHECK(exit_code("photos", true) == ExitCode::kOutput);   // no checkpoint
  CHECK(exit_code("no/out", false) == ExitCode::kOutput);  // no parent
  const std::string text(
      inputs.Resolve("no/out", false, "in").status().message());
  CHECK_THAT(text, Catch::Matchers::Contains("/no\", which does not exist"));
  CHECK_THAT(text, Catch::Matchers::Contains("mkdir -p"));
  CHECK(exit_code("single.safetensors/out", false) == ExitCode::kOutput);
  CHECK(exit_code("q.safetensors", false) == ExitCode::kUsage);
  CHECK(exit_code("out", false, "single.safetensors") == ExitCode::kUsage);
  CHECK(exit_code("single.safetensors", true, "single.safetensors") ==
        ExitCode::kOutput);
  CHECK(exit_code("in/out", false) == ExitCode::kOutput);  // in the input
  fs::create_directory_symlink(inputs.dir / "in", inputs.dir / "link");
  CHECK(exit_code("link", true) == ExitCode::kOutput);  // the input itself
  CHECK(exit_code("link/out", false) == ExitCode::kOutput);
  CHECK(exit_code("in2", false) == ExitCode::kOk);  // only begins like it
  CHECK(ReadAll(inputs.dir / "photos/cat.jpg") == "cat");
}

TEST_CASE("a report file goes where one can write, and replaces no weights") {
  const Inputs inputs;
  const auto target = inputs.Resolve("out", false);
  REQUIRE(target.ok());
  auto exit_code = [&](const std::string& file, const OutputTarget& output,
                       const char* in = "in") {
    INFO(file);
    return ExitCodeOf(
        CheckFileTarget(inputs.dir / file, {"", inputs.dir / in}, output));
  };
  CHECK(exit_code("report.json", *target) == ExitCode::kOk);
  CHECK(exit_code("no/report.json", *target) == ExitCode::kOutput);
  // What a slip of the hand would have destroyed.
  WriteAll(inputs.dir / "in/config.json", "{}");
  fs::create_directory(inputs.dir / "in/sub");
  fs::create_symlink("in", inputs.dir / "link");
  fs::create_symlink("in/config.json", inputs.dir / "config");
  fs::create_hard_link(inputs.dir / "in/config.json", inputs.dir / "hard");
  WriteAll(inputs.dir / "blob", "weights elsewhere");
  fs::create_symlink("../blob", inputs.dir / "in/linked.safetensors");
  for (const char* file :
       {"in", "in/config.json", "in/new.json", "in/sub/x.json", "in/../in/x",
        "link/config.json", "link/x.json", "config", "hard", "blob", "out",
        "out/report.json", "out/config.json"}) {
    CHECK(exit_code(file, *target) == ExitCode::kOutput);
  }
  const auto file =
      inputs.Resolve("q.safetensors", false, "single.safetensors");
  REQUIRE(file.ok());
  const char* single = "single.safetensors";
  CHECK(exit_code(single, *file, single) == ExitCode::kOutput);
  CHECK(exit_code("q.safetensors", *file, single) == ExitCode::kOutput);
  // Its text is in another file until it is complete.
  fs::create_hard_link(inputs.dir / single, inputs.dir / "r.json.tmp");
  CHECK(exit_code("r.json", *file, single) == ExitCode::kOutput);
}

}  // namespace
}  // namespace qs::cli
