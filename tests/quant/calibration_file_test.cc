// Calibration files: what is read back, what is refused, merging, inspecting.
#include "quant/calibration/calibration_file.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "quant/calibration/calibration_inspect.h"
#include "tests/quant/calibration_data.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

using Catch::Matchers::Contains;

const std::vector<RandomSite>& Sites() {
  static const auto* sites = new std::vector<RandomSite>{
      {"block.qkv", 40, 100, {"block.q", "block.k", "block.v"}, 1},
      {"block.down", 97, 50, {"block.down"}, 2}};
  return *sites;
}

CalibrationFile Opened(const std::string& path) {
  absl::StatusOr<CalibrationFile> file = CalibrationFile::Open(path);
  INFO(file.status());
  REQUIRE(file.ok());
  return *std::move(file);
}

SiteMoments Loaded(const CalibrationFile& file, size_t site) {
  absl::StatusOr<SiteMoments> moments = file.Load(site);
  INFO(moments.status());
  REQUIRE(moments.ok());
  return *std::move(moments);
}

std::string Refused(const absl::Status& status) {
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST_CASE("A calibration is read back as it was written") {
  const CalibrationFolder folder;
  const bool packed = GENERATE(true, false);
  const CalibrationFile file =
      Opened(WriteRandom(folder / "c.safetensors", Sites(), packed,
                         {{"model_digest", "sha256:1"}, {"author", "me"}}));
  CHECK(file.metadata() ==
        CalibrationMetadata{{"model_digest", "sha256:1"}, {"author", "me"}});
  REQUIRE(file.sites().size() == 2);
  const size_t order[] = {1, 0};  // sorted by name
  for (size_t i = 0; i < 2; ++i) {
    const RandomSite& expected = Sites()[order[i]];
    const CalibrationSite& site = file.sites()[i];
    CHECK(site.name == expected.name);
    CHECK(site.inputs == expected.inputs);
    CHECK(site.tokens == expected.tokens);
    CHECK(site.packed == packed);
    CHECK(site.modules == expected.modules);
    const SiteMoments moments = Loaded(file, i);
    CHECK(moments.site() == expected.name);
    CHECK(moments.tokens() == expected.tokens);
    CHECK(SquareOf(moments) == SquareOf(MomentsOf(expected)));
    CHECK(AbsOf(moments) == AbsOf(MomentsOf(expected)));
  }
  CHECK(file.Load(0, "other")->site() == "other");
}

// Files that the writer would not make, tensor by tensor.
class OddFile {
 public:
  explicit OddFile(const std::string& path) : path_(path) {
    Add("a.second_moment", DType::kF32, {2, 2}, {1, 0, 0, 1});
    Add("a.abs_sum", DType::kF32, {2}, {1, 1});
    const int64_t tokens = 3;
    Tensor& count = tensors_["a.token_count"];
    count = {DType::kI64, {1}, std::vector<uint8_t>(8)};
    std::memcpy(count.bytes.data(), &tokens, 8);
  }

  void Add(const std::string& name, DType dtype, std::vector<int64_t> shape,
           const std::vector<float>& values) {
    Tensor& tensor = tensors_[name];
    tensor = {dtype, std::move(shape), {}};
    tensor.bytes.resize(values.size() * sizeof(float));
    std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  }
  void SetTokens(int64_t tokens) {
    std::memcpy(tensors_["a.token_count"].bytes.data(), &tokens, 8);
  }
  void Remove(const std::string& name) { tensors_.erase(name); }

  absl::StatusOr<CalibrationFile> Open() {
    std::vector<SafetensorsItem> items;
    for (const auto& [name, tensor] : tensors_) {
      items.push_back({name, tensor.dtype, tensor.shape, tensor.bytes});
    }
    REQUIRE(WriteSafetensors(path_, items, metadata).ok());
    return CalibrationFile::Open(path_);
  }
  std::string Error() { return Refused(Open().status()); }

  CalibrationMetadata metadata = {{"inputs", R"({"a": ["m"]})"}};

 private:
  struct Tensor {
    DType dtype;
    std::vector<int64_t> shape;
    std::vector<uint8_t> bytes;
  };
  std::string path_;
  std::map<std::string, Tensor> tensors_;
};

TEST_CASE("A file that is no calibration is refused by what is wrong") {
  const CalibrationFolder folder;
  OddFile file(folder / "odd.safetensors");
  REQUIRE(file.Open().ok());
  SECTION("no inputs") {
    file.metadata = {{"format", "pt"}};
    CHECK_THAT(file.Error(), Contains("odd.safetensors") &&
                                 Contains("metadata inputs: got none"));
  }
  SECTION("inputs that are no such JSON") {
    for (const char* text :
         {"[", "[]", R"({"a": "m"})", R"({"a": []})", R"({"a": [1]})"}) {
      file.metadata["inputs"] = text;
      CHECK_THAT(file.Error(), Contains("metadata inputs"));
    }
  }
  SECTION("a module at two sites") {
    file.metadata["inputs"] = R"({"a": ["m", "m"]})";
    CHECK_THAT(file.Error(), Contains("module \"m\""));
  }
  SECTION("a tensor that is not there") {
    for (const char* name : {"a.second_moment", "a.abs_sum", "a.token_count"}) {
      OddFile one(folder / "one.safetensors");
      one.Remove(name);
      CHECK_THAT(one.Error(), Contains(name) && Contains("got none"));
    }
  }
  SECTION("a tensor of no site") {
    file.Add("b.abs_sum", DType::kF32, {1}, {1});
    CHECK_THAT(file.Error(), Contains("\"b.abs_sum\": got one of no site"));
  }
  SECTION("another dtype") {
    file.Add("a.second_moment", DType::kI32, {2, 2}, {1, 0, 0, 1});
    CHECK_THAT(file.Error(), Contains("got I32 [2, 2], allowed F32"));
  }
  SECTION("not square, or of another size than abs_sum") {
    file.Add("a.second_moment", DType::kF32, {4, 1}, {1, 0, 0, 1});
    CHECK_THAT(file.Error(), Contains("got F32 [4, 1]") &&
                                 Contains("F32 [2, 2]") && Contains("[3]"));
    file.Add("a.second_moment", DType::kF32, {6}, {1, 0, 0, 1, 0, 1});
    CHECK_THAT(file.Error(), Contains("got F32 [6]"));
    file.Add("a.abs_sum", DType::kF32, {2, 1}, {1, 1});
    CHECK_THAT(file.Error(), Contains("a.abs_sum\": got F32 [2, 1]"));
  }
  SECTION("a negative count") {
    file.SetTokens(-1);
    CHECK_THAT(file.Error(), Contains("a.token_count\": got -1"));
  }
}

// A file of one site whose numbers are a hole on the disk.
std::string WriteHole(const std::string& path, int64_t inputs) {
  const int64_t packed = 4 * SiteMoments::PackedElements(inputs);
  const int64_t sums = packed + 4 * inputs;
  const std::string header = absl::StrCat(
      R"({"__metadata__":{"inputs":"{\"a\": [\"m\"]}"},)",
      R"("a.second_moment":{"dtype":"F32","shape":[)", packed / 4,
      R"(],"data_offsets":[0,)", packed,
      R"(]},"a.abs_sum":{"dtype":"F32","shape":[)", inputs,
      R"(],"data_offsets":[)", packed, ",", sums,
      R"(]},"a.token_count":{"dtype":"I64","shape":[1],"data_offsets":[)", sums,
      ",", sums + 8, "]}}");
  const uint64_t length = header.size();
  const int64_t tokens = 3;
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), 8);
  out.write(header.data(), static_cast<std::streamsize>(length));
  out.seekp(static_cast<std::streamoff>(8 + header.size()) + sums);
  out.write(reinterpret_cast<const char*>(&tokens), 8);
  REQUIRE(out.good());
  return path;
}

