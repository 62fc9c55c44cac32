// Used by tests/service/history/history_run.cc.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "service/server/grpc_status.h"
#include "service/stream/crc32c.h"
#include "service/stream/digest.h"
#include "tests/service/history/workload.h"

namespace qs::testing {
namespace {

constexpr size_t kChunk = size_t{192} << 10;
constexpr uint32_t kMaxBytes = 1536 << 10;

using TensorStub = v1::TensorService::Stub;
using WriteStream =
    grpc::ClientReaderWriter<v1::WriteTensorRequest, v1::WriteTensorResponse>;

v1::WriteTensorRequest Piece(const std::string& bytes, size_t offset) {
  v1::WriteTensorRequest piece;
  piece.set_offset(static_cast<int64_t>(offset));
  piece.set_data(bytes.substr(offset, kChunk));
  piece.set_crc32c(
      Crc32c({reinterpret_cast<const uint8_t*>(piece.data().data()),
              piece.data().size()}));
  return piece;
}

// One answer into `op`; false: the call has ended.
bool TakeAnswer(WriteStream* stream, Operation* op) {
  v1::WriteTensorResponse response;
  if (!stream->Read(&response)) return false;
  op->numbers.push_back(response.persisted_size());
  if (response.has_tensor()) op->digest = response.tensor().digest();
  return true;
}

}  // namespace

std::string UploadRequestId(int number) {
  return absl::StrCat("upload-", number);
}

// Every third has the bytes of the one before it: deduplicated.
std::string UploadBytes(int number) {
  const int content = number % 3 == 2 ? number - 1 : number;
  std::mt19937 random(static_cast<uint32_t>(content));
  std::string bytes(random() % kMaxBytes, '\0');
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    const uint32_t word = random();
    std::copy_n(reinterpret_cast<const char*>(&word), 4, &bytes[i]);
  }
  return bytes;
}

std::string DigestOfBytes(const std::string& bytes) {
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  return hash.Finish();
}

void HistoryClient::ActOnUpload() {
  const int number = board_.uploads.Pick(&random_);
  bool complete = false;
  const std::string id = CreateUpload(number, &complete);
  if (id.empty()) return;
  if (!complete) WriteTensor(number, id, /*to_the_end=*/false);
  if (OneIn(3)) GetUpload(id);
  if (OneIn(2)) ReadTensor(id, DigestOfBytes(UploadBytes(number)));
  if (OneIn(5)) ListTensors();
  if (complete && OneIn(2)) DeleteTensor(number, id);
}

void HistoryClient::FinishUpload(int number) {
  for (int tries = 0; tries < 20; ++tries) {
    bool complete = false;
    const std::string id = CreateUpload(number, &complete);
    if (complete) return ReadTensor(id, DigestOfBytes(UploadBytes(number)));
    if (!id.empty()) WriteTensor(number, id, /*to_the_end=*/true);
  }
}

std::string HistoryClient::CreateUpload(int number, bool* complete) {
  const std::string bytes = UploadBytes(number);
  Operation op = Begin("CreateUpload", "");
  op.request = UploadRequestId(number);
  op.expected = DigestOfBytes(bytes);
  v1::CreateUploadRequest request;
  request.set_tensor_name(absl::StrCat("t", number));
  request.set_dtype(v1::U8);
  request.add_shape(static_cast<int64_t>(bytes.size()));
  request.set_request_id(op.request);
  if (number % 2 == 0) request.set_sha256(op.expected);
  v1::Upload upload;
  const grpc::Status status =
      Call(*tensors_, &TensorStub::CreateUpload, request, &upload);
  op.object = IdOf(upload.name());
  if (status.ok()) op.numbers = {upload.persisted_size()};
  op.digest = upload.tensor().digest();
  *complete = upload.complete();
  const std::string id = op.object;
  End(std::move(op), status);
  return id;
}

