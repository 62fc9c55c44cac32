// What every TensorRecords and BlobRefs must do, however they keep them. A test
// calls CheckTensorRecords with a way to open empty ones.
#ifndef QS_TESTS_SERVICE_STORE_TENSOR_RECORDS_CONFORMANCE_H_
#define QS_TESTS_SERVICE_STORE_TENSOR_RECORDS_CONFORMANCE_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "service/store/blob_refs.h"
#include "service/store/tensor_records.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

// The parts of one store; they live as long as it.
struct RecordParts {
  std::shared_ptr<void> owner;
  TensorRecords* tensors = nullptr;
  BlobRefs* refs = nullptr;
};
using OpenRecords = std::function<RecordParts()>;

constexpr int64_t kManyTensors = 1000;

inline std::string FakeDigest(char digit) {
  return "sha256:" + std::string(64, digit);
}

inline UploadRecord MakeUpload(const std::string& project,
                               const std::string& id) {
  UploadRecord upload;
  upload.project = project;
  upload.id = id;
  upload.request_id = "request-" + id;
  upload.request_hash = "hash";
  upload.spec = {"layers.0." + id, DType::kBF16, {16, 3}, 96};
  upload.expires = absl::FromUnixMillis(1000);
  return upload;
}

inline StoredTensor MakeTensor(const UploadRecord& upload, char digit) {
  return {upload.project, upload.id, upload.spec, FakeDigest(digit),
          absl::FromUnixMillis(77)};
}

// An upload and the tensor it became.
inline StoredTensor AddTensor(const RecordParts& records,
                              const std::string& project, const std::string& id,
                              char digit) {
  UploadRecord upload = MakeUpload(project, id);
  upload.complete = true;
  const StoredTensor tensor = MakeTensor(upload, digit);
  REQUIRE(records.tensors->AddUpload(upload, &tensor, {kManyTensors}).ok());
  return tensor;
}

inline void CheckUploads(const RecordParts& records) {
  TensorRecords& tensors = *records.tensors;
  UploadRecord upload = MakeUpload("p", "a");
  upload.expected = FakeDigest('e');
  REQUIRE(tensors.AddUpload(upload, nullptr, {kManyTensors}).ok());
  CHECK(*tensors.GetUpload("p", "a") == upload);
  CHECK(*tensors.FindUpload("p", "request-a") == upload);
  CHECK(absl::IsNotFound(tensors.GetUpload("q", "a").status()));
  CHECK(absl::IsNotFound(tensors.FindUpload("q", "request-a").status()));
  CHECK(absl::IsNotFound(tensors.GetTensor("p", "a").status()));

  UploadRecord twice = MakeUpload("p", "b");
  twice.request_id = "request-a";
  CHECK(
      absl::IsAlreadyExists(tensors.AddUpload(twice, nullptr, {kManyTensors})));
  twice = MakeUpload("p", "a");
  twice.request_id = "other";
  CHECK(
      absl::IsAlreadyExists(tensors.AddUpload(twice, nullptr, {kManyTensors})));
  // Another project's ids, and no request ids, do not meet.
  CHECK(tensors.AddUpload(MakeUpload("q", "a"), nullptr, {kManyTensors}).ok());
  for (const char* id : {"c", "d"}) {
    UploadRecord nameless = MakeUpload("p", id);
    nameless.request_id = "";
    CHECK(tensors.AddUpload(nameless, nullptr, {kManyTensors}).ok());
  }

  const absl::Time later = absl::FromUnixMillis(5000);
  REQUIRE(tensors.SetPersisted("p", "a", 90, "", later).ok());
  REQUIRE(tensors.SetPersisted("p", "a", 96, FakeDigest('1'), later).ok());
  upload.persisted = 96;
  upload.digest = FakeDigest('1');
  upload.expires = later;
  CHECK(*tensors.GetUpload("p", "a") == upload);
  CHECK(absl::IsFailedPrecondition(
      tensors.SetPersisted("p", "a", 97, "", later)));
  CHECK(absl::IsNotFound(tensors.SetPersisted("p", "z", 1, "", later)));

  REQUIRE(tensors.DropUpload("p", "a").ok());
  CHECK(absl::IsNotFound(tensors.GetUpload("p", "a").status()));
  CHECK(absl::IsNotFound(tensors.DropUpload("p", "a")));
  // The request id is free again.
  CHECK(tensors.AddUpload(MakeUpload("p", "a"), nullptr, {kManyTensors}).ok());
}

