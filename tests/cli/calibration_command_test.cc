// quantctl calibration merge and inspect: output, refusals, exit codes.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "service/cli/commands.h"
#include "service/cli/exit_code.h"
#include "tests/quant/calibration_data.h"
#include "tests/testing/catch_compat.h"

namespace qs::cli {
namespace {

using Catch::Matchers::Contains;

const std::vector<RandomSite> kSites = {{"block.in", 8, 100, {"q", "k"}, 1},
                                        {"block.out", 12, 5, {"o"}, 2}};

struct Outcome {
  ExitCode code;
  std::string out;
  std::string error;
};

// As the program runs it.
Outcome Run(const std::vector<std::string>& args) {
  const ParsedArguments parsed = ParseArguments(args);
  if (!parsed.arguments) {
    return {static_cast<ExitCode>(parsed.exit_code), parsed.out, parsed.error};
  }
  std::ostringstream out;
  std::ostringstream error;
  const Console console = {out, error, 0};
  const absl::Status status =
      parsed.arguments->command == Command::kCalibrationMerge
          ? RunCalibrationMerge(*parsed.arguments, console)
          : RunCalibrationInspect(*parsed.arguments, console);
  error << std::string(status.message());
  return {ExitCodeOf(status), out.str(), error.str()};
}

Outcome Merge(std::vector<std::string> args) {
  args.insert(args.begin(), {"calibration", "merge"});
  return Run(args);
}

TEST_CASE("merging writes the sum and says what it left out") {
  const CalibrationFolder folder;
  const std::string a = WriteRandom(folder / "a.safetensors", kSites, true,
                                    {{"sequence_length", "1"}});
  const std::string b = WriteRandom(folder / "b.safetensors", kSites, true,
                                    {{"sequence_length", "2"}});
  const std::string out = folder / "out.safetensors";
  const Outcome merged = Merge({out, a, b});
  INFO(merged.error);
  CHECK(merged.code == ExitCode::kOk);
  CHECK(merged.out == "wrote " + out + "\n");
  CHECK_THAT(merged.error, Contains("warning: metadata \"sequence_length\""));
  const auto file = CalibrationFile::Open(out);
  REQUIRE(file.ok());
  CHECK(file->sites()[0].tokens == 200);
  SECTION("not over a file that exists, unless told to") {
    const Outcome again = Merge({out, a, b});
    CHECK(again.code == ExitCode::kOutput);
    CHECK_THAT(again.error, Contains("--overwrite"));
    CHECK(Merge({out, a, b, "--overwrite"}).code == ExitCode::kOk);
  }
  SECTION("not over an input, ever") {
    CHECK(Merge({a, a, b, "--overwrite"}).code == ExitCode::kUsage);
  }
}

TEST_CASE("merging fails with the code of what is wrong") {
  const CalibrationFolder folder;
  const std::string a = WriteRandom(folder / "a.safetensors", kSites);
  const std::string out = folder / "out.safetensors";
  CHECK(Merge({out, a}).code == ExitCode::kUsage);
  CHECK(Merge({out, a, folder / "none"}).code == ExitCode::kBadInput);
  std::ofstream(folder / "text") << "no tensors";
  CHECK(Merge({out, a, folder / "text"}).code == ExitCode::kBadInput);
  CHECK_FALSE(std::filesystem::exists(out));
  const std::string b = WriteRandom(folder / "b.safetensors", kSites);
  CHECK(Merge({folder / "none/out", a, b}).code == ExitCode::kOutput);
}

TEST_CASE("inspecting shows every site") {
  const CalibrationFolder folder;
  const std::string path = WriteRandom(folder / "c.safetensors", kSites, true,
                                       {{"model_digest", "sha256:7"}});
  const Outcome text = Run({"calibration", "inspect", path});
  INFO(text.error);
  CHECK(text.code == ExitCode::kOk);
  CHECK_THAT(text.out, Contains("block.in") && Contains("block.out") &&
                           Contains("fewer tokens than inputs") &&
                           Contains("model_digest: sha256:7"));
  const Outcome machine = Run({"calibration", "inspect", path, "--json"});
  const auto json = nlohmann::json::parse(machine.out);
  CHECK(json.at("path") == path);
  CHECK(json.at("metadata").at("model_digest") == "sha256:7");
  const auto& first = json.at("sites").at(0);
  CHECK(first.at("name") == "block.in");
  CHECK(first.at("inputs") == 8);
  CHECK(first.at("tokens") == 100);
  CHECK(first.at("modules") == nlohmann::json({"q", "k"}));
  CHECK(first.at("dead_columns") == 0);
  CHECK(first.at("trace").get<double>() > 0);
  CHECK(first.at("largest_direction").get<double>() >=
        first.at("largest_input").get<double>());
  CHECK_FALSE(first.at("rank_deficient").get<bool>());
  CHECK(json.at("sites").at(1).at("rank_deficient").get<bool>());
}

TEST_CASE("a site that no solver may use is bad input") {
  const CalibrationFolder folder;
  const std::string path = folder / "c.safetensors";
  const std::vector<CalibrationSite> sites = {{"a", 2, 3, false, {"m"}}};
  REQUIRE(WriteCalibration(path, sites, {}, [](size_t) {
            auto moments = SiteMoments::Create("a", 2);
            moments->second_moment()[0] = -1;
            moments->set_tokens(3);
            return moments;
          }).ok());
  const Outcome outcome = Run({"calibration", "inspect", path});
  CHECK(outcome.code == ExitCode::kBadInput);
  CHECK_THAT(outcome.out, Contains("second_moment[0, 0]: got -1"));
  CHECK_THAT(outcome.error, Contains("got 1 sites"));
  CHECK(Run({"calibration", "inspect", folder / "none"}).code ==
        ExitCode::kBadInput);
}

TEST_CASE("experts without tokens borrow, others are bad input") {
  const CalibrationFolder folder;
  const std::string path = folder / "c.safetensors";
  const auto inspect = [&](const std::vector<int64_t>& tokens,
                           const std::string& first) {
    std::vector<CalibrationSite> sites;
    for (size_t i = 0; i < tokens.size(); ++i) {
      sites.push_back({absl::StrCat("s", i),
                       2,
                       tokens[i],
                       false,
                       {absl::StrCat(first, i, ".down_proj")}});
    }
    REQUIRE(WriteCalibration(path, sites, {}, [&](size_t i) {
              auto moments = SiteMoments::Create(sites[i].name, 2);
              const auto square = static_cast<float>(tokens[i]);
              moments->second_moment()[0] = square;
              moments->second_moment()[3] = square;
              moments->set_tokens(tokens[i]);
              return moments;
            }).ok());
    return Run({"calibration", "inspect", path});
  };
  const Outcome experts = inspect({9, 0, 0}, "layers.0.mlp.experts.");
  INFO(experts.out << experts.error);
  CHECK(experts.code == ExitCode::kOk);
  CHECK_THAT(experts.out,
             Contains("no tokens: borrows from the layer's other"));
  CHECK_THAT(experts.out, !Contains("unusable"));
  const Outcome machine = Run({"calibration", "inspect", path, "--json"});
  const auto json = nlohmann::json::parse(machine.out);
  CHECK_FALSE(json.at("sites").at(0).contains("borrows"));
  CHECK(json.at("sites").at(1).at("borrows") == true);
  CHECK_FALSE(json.at("sites").at(1).contains("problem"));
  SECTION("from nobody") {
    const Outcome none = inspect({0, 0}, "layers.0.mlp.experts.");
    CHECK(none.code == ExitCode::kBadInput);
    CHECK_THAT(none.error, Contains("got 2 sites"));
  }
  SECTION("what is no expert") {
    const Outcome other = inspect({9, 0}, "layers.");
    CHECK(other.code == ExitCode::kBadInput);
    CHECK_THAT(other.out, Contains("token_count: got 0"));
  }
}

TEST_CASE("calibration needs to be told what to do") {
  CHECK(Run({"calibration"}).code == ExitCode::kUsage);
  CHECK(Run({"calibration", "split"}).code == ExitCode::kUsage);
}

}  // namespace
}  // namespace qs::cli
