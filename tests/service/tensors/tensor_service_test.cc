// TensorService over real connections, in the test's process.
#include "service/tensors/tensor_service.h"

#include <grpcpp/generic/generic_stub.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "tests/service/tensors/tensor_client.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

struct Fixture {
  explicit Fixture(ServerOptions options = TestServerOptions())
      : options_(std::move(options)) {
    options_.data_dir = folder / "data";
    Start();
  }
  void Start() {
    server.emplace(options_);
    stub = v1::TensorService::NewStub(server->NewChannel());
  }
  void Restart() {
    stub = nullptr;
    server.reset();
    Start();
  }
  std::unique_ptr<TensorStub> NewStub() const {
    return v1::TensorService::NewStub(server->NewChannel());
  }
  // A whole upload.
  v1::Tensor Put(const Bytes& bytes, const std::string& request_id = "") {
    const auto upload = Create(*stub, CreateRequest(bytes, request_id));
    REQUIRE(upload.ok());
    WriteStream stream(*stub);
    REQUIRE(stream.Begin(upload->name()) == 0);
    REQUIRE(stream.SendFrom(bytes, 0));
    const absl::Status status = stream.Finish();
    INFO(status.ToString());
    REQUIRE(status.ok());
    return stream.tensor;
  }

  TemporaryFolder folder;
  ServerOptions options_;
  std::optional<InProcessServer> server;
  std::unique_ptr<TensorStub> stub;
};

void CheckError(const absl::Status& status, absl::StatusCode code,
                const std::string& reason) {
  INFO(status.ToString());
  CHECK(status.code() == code);
  CHECK(ErrorReason(status) == reason);
}