inline void CheckCompletion(const RecordParts& records) {
  TensorRecords& tensors = *records.tensors;
  const UploadRecord upload = MakeUpload("p", "a");
  REQUIRE(tensors.AddUpload(upload, nullptr, {kManyTensors}).ok());
  const StoredTensor tensor = MakeTensor(upload, '1');
  REQUIRE(tensors.Complete(tensor).ok());
  CHECK(*tensors.GetTensor("p", "a") == tensor);
  const UploadRecord done = *tensors.GetUpload("p", "a");
  CHECK(done.complete);
  CHECK(done.digest == FakeDigest('1'));
  CHECK(done.persisted == 96);
  CHECK(*records.refs->IsReferenced(FakeDigest('1')));
  // What is complete stays so.
  CHECK(absl::IsNotFound(tensors.Complete(tensor)));
  CHECK(absl::IsNotFound(tensors.DropUpload("p", "a")));
  CHECK(absl::IsNotFound(tensors.SetPersisted("p", "a", 1, "", done.expires)));
  CHECK(absl::IsNotFound(
      tensors.Complete(MakeTensor(MakeUpload("p", "unknown"), '1'))));
  CHECK(absl::IsNotFound(tensors.GetTensor("p", "unknown").status()));

  const StoredTensor at_once = AddTensor(records, "p", "b", '1');
  CHECK(*tensors.GetTensor("p", "b") == at_once);
  CHECK(tensors.GetUpload("p", "b")->complete);
  CHECK(*tensors.DeleteTensor("p", "a") == std::vector<std::string>{});
  CHECK(absl::IsNotFound(tensors.GetUpload("p", "a").status()));
  CHECK(*tensors.DeleteTensor("p", "b") ==
        std::vector<std::string>{FakeDigest('1')});
  CHECK_FALSE(*records.refs->IsReferenced(FakeDigest('1')));
  CHECK(absl::IsNotFound(tensors.DeleteTensor("p", "b").status()));
}

inline void CheckLimit(const RecordParts& records) {
  TensorRecords& tensors = *records.tensors;
  AddTensor(records, "p", "a", '1');
  REQUIRE(tensors.AddUpload(MakeUpload("p", "b"), nullptr, {2}).ok());
  CHECK(absl::IsOutOfRange(
      tensors.AddUpload(MakeUpload("p", "c"), nullptr, {2})));
  CHECK(tensors.AddUpload(MakeUpload("q", "c"), nullptr, {2}).ok());
  REQUIRE(tensors.DeleteTensor("p", "a").ok());
  CHECK(tensors.AddUpload(MakeUpload("p", "c"), nullptr, {2}).ok());
}

// A check that lets a project have so many bytes with one more of MakeUpload.
inline UploadBytesCheck AtMost(int64_t allowed) {
  return [allowed](int64_t bytes) {
    return bytes + 96 <= allowed ? absl::OkStatus()
                                 : absl::AbortedError(std::to_string(bytes));
  };
}

inline void CheckByteLimit(const RecordParts& records) {
  TensorRecords& tensors = *records.tensors;
  const auto add = [&tensors](const char* project, const char* id,
                              int64_t allowed) {
    return tensors.AddUpload(MakeUpload(project, id), nullptr,
                             {kManyTensors, AtMost(allowed)});
  };
  CHECK(*tensors.UploadBytes("p") == 0);
  CHECK(tensors.CheckUploadBytes("p", AtMost(95)) == absl::AbortedError("0"));
  CHECK(add("p", "a", 95) == absl::AbortedError("0"));
  REQUIRE(add("p", "a", 96).ok());
  CHECK(*tensors.UploadBytes("p") == 96);
  // Open or complete, and whatever blob it has.
  AddTensor(records, "p", "b", '1');
  AddTensor(records, "p", "c", '1');
  CHECK(*tensors.UploadBytes("p") == 288);
  REQUIRE(tensors.Complete(MakeTensor(MakeUpload("p", "a"), '2')).ok());
  CHECK(add("p", "d", 383) == absl::AbortedError("288"));
  CHECK(absl::IsNotFound(tensors.GetUpload("p", "d").status()));
  CHECK(*tensors.UploadBytes("p") == 288);
  CHECK(tensors.CheckUploadBytes("p", AtMost(384)).ok());
  REQUIRE(add("p", "d", 384).ok());
  REQUIRE(add("q", "a", 96).ok());
  // One that is refused for its id counts nothing.
  CHECK(absl::IsAlreadyExists(add("q", "a", 960)));
  CHECK(*tensors.UploadBytes("q") == 96);
  REQUIRE(tensors.DropUpload("p", "d").ok());
  REQUIRE(tensors.DeleteTensor("p", "b").ok());
  CHECK(*tensors.UploadBytes("p") == 192);
  REQUIRE(tensors.SetPersisted("q", "a", 7, "", absl::Now()).ok());
  CHECK(*tensors.UploadBytes("q") == 96);
}

inline void CheckExpiry(const RecordParts& records) {
  TensorRecords& tensors = *records.tensors;
  for (int i = 0; i < 5; ++i) {
    UploadRecord upload = MakeUpload("p", std::string(1, 'a' + i));
    upload.expires = absl::FromUnixMillis(1000 - i);
    REQUIRE(tensors.AddUpload(upload, nullptr, {kManyTensors}).ok());
  }
  AddTensor(records, "p", "complete", '1');
  const auto ids = [&tensors](int64_t before, int64_t limit) {
    std::string text;
    const auto open = tensors.OpenUploads(absl::FromUnixMillis(before), limit);
    REQUIRE(open.ok());
    for (const UploadRecord& upload : *open) text += upload.id;
    return text;
  };
  CHECK(ids(998, 10) == "ed");
  CHECK(ids(5000, 3) == "edc");
  CHECK(tensors.OpenUploads(absl::InfiniteFuture(), 10)->size() == 5);
}

