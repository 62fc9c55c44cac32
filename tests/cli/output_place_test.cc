#include "service/cli/output_place.h"

#include <sys/stat.h>

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
        ResolveFile(inputs.dir / file, {"", inputs.dir / in}, output).status());
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
  fs::create_symlink("in/absent.json", inputs.dir / "dangling");
  for (const char* file :
       {"in", "in/config.json", "in/new.json", "in/sub/x.json", "in/../in/x",
        "link/config.json", "link/x.json", "dangling", "config", "hard", "blob",
        "out", "out/report.json", "out/config.json"}) {
    CHECK(exit_code(file, *target) == ExitCode::kOutput);
  }
  const auto file =
      inputs.Resolve("q.safetensors", false, "single.safetensors");
  REQUIRE(file.ok());
  const char* single = "single.safetensors";
  CHECK(exit_code(single, *file, single) == ExitCode::kOutput);
  CHECK(exit_code("q.safetensors", *file, single) == ExitCode::kOutput);
}

TEST_CASE("an output that holds what is read is not replaced") {
  const Inputs inputs;
  const std::string out = inputs.dir / "out";
  fs::create_directories(out + "/sub");
  WriteAll(out + "/old.safetensors", "old");
  WriteAll(out + "/sub/read", "moments");
  WriteAll(inputs.dir / "read", "moments");
  const auto refused = [&](const std::vector<std::string>& reads) {
    const auto target = ResolveOutput(out, inputs.dir / "in", true, reads);
    INFO(target.status().ToString());
    CHECK((target.ok() || ExitCodeOf(target.status()) == ExitCode::kOutput));
    return !target.ok();
  };
  CHECK_FALSE(refused({}));
  CHECK_FALSE(refused({"", inputs.dir / "none", inputs.dir / "read"}));
  CHECK(refused({inputs.dir / "read", out + "/sub/read"}));
  CHECK(refused({out + "/old.safetensors"}));
  SECTION("behind a link") {
    fs::create_symlink("out/sub/read", inputs.dir / "link");
    CHECK(refused({inputs.dir / "link"}));
    fs::create_symlink("out", inputs.dir / "folder");
    CHECK(refused({inputs.dir / "folder/sub/read"}));
  }
  SECTION("by a link that would go") {
    fs::create_symlink("../read", out + "/link");
    CHECK(refused({out + "/link"}));
  }
  SECTION("an input of links") {
    fs::create_symlink("../out/old.safetensors",
                       inputs.dir / "in/linked.safetensors");
    CHECK(refused({}));
  }
  SECTION("a single file") {
    WriteAll(inputs.dir / "moments.safetensors", "moments");
    const auto target = ResolveOutput(inputs.dir / "moments.safetensors",
                                      inputs.dir / "single.safetensors", true,
                                      {inputs.dir / "moments.safetensors"});
    CHECK(ExitCodeOf(target.status()) == ExitCode::kOutput);
  }
}

TEST_CASE("a link to nothing names its target") {
  const Inputs inputs;
  const bool is_file = GENERATE(false, true);
  const std::string in = is_file ? "single.safetensors" : "in";
  const std::string link = is_file ? "link.safetensors" : "link";
  const std::string name = is_file ? "new.safetensors" : "new";
  fs::create_symlink(name, inputs.dir / link);
  CHECK(ExitCodeOf(inputs.Resolve(link, false, in).status()) ==
        ExitCode::kOutput);
  const auto target = inputs.Resolve(link, true, in);
  REQUIRE(target.ok());
  CHECK(target->path == inputs.dir / name);
  // Neither a new file of the name nor one in the input.
  fs::create_symlink(is_file ? "new/" : "in/new", inputs.dir / ("2" + link));
  CHECK(ExitCodeOf(inputs.Resolve("2" + link, true, in).status()) ==
        ExitCode::kOutput);
}

TEST_CASE("what is no file is not replaced by one") {
  const Inputs inputs;
  REQUIRE(mkfifo((inputs.dir / "fifo").c_str(), 0600) == 0);
  fs::create_symlink("fifo", inputs.dir / "q.safetensors");
  fs::create_directory(inputs.dir / "folder");
  const auto target =
      inputs.Resolve("q.safetensors", true, "single.safetensors");
  CHECK(ExitCodeOf(target.status()) == ExitCode::kOutput);
  for (const char* name : {"fifo", "q.safetensors", "folder"}) {
    CHECK(ExitCodeOf(ResolveFile(inputs.dir / name, {}, {}).status()) ==
          ExitCode::kOutput);
  }
  // A link's target is what is replaced.
  fs::create_symlink("folder/new", inputs.dir / "link");
  const auto file = ResolveFile(inputs.dir / "link", {}, {});
  REQUIRE(file.ok());
  CHECK(file->path == inputs.dir / "folder/new");
  CHECK(ExitCodeOf(ResolveFile(inputs.dir / "new/", {}, {}).status()) ==
        ExitCode::kOutput);
  fs::create_symlink("circle", inputs.dir / "circle");
  CHECK(ExitCodeOf(ResolveFile(inputs.dir / "circle", {}, {}).status()) ==
        ExitCode::kOutput);
}

}  // namespace
}  // namespace qs::cli