TEST_CASE("The widest inputs lie at 64-bit offsets of a file") {
  const CalibrationFolder folder;
  for (const int64_t n : {int64_t{53248}, kMaxSiteInputs}) {
    const CalibrationFile file = Opened(WriteHole(folder / "wide", n));
    REQUIRE(file.sites().size() == 1);
    CHECK(file.sites()[0].inputs == n);
    CHECK(file.sites()[0].packed);
    CHECK(file.sites()[0].tokens == 3);  // behind 8 GiB of moments
  }
  const std::string wider = WriteHole(folder / "wider", kMaxSiteInputs + 1);
  CHECK_THAT(Refused(CalibrationFile::Open(wider).status()),
             Contains("got F32 [65537], allowed F32 [1 to 65536]"));
}

TEST_CASE("Bad numbers are refused when a site is loaded") {
  const CalibrationFolder folder;
  OddFile odd(folder / "odd.safetensors");
  SECTION("not symmetric") {
    odd.Add("a.second_moment", DType::kF32, {2, 2}, {1, 0.5, 0.4, 1});
    const auto file = odd.Open();
    REQUIRE(file.ok());
    CHECK_THAT(Refused(file->Load(0).status()), Contains("odd.safetensors") &&
                                                    Contains("site \"a\"") &&
                                                    Contains("mirror"));
    CHECK(file->Read(0).ok());
    CHECK_THAT(InspectSite(*file, 0)->problem, Contains("mirror"));
  }
  SECTION("sums without tokens") {
    odd.SetTokens(0);
    const auto file = odd.Open();
    CHECK_THAT(Refused(file->Load(0).status()), Contains("a.token_count"));
    CHECK(InspectSite(*file, 0)->rank_deficient);
  }
  SECTION("an expert that no token reached is no error") {
    odd.SetTokens(0);
    odd.Add("a.second_moment", DType::kF32, {3}, {0, 0, 0});
    odd.Add("a.abs_sum", DType::kF32, {2}, {0, 0});
    CHECK(odd.Open()->Load(0).ok());
  }
}

