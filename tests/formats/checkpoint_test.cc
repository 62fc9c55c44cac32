#include "quant/formats/checkpoint.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/formats/checkpoint_index.h"
#include "tests/formats/format_files.h"
#include "tests/formats/other_user.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

const std::string kIndex = "model.safetensors.index.json";

// A file with one U8 tensor of four elements for each name.
std::string Shard(const std::vector<std::string>& names) {
  std::string header = "{";
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string range =
        "[" + std::to_string(4 * i) + "," + std::to_string(4 * i + 4) + "]";
    header += (i == 0 ? "" : ",") + Entry(names[i], "U8", "[4]", range);
  }
  return RawSafetensors(header + "}", 4 * names.size());
}

std::string IndexOf(const std::map<std::string, std::string>& weight_map) {
  return SafetensorsIndexJson(weight_map, 0);
}

std::vector<std::string> TensorNames(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    names.push_back(checkpoint.shard_name(tensor.shard) + ":" +
                    tensor.entry.name);
  }
  return names;
}

std::vector<std::string> SideFiles(const Checkpoint& checkpoint) {
  std::vector<std::string> files;
  for (const CheckpointSideFile& file : checkpoint.side_files()) {
    files.push_back(file.path + " " + std::to_string(file.size_bytes));
  }
  return files;
}

Checkpoint OpenCheckpoint(const std::string& path) {
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(path);
  INFO(Text(checkpoint.status()));
  REQUIRE(checkpoint.ok());
  return *std::move(checkpoint);
}

void CheckInvalid(const absl::Status& status, const std::string& text) {
  INFO("wanted: " << text << "\ngot: " << Text(status));
  CHECK(IsInvalid(status, text));
}

// Two shards with their index.
void WriteSharded(const TempDir& dir) {
  WriteText(dir.File("s1.safetensors"), Shard({"b", "a"}));
  WriteText(dir.File("s2.safetensors"), Shard({"c"}));
  WriteText(dir.File(kIndex), IndexOf({{"a", "s1.safetensors"},
                                       {"b", "s1.safetensors"},
                                       {"c", "s2.safetensors"}}));
}

// What opening says when the index of two shards is `index`.
absl::Status WithIndex(const std::string& index) {
  TempDir dir;
  WriteSharded(dir);
  WriteText(dir.File(kIndex), index);
  return Checkpoint::Open(dir.path()).status();
}

}  // namespace

TEST_CASE("the checkpoint that transformers wrote", "[checkpoint]") {
  const Checkpoint checkpoint = OpenCheckpoint(DataPath("tiny-llama"));
  CHECK(checkpoint.is_directory());
  CHECK(checkpoint.has_index());
  REQUIRE(checkpoint.shards().size() == 2);
  CHECK(checkpoint.shard_name(1) == "model-00002-of-00002.safetensors");
  CHECK(checkpoint.config_json() ==
        ReadText(DataPath("tiny-llama/config.json")));
  const auto index =
      nlohmann::json::parse(ReadText(DataPath("tiny-llama/" + kIndex)));
  CHECK(checkpoint.tensors().size() == index.at("weight_map").size());
  int64_t bytes = 0;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    CHECK(index.at("weight_map").at(tensor.entry.name) ==
          checkpoint.shard_name(tensor.shard));
    bytes += tensor.entry.end - tensor.entry.begin;
  }
  CHECK(index.at("metadata").at("total_size") == bytes);
  CHECK(SideFiles(checkpoint).size() == 4);
}

TEST_CASE("an index prints as transformers prints it", "[checkpoint]") {
  const std::string text = ReadText(DataPath("tiny-llama/" + kIndex));
  const auto index = ParseSafetensorsIndex(text);
  REQUIRE(index.ok());
  const auto json = nlohmann::json::parse(text);
  std::string want = text;
  // A figure that only transformers knows.
  const std::string extra = "    \"total_parameters\": " +
                            json.at("metadata").at("total_parameters").dump() +
                            ",\n";
  const size_t at = want.find(extra);
  REQUIRE(at != want.npos);
  want.erase(at, extra.size());
  CHECK(SafetensorsIndexJson(*index, json.at("metadata").at("total_size")) ==
        want);
}

