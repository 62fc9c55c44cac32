// A TensorStore on a folder, that can be opened again as after a restart.
#ifndef QS_TESTS_SERVICE_TENSORS_STORE_FIXTURE_H_
#define QS_TESTS_SERVICE_TENSORS_STORE_FIXTURE_H_

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "service/server/error.h"
#include "service/store/dir_blob_store.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_tensor_records.h"
#include "service/tensors/tensor_store.h"
#include "tests/service/store/blob_store_conformance.h"

namespace qs::testing {

// Errors instead of REQUIRE, so that a forked child can use it.
struct StoreOnDisk {
  std::unique_ptr<BlobStore> blobs;
  std::unique_ptr<SqliteDatabase> database;
  std::unique_ptr<TensorRecords> records;
  std::unique_ptr<BlobRefs> refs;
  std::unique_ptr<BlobKeeper> keeper;
  std::unique_ptr<TensorStore> store;

  static absl::StatusOr<StoreOnDisk> Open(const std::string& path,
                                          TensorStoreOptions options = {},
                                          int64_t allowed = int64_t{1} << 30) {
    StoreOnDisk out;
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) return absl::InternalError(error.message());
    auto blobs = OpenDirBlobStore(path + "/blobs", allowed);
    if (!blobs.ok()) return blobs.status();
    out.blobs = *std::move(blobs);
    auto database = SqliteDatabase::Open(
        path + "/meta.sqlite", {BlobRefsSchema(), TensorRecordsSchema()});
    if (!database.ok()) return database.status();
    out.database = *std::move(database);
    out.records = NewSqliteTensorRecords(*out.database);
    out.refs = NewSqliteBlobRefs(*out.database);
    out.keeper = std::make_unique<BlobKeeper>(*out.blobs, *out.refs);
    auto store = TensorStore::Open(
        {*out.blobs, *out.records, *out.refs, *out.keeper, std::move(options)});
    if (!store.ok()) return store.status();
    out.store = *std::move(store);
    const absl::Status collected = out.keeper->CollectAll();
    if (!collected.ok()) return collected;
    return out;
  }
};

inline NewUpload UploadOf(const Bytes& bytes, const std::string& request_id) {
  NewUpload upload;
  const auto count = static_cast<int64_t>(bytes.size());
  upload.spec = {"layers.0.weight", DType::kU8, {count}, count};
  upload.request_id = request_id;
  return upload;
}

inline absl::Status WriteFrom(UploadWriter& writer, const Bytes& bytes,
                              int64_t offset, size_t piece = 1000) {
  for (auto at = static_cast<size_t>(offset); at < bytes.size(); at += piece) {
    const size_t count = std::min(piece, bytes.size() - at);
    const absl::Status status = writer.Write(
        static_cast<int64_t>(at), std::span(bytes).subspan(at, count));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// A whole upload.
inline absl::StatusOr<StoredTensor> PutTensor(TensorStore& store,
                                              const std::string& project,
                                              const Bytes& bytes,
                                              const std::string& request_id) {
  const auto upload = store.CreateUpload(project, UploadOf(bytes, request_id));
  if (!upload.ok()) return upload.status();
  auto writer = store.OpenUpload(project, upload->id, nullptr);
  if (!writer.ok()) return writer.status();
  const absl::Status written = WriteFrom(**writer, bytes, 0);
  if (!written.ok()) return written;
  return (*writer)->Finish();
}

inline absl::StatusOr<Bytes> ReadTensorBytes(TensorStore& store,
                                             const std::string& project,
                                             const std::string& id) {
  auto open = store.OpenForRead(project, id);
  if (!open.ok()) return open.status();
  Bytes bytes(static_cast<size_t>(open->record.spec.bytes));
  const absl::Status read = open->reader->ReadAt(0, bytes);
  if (!read.ok()) return read;
  return bytes;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_TENSORS_STORE_FIXTURE_H_
