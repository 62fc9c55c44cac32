// Jobs over uploaded tensors, through real connections: they give what the
// files give, and keep the bytes that they read.
#include "service/jobs/job_tensors.h"

#include <algorithm>

#include "quant/formats/checkpoint.h"
#include "service/server/proto_convert.h"
#include "tests/service/jobs/result_client.h"
#include "tests/service/tensors/tensor_client.h"

namespace qs::testing {
namespace {

const std::string kModel = std::string(QS_TEST_DATA) + "/tiny-llama";

// Its name.
std::string UploadOne(TensorStub& stub, const SafetensorsEntry& entry,
                      std::span<const uint8_t> data) {
  const Bytes bytes(data.begin(), data.end());
  v1::CreateUploadRequest request = CreateRequest(bytes, "");
  request.set_tensor_name(entry.name);
  request.set_dtype(DTypeToProto(entry.dtype));
  request.clear_shape();
  for (const int64_t size : entry.shape) request.add_shape(size);
  const auto upload = Create(stub, request);
  INFO(upload.status().ToString());
  REQUIRE(upload.ok());
  WriteStream stream(stub);
  REQUIRE(stream.Begin(upload->name()) == 0);
  REQUIRE(stream.SendFrom(bytes, 0));
  REQUIRE(stream.Finish().ok());
  return stream.tensor.name();
}

// All of the model's. Their names, by tensor_name.
std::map<std::string, std::string> UploadModel(TensorStub& stub) {
  const auto checkpoint = Checkpoint::Open(kModel);
  REQUIRE(checkpoint.ok());
  std::map<std::string, std::string> names;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    const auto shard = static_cast<size_t>(tensor.shard);
    names[tensor.entry.name] = UploadOne(
        stub, tensor.entry, checkpoint->shards()[shard].Data(tensor.entry));
  }
  return names;
}

absl::Status DeleteOne(TensorStub& stub, const std::string& name) {
  v1::DeleteTensorRequest request;
  request.set_name(name);
  v1::DeleteTensorResponse response;
  return Call(stub, &TensorStub::DeleteTensor, request, &response);
}

std::string ConfigOf(const std::string& directory) {
  std::ifstream in(directory + "/config.json", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::map<std::string, std::string> TensorsOf(const std::string& directory) {
  const auto checkpoint = Checkpoint::Open(directory);
  INFO(checkpoint.status().ToString());
  REQUIRE(checkpoint.ok());
  std::map<std::string, std::string> tensors;
  for (const CheckpointTensor& tensor : checkpoint->tensors()) {
    const auto data =
        checkpoint->shards()[static_cast<size_t>(tensor.shard)].Data(
            tensor.entry);
    tensors[tensor.entry.name].assign(data.begin(), data.end());
  }
  return tensors;
}

// In place of the files.
void UseTensors(v1::CreateJobRequest& request) {
  v1::JobTensors* const tensors =
      request.mutable_job()->mutable_source()->mutable_tensors();
  tensors->set_glob("*");
  tensors->set_config_json(ConfigOf(kModel));
}

v1::CreateJobRequest TensorsRequest(const JobFolders& folders,
                                    const std::string& out,
                                    const std::string& preset = "NF4") {
  v1::CreateJobRequest request = JobRequest(folders, out, preset);
  UseTensors(request);
  return request;
}

int64_t FilesBelow(const std::string& folder) {
  int64_t files = 0;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(folder)) {
    files += entry.is_regular_file() ? 1 : 0;
  }
  return files;
}

struct TensorFixture : JobFixture {
  std::unique_ptr<TensorStub> stub =
      v1::TensorService::NewStub(server.NewChannel());
};

TEST_CASE_METHOD(TensorFixture,
                 "uploaded tensors become the checkpoint that the files become",
                 "[job_tensors]") {
  const auto names = UploadModel(*stub);
  const v1::CreateJobRequest from_files =
      CalibratedRequest(folders, "filed", "W4A16-awq");
  v1::CreateJobRequest request = from_files;
  request.mutable_job()->mutable_destination()->set_uri(
      folders.OutUri("uploaded"));
  UseTensors(request);
  const v1::Job made = RequireMade(jobs, request);
  REQUIRE(made.plan().shards() == 1);
  REQUIRE(made.plan().summary().architecture() == "llama");
  // The job keeps what it reads, whatever becomes of the tensors.
  for (const auto& [tensor_name, name] : names) {
    REQUIRE(DeleteOne(*stub, name).ok());
  }
  const v1::Job uploaded = WaitDone(jobs, made.name());
  INFO(uploaded.ShortDebugString());
  REQUIRE(uploaded.state() == v1::Job::SUCCEEDED);
  REQUIRE(ReadTree(folders.Out("uploaded")).size() == 3);
  // Then nothing is kept.
  REQUIRE(Eventually(
      [&] { return FilesBelow(folders.folder / "data/blobs/blobs") == 0; }));

  const v1::Job filed = RequireDone(jobs, from_files);
  REQUIRE(TensorsOf(folders.Out("uploaded")) ==
          TensorsOf(folders.Out("filed")));
  REQUIRE(ConfigOf(folders.Out("uploaded")) == ConfigOf(folders.Out("filed")));
  REQUIRE(uploaded.summary().error().mean_squared_error() ==
          filed.summary().error().mean_squared_error());
}

TEST_CASE_METHOD(TensorFixture,
                 "a client without files: tensors in, a result out",
                 "[job_tensors]") {
  UploadModel(*stub);
  const v1::Job there =
      RequireMade(jobs, TensorsRequest(folders, "there", "W4A16"));
  v1::CreateJobRequest request = TensorsRequest(folders, "unused", "W4A16");
  request.mutable_job()->clear_destination();
  const std::string name = RequireMade(jobs, request).name();
  ResultCall files(jobs, ResultRequest(name, true));
  REQUIRE(files.Finish().ok());
  const v1::Job beside = WaitDone(jobs, there.name());
  REQUIRE(beside.state() == v1::Job::SUCCEEDED);
  REQUIRE(files.files == ReadTree(folders.Out("there")));
  REQUIRE(files.end->digest() == beside.summary().digest());
  v1::ReadResultRequest read = ResultRequest(name);
  read.set_view(v1::ReadResultRequest::PACKED);
  ResultCall packed(jobs, read);
  REQUIRE(packed.Finish().ok());
  REQUIRE(packed.end->tensors() == beside.summary().tensors());
  const auto stored = TensorsOf(folders.Out("there"));
  for (const auto& [output, bytes] : packed.outputs) {
    REQUIRE(bytes == stored.at(output));
  }
}

TEST_CASE("tensors of a job by their names; a restart between",
          "[job_tensors]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  std::string name;
  {
    InProcessServer server(options);
    JobClient jobs(server.NewChannel());
    const auto stub = v1::TensorService::NewStub(server.NewChannel());
    const auto names = UploadModel(*stub);
    v1::CreateJobRequest request = TensorsRequest(folders, "a");
    v1::JobTensors* const tensors =
        request.mutable_job()->mutable_source()->mutable_tensors();
    tensors->clear_glob();
    tensors->clear_config_json();
    const std::string& one = names.at("model.layers.0.mlp.up_proj.weight");
    const std::string& norm = names.at("model.norm.weight");
    tensors->add_names("projects/-/tensors/" + one.substr(one.rfind('/') + 1));
    tensors->add_names(norm);
    const v1::Job made = RequireMade(jobs, request);
    REQUIRE(made.source().tensors().names(0) == one);
    REQUIRE(made.plan().tensors() == 1);
    name = made.name();
    REQUIRE(DeleteOne(*stub, one).ok());
    REQUIRE(DeleteOne(*stub, norm).ok());
  }
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  const v1::Job job = WaitDone(jobs, name);
  INFO(job.ShortDebugString());
  REQUIRE(job.state() == v1::Job::SUCCEEDED);
  const auto tensors = TensorsOf(folders.Out("a"));
  REQUIRE(tensors.at("model.norm.weight") ==
          TensorsOf(kModel).at("model.norm.weight"));
  REQUIRE(tensors.count("model.layers.0.mlp.up_proj.weight.absmax") == 1);
  REQUIRE(tensors.count("model.layers.0.mlp.down_proj.weight") == 0);
}

TEST_CASE_METHOD(TensorFixture, "a job that is cancelled lets its tensors go",
                 "[job_tensors]") {
  const auto names = UploadModel(*stub);
  const v1::Job made = RequireMade(jobs, TensorsRequest(folders, "a"));
  for (const auto& [tensor_name, name] : names) {
    REQUIRE(DeleteOne(*stub, name).ok());
  }
  REQUIRE(jobs.Cancel(made.name()).ok());
  REQUIRE(WaitDone(jobs, made.name()).state() >= v1::Job::SUCCEEDED);
  REQUIRE(Eventually(
      [&] { return FilesBelow(folders.folder / "data/blobs/blobs") == 0; }));
}

TEST_CASE("more tensors than a plan may have are refused", "[job_tensors]") {
  JobFolders folders;
  ServerOptions options = JobServerTestOptions(folders);
  options.max_plan_tensors = 2;
  InProcessServer server(options);
  JobClient jobs(server.NewChannel());
  const auto stub = v1::TensorService::NewStub(server.NewChannel());
  const std::vector<uint8_t> data(32 * 64 * 4, 1);
  std::vector<std::string> names;
  for (const char* name : {"a.weight", "b.weight", "c.weight"}) {
    names.push_back(
        UploadOne(*stub, {name, DType::kF32, {32, 64}, 0, 0}, data));
  }
  constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
  v1::CreateJobRequest request = TensorsRequest(folders, "a");
  v1::JobTensors* const tensors =
      request.mutable_job()->mutable_source()->mutable_tensors();
  RequireError(jobs.Create(request).status(), kExhausted, "PLAN_TOO_LARGE",
               "more tensors than the 2");
  tensors->clear_glob();
  for (const std::string& name : names) tensors->add_names(name);
  RequireError(jobs.Create(request).status(), kExhausted, "PLAN_TOO_LARGE",
               "got 3, allowed 2");
  tensors->clear_names();
  tensors->set_glob("[ab].weight");
  tensors->set_config_json("{}");
  RequireDone(jobs, request);
}

TEST_CASE_METHOD(TensorFixture, "what a source of tensors may be",
                 "[job_tensors]") {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const auto refused = [&](const std::function<void(v1::JobTensors*)>& change,
                           absl::StatusCode code, const std::string& reason,
                           const std::string& text = "") {
    v1::CreateJobRequest request = TensorsRequest(folders, "a");
    change(request.mutable_job()->mutable_source()->mutable_tensors());
    RequireError(jobs.Create(request).status(), code, reason, text);
  };
  refused([](v1::JobTensors*) {}, kNotFound, "TENSOR_NOT_FOUND");
  const std::vector<uint8_t> data(32 * 64 * 4, 1);
  const SafetensorsEntry entry = {"w.weight", DType::kF32, {32, 64}, 0, 0};
  const std::string name = UploadOne(*stub, entry, data);
  refused([](v1::JobTensors* t) { t->set_glob("v.*"); }, kNotFound,
          "TENSOR_NOT_FOUND", "v.*");
  refused([](v1::JobTensors* t) { t->clear_glob(); }, kInvalid, "BAD_FIELD");
  refused([&](v1::JobTensors* t) { t->add_names(name); }, kInvalid,
          "BAD_FIELD");
  refused([](v1::JobTensors* t) { t->set_config_json("[1]"); }, kInvalid,
          "BAD_FIELD", "config_json");
  refused([](v1::JobTensors* t) { t->set_config_json("{\"a\":\"\xff\"}"); },
          kInvalid, "BAD_FIELD", "config_json");
  refused(
      [](v1::JobTensors* t) {
        t->set_config_json(std::string((1 << 20) + 1, ' '));
      },
      kInvalid, "BAD_FIELD", "config_json");
  const auto named = [&](const std::vector<std::string>& list) {
    return [list](v1::JobTensors* t) {
      t->clear_glob();
      for (const std::string& one : list) t->add_names(one);
    };
  };
  refused(named({"projects/other/tensors/x"}),
          absl::StatusCode::kPermissionDenied, "PROJECT_NOT_ALLOWED");
  refused(named({"projects/-/calibrations/x"}), kInvalid, "BAD_FIELD");
  refused(named({"projects/-/tensors/x"}), kNotFound, "TENSOR_NOT_FOUND");
  refused(named({name, name}), kInvalid, "BAD_FIELD", "\"w.weight\" twice");
  refused(named(std::vector<std::string>(10'001, "n")), kInvalid, "BAD_FIELD",
          "10001");
  // A second one of the same name.
  const std::vector<uint8_t> other(32 * 64 * 4, 2);
  const std::string second = UploadOne(*stub, entry, other);
  refused([](v1::JobTensors*) {}, kInvalid, "BAD_FIELD", "\"w.weight\" twice");
  v1::CreateJobRequest request = TensorsRequest(folders, "a");
  named({second})(request.mutable_job()->mutable_source()->mutable_tensors());
  request.mutable_job()->mutable_source()->mutable_tensors()->set_config_json(
      "{}");
  RequireDone(jobs, request);
}

}  // namespace
}  // namespace qs::testing
