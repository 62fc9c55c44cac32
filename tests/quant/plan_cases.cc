// Tested by tests/quant/plan_test.cc, which uses it.
#include "tests/quant/plan_cases.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace qs {
namespace {

namespace fs = std::filesystem;

constexpr char kShard[] = "model.safetensors";

// The first word, removed from the text.
std::string TakeWord(std::string* text) {
  const size_t end = std::min(text->find(' '), text->size());
  const std::string word = text->substr(0, end);
  text->erase(0, std::min(end + 1, text->size()));
  return word;
}

// What a tensor line and the lines below it say.
struct TensorLines {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string name;
  std::string common;                                      // for every scenario
  std::map<std::string, std::string> special;              // for one
  std::map<std::string, std::vector<std::string>> slices;  // behind it
};

TensorLines ParseTensor(std::string line) {
  TensorLines out;
  const auto dtype = ParseDType(TakeWord(&line));
  if (!dtype) throw std::runtime_error("unknown dtype in a plan case");
  out.dtype = *dtype;
  const std::string shape = TakeWord(&line);
  if (shape != "-") {
    for (const auto part : absl::StrSplit(shape, 'x')) {
      int64_t size = 0;
      if (!absl::SimpleAtoi(part, &size)) throw std::runtime_error(shape);
      out.shape.push_back(size);
    }
  }
  out.name = line;
  return out;
}

void ParseExpectation(std::string line, TensorLines* tensor) {
  for (const PlanScenario& scenario : PlanScenarios()) {
    if (line.starts_with(scenario.name + "+ ")) {
      tensor->slices[scenario.name].push_back(
          line.substr(scenario.name.size() + 2));
      return;
    }
    const std::string prefix = scenario.name + ": ";
    if (!line.starts_with(prefix)) continue;
    tensor->special[scenario.name] = line.substr(prefix.size());
    return;
  }
  tensor->common = line;
}

std::string WithNumbers(std::string text, const std::vector<int>& numbers) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    text = absl::StrReplaceAll(
        text, {{absl::StrCat("{", i + 1, "}"), absl::StrCat(numbers[i])}});
  }
  return text;
}

void AddTensors(const TensorLines& lines, PlanCase* out) {
  int64_t bytes = DTypeBytes(lines.dtype);
  for (const int64_t size : lines.shape) bytes *= size;
  for (const auto& [name, numbers] : ExpandRanges(lines.name)) {
    std::vector<PlanTensor>& tensors = out->request.tensors;
    const int64_t begin = tensors.empty() ? 0 : tensors.back().end;
    tensors.push_back(
        {name, lines.dtype, lines.shape, kShard, begin, begin + bytes});
    for (const PlanScenario& scenario : PlanScenarios()) {
      const auto special = lines.special.find(scenario.name);
      const std::string& expected =
          special == lines.special.end() ? lines.common : special->second;
      out->entries[scenario.name].push_back(
          absl::StrCat(name, "|", WithNumbers(expected, numbers)));
      const auto slices = lines.slices.find(scenario.name);
      if (slices == lines.slices.end()) continue;
      for (const std::string& slice : slices->second) {
        out->entries[scenario.name].push_back(slice);
      }
    }
  }
}

void ParseTail(const std::string& kind, std::string line, PlanCase* out) {
  const std::string scenario = TakeWord(&line);
  if (kind == "unquantized") {
    for (const auto& name : ExpandRanges(line)) {
      out->unquantized[scenario].push_back(name.first);
    }
  } else if (kind == "finding") {
    out->findings[scenario].push_back(line);
  } else if (kind == "engines") {
    out->engines[scenario] = line;
  } else if (kind == "error") {
    out->errors[scenario] = line;
  } else {
    throw std::runtime_error("unknown line in a plan case: " + kind);
  }
}

PlanCase ReadCase(const fs::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("no such plan case: " + path.string());
  PlanCase out;
  out.name = path.stem();
  out.request.files.push_back({kShard, 0});
  std::vector<TensorLines> tensors;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("  ")) {
      ParseExpectation(line.substr(2), &tensors.back());
      continue;
    }
    const std::string kind = TakeWord(&line);
    if (kind == "config") {
      out.request.config_json = line;
    } else if (kind == "tensor") {
      tensors.push_back(ParseTensor(line));
    } else {
      ParseTail(kind, line, &out);
    }
  }
  for (const TensorLines& lines : tensors) AddTensors(lines, &out);
  return out;
}

}  // namespace

const std::vector<PlanScenario>& PlanScenarios() {
  static const std::vector<PlanScenario> scenarios = {
      {"w4", FindPreset("W4A16")->spec, Engine::kVllm},
      {"nf4", FindPreset("NF4")->spec, Engine::kTransformers},
      {"nf4-any", FindPreset("NF4")->spec, Engine::kNone},
  };
  return scenarios;
}

std::vector<PlanCase> ReadPlanCases() {
  std::vector<fs::path> paths;
  for (const auto& entry :
       fs::directory_iterator(std::string(QS_TEST_DATA) + "/plan")) {
    if (entry.path().extension() == ".txt") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<PlanCase> cases;
  for (const fs::path& path : paths) cases.push_back(ReadCase(path));
  return cases;
}

PlanCase ReadPlanCase(const std::string& name) {
  return ReadCase(std::string(QS_TEST_DATA) + "/plan/" + name + ".txt");
}

PlanRequest RequestFor(const PlanCase& test, const PlanScenario& scenario) {
  PlanRequest request = test.request;
  request.spec = scenario.spec;
  request.engine = scenario.engine;
  return request;
}

std::string EntryLine(const PlanEntry& entry) {
  switch (entry.action) {
    case TensorAction::kQuantize:
      return absl::StrCat(entry.name, "|quantize ", entry.site,
                          entry.group.empty() ? "" : " ", entry.group);
    case TensorAction::kCarry:
      return absl::StrCat(entry.name, "|carry ", entry.reason);
    case TensorAction::kTied:
      return absl::StrCat(entry.name, "|tied ", entry.tied_to, " ",
                          entry.reason);
    case TensorAction::kSplit:
      return absl::StrCat(entry.name, "|split ", entry.reason);
  }
  return entry.name;
}

std::string FindingLine(const Finding& finding) {
  return absl::StrCat(
      finding.severity == Severity::kError ? "error " : "warning ",
      finding.rule, " ", finding.tensor.empty() ? "-" : finding.tensor);
}

std::vector<std::pair<std::string, std::vector<int>>> ExpandRanges(
    std::string_view pattern) {
  const size_t open = pattern.find('{');
  if (open == pattern.npos) return {{std::string(pattern), {}}};
  const size_t close = pattern.find('}', open);
  int first = 0;
  int last = 0;
  char dash = 0;
  std::istringstream range(
      std::string(pattern.substr(open + 1, close - open - 1)));
  range >> first >> dash >> last;
  if (!range || dash != '-') throw std::runtime_error(std::string(pattern));
  const auto rests = ExpandRanges(pattern.substr(close + 1));
  std::vector<std::pair<std::string, std::vector<int>>> out;
  for (int i = first; i <= last; ++i) {
    for (const auto& [rest, numbers] : rests) {
      out.emplace_back(
          absl::StrCat(std::string(pattern.substr(0, open)), i, rest),
          std::vector<int>{i});
      out.back().second.insert(out.back().second.end(), numbers.begin(),
                               numbers.end());
    }
  }
  return out;
}

}  // namespace qs