TEST_CASE("the weights of a directory", "[checkpoint]") {
  TempDir dir;
  SECTION("by the index, in the order of shard names") {
    WriteSharded(dir);
    const Checkpoint checkpoint = OpenCheckpoint(dir.path());
    CHECK(TensorNames(checkpoint) ==
          std::vector<std::string>{"s1.safetensors:b", "s1.safetensors:a",
                                   "s2.safetensors:c"});
    CHECK(checkpoint.config_json().empty());
    CHECK(checkpoint.side_files().empty());
  }
  SECTION("model.safetensors beside another file") {
    WriteText(dir.File("model.safetensors"), Shard({"a"}));
    WriteText(dir.File("adapter.safetensors"), Shard({"b"}));
    const Checkpoint checkpoint = OpenCheckpoint(dir.path());
    CHECK(TensorNames(checkpoint) ==
          std::vector<std::string>{"model.safetensors:a"});
    CHECK_FALSE(checkpoint.has_index());
    CHECK(SideFiles(checkpoint) ==
          std::vector<std::string>{"adapter.safetensors " +
                                   std::to_string(Shard({"b"}).size())});
  }
  SECTION("the only file") {
    WriteText(dir.File("x.safetensors"), Shard({"a"}));
    CHECK(TensorNames(OpenCheckpoint(dir.path())) ==
          std::vector<std::string>{"x.safetensors:a"});
  }
  SECTION("links, as in a download cache") {
    WriteText(dir.File("blob"), Shard({"a"}));
    REQUIRE(symlink("blob", dir.File("model.safetensors").c_str()) == 0);
    CHECK(TensorNames(OpenCheckpoint(dir.path())) ==
          std::vector<std::string>{"model.safetensors:a"});
  }
  SECTION("two files and no index") {
    WriteText(dir.File("x.safetensors"), Shard({"a"}));
    WriteText(dir.File("y.safetensors"), Shard({"b"}));
    CheckInvalid(Checkpoint::Open(dir.path()).status(),
                 "got 2 .safetensors files without " + kIndex);
  }
  SECTION("none") {
    WriteText(dir.File("pytorch_model.bin"), "x");
    const absl::Status status = Checkpoint::Open(dir.path()).status();
    CHECK(absl::IsNotFound(status));
    CHECK(absl::IsNotFound(Checkpoint::Open(dir.File("no")).status()));
  }
}

TEST_CASE("a single file is a checkpoint without config", "[checkpoint]") {
  TempDir dir;
  WriteText(dir.File("x.safetensors"), Shard({"a"}));
  WriteText(dir.File("config.json"), "{}");
  const Checkpoint checkpoint = OpenCheckpoint(dir.File("x.safetensors"));
  CHECK_FALSE(checkpoint.is_directory());
  CHECK(TensorNames(checkpoint) == std::vector<std::string>{"x.safetensors:a"});
  CHECK(checkpoint.config_json().empty());
  CHECK(checkpoint.side_files().empty());
}

TEST_CASE("other files of a directory", "[checkpoint]") {
  namespace fs = std::filesystem;
  TempDir dir;
  WriteSharded(dir);
  WriteText(dir.File("config.json"), "{\"a\": 1}");
  WriteText(dir.File("tokenizer.json"), "123");
  fs::create_directories(dir.File("1/2/3/4/5"));
  WriteText(dir.File("1/2/3/deep"), "12");
  WriteText(dir.File("1/2/3/4/deepest"), "12");
  WriteText(dir.File("1/2/3/4/5/too_deep"), "12");
  WriteText(dir.File("1/config.json"), "1");
  REQUIRE(symlink("tokenizer.json", dir.File("link").c_str()) == 0);
  REQUIRE(symlink("gone", dir.File("dangling").c_str()) == 0);
  REQUIRE(symlink("..", dir.File("1/loop").c_str()) == 0);
  REQUIRE(mkfifo(dir.File("fifo").c_str(), 0600) == 0);
  const Checkpoint checkpoint = OpenCheckpoint(dir.path());
  CHECK(SideFiles(checkpoint) ==
        std::vector<std::string>{"1/2/3/4/deepest 2", "1/2/3/deep 2",
                                 "1/config.json 1", "link 3",
                                 "tokenizer.json 3"});
  std::vector<std::string> left_out;
  for (const CheckpointLeftOut& path : checkpoint.left_out()) {
    CHECK_FALSE(path.reason.empty());
    left_out.push_back(path.path);
  }
  CHECK(left_out ==
        std::vector<std::string>{"1/2/3/4/5", "1/loop", "dangling", "fifo"});
  CHECK(checkpoint.config_json() == "{\"a\": 1}");
}

