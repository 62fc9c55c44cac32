#include "service/cli/output_staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "service/cli/exit_code.h"
#include "tests/cli/output_inputs.h"
#include "tests/cli/temporary_directory.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

namespace fs = std::filesystem;

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

TEST_CASE("a single file that became something else is not replaced") {
  const Inputs inputs;
  WriteAll(inputs.dir / "q.safetensors", "old");
  const auto target =
      inputs.Resolve("q.safetensors", true, "single.safetensors");
  REQUIRE(target.ok());
  const auto staging = OutputStaging::Create(*target);
  REQUIRE(staging.ok());
  WriteAll((*staging)->file(), "packed");
  fs::remove(inputs.dir / "q.safetensors");
  REQUIRE(mkfifo((inputs.dir / "q.safetensors").c_str(), 0600) == 0);
  CHECK(ExitCodeOf((*staging)->Publish()) == ExitCode::kOutput);
  CHECK(fs::is_fifo(inputs.dir / "q.safetensors"));
}

}  // namespace
}  // namespace qs::cli