TEST_CASE("a tensor is uploaded, described, read and deleted", "[tensors]") {
  Fixture fixture;
  for (const int64_t count : {0, 1, 3000000}) {
    const Bytes bytes = RandomBytes(count, 5);
    const v1::Tensor tensor = fixture.Put(bytes);
    CHECK(tensor.name().starts_with("projects/default/tensors/"));
    CHECK(tensor.tensor_name() == "layers.0.weight");
    CHECK(tensor.dtype() == v1::U8);
    CHECK(tensor.shape(0) == count);
    CHECK(tensor.size_bytes() == count);
    CHECK(tensor.digest() == DigestOf(bytes));
    CHECK(tensor.create_time().seconds() > 1600000000);
    v1::GetTensorRequest get;
    get.set_name(tensor.name());
    v1::Tensor got;
    REQUIRE(Call(*fixture.stub, &TensorStub::GetTensor, get, &got).ok());
    CHECK(got.SerializeAsString() == tensor.SerializeAsString());
    const ReadResult read = Read(*fixture.stub, tensor.name());
    INFO(read.status.ToString());
    REQUIRE(read.status.ok());
    CHECK(read.sound);
    CHECK(read.bytes == bytes);
    CHECK(read.end.digest() == tensor.digest());
    CHECK(read.end.sent_bytes() == count);
    v1::DeleteTensorRequest gone;
    gone.set_name(tensor.name());
    v1::DeleteTensorResponse unused;
    REQUIRE(Call(*fixture.stub, &TensorStub::DeleteTensor, gone, &unused).ok());
    CheckError(Call(*fixture.stub, &TensorStub::DeleteTensor, gone, &unused),
               absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND");
    CheckError(Read(*fixture.stub, tensor.name()).status,
               absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND");
  }
}

TEST_CASE("any range can be read", "[tensors]") {
  Fixture fixture;
  const int64_t size = 2500000;
  const Bytes bytes = RandomBytes(size, 5);
  const std::string name = fixture.Put(bytes).name();
  for (const int64_t offset : {int64_t{0}, int64_t{1 << 20}, size - 3, size}) {
    for (const int64_t limit : {0, 1, 1500000}) {
      INFO(offset << " + " << limit);
      const ReadResult read = Read(*fixture.stub, name, offset, limit);
      REQUIRE(read.status.ok());
      const int64_t rest = size - offset;
      const int64_t count = limit == 0 ? rest : std::min<int64_t>(rest, limit);
      CHECK(read.sound);
      CHECK(read.end.sent_bytes() == count);
      CHECK(read.end.size_bytes() == size);
      CHECK(read.bytes ==
            Bytes(bytes.begin() + offset, bytes.begin() + offset + count));
    }
  }
  CheckError(Read(*fixture.stub, name, size + 1).status,
             absl::StatusCode::kOutOfRange, "OFFSET_PAST_END");
  CheckError(Read(*fixture.stub, name, -1).status,
             absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  CheckError(Read(*fixture.stub, name, 0, -1).status,
             absl::StatusCode::kInvalidArgument, "BAD_FIELD");
}

TEST_CASE("answers come at the start, now and then, on demand, and at a pause",
          "[tensors]") {
  Fixture fixture;
  const Bytes bytes = RandomBytes(40 << 20, 5);
  const v1::Upload upload = *Create(*fixture.stub, CreateRequest(bytes, "r"));
  CHECK(upload.size_bytes() == 40 << 20);
  CHECK(upload.persisted_size() == 0);
  CHECK(upload.recommended_chunk_bytes() == 1 << 20);
  CHECK(upload.expire_time().seconds() > 0);
  {
    WriteStream stream(*fixture.stub);
    REQUIRE(stream.Begin(upload.name()) == 0);
    REQUIRE(stream.stream->Write(Piece(bytes, 0, 1000)));
    CHECK(stream.Flush() == 1000);
    REQUIRE(stream.SendFrom(bytes, 1000));
    CHECK(stream.Next() >= 32 << 20);
    REQUIRE(stream.Status().ok());
    CHECK(stream.persisted == 40 << 20);
    CHECK(stream.tensor.name().empty());
  }
  CHECK(Get(*fixture.stub, upload.name())->persisted_size() == 40 << 20);
  fixture.Restart();
  const v1::Upload found = *Create(*fixture.stub, CreateRequest(bytes, "r"));
  CHECK(found.name() == upload.name());
  CHECK(found.persisted_size() == 40 << 20);
  CHECK_FALSE(found.complete());
  WriteStream stream(*fixture.stub);
  v1::WriteTensorRequest finish;
  finish.set_upload(upload.name());
  finish.set_finish(true);
  REQUIRE(stream.stream->Write(finish));
  REQUIRE(stream.Status().ok());
  CHECK(stream.tensor.digest() == DigestOf(bytes));
  // A second finish finds the tensor.
  const v1::Upload done = *Create(*fixture.stub, CreateRequest(bytes, "r"));
  CHECK(done.complete());
  CHECK(done.tensor().digest() == DigestOf(bytes));
  WriteStream again(*fixture.stub);
  REQUIRE(again.Begin(upload.name()) == 40 << 20);
  REQUIRE(again.Finish().ok());
  CHECK(again.tensor.name() == stream.tensor.name());
}

TEST_CASE("a damaged chunk changes nothing, and the upload goes on",
          "[tensors]") {
  Fixture fixture;
  const Bytes bytes = RandomBytes(3000000, 5);
  const std::string name =
      Create(*fixture.stub, CreateRequest(bytes, ""))->name();
  {
    WriteStream stream(*fixture.stub);
    REQUIRE(stream.Begin(name) == 0);
    REQUIRE(stream.stream->Write(Piece(bytes, 0, 1000000)));
    REQUIRE(stream.Flush() == 1000000);
    v1::WriteTensorRequest damaged = Piece(bytes, 1000000, 1000000);
    (*damaged.mutable_data())[500000] ^= 4;
    REQUIRE(stream.stream->Write(damaged));
    const absl::Status status = stream.Status();
    CheckError(status, absl::StatusCode::kAborted, "CHUNK_CRC_MISMATCH");
    CHECK(ErrorMetadataValue(status, "persisted_size") == "1000000");
    CHECK(ErrorMetadataValue(status, "offset") == "1000000");
  }
  CHECK(Get(*fixture.stub, name)->persisted_size() == 1000000);
  WriteStream stream(*fixture.stub);
  REQUIRE(stream.Begin(name) == 1000000);
  REQUIRE(stream.SendFrom(bytes, 1000000));
  REQUIRE(stream.Finish().ok());
  CHECK(stream.tensor.digest() == DigestOf(bytes));
}

TEST_CASE("other bytes than promised are not kept", "[tensors]") {
  Fixture fixture;
  const Bytes bytes = RandomBytes(3000000, 5);
  v1::CreateUploadRequest request = CreateRequest(bytes, "");
  request.set_sha256(DigestOf(RandomBytes(3000000, 6)));
  const std::string name = Create(*fixture.stub, request)->name();
  WriteStream stream(*fixture.stub);
  REQUIRE(stream.Begin(name) == 0);
  REQUIRE(stream.SendFrom(bytes, 0));
  CheckError(stream.Finish(), absl::StatusCode::kInvalidArgument,
             "DIGEST_MISMATCH");
  CHECK(Get(*fixture.stub, name).status().code() ==
        absl::StatusCode::kNotFound);
  const std::filesystem::path staging = fixture.folder / "data/blobs/staging";
  REQUIRE(std::filesystem::exists(staging));
  CHECK(std::filesystem::is_empty(staging));
}

// The status of a stream that was sent `requests`.
absl::Status StatusOf(TensorStub& stub,
                      const std::vector<v1::WriteTensorRequest>& requests) {
  WriteStream stream(stub);
  for (const v1::WriteTensorRequest& request : requests) {
    if (!stream.stream->Write(request)) break;
  }
  return stream.Status();
}

TEST_CASE("every wrong request has its reason", "[tensors]") {
  Fixture fixture;
  TensorStub& stub = *fixture.stub;
  const Bytes bytes = RandomBytes(3 << 20, 5);
  const std::string name = Create(stub, CreateRequest(bytes, ""))->name();
  v1::WriteTensorRequest first;
  first.set_upload(name);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

  CheckError(StatusOf(stub, {Piece(bytes, 0, 10)}), kInvalid, "BAD_FIELD");
  v1::WriteTensorRequest other;
  other.set_upload("projects/-/uploads/0");
  CheckError(StatusOf(stub, {other}), absl::StatusCode::kNotFound,
             "UPLOAD_EXPIRED");
  CheckError(StatusOf(stub, {first, other}), kInvalid, "BAD_FIELD");
  other.set_upload("projects/another/uploads/0");
  CheckError(StatusOf(stub, {other}), absl::StatusCode::kPermissionDenied,
             "PROJECT_NOT_ALLOWED");
  CheckError(StatusOf(stub, {first, Piece(bytes, 5, 10)}),
             absl::StatusCode::kFailedPrecondition, "OFFSET_GAP");
  CheckError(StatusOf(stub, {first, Piece(bytes, 0, (2 << 20) + 1)}), kInvalid,
             "CHUNK_TOO_LARGE");
  v1::WriteTensorRequest finish;
  finish.set_finish(true);
  CheckError(StatusOf(stub, {first, finish}), kInvalid, "TOO_FEW_BYTES");

  v1::CreateUploadRequest create = CreateRequest(bytes, "r");
  create.set_tensor_name("");
  CheckError(Create(stub, create).status(), kInvalid, "BAD_FIELD");
  create = CreateRequest(bytes, "r");
  create.set_dtype(v1::DATA_TYPE_UNSPECIFIED);
  CheckError(Create(stub, create).status(), kInvalid, "BAD_FIELD");
  create = CreateRequest(bytes, std::string(129, 'x'));
  CheckError(Create(stub, create).status(), kInvalid, "BAD_FIELD");
  create = CreateRequest(bytes, "r");
  create.set_shape(0, -1);
  CheckError(Create(stub, create).status(), kInvalid, "BAD_FIELD");
  create.set_shape(0, int64_t{1} << 62);
  create.add_shape(4);
  const absl::Status overflow = Create(stub, create).status();
  CheckError(overflow, kInvalid, "SHAPE_OVERFLOW");
  CHECK(std::string(overflow.message()) ==
        "shape: got [4611686018427387904, 4] of U8, whose bytes overflow 63 "
        "bits, allowed max_tensor_bytes of GetCapabilities");
  create = CreateRequest(bytes, "r");
  create.set_shape(0, int64_t{1} << 40);
  CheckError(Create(stub, create).status(), kInvalid, "TENSOR_TOO_LARGE");
  create = CreateRequest(bytes, "r");
  create.set_sha256("sha256:12");
  CheckError(Create(stub, create).status(), kInvalid, "BAD_FIELD");
  create = CreateRequest(bytes, "r");
  create.set_parent("projects/another");
  CheckError(Create(stub, create).status(), absl::StatusCode::kPermissionDenied,
             "PROJECT_NOT_ALLOWED");
  create.set_parent("default");
  CheckError(Create(stub, create).status(), kInvalid, "BAD_FIELD");
}

TEST_CASE("bytes that are no request end the stream", "[tensors]") {
  Fixture fixture;
  grpc::GenericStub stub(fixture.server->NewChannel());
  grpc::ClientContext context;
  context.set_deadline(In(absl::Seconds(10)));
  grpc::CompletionQueue queue;
  const grpc::Slice slice(std::string("\xff\xff\xff"));
  const grpc::ByteBuffer sent(&slice, 1);
  const auto call = stub.PrepareUnaryCall(
      &context, "/quant.v1.TensorService/WriteTensor", sent, &queue);
  call->StartCall();
  grpc::ByteBuffer received;
  grpc::Status status;
  call->Finish(&received, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  REQUIRE(queue.Next(&tag, &ok));
  CheckError(FromGrpcStatus(status), absl::StatusCode::kInvalidArgument,
             "MALFORMED_MESSAGE");
}

TEST_CASE("a new connection takes the upload from a stale one", "[tensors]") {
  Fixture fixture;
  const Bytes bytes = RandomBytes(3000000, 5);
  const std::string name =
      Create(*fixture.stub, CreateRequest(bytes, ""))->name();
  WriteStream stale(*fixture.stub);
  REQUIRE(stale.Begin(name) == 0);
  REQUIRE(stale.stream->Write(Piece(bytes, 0, 1000000)));
  REQUIRE(stale.Flush() == 1000000);
  const auto stub = fixture.NewStub();
  WriteStream newest(*stub);
  REQUIRE(newest.Begin(name) == 1000000);
  // The stale one sends nothing, and is told all the same.
  CHECK(stale.Next() == -1);
  CheckError(stale.Status(), absl::StatusCode::kAborted, "CONCURRENT_WRITER");
  REQUIRE(newest.SendFrom(bytes, 1000000));
  REQUIRE(newest.Finish().ok());
  CHECK(newest.tensor.digest() == DigestOf(bytes));
}

TEST_CASE("a cancelled call keeps what came", "[tensors]") {
  Fixture fixture;
  const Bytes bytes = RandomBytes(8 << 20, 5);
  const std::string name =
      Create(*fixture.stub, CreateRequest(bytes, ""))->name();
  WriteStream stream(*fixture.stub);
  REQUIRE(stream.Begin(name) == 0);
  REQUIRE(stream.stream->Write(Piece(bytes, 0, 1 << 20)));
  REQUIRE(stream.Flush() == 1 << 20);
  stream.context.TryCancel();
  stream.Status().IgnoreError();
  CHECK(Get(*fixture.stub, name)->persisted_size() >= 1 << 20);
  CHECK(Eventually([&] {
    const auto stub = fixture.NewStub();
    WriteStream next(*stub);
    return next.Begin(name) >= 1 << 20;
  }));
}

TEST_CASE("several streams at once; one more than allowed is refused",
          "[tensors]") {
  ServerOptions options = TestServerOptions();
  options.max_tensor_streams = 4;
  Fixture fixture(options);
  std::vector<std::jthread> threads;
  std::vector<v1::Tensor> tensors(4);
  for (size_t i = 0; i < tensors.size(); ++i) {
    threads.emplace_back([&, i] {
      const Bytes bytes = RandomBytes(6000000, static_cast<uint32_t>(i));
      const auto stub = fixture.NewStub();
      const auto upload = Create(*stub, CreateRequest(bytes, ""));
      WriteStream stream(*stub);
      if (upload.ok() && stream.Begin(upload->name()) == 0 &&
          stream.SendFrom(bytes, 0) && stream.Finish().ok()) {
        tensors[i] = stream.tensor;
      }
    });
  }
  threads.clear();
  for (size_t i = 0; i < tensors.size(); ++i) {
    CHECK(tensors[i].digest() ==
          DigestOf(RandomBytes(6000000, static_cast<uint32_t>(i))));
  }
  std::vector<std::unique_ptr<WriteStream>> open;
  const Bytes bytes = RandomBytes(100, 1);
  for (int i = 0; i < 4; ++i) {
    const std::string name =
        Create(*fixture.stub, CreateRequest(bytes, ""))->name();
    open.push_back(std::make_unique<WriteStream>(*fixture.stub));
    // The calls before this one may still be ending.
    if (i == 0) {
      REQUIRE(Eventually([&] {
        if (open[0]->Begin(name) == 0) return true;
        open[0]->Status().IgnoreError();
        open[0] = std::make_unique<WriteStream>(*fixture.stub);
        return false;
      }));
      continue;
    }
    REQUIRE(Eventually([&] {
      if (open.back()->Begin(name) == 0) return true;
      open.back()->Status().IgnoreError();
      open.back() = std::make_unique<WriteStream>(*fixture.stub);
      return false;
    }));
  }
  WriteStream more(*fixture.stub);
  CheckError(more.Status(), absl::StatusCode::kResourceExhausted,
             "TOO_MANY_STREAMS");
  CheckError(Read(*fixture.stub, tensors[0].name()).status,
             absl::StatusCode::kResourceExhausted, "TOO_MANY_STREAMS");
}

TEST_CASE("lists have pages", "[tensors]") {
  Fixture fixture;
  std::set<std::string> made;
  for (int i = 0; i < 7; ++i) {
    made.insert(fixture.Put(RandomBytes(10, static_cast<uint32_t>(i))).name());
  }
  std::vector<std::string> seen;
  v1::ListTensorsRequest request;
  request.set_page_size(3);
  do {
    v1::ListTensorsResponse response;
    REQUIRE(
        Call(*fixture.stub, &TensorStub::ListTensors, request, &response).ok());
    CHECK(response.tensors_size() <= 3);
    for (const v1::Tensor& tensor : response.tensors()) {
      seen.push_back(tensor.name());
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  CHECK(seen.size() == 7);
  CHECK(std::set<std::string>(seen.begin(), seen.end()) == made);
  v1::ListTensorsResponse response;
  request.set_page_token("!");
  CheckError(Call(*fixture.stub, &TensorStub::ListTensors, request, &response),
             absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  request.set_page_token("");
  request.set_page_size(1001);
  CheckError(Call(*fixture.stub, &TensorStub::ListTensors, request, &response),
             absl::StatusCode::kInvalidArgument, "BAD_FIELD");
  request.set_page_size(0);
  REQUIRE(
      Call(*fixture.stub, &TensorStub::ListTensors, request, &response).ok());
  CHECK(response.tensors_size() == 7);
  CHECK(response.next_page_token().empty());
}

TEST_CASE("a project has so many bytes, after a restart, too", "[tensors]") {
  ServerOptions options = TestServerOptions();
  options.max_project_bytes = 3000;
  Fixture fixture(options);
  const auto create = [&](int64_t bytes) {
    return Create(*fixture.stub, CreateRequest(RandomBytes(bytes, 1), ""))
        .status();
  };
  const v1::Tensor tensor = fixture.Put(RandomBytes(1000, 5));
  const v1::Upload open =
      *Create(*fixture.stub, CreateRequest(RandomBytes(1500, 6), "r"));
  const auto check = [&] {
    const absl::Status status = create(501);
    CheckError(status, absl::StatusCode::kResourceExhausted, "PROJECT_QUOTA");
    CHECK(ErrorMetadataValue(status, "got") == "3001");
    CHECK(ErrorMetadataValue(status, "allowed") == "3000");
  };
  check();
  fixture.Restart();
  check();
  // The request that made the upload finds it.
  CHECK(
      Create(*fixture.stub, CreateRequest(RandomBytes(1500, 6), "r"))->name() ==
      open.name());
  v1::DeleteTensorRequest gone;
  gone.set_name(tensor.name());
  v1::DeleteTensorResponse unused;
  REQUIRE(Call(*fixture.stub, &TensorStub::DeleteTensor, gone, &unused).ok());
  REQUIRE(create(1500).ok());
  CheckError(create(1), absl::StatusCode::kResourceExhausted, "PROJECT_QUOTA");
}

TEST_CASE("damage on the disk is said, nothing of it is served", "[tensors]") {
  Fixture fixture;
  const Bytes bytes = RandomBytes(3 << 20, 5);
  const v1::Tensor tensor = fixture.Put(bytes);
  const std::string hex = tensor.digest().substr(7);
  std::fstream file(fixture.folder / "data/blobs/blobs/" + hex.substr(0, 2) +
                        "/" + hex.substr(2, 2) + "/" + hex,
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(1500000).put(static_cast<char>(bytes[1500000] ^ 1));
  file.close();
  const ReadResult read = Read(*fixture.stub, tensor.name());
  CheckError(read.status, absl::StatusCode::kDataLoss, "BLOB_CORRUPT");
  CHECK(read.bytes.size() <= 1 << 20);
  CHECK(std::equal(read.bytes.begin(), read.bytes.end(), bytes.begin()));
  fixture.Put(bytes);
  CHECK(Read(*fixture.stub, tensor.name()).bytes == bytes);
}

TEST_CASE("the drain: streams go on, new ones are refused, what came is kept",
          "[tensors]") {
  ServerOptions options = TestServerOptions();
  options.drain_timeout = 1;
  Fixture fixture(options);
  const Bytes bytes = RandomBytes(3000000, 5);
  const std::string name =
      Create(*fixture.stub, CreateRequest(bytes, "r"))->name();
  WriteStream stream(*fixture.stub);
  REQUIRE(stream.Begin(name) == 0);
  std::jthread drain([&] { fixture.server->server().Drain(); });
  REQUIRE(Eventually(
      [&] { return !Create(*fixture.stub, CreateRequest(bytes, "s")).ok(); }));
  CheckError(Create(*fixture.stub, CreateRequest(bytes, "s")).status(),
             absl::StatusCode::kUnavailable, "DRAINING");
  WriteStream late(*fixture.stub);
  CheckError(late.Status(), absl::StatusCode::kUnavailable, "DRAINING");
  REQUIRE(stream.stream->Write(Piece(bytes, 0, 1000000)));
  // Not flushed: the end does it, and says so.
  const absl::Status status = [&] {
    while (stream.Next() >= 0) {
    }
    return FromGrpcStatus(stream.stream->Finish());
  }();
  CheckError(status, absl::StatusCode::kUnavailable, "DRAINING");
  CHECK(stream.persisted == 1000000);
  drain.join();
  fixture.Restart();
  CHECK(Create(*fixture.stub, CreateRequest(bytes, "r"))->persisted_size() ==
        1000000);
}

TEST_CASE("a client that says nothing loses its stream, not its bytes",
          "[tensors]") {
  ServerOptions options = TestServerOptions();
  options.stream_idle_timeout = 0.7;
  Fixture fixture(options);
  const Bytes bytes = RandomBytes(3000000, 5);
  const std::string name =
      Create(*fixture.stub, CreateRequest(bytes, ""))->name();
  WriteStream stream(*fixture.stub);
  REQUIRE(stream.Begin(name) == 0);
  REQUIRE(stream.stream->Write(Piece(bytes, 0, 1000000)));
  while (stream.Next() >= 0) {
  }
  CheckError(FromGrpcStatus(stream.stream->Finish()),
             absl::StatusCode::kDeadlineExceeded, "STREAM_STALLED");
  CHECK(stream.persisted == 1000000);
  CHECK(Get(*fixture.stub, name)->persisted_size() == 1000000);
}

TEST_CASE("a client that takes nothing loses its stream", "[tensors]") {
  ServerOptions options = TestServerOptions();
  options.stream_idle_timeout = 0.7;
  options.max_tensor_streams = 1;
  Fixture fixture(options);
  // More than what connections and windows hold.
  const Bytes bytes = RandomBytes(48 << 20, 5);
  const std::string name = fixture.Put(bytes).name();
  v1::ReadTensorRequest request;
  request.set_name(name);
  std::optional<grpc::ClientContext> context;
  std::unique_ptr<grpc::ClientReader<v1::ReadTensorResponse>> stalled;
  v1::ReadTensorResponse response;
  // When the upload's stream is gone.
  REQUIRE(Eventually([&] {
    stalled = nullptr;
    stalled = fixture.stub->ReadTensor(&context.emplace(), request);
    return stalled->Read(&response);
  }));
  const auto other = fixture.NewStub();
  CHECK(ErrorReason(Read(*other, name).status) == "TOO_MANY_STREAMS");
  REQUIRE(Eventually([&] { return Read(*other, name).status.ok(); }));
  while (stalled->Read(&response)) REQUIRE_FALSE(response.has_end());
  CHECK(stalled->Finish().error_code() == grpc::StatusCode::CANCELLED);
}

TEST_CASE("without a data directory there is no TensorService", "[tensors]") {
  InProcessServer server;
  const auto stub = v1::TensorService::NewStub(server.NewChannel());
  CHECK(Create(*stub, CreateRequest(RandomBytes(10, 1), "")).status().code() ==
        absl::StatusCode::kUnimplemented);
}

TEST_CASE("two servers do not share a data directory", "[tensors]") {
  Fixture fixture;
  const auto second = Server::Start(fixture.options_);
  CHECK(second.status().code() == absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace qs::testing
