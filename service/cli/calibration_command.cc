// Tested by tests/cli/calibration_command_test.cc.
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "quant/calibration/calibration_inspect.h"
#include "quant/formats/json.h"
#include "quant/formats/utf8.h"
#include "service/cli/commands.h"
#include "service/cli/exit_code.h"
#include "service/cli/output_staging.h"
#include "service/cli/run_control.h"
#include "service/cli/signal_watcher.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectedSite {
  const CalibrationSite* site = nullptr;
  SiteFacts facts;
  // No token came to this expert, but to others of its layer.
  bool borrows = false;

  bool unusable() const { return !facts.problem.empty() && !borrows; }
};

// The linears of a mixture that are alike, "layers.3.mlp/down_proj" of
// "layers.3.mlp.experts.7.down_proj"; empty for what is not an expert's.
std::string MixtureOf(const CalibrationSite& site) {
  constexpr std::string_view kExperts = ".experts.";
  if (site.modules.empty()) return "";
  const std::string& module = site.modules.front();
  const size_t at = module.find(kExperts);
  if (at == std::string::npos) return "";
  return absl::StrCat(module.substr(0, at), "/",
                      module.substr(module.rfind('.') + 1));
}

void FindBorrowers(std::vector<InspectedSite>* all) {
  std::set<std::string> lenders;
  for (const InspectedSite& one : *all) {
    if (one.facts.problem.empty()) lenders.insert(MixtureOf(*one.site));
  }
  lenders.erase("");
  for (InspectedSite& one : *all) {
    one.borrows =
        one.site->tokens == 0 && lenders.contains(MixtureOf(*one.site));
  }
}

absl::StatusOr<std::vector<InspectedSite>> InspectAll(
    const CalibrationFile& file) {
  std::vector<InspectedSite> all;
  for (size_t i = 0; i < file.sites().size(); ++i) {
    QS_ASSIGN_OR_RETURN(SiteFacts facts, InspectSite(file, i));
    all.push_back({&file.sites()[i], std::move(facts)});
  }
  FindBorrowers(&all);
  return all;
}

Json SiteJson(const InspectedSite& one) {
  Json json = {{"name", one.site->name},
               {"inputs", one.site->inputs},
               {"tokens", one.site->tokens},
               {"packed", one.site->packed},
               {"modules", one.site->modules},
               {"rank_deficient", one.facts.rank_deficient}};
  if (one.borrows) {
    json["borrows"] = true;
    return json;
  }
  if (one.unusable()) {
    json["problem"] = one.facts.problem;
    return json;
  }
  json["trace"] = one.facts.trace;
  json["dead_columns"] = one.facts.dead_columns;
  json["largest_input"] = one.facts.largest_input;
  json["largest_direction"] = one.facts.largest_direction;
  return json;
}