TEST_CASE("a directory that may not be read", "[checkpoint]") {
  TempDir dir;
  WriteText(dir.File("model.safetensors"), Shard({"a"}));
  std::filesystem::create_directory(dir.File("sub"));
  REQUIRE(chmod(dir.File("sub").c_str(), 0) == 0);
  const OtherUser other(dir.path());
  const absl::Status status = Checkpoint::Open(dir.path()).status();
  INFO(Text(status));
  CHECK(absl::IsPermissionDenied(status));
}

TEST_CASE("config.json is a JSON object", "[checkpoint]") {
  TempDir dir;
  WriteText(dir.File("model.safetensors"), Shard({"a"}));
  for (const std::string bad : {"", "[]", "{\"a\": }", "{\"a\":1,\"a\":2}"}) {
    WriteText(dir.File("config.json"), bad);
    CheckInvalid(Checkpoint::Open(dir.path()).status(), "config.json: ");
  }
  WriteText(dir.File("config.json"),
            "{" + std::string((4 << 20) - 1, ' ') + "}");
  CheckInvalid(Checkpoint::Open(dir.path()).status(),
               "got more bytes than allowed: 4194304");
}

TEST_CASE("a malformed shard is named", "[checkpoint]") {
  TempDir dir;
  WriteSharded(dir);
  WriteText(dir.File("s2.safetensors"), "rubbish that is no file");
  CheckInvalid(Checkpoint::Open(dir.path()).status(),
               "s2.safetensors\": safetensors header length: got ");
}

TEST_CASE("an index that is none", "[checkpoint]") {
  const std::string what = kIndex + ": ";
  CheckInvalid(WithIndex(""), what + "byte");
  CheckInvalid(WithIndex("[]"), what + "got an array, allowed: an object");
  CheckInvalid(WithIndex("{}"),
               what + "weight_map: got nothing, allowed: an object");
  CheckInvalid(WithIndex("{\"weight_map\": []}"),
               what + "weight_map: got an array, allowed: an object");
  CheckInvalid(WithIndex("{\"weight_map\":{\"a\":\"s1.safetensors\","
                         "\"a\":\"s2.safetensors\"}}"),
               what + "key \"a\": got twice");
  CHECK(absl::IsNotFound(WithIndex("{\"weight_map\": {}}")));
}

TEST_CASE("shard names stay beside the index", "[checkpoint]") {
  for (const std::string bad :
       {"7", "null", "\"\"", "\"s1.bin\"", "\".safetensors\"",
        "\"../s1.safetensors\"", "\"/etc/x.safetensors\"",
        "\"sub/x.safetensors\"", "\"x\\u0000.safetensors\"",
        "\"s1.safetensors/\""}) {
    CheckInvalid(WithIndex("{\"weight_map\":{\"a\":" + bad + "}}"),
                 kIndex + ": weight_map[\"a\"]: got ");
  }
}

TEST_CASE("index and shards agree in both directions", "[checkpoint]") {
  const std::string what = kIndex + ": ";
  const std::string s1 = "s1.safetensors", s2 = "s2.safetensors";
  CHECK(WithIndex(IndexOf({{"a", s1}, {"b", s1}, {"c", s2}})).ok());
  CheckInvalid(WithIndex(IndexOf({{"a", s1}, {"c", s2}})),
               what +
                   "weight_map: got no \"b\", allowed: every tensor of "
                   "\"s1.safetensors\"");
  CheckInvalid(
      WithIndex(IndexOf({{"a", s1}, {"b", s1}, {"c", s2}, {"d", s2}})),
      what +
          "weight_map[\"d\"]: got \"s2.safetensors\", allowed: a file that "
          "holds the tensor; none does");
  CheckInvalid(WithIndex(IndexOf({{"a", s1}, {"b", s2}, {"c", s2}})),
               what +
                   "weight_map[\"b\"]: got \"s2.safetensors\", allowed: "
                   "\"s1.safetensors\"");
  CheckInvalid(
      WithIndex(IndexOf({{"a", s1}, {"b", s1}, {"c", "s3.safetensors"}})),
      what +
          "got \"s3.safetensors\", allowed: files that exist beside the "
          "index");
  TempDir dir;
  WriteSharded(dir);
  WriteText(dir.File(s2), Shard({"c", "a"}));
  CheckInvalid(Checkpoint::Open(dir.path()).status(),
               what +
                   "tensor \"a\": got \"s1.safetensors\" and "
                   "\"s2.safetensors\", allowed: one file");
}