void HistoryClient::WriteTensor(int number, const std::string& id,
                                bool to_the_end) {
  const std::string bytes = UploadBytes(number);
  Operation op = Begin("WriteTensor", id);
  op.expected = DigestOfBytes(bytes);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  const auto stream = tensors_->WriteTensor(&context);
  v1::WriteTensorRequest first;
  first.set_upload(NameOf("uploads", id));
  bool open = stream->Write(first) && TakeAnswer(stream.get(), &op);
  size_t at = open ? static_cast<size_t>(op.numbers.back()) : 0;
  // Bytes that are there already may come again.
  if (OneIn(3)) at -= std::min(at, kChunk);
  bool whole = true;
  for (; open && at < bytes.size(); at += kChunk) {
    v1::WriteTensorRequest piece = Piece(bytes, at);
    piece.set_flush(OneIn(3));
    open = stream->Write(piece);
    if (open && piece.flush()) open = TakeAnswer(stream.get(), &op);
    if (open && !to_the_end && OneIn(12)) {
      whole = false;  // a pause, or a client that goes away
      if (OneIn(2)) context.TryCancel();
      break;
    }
  }
  if (open && whole) {
    v1::WriteTensorRequest finish;
    finish.set_finish(true);
    stream->Write(finish);
  }
  stream->WritesDone();
  while (TakeAnswer(stream.get(), &op)) {
  }
  End(std::move(op), stream->Finish());
}

void HistoryClient::GetUpload(const std::string& id) {
  Operation op = Begin("GetUpload", id);
  v1::GetUploadRequest request;
  request.set_name(NameOf("uploads", id));
  v1::Upload upload;
  const grpc::Status status =
      Call(*tensors_, &TensorStub::GetUpload, request, &upload);
  if (status.ok()) op.numbers = {upload.persisted_size()};
  End(std::move(op), status);
}

void HistoryClient::ReadTensor(const std::string& id,
                               const std::string& expected) {
  Operation op = Begin("ReadTensor", id);
  op.expected = expected;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  v1::ReadTensorRequest request;
  request.set_name(NameOf("tensors", id));
  const auto stream = tensors_->ReadTensor(&context, request);
  std::string bytes;
  v1::ReadTensorResponse response;
  bool whole = false;
  while (stream->Read(&response)) {
    bytes += response.data();
    whole = response.has_end();
  }
  const grpc::Status status = stream->Finish();
  if (whole && status.ok()) op.digest = DigestOfBytes(bytes);
  if (op.digest.empty() && status.ok()) op.digest = "no end";
  End(std::move(op), status);
}

void HistoryClient::DeleteTensor(int number, const std::string& id) {
  Operation op = Begin("DeleteTensor", id);
  board_.uploads.Retire(number);
  v1::DeleteTensorRequest request;
  request.set_name(NameOf("tensors", id));
  v1::DeleteTensorResponse response;
  End(std::move(op),
      Call(*tensors_, &TensorStub::DeleteTensor, request, &response));
}

std::vector<v1::Tensor> HistoryClient::ListTensors() {
  Operation op = Begin("ListTensors", "");
  std::vector<v1::Tensor> tensors;
  v1::ListTensorsRequest request;
  request.set_page_size(7);
  v1::ListTensorsResponse response;
  grpc::Status status;
  do {
    status = Call(*tensors_, &TensorStub::ListTensors, request, &response);
    for (const v1::Tensor& tensor : response.tensors()) {
      tensors.push_back(tensor);
      op.names.push_back(IdOf(tensor.name()));
    }
    request.set_page_token(response.next_page_token());
  } while (status.ok() && !request.page_token().empty());
  End(std::move(op), status);
  return tensors;
}

void HistoryClient::ReadAllTensors() {
  for (const v1::Tensor& tensor : ListTensors()) {
    // "t17": what it must hold.
    const int number = std::stoi(tensor.tensor_name().substr(1));
    ReadTensor(IdOf(tensor.name()), DigestOfBytes(UploadBytes(number)));
  }
}

}  // namespace qs::testing
