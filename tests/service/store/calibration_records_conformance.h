// What all CalibrationRecords must do, whatever database keeps them. A test of
// an implementation calls CheckCalibrationRecords with a way to open an empty
// one.
#ifndef QS_TESTS_SERVICE_STORE_CALIBRATION_RECORDS_CONFORMANCE_H_
#define QS_TESTS_SERVICE_STORE_CALIBRATION_RECORDS_CONFORMANCE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "service/store/calibration_records.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {

using OpenCalibrationRecords =
    std::function<std::shared_ptr<CalibrationRecords>()>;
using Texts = std::vector<std::string>;

inline CalibrationRecord NewCalibration(const std::string& id,
                                        const std::string& request = "",
                                        const std::string& project = "p") {
  CalibrationRecord out;
  out.project = project;
  out.id = id;
  out.request_id = request;
  out.request_hash = "hash";
  out.created_ms = 1234567890123;
  out.metadata = {{"data_hash", "x\"y\n"}, {"z", ""}};
  out.sites = {{"a", 8, {"m.a", "m.b"}}, {"b", 4, {"m.\xc3\xa4"}}};
  return out;
}

inline CalibrationRecord MustCreate(CalibrationRecords& records,
                                    const CalibrationRecord& calibration) {
  bool reused = false;
  auto made = records.Create(calibration, 100, &reused);
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *std::move(made);
}

inline CalibrationPart ShardPart(const std::string& shard,
                                 const std::string& site,
                                 const std::string& blob, int64_t tokens) {
  CalibrationPart part;
  part.source = shard;
  part.site = site;
  part.blob = blob;
  part.dtype = "BF16";
  part.tokens = tokens;
  return part;
}

inline CalibrationPart MomentsPart(const std::string& request,
                                   const std::string& site,
                                   const std::string& blob,
                                   const std::string& hash = "h") {
  CalibrationPart part = ShardPart(request, site, blob, 5);
  part.kind = CalibrationPart::Kind::kMoments;
  part.dtype = "";
  part.request_hash = hash;
  return part;
}

inline void CheckCreateAndGet(CalibrationRecords& records) {
  const CalibrationRecord a = MustCreate(records, NewCalibration("a", "r1"));
  CHECK(a.key > 0);
  const auto got = records.Get("p", "a");
  REQUIRE(got.ok());
  CHECK(got->key == a.key);
  CHECK(got->created_ms == 1234567890123);
  CHECK(got->metadata == NewCalibration("a").metadata);
  REQUIRE(got->sites.size() == 2);
  CHECK(got->site_count == 2);
  CHECK(got->sealed_count == 0);
  CHECK(got->sites[0].name == "a");
  CHECK(got->sites[0].inputs == 8);
  CHECK(got->sites[0].modules == Texts{"m.a", "m.b"});
  CHECK(got->sites[1].modules == Texts{"m.\xc3\xa4"});
  CHECK_FALSE(got->sites[0].sealed);
  // The same request again, whatever id it was given meanwhile.
  CHECK(MustCreate(records, NewCalibration("other", "r1")).key == a.key);
  bool reused = false;
  CalibrationRecord changed = NewCalibration("a2", "r1");
  changed.request_hash = "another";
  CHECK(absl::IsAlreadyExists(records.Create(changed, 100, &reused).status()));
  CHECK(reused);
  CHECK(absl::IsAlreadyExists(
      records.Create(NewCalibration("a"), 100, &reused).status()));
  CHECK_FALSE(reused);
  CHECK(absl::IsOutOfRange(
      records.Create(NewCalibration("c"), 1, &reused).status()));
  CHECK(absl::IsNotFound(records.Get("p", "c").status()));
  CHECK(absl::IsNotFound(records.Get("q", "a").status()));
  CHECK(MustCreate(records, NewCalibration("a", "r1", "q")).key != a.key);
}