TEST_CASE("A file that shrinks while it is open is an error, no crash") {
  const CalibrationFolder folder;
  const std::string path = WriteRandom(folder / "c.safetensors", Sites());
  const CalibrationFile file = Opened(path);
  std::filesystem::resize_file(path, 600);
  CHECK(file.Load(0).status().code() == absl::StatusCode::kAborted);
}

TEST_CASE("Inputs themselves are summed when they are loaded") {
  const CalibrationFolder folder;
  // 37 tokens: two full steps of 16 and a rest. Small integers: sums are exact.
  constexpr int64_t kTokens = 37;
  constexpr int64_t kN = 33;
  const DType dtype = GENERATE(DType::kF32, DType::kF16, DType::kBF16);
  std::vector<float> x(kTokens * kN);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(static_cast<int>(i * 7 % 13) - 6);
  }
  std::vector<uint8_t> bytes(x.size() * static_cast<size_t>(DTypeBytes(dtype)));
  for (size_t i = 0; i < x.size(); ++i) {
    StoreFromFloat(bytes.data(), dtype, static_cast<int64_t>(i), x[i]);
  }
  const std::string path = folder / "x.safetensors";
  REQUIRE(WriteSafetensors(path, {{"a", dtype, {kTokens, kN}, bytes}},
                           {{"inputs", R"({"a": ["m"]})"}})
              .ok());
  const CalibrationFile file = Opened(path);
  CHECK(file.sites()[0].activations);
  CHECK(file.sites()[0].tokens == kTokens);
  std::vector<float> square(kN * kN);
  std::vector<float> sums(kN);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t i = 0; i < kN; ++i) {
      sums[i] += std::fabs(x[t * kN + i]);
      for (int64_t j = 0; j < kN; ++j) {
        square[i * kN + j] += x[t * kN + i] * x[t * kN + j];
      }
    }
  }
  const SiteMoments moments = Loaded(file, 0);
  CHECK(SquareOf(moments) == square);
  CHECK(AbsOf(moments) == sums);
  SECTION("also to be merged with others") {
    const std::vector<std::string> twice = {path, path};
    REQUIRE(MergeCalibrations(folder / "sum.safetensors", twice).ok());
    const CalibrationFile sum = Opened(folder / "sum.safetensors");
    CHECK_FALSE(sum.sites()[0].activations);
    CHECK(sum.sites()[0].tokens == 2 * kTokens);
    CHECK(Loaded(sum, 0).abs_sum()[3] == 2 * sums[3]);
  }
  SECTION("in two dimensions and a float dtype only") {
    REQUIRE(WriteSafetensors(
                path, {{"a", DType::kU8, {1, 8}, std::span(bytes).first(8)}},
                {{"inputs", R"({"a": ["m"]})"}})
                .ok());
    CHECK_THAT(Refused(CalibrationFile::Open(path).status()),
               Contains("\"a\": got U8 [1, 8]"));
  }
}