std::string InspectionJson(const CalibrationFile& file,
                           const std::vector<InspectedSite>& all) {
  Json json = {{"path", file.path()},
               {"metadata", file.metadata()},
               {"sites", Json::array()}};
  for (const InspectedSite& one : all) json["sites"].push_back(SiteJson(one));
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string NoteOf(const InspectedSite& one) {
  if (one.borrows) return "no tokens: borrows from the layer's other experts";
  if (one.unusable()) return "unusable, see below";
  return one.facts.rank_deficient ? "fewer tokens than inputs" : "";
}

std::string Percent(double share) {
  return absl::StrCat(FormatFixed(100 * share, 1), " %");
}

std::string InspectionText(const CalibrationFile& file,
                           const std::vector<InspectedSite>& all) {
  TextTable table({{"site", Align::kLeft},
                   {"inputs"},
                   {"tokens"},
                   {"readers"},
                   {"trace"},
                   {"dead"},
                   {"largest input"},
                   {"largest direction"},
                   {"note", Align::kLeft}});
  std::string problems;
  for (const InspectedSite& one : all) {
    const CalibrationSite* const site = one.site;
    const SiteFacts& facts = one.facts;
    const bool usable = facts.problem.empty();
    table.AddRow({site->name, absl::StrCat(site->inputs),
                  absl::StrCat(site->tokens),
                  absl::StrCat(site->modules.size()),
                  usable ? FormatError(facts.trace) : "",
                  usable ? absl::StrCat(facts.dead_columns) : "",
                  usable ? Percent(facts.largest_input) : "",
                  usable ? Percent(facts.largest_direction) : "", NoteOf(one)});
    if (one.unusable()) {
      absl::StrAppend(&problems, EscapeControls(facts.problem), "\n");
    }
  }
  std::string text = table.Text();
  for (const auto& [key, value] : file.metadata()) {
    absl::StrAppend(&text, EscapeControls(absl::StrCat(key, ": ", value)),
                    "\n");
  }
  return text + problems;
}

// The library names the file that it could not write.
absl::Status MergeError(const absl::Status& status, const std::string& out) {
  const bool at_output =
      absl::StrContains(status.message(), QuoteForError(out)) ||
      absl::StrContains(status.message(), QuoteForError(out + ".tmp"));
  return at_output ? OutputFault(status) : InputFault(status);
}

// Before gigabytes are read for nothing.
absl::Status CheckOutput(const Arguments& arguments) {
  for (const std::string& input : arguments.inputs) {
    std::error_code ignored;
    if (std::filesystem::equivalent(input, arguments.output, ignored)) {
      return UsageError(absl::StrCat("OUT: got ", QuoteForError(input),
                                     ", which is an input, allowed another "
                                     "file"));
    }
  }
  std::error_code ignored;
  if (arguments.run.overwrite ||
      !std::filesystem::exists(arguments.output, ignored)) {
    return absl::OkStatus();
  }
  return OutputFault(absl::AlreadyExistsError(
      absl::StrCat(QuoteForError(arguments.output),
                   ": got a file that exists, allowed a new one (or "
                   "--overwrite)")));
}

}  // namespace

absl::Status RunCalibrationMerge(const Arguments& arguments,
                                 const Console& console) {
  RunControl control;
  const SignalWatcher signals(control);
  QS_RETURN_IF_ERROR(CheckOutput(arguments));
  QS_ASSIGN_OR_RETURN(
      OutputTarget target,
      ResolveFile(arguments.output, FilesRead(arguments), OutputTarget()));
  target.overwrite = arguments.run.overwrite;
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<OutputStaging> staging,
                      OutputStaging::Create(target));
  const absl::StatusOr<std::vector<std::string>> conflicts =
      MergeCalibrations(staging->file(), arguments.inputs,
                        [&control] { return control.status(); });
  // The last moment for a signal: what is published stays.
  QS_RETURN_IF_ERROR(control.status());
  if (!conflicts.ok()) return MergeError(conflicts.status(), staging->file());
  QS_RETURN_IF_ERROR(staging->Publish());
  for (const std::string& conflict : *conflicts) {
    console.error << "quantctl: warning: " << EscapeControls(conflict) << "\n";
  }
  console.out << "wrote " << EscapeControls(arguments.output) << "\n";
  return absl::OkStatus();
}

absl::Status RunCalibrationInspect(const Arguments& arguments,
                                   const Console& console) {
  const absl::StatusOr<CalibrationFile> file =
      CalibrationFile::Open(arguments.input);
  if (!file.ok()) return InputFault(file.status());
  const auto all = InspectAll(*file);
  if (!all.ok()) return InputFault(all.status());
  console.out << (arguments.json ? InspectionJson(*file, *all)
                                 : InspectionText(*file, *all));
  console.out.flush();
  int64_t unusable = 0;
  for (const InspectedSite& one : *all) {
    unusable += one.unusable() ? 1 : 0;
  }
  if (unusable == 0) return absl::OkStatus();
  return InputFault(file->Error(absl::StrCat(
      "got ", unusable, " sites that no solver may use, allowed none")));
}

}  // namespace qs::cli