inline void CheckPages(CalibrationRecords& records) {
  for (const char* id : {"d", "b", "c", "a"}) {
    MustCreate(records, NewCalibration(id));
  }
  MustCreate(records, NewCalibration("z", "", "q"));
  Texts seen;
  std::string after;
  while (true) {
    const auto page = records.List("p", after, 3);
    REQUIRE(page.ok());
    if (page->empty()) break;
    for (const CalibrationRecord& one : *page) {
      CHECK(one.sites.empty());
      CHECK(one.site_count == 2);
      seen.push_back(one.id);
    }
    after = page->back().id;
  }
  CHECK(seen == Texts{"a", "b", "c", "d"});
}

inline void CheckShards(CalibrationRecords& records) {
  const int64_t key = MustCreate(records, NewCalibration("a")).key;
  CHECK(records.GetShard(key, "s")->durable_seq == 0);
  auto freed = records.PutShard(
      key, "s", 0, 7,
      {ShardPart("s", "a", "blob1", 3), ShardPart("s", "b", "blob2", 4)}, 10);
  REQUIRE(freed.ok());
  CHECK(freed->empty());
  auto shard = records.GetShard(key, "s");
  REQUIRE(shard.ok());
  CHECK(shard->durable_seq == 7);
  REQUIRE(shard->parts.size() == 2);
  CHECK(shard->parts[0].site == "a");
  CHECK(shard->parts[0].blob == "blob1");
  CHECK(shard->parts[0].dtype == "BF16");
  CHECK(shard->parts[0].tokens == 3);
  // One replaces its own blob, and a stale writer changes nothing.
  freed =
      records.PutShard(key, "s", 7, 9, {ShardPart("s", "b", "blob3", 5)}, 10);
  CHECK(*freed == Texts{"blob2"});
  CHECK(absl::IsAborted(
      records.PutShard(key, "s", 7, 8, {ShardPart("s", "a", "x", 1)}, 10)
          .status()));
  shard = records.GetShard(key, "s");
  CHECK(shard->durable_seq == 9);
  CHECK(shard->parts[0].blob == "blob1");
  CHECK(shard->parts[1].blob == "blob3");
  // Shards are apart, and counted.
  CHECK(records.PutShard(key, "t", 0, 1, {ShardPart("t", "a", "blob4", 1)}, 2)
            ->empty());
  CHECK(absl::IsOutOfRange(records.PutShard(key, "u", 0, 1, {}, 2).status()));
  CHECK(records.GetShard(key, "u")->durable_seq == 0);
  const auto parts = records.PartsOf(key, "a");
  REQUIRE(parts->size() == 2);
  CHECK((*parts)[0].source == "s");
  CHECK((*parts)[1].source == "t");
  CHECK(absl::IsNotFound(records.GetShard(key + 100, "s").status()));
  CHECK(
      absl::IsNotFound(records.PutShard(key + 100, "s", 0, 1, {}, 9).status()));
}

inline void CheckMoments(CalibrationRecords& records) {
  const int64_t key = MustCreate(records, NewCalibration("a")).key;
  CHECK_FALSE(*records.HasMoments(key, MomentsPart("r", "a", "")));
  CHECK(*records.AddMoments(key, MomentsPart("r", "a", "blob1"), 2));
  CHECK(*records.HasMoments(key, MomentsPart("r", "a", "")));
  CHECK_FALSE(*records.AddMoments(key, MomentsPart("r", "a", "blob9"), 2));
  CHECK(absl::IsAlreadyExists(
      records.AddMoments(key, MomentsPart("r", "a", "blob9", "other"), 2)
          .status()));
  CHECK(*records.AddMoments(key, MomentsPart("q", "a", "blob2"), 2));
  CHECK(absl::IsOutOfRange(
      records.AddMoments(key, MomentsPart("t", "a", "blob3"), 2).status()));
  CHECK(*records.AddMoments(key, MomentsPart("t", "b", "blob3"), 2));
  CHECK(absl::IsNotFound(
      records.AddMoments(key + 9, MomentsPart("t", "b", "x"), 2).status()));
  CHECK(absl::IsNotFound(
      records.AddMoments(key, MomentsPart("v", "none", "x"), 2).status()));
  // Sums of shards come first, each kind by its source.
  REQUIRE(records.PutShard(key, "z", 0, 1, {ShardPart("z", "a", "blob4", 1)}, 9)
              .ok());
  Texts blobs;
  const auto parts = records.PartsOf(key, "a");
  REQUIRE(parts.ok());
  for (const CalibrationPart& part : *parts) {
    blobs.push_back(part.blob);
  }
  CHECK(blobs == Texts{"blob4", "blob2", "blob1"});
}