TEST_CASE("names that are no UTF-8 are refused, wherever they are",
          "[checkpoint]") {
  const std::string wanted =
      "\": got the file name \"b\\xffd.txt\", allowed: names in UTF-8";
  TempDir dir;
  WriteSharded(dir);
  WriteText(dir.File("\xc3\xa9.txt"), "fine");
  REQUIRE(Checkpoint::Open(dir.path()).ok());
  WriteText(dir.File("b\xff"
                     "d.txt"),
            "text");
  CheckInvalid(Checkpoint::Open(dir.path()).status(),
               "directory \"" + dir.path() + wanted);
  std::filesystem::create_directory(dir.File("sub"));
  std::filesystem::rename(dir.File("b\xff"
                                   "d.txt"),
                          dir.File("sub/b\xff"
                                   "d.txt"));
  CheckInvalid(Checkpoint::Open(dir.path()).status(),
               "got the file name \"sub/b\\xffd.txt\"");
  // What is not read is reported, too.
  std::filesystem::remove_all(dir.File("sub"));
  std::filesystem::create_symlink("/nowhere", dir.File("l\xff"));
  CheckInvalid(Checkpoint::Open(dir.path()).status(),
               "got the file name \"l\\xff\"");

  TempDir other;
  WriteText(other.File("s\xff.safetensors"), Shard({"a"}));
  CheckInvalid(Checkpoint::Open(other.path()).status(),
               "got the file name \"s\\xff.safetensors\"");
  CheckInvalid(Checkpoint::Open(other.File("s\xff.safetensors")).status(),
               "checkpoint: got the file name \"s\\xff.safetensors\"");
  // A tensor's name is in the header's JSON.
  std::string shard = Shard({"a"});
  shard[shard.find("\"a\"") + 1] = '\xff';
  WriteText(other.File("model.safetensors"), shard);
  const absl::Status status =
      Checkpoint::Open(other.File("model.safetensors")).status();
  CheckInvalid(status, "UTF-8");
  CHECK(status.message().find('\xff') == absl::string_view::npos);
}

TEST_CASE("quantization_config goes to the end of config.json",
          "[checkpoint]") {
  const auto merge = [](const std::string& config, const std::string& added) {
    const auto text = WithQuantizationConfig(config, added);
    INFO(Text(text.status()));
    REQUIRE(text.ok());
    return *text;
  };
  CHECK(merge("{}", "{}") == "{\n  \"quantization_config\": {}\n}\n");
  // Keys keep their order, numbers their value, the old scheme goes.
  CHECK(merge("{\"z\":1e-06,\"quantization_config\":{\"old\":1},"
              "\"a\":\"caf\\u00e9\",\"big\":18446744073709551615,"
              "\"theta\":10000.0}",
              "{\"bits\":4}") ==
        "{\n  \"z\": 1e-06,\n  \"a\": \"caf\\u00e9\",\n"
        "  \"big\": 18446744073709551615,\n  \"theta\": 10000.0,\n"
        "  \"quantization_config\": {\n    \"bits\": 4\n  }\n}\n");
  // Python's words, which are no JSON; strings that have them stay strings.
  CHECK(merge(R"({"t":[0.0,Infinity],"n":NaN,"m":{"x":-Infinity},"s":"NaN\"",)"
              R"("k\\":Infinity})",
              "{}") ==
        "{\n  \"t\": [\n    0.0,\n    Infinity\n  ],\n  \"n\": NaN,\n"
        "  \"m\": {\n    \"x\": -Infinity\n  },\n  \"s\": \"NaN\\\"\",\n"
        "  \"k\\\\\": Infinity,\n  \"quantization_config\": {}\n}\n");
  // Names of all that is left alone fill more than a model's own config may.
  const std::string names = "\"" + std::string(5 << 20, 'n') + "\"";
  CHECK(merge("{}", "{\"ignore\":[" + names + "]}").find(names) !=
        std::string::npos);
  CheckInvalid(WithQuantizationConfig("{NaN :1}", "{}").status(),
               "config.json: byte 1");
  CHECK(merge("{}", R"({"\u0001NaN":1})").find("\"\\u0001NaN\": 1") !=
        std::string::npos);
  CheckInvalid(WithQuantizationConfig("{\"a\":Inf}", "{}").status(),
               "config.json: byte 5");
  CheckInvalid(WithQuantizationConfig("[]", "{}").status(), "config.json: ");
  CheckInvalid(WithQuantizationConfig("{}", "7").status(),
               "quantization_config: ");
}

}  // namespace qs::testing