// The sum of both shards' moments, in the order of the files.
std::vector<float> Sum(const RandomSite& a, const RandomSite& b) {
  SiteMoments sum = MomentsOf(a);
  REQUIRE(sum.Merge(MomentsOf(b)).ok());
  return SquareOf(sum);
}

TEST_CASE("Calibrations of two data sets add up") {
  const CalibrationFolder folder;
  std::vector<RandomSite> others = Sites();
  for (RandomSite& site : others) site.seed += 10;
  const std::vector<std::string> paths = {
      WriteRandom(folder / "1.safetensors", Sites(), false,
                  {{"model_digest", "sha256:1"},
                   {"data_hash", "x"},
                   {"sequence_length", "256"},
                   {"tokens", "100"},
                   {"layout", "same"}}),
      WriteRandom(folder / "2.safetensors", others, true,
                  {{"model_digest", "sha256:1"},
                   {"data_hash", "y"},
                   {"sequence_length", "512"},
                   {"tokens", "50"},
                   {"layout", "same"}})};
  const auto conflicts = MergeCalibrations(folder / "sum.safetensors", paths);
  INFO(conflicts.status());
  REQUIRE(conflicts.ok());
  CHECK(*conflicts == std::vector<std::string>{
                          "metadata \"sequence_length\": got 256, 512; left "
                          "out"});
  const CalibrationFile sum = Opened(folder / "sum.safetensors");
  CHECK(sum.metadata() == CalibrationMetadata{{"model_digest", "sha256:1"},
                                              {"data_hash", "x, y"},
                                              {"tokens", "150"},
                                              {"layout", "same"}});
  CHECK(sum.sites()[0].tokens == 100);
  CHECK(sum.sites()[1].tokens == 200);
  CHECK(sum.sites()[0].packed);
  CHECK(SquareOf(Loaded(sum, 0)) == Sum(Sites()[1], others[1]));
  CHECK(SquareOf(Loaded(sum, 1)) == Sum(Sites()[0], others[0]));
}

TEST_CASE("A merge that may not go on ends before the next file") {
  const CalibrationFolder folder;
  const std::string out = folder / "sum.safetensors";
  const std::vector<std::string> paths(
      3, WriteRandom(folder / "1.safetensors", Sites(), true, {}));
  int left = static_cast<int>(paths.size() * Sites().size());
  const bool ends = GENERATE(false, true);
  if (ends) --left;
  const auto merged = MergeCalibrations(out, paths, [&left] {
    return left-- > 0 ? absl::OkStatus() : absl::CancelledError("ended");
  });
  CHECK(left == (ends ? -1 : 0));
  CHECK(merged.ok() != ends);
  CHECK(absl::IsCancelled(merged.status()) == ends);
  CHECK(std::filesystem::exists(out) != ends);
}