inline void CheckSeals(CalibrationRecords& records) {
  const int64_t key = MustCreate(records, NewCalibration("a")).key;
  REQUIRE(records.PutShard(key, "s", 0, 3, {ShardPart("s", "a", "blob1", 3)}, 9)
              .ok());
  REQUIRE(records.AddMoments(key, MomentsPart("r", "a", "blob2"), 9).ok());
  const SealedSite sealed = {"a", 8, "sum", "sha256:x"};
  CHECK(absl::IsAborted(records.Seal(key, sealed, {"blob1"}).status()));
  const auto freed = records.Seal(key, sealed, {"blob2", "blob1"});
  REQUIRE(freed.ok());
  CHECK(freed->size() == 2);
  CHECK(absl::IsAborted(records.Seal(key, sealed, {}).status()));
  auto got = records.Get("p", "a");
  CHECK(got->sealed_count == 1);
  CHECK(got->sites[0].sealed);
  CHECK(got->sites[0].tokens == 8);
  CHECK(got->sites[0].blob == "sum");
  CHECK(got->sites[0].digest == "sha256:x");
  CHECK_FALSE(got->sites[1].sealed);
  CHECK(records.PartsOf(key, "a")->empty());
  // What was served stays served, what is new is refused.
  CHECK(*records.HasMoments(key, MomentsPart("r", "a", "")));
  CHECK(records.GetShard(key, "s")->durable_seq == 3);
  CHECK(absl::IsFailedPrecondition(
      records.HasMoments(key, MomentsPart("new", "a", "")).status()));
  CHECK(absl::IsFailedPrecondition(
      records.AddMoments(key, MomentsPart("new", "a", "x"), 9).status()));
  CHECK(absl::IsFailedPrecondition(
      records.PutShard(key, "s", 3, 4, {ShardPart("s", "a", "x", 1)}, 9)
          .status()));
  CHECK(records.PutShard(key, "s", 3, 4, {ShardPart("s", "b", "blob3", 1)}, 9)
            .ok());
  // A site that nobody sent anything for.
  REQUIRE(records.AddMoments(key, MomentsPart("r2", "b", "blob4"), 9).ok());
  auto blobs = *records.Blobs();
  std::sort(blobs.begin(), blobs.end());
  CHECK(blobs == Texts{"blob3", "blob4", "sum"});
  auto left = *records.Delete("p", "a");
  std::sort(left.begin(), left.end());
  CHECK(left == Texts{"blob3", "blob4", "sum"});
  CHECK(records.Blobs()->empty());
  CHECK(absl::IsNotFound(records.Delete("p", "a").status()));
  CHECK(absl::IsNotFound(records.PartsOf(key, "a").status()));
  // Its key is not that of the next one with the name.
  CHECK(MustCreate(records, NewCalibration("a")).key != key);
}

inline void CheckCalibrationRecords(const OpenCalibrationRecords& open) {
  CheckCreateAndGet(*open());
  CheckPages(*open());
  CheckShards(*open());
  CheckMoments(*open());
  CheckSeals(*open());
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_STORE_CALIBRATION_RECORDS_CONFORMANCE_H_