inline void CheckPages(const RecordParts& records) {
  TensorRecords& tensors = *records.tensors;
  // Names that repeat, so that the id must break the tie.
  for (int i = 0; i < 7; ++i) {
    UploadRecord upload = MakeUpload("p", std::string(1, 'g' - i));
    upload.spec.name = i < 4 ? "same" : "first";
    upload.complete = true;
    const StoredTensor tensor = MakeTensor(upload, '1');
    REQUIRE(tensors.AddUpload(upload, &tensor, {kManyTensors}).ok());
  }
  AddTensor(records, "q", "x", '1');
  std::string seen;
  TensorPosition after;
  while (true) {
    const auto page = *tensors.ListTensors("p", after, 2);
    if (page.empty()) break;
    CHECK(page.size() <= 2);
    for (const StoredTensor& tensor : page) seen += tensor.id;
    after = {page.back().spec.name, page.back().id};
    // What comes and goes between pages moves nothing.
    if (seen == "ab") REQUIRE(tensors.DeleteTensor("p", "a").ok());
  }
  CHECK(seen == "abcdefg");
}

inline void CheckRefs(const RecordParts& records) {
  BlobRefs& refs = *records.refs;
  const BlobOwner job = {"job", "p/1"};
  const BlobOwner other = {"job", "p/2"};
  REQUIRE(refs.Add("p", FakeDigest('1'), job).ok());
  REQUIRE(refs.Add("p", FakeDigest('1'), job).ok());
  REQUIRE(refs.Add("p", FakeDigest('2'), job).ok());
  REQUIRE(refs.Add("q", FakeDigest('2'), other).ok());
  CHECK(*refs.IsReferenced(FakeDigest('1')));
  CHECK_FALSE(*refs.IsReferenced(FakeDigest('3')));
  CHECK(*refs.IsInProject("p", FakeDigest('1')));
  CHECK_FALSE(*refs.IsInProject("q", FakeDigest('1')));
  CHECK(*refs.IsInProject("q", FakeDigest('2')));
  CHECK(*refs.Drop(job) == std::vector<std::string>{FakeDigest('1')});
  CHECK(*refs.Drop(job) == std::vector<std::string>{});
  CHECK_FALSE(*refs.IsReferenced(FakeDigest('1')));
  CHECK(*refs.IsReferenced(FakeDigest('2')));
}

inline void CheckConcurrent(const RecordParts& records) {
  std::vector<absl::Status> results(8);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < results.size(); ++i) {
      threads.emplace_back([&records, &results, i] {
        UploadRecord upload = MakeUpload("p", std::string(1, 'a' + i));
        upload.request_id = "same";
        results[i] = records.tensors->AddUpload(upload, nullptr, {1000});
      });
    }
  }
  int added = 0;
  for (const absl::Status& status : results) {
    if (status.ok()) ++added;
    if (!status.ok()) CHECK(absl::IsAlreadyExists(status));
  }
  CHECK(added == 1);
}

// Each sees those before it: together they do not pass the limit.
inline void CheckConcurrentBytes(const RecordParts& records) {
  std::vector<absl::Status> results(16);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < results.size(); ++i) {
      threads.emplace_back([&records, &results, i] {
        const UploadRecord upload = MakeUpload("p", std::string(1, 'a' + i));
        results[i] = records.tensors->AddUpload(
            upload, nullptr, {kManyTensors, AtMost(5 * 96 + 95)});
      });
    }
  }
  int added = 0;
  for (const absl::Status& status : results) {
    if (status.ok()) ++added;
    if (!status.ok()) CHECK(status == absl::AbortedError("480"));
  }
  CHECK(added == 5);
  CHECK(*records.tensors->UploadBytes("p") == 480);
}

inline void CheckTensorRecords(const OpenRecords& open) {
  const RecordParts records = open();
  SECTION("uploads come, grow and go") { CheckUploads(records); }
  SECTION("an upload becomes a tensor") { CheckCompletion(records); }
  SECTION("a project has so many") { CheckLimit(records); }
  SECTION("a project has so many bytes") { CheckByteLimit(records); }
  SECTION("what expires first is found first") { CheckExpiry(records); }
  SECTION("pages stay stable") { CheckPages(records); }
  SECTION("references") { CheckRefs(records); }
  SECTION("one of many wins a request id") { CheckConcurrent(records); }
  SECTION("many at once and so many bytes") { CheckConcurrentBytes(records); }
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_STORE_TENSOR_RECORDS_CONFORMANCE_H_