TEST_CASE("What cannot be added is refused by name, and nothing is written") {
  const CalibrationFolder folder;
  const std::string out = folder / "sum.safetensors";
  const std::string first = WriteRandom(folder / "1.safetensors", Sites(), true,
                                        {{"model_digest", "sha256:1"}});
  const auto merge = [&](const std::vector<RandomSite>& sites,
                         const CalibrationMetadata& metadata) {
    const std::vector<std::string> paths = {
        first, WriteRandom(folder / "2.safetensors", sites, true, metadata)};
    const std::string text = Refused(MergeCalibrations(out, paths).status());
    CHECK_THAT(text, Contains("2.safetensors"));
    CHECK_FALSE(std::filesystem::exists(out));
    return text;
  };
  std::vector<RandomSite> sites = Sites();
  SECTION("another model") {
    CHECK_THAT(merge(sites, {{"model_digest", "sha256:2"}}),
               Contains("got sha256:2, allowed sha256:1"));
  }
  SECTION("another site") {
    sites[0].name = "block.other";
    CHECK_THAT(merge(sites, {}), Contains("got site \"block.other\""));
  }
  SECTION("fewer sites") {
    sites.pop_back();
    CHECK_THAT(merge(sites, {}), Contains("got 1 sites"));
  }
  SECTION("another size") {
    sites[0].inputs = 41;
    CHECK_THAT(merge(sites, {}), Contains("got 41 inputs, allowed 40"));
  }
  SECTION("other modules") {
    sites[0].modules = {"block.q"};
    CHECK_THAT(merge(sites, {}), Contains("got modules block.q"));
  }
  SECTION("one file") {
    const std::vector<std::string> paths = {first};
    CHECK_THAT(Refused(MergeCalibrations(out, paths).status()),
               Contains("got 1 calibrations"));
  }
}

TEST_CASE("A model digest that one file lacks is reported") {
  const CalibrationFolder folder;
  const std::vector<std::string> paths = {
      WriteRandom(folder / "1.safetensors", Sites()),
      WriteRandom(folder / "2.safetensors", Sites(), true,
                  {{"model_digest", "sha256:2"}, {"data_hash", "x"}})};
  const auto conflicts = MergeCalibrations(folder / "sum.safetensors", paths);
  REQUIRE(conflicts.ok());
  REQUIRE(conflicts->size() == 1);
  CHECK_THAT(conflicts->front(), Contains("1.safetensors"));
  CHECK(Opened(folder / "sum.safetensors").metadata() ==
        CalibrationMetadata{{"model_digest", "sha256:2"},
                            {"data_hash", "unknown, x"}});
}

TEST_CASE("Inspecting names dead inputs and dominant directions") {
  const CalibrationFolder folder;
  // x = (3, 4, 0, 0) ten times: one direction, two dead inputs.
  std::vector<float> square(16, 0.0f);
  square[0] = 90;
  square[1] = square[4] = 120;
  square[5] = 160;
  const std::string path = folder / "c.safetensors";
  const std::vector<CalibrationSite> sites = {{"a", 4, 10, true, {"m"}}};
  REQUIRE(WriteCalibration(path, sites, {}, [&](size_t) {
            auto moments = SiteMoments::Create("a", 4);
            std::copy(square.begin(), square.end(), moments->second_moment());
            moments->set_tokens(10);
            return moments;
          }).ok());
  const auto facts = InspectSite(Opened(path), 0);
  REQUIRE(facts.ok());
  CHECK(facts->problem.empty());
  CHECK(facts->trace == 250);
  CHECK(facts->dead_columns == 2);
  CHECK(facts->largest_input == Approx(0.64));
  CHECK(facts->largest_direction == Approx(1.0));
  CHECK_FALSE(facts->rank_deficient);
  SECTION("independent inputs share") {
    const std::string even =
        WriteRandom(folder / "even.safetensors", {{"a", 64, 4000, {"m"}, 3}});
    const auto spread = InspectSite(Opened(even), 0);
    // Ten or eleven inputs of the largest of six sizes hold 3/4 of the sum.
    CHECK(spread->largest_direction > 0.06);
    CHECK(spread->largest_direction < 0.12);
    CHECK(spread->dead_columns == 0);
  }
  SECTION("fewer tokens than inputs") {
    const std::string few =
        WriteRandom(folder / "few.safetensors", {{"a", 64, 63, {"m"}, 3}});
    CHECK(InspectSite(Opened(few), 0)->rank_deficient);
  }
}

}  // namespace
}  // namespace qs
