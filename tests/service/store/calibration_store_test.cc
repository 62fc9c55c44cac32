// Calibrations on disk: the same bytes however activations come, no batch lost
// or counted twice wherever the process is killed, and nothing left behind.
#include "service/store/calibration_store.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/gram_ops.h"
#include "quant/calibration/calibration_file.h"
#include "service/store/blob_keeper.h"
#include "service/store/calibration_sealing.h"
#include "service/store/calibration_shard.h"
#include "service/store/dir_blob_store.h"
#include "service/store/failpoint.h"
#include "service/store/sqlite_blob_refs.h"
#include "service/store/sqlite_calibration_records.h"
#include "tests/service/store/calibration_records_conformance.h"
#include "tests/testing/temporary_folder.h"

namespace qs::testing {
namespace {

constexpr int64_t kMaxShards = 8;

// A store in a folder, as a server opens it.
struct Place {
  explicit Place(const std::string& folder, int64_t allowed = 1 << 30) {
    std::filesystem::create_directories(folder);
    auto opened_db = SqliteDatabase::Open(
        folder + "/db", {BlobRefsSchema(), CalibrationSchema()});
    if (!opened_db.ok()) return;
    db = *std::move(opened_db);
    records = NewSqliteCalibrationRecords(*db);
    auto opened_blobs = OpenDirBlobStore(folder + "/blobs", allowed);
    if (!opened_blobs.ok()) return;
    blobs = *std::move(opened_blobs);
    store = std::make_unique<CalibrationStore>(*records, *blobs);
    ok = store->DiscardStaged().ok();
  }

  std::shared_ptr<const CalibrationRecord> Find(const std::string& id) const {
    auto found = records->Get("p", id);
    return found.ok() ? std::make_shared<const CalibrationRecord>(*found)
                      : nullptr;
  }
  std::unique_ptr<CalibrationShard> Shard(const std::string& id,
                                          const std::string& shard) const {
    auto opened = CalibrationShard::Open(*store, Find(id), shard, kMaxShards);
    return opened.ok() ? *std::move(opened) : nullptr;
  }
  // What a server's start does: how many blobs nobody refers to. Those that
  // records name, and no others, are left.
  int64_t Sweep() const {
    const size_t before = blobs->List()->size();
    const auto refs = NewSqliteBlobRefs(*db);
    CHECK(BlobKeeper(*blobs, *refs).CollectAll().ok());
    const auto named = *records->Blobs();
    const auto left = *blobs->List();
    CHECK(left.size() == named.size());
    for (const BlobInfo& blob : left) {
      CHECK(std::count(named.begin(), named.end(), blob.digest) == 1);
    }
    return static_cast<int64_t>(before - left.size());
  }

  std::unique_ptr<SqliteDatabase> db;
  std::unique_ptr<CalibrationRecords> records;
  std::unique_ptr<BlobStore> blobs;
  std::unique_ptr<CalibrationStore> store;
  bool ok = false;
};

// Sites "a" of 8 inputs and "b" of 4. Batch `seq` of a shard: which site, and
// its rows; 700 tokens, so that sums rest in the middle of a run.
constexpr int64_t kTokens = 700;

struct Batch {
  std::string site;
  std::vector<float> rows;
};

Batch BatchOf(int64_t shard, int64_t seq) {
  Batch batch;
  batch.site = seq % 3 == 0 ? "b" : "a";
  const int64_t inputs = batch.site == "a" ? 8 : 4;
  uint32_t state = static_cast<uint32_t>(1000 * shard + seq);
  for (int64_t i = 0; i < kTokens * inputs; ++i) {
    state = state * 1664525 + 1013904223;
    batch.rows.push_back(static_cast<float>(state >> 8) / (1 << 23) - 1);
  }
  return batch;
}

absl::Status AddBatch(CalibrationShard& shard, int64_t number,
                      Backend& backend) {
  const Batch batch = BatchOf(number, shard.last_seq() + 1);
  if (!shard.IsOpen(batch.site)) {
    const absl::Status opened =
        shard.OpenSite(*shard.FindSite(batch.site), DType::kF32);
    if (!opened.ok()) return opened;
  }
  return shard.Add(batch.site, DType::kF32,
                   reinterpret_cast<const uint8_t*>(batch.rows.data()), kTokens,
                   backend);
}

absl::Status SealSite(const Place& place, const std::string& id,
                      const std::string& name, Backend& backend) {
  const auto calibration = place.Find(id);
  for (const CalibrationSiteRecord& site : calibration->sites) {
    if (site.name != name || site.sealed) continue;
    auto sealing =
        CalibrationSealing::Open(*place.store, calibration->key, site);
    if (!sealing.ok()) return sealing.status();
    while ((*sealing)->has_next()) {
      absl::Status status = (*sealing)->Load();
      if (status.ok()) status = (*sealing)->Merge(backend);
      if (!status.ok()) return status;
    }
    const absl::Status checked = (*sealing)->Check();
    return checked.ok() ? (*sealing)->Store() : checked;
  }
  return absl::OkStatus();
}

std::vector<std::string> Digests(const Place& place, const std::string& id) {
  std::vector<std::string> out;
  const auto calibration = place.Find(id);
  for (const CalibrationSiteRecord& site : calibration->sites) {
    CHECK(site.sealed);
    out.push_back(site.digest);
  }
  return out;
}

// Everything at once: what all other ways must give.
std::vector<std::string> ReferenceDigests(int64_t shards, int64_t batches) {
  TemporaryFolder folder;
  const Place place(folder / "p");
  REQUIRE(place.ok);
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  for (int64_t s = 0; s < shards; ++s) {
    const auto shard = place.Shard("c", "s" + std::to_string(s));
    while (shard->last_seq() < batches) {
      REQUIRE(AddBatch(*shard, s, *backend).ok());
    }
    REQUIRE(shard->Checkpoint().ok());
  }
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  REQUIRE(SealSite(place, "c", "b", *backend).ok());
  return Digests(place, "c");
}

TEST_CASE("the same bytes however shards and batches come",
          "[calibration_store]") {
  const std::vector<std::string> expected = ReferenceDigests(2, 7);
  CHECK(expected[0] != expected[1]);
  TemporaryFolder folder;
  const auto backend = NewCpuBackend(2);
  {
    const Place place(folder / "p");
    MustCreate(*place.records, NewCalibration("c"));
  }
  // The later shard first, a restart after every batch.
  for (const int64_t s : {1, 0}) {
    for (int64_t seq = 1; seq <= 7; ++seq) {
      const Place place(folder / "p");
      REQUIRE(place.ok);
      const auto shard = place.Shard("c", "s" + std::to_string(s));
      REQUIRE(shard->durable_seq() == seq - 1);
      REQUIRE(AddBatch(*shard, s, *backend).ok());
      CHECK(shard->pending_bytes() > 0);
      REQUIRE(shard->Checkpoint().ok());
      CHECK(shard->durable_seq() == seq);
      CHECK(shard->pending_bytes() == 0);
    }
  }
  const Place place(folder / "p");
  REQUIRE(SealSite(place, "c", "b", *backend).ok());
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  CHECK(Digests(place, "c") == expected);
  CHECK(place.Find("c")->sites[0].tokens == 2 * 5 * kTokens);
  CHECK(place.Find("c")->sites[1].tokens == 2 * 2 * kTokens);
  // One blob a site is left.
  CHECK(place.blobs->List()->size() == 2);
  CHECK(place.Sweep() == 0);
}

TEST_CASE("moments add to what shards have summed", "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  const auto shard = place.Shard("c", "s");
  REQUIRE(AddBatch(*shard, 0, *backend).ok());
  REQUIRE(shard->Checkpoint().ok());
  auto moments = SiteMoments::Create("a", 8);
  for (int64_t i = 0; i < 8; ++i) {
    moments->second_moment()[i * 9] = 3;
    moments->abs_sum()[i] = 2;
  }
  moments->set_tokens(5);
  std::string digest;
  const auto blob = place.store->PutMoments(*moments, &digest);
  REQUIRE(blob.ok());
  CalibrationPart part = MomentsPart("r", "a", *blob);
  const int64_t key = place.Find("c")->key;
  REQUIRE(*place.records->AddMoments(key, part, 9));
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  const CalibrationSiteRecord site = place.Find("c")->sites[0];
  CHECK(site.tokens == kTokens + 5);
  const auto sum = place.store->GetSealed(site);
  REQUIRE(sum.ok());
  const Batch batch = BatchOf(0, 1);
  double expected = 3;
  double crossed = 0;
  double absolute = 2;
  for (int64_t t = 0; t < kTokens; ++t) {
    const double x = batch.rows[t * 8 + 1];
    expected += x * x;
    crossed += x * batch.rows[t * 8 + 6];
    absolute += std::abs(x);
  }
  CHECK(sum->second_moment()[9] == Approx(expected).epsilon(1e-6));
  CHECK(sum->second_moment()[8 + 6] == Approx(crossed).margin(1e-4));
  CHECK(sum->second_moment()[6 * 8 + 1] == sum->second_moment()[8 + 6]);
  CHECK(sum->abs_sum()[1] == Approx(absolute).epsilon(1e-6));
  // The bytes, from anywhere.
  std::vector<float> packed(SiteMoments::PackedElements(8));
  sum->CopyToPacked(packed.data());
  std::vector<float> tail(2);
  REQUIRE(place.store
              ->ReadSealed(site, 4 * 7,
                           {reinterpret_cast<uint8_t*>(tail.data()), 8})
              .ok());
  CHECK(tail[0] == packed[7]);
  CHECK(tail[1] == packed[8]);
}

TEST_CASE("a site without tokens, and one whose numbers are none",
          "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  const CalibrationSiteRecord site = place.Find("c")->sites[0];
  CHECK(site.sealed);
  CHECK(site.tokens == 0);
  const auto zeros = place.store->GetSealed(site);
  REQUIRE(zeros.ok());
  CHECK(zeros->second_moment()[5] == 0);
  auto moments = SiteMoments::Create("b", 4);
  moments->second_moment()[0] = -1;
  moments->set_tokens(5);
  std::string digest;
  const auto blob = place.store->PutMoments(*moments, &digest);
  REQUIRE(*place.records->AddMoments(place.Find("c")->key,
                                     MomentsPart("r", "b", *blob), 9));
  CHECK(absl::IsInvalidArgument(SealSite(place, "c", "b", *backend)));
  CHECK_FALSE(place.Find("c")->sites[1].sealed);
}

TEST_CASE("what a shard refuses", "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  const auto shard = place.Shard("c", "s");
  CHECK(shard->FindSite("none") == nullptr);
  REQUIRE(AddBatch(*shard, 0, *backend).ok());
  const std::vector<uint8_t> zeros(64);
  CHECK(absl::IsInvalidArgument(
      shard->Add("a", DType::kBF16, zeros.data(), 1, *backend)));
  REQUIRE(shard->Checkpoint().ok());
  shard->CloseSites();
  CHECK(absl::IsInvalidArgument(
      shard->OpenSite(*shard->FindSite("a"), DType::kF16)));
  SECTION("a second writer ends the first") {
    const auto other = place.Shard("c", "s");
    REQUIRE(AddBatch(*other, 0, *backend).ok());
    REQUIRE(other->Checkpoint().ok());
    SECTION("whose sums it has in memory") {
      REQUIRE(shard->OpenSite(shard->FindSite("b")[0], DType::kF32).ok());
      REQUIRE(shard->Add("b", DType::kF32, zeros.data(), 4, *backend).ok());
      CHECK(absl::IsAborted(shard->Checkpoint()));
    }
    SECTION("whose sums it has not") {
      CHECK(absl::IsAborted(AddBatch(*shard, 0, *backend)));
    }
    CHECK(shard->durable_seq() == 1);
  }
  SECTION("the site was sealed meanwhile") {
    REQUIRE(SealSite(place, "c", "a", *backend).ok());
    CHECK(absl::IsFailedPrecondition(AddBatch(*shard, 0, *backend)));
  }
  SECTION("the calibration was deleted meanwhile") {
    REQUIRE(AddBatch(*shard, 0, *backend).ok());
    const auto freed = place.records->Delete("p", "c");
    place.store->Free(*freed);
    CHECK(absl::IsNotFound(shard->Checkpoint()));
  }
  CHECK(place.Sweep() == 0);
}

TEST_CASE("no batch with NaN becomes durable", "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  const auto shard = place.Shard("c", "s0");
  REQUIRE(AddBatch(*shard, 0, *backend).ok());
  std::vector<float> rows = BatchOf(0, 2).rows;
  rows[8 * (kTokens - 1) + 7] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status refused =
      shard->Add("a", DType::kF32, reinterpret_cast<uint8_t*>(rows.data()),
                 kTokens, *backend);
  CHECK(absl::IsInvalidArgument(refused));
  CHECK(refused.message() == "site \"a\": NaN at token 1399, input 7");
  // It goes on where it was.
  CHECK(shard->usable());
  CHECK(shard->last_seq() == 1);
  REQUIRE(shard->Checkpoint().ok());
  while (shard->last_seq() < 7) REQUIRE(AddBatch(*shard, 0, *backend).ok());
  REQUIRE(shard->Checkpoint().ok());
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  REQUIRE(SealSite(place, "c", "b", *backend).ok());
  CHECK(Digests(place, "c") == ReferenceDigests(1, 7));
  CHECK(place.Sweep() == 0);
}

TEST_CASE("a sum that failed in its middle is not made durable",
          "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  // Rows that wait and have NaN: nobody looked at them.
  CalibrationPart part;
  part.source = "s";
  part.site = "a";
  part.dtype = DTypeName(DType::kF32);
  part.tokens = kTokens;
  std::vector<float> rows = BatchOf(0, 1).rows;
  rows[8 * 5 + 2] = std::numeric_limits<float>::quiet_NaN();
  auto sums = SiteAccumulator::Create("a", 8, DType::kF32);
  REQUIRE((*sums)
              ->Add(reinterpret_cast<uint8_t*>(rows.data()), kTokens, *backend)
              .ok());
  part.blob = *place.store->PutAccumulator(**sums, 8, DType::kF32);
  REQUIRE(place.records
              ->PutShard(place.Find("c")->key, "s", 0, 1, {part}, kMaxShards)
              .ok());
  const auto shard = place.Shard("c", "s");
  REQUIRE(AddBatch(*shard, 0, *backend).ok());  // batch 2, of a
  REQUIRE(shard->usable());
  REQUIRE(AddBatch(*shard, 0, *backend).ok());  // batch 3, of b
  const absl::Status failed = AddBatch(*shard, 0, *backend);
  CHECK(absl::IsInvalidArgument(failed));
  CHECK(failed.message() == "site \"a\": NaN at token 5, input 2");
  CHECK_FALSE(shard->usable());
  CHECK(absl::IsInternal(shard->Checkpoint()));
  CHECK(shard->durable_seq() == 1);
}

TEST_CASE("a site that changes while it is sealed", "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  const auto shard = place.Shard("c", "s");
  REQUIRE(AddBatch(*shard, 0, *backend).ok());
  REQUIRE(shard->Checkpoint().ok());
  const auto calibration = place.Find("c");
  auto sealing = CalibrationSealing::Open(*place.store, calibration->key,
                                          calibration->sites[0]);
  REQUIRE(sealing.ok());
  SECTION("more came") {
    REQUIRE(AddBatch(*shard, 0, *backend).ok());
    REQUIRE(shard->Checkpoint().ok());
    CHECK(absl::IsAborted((*sealing)->Load()));
  }
  SECTION("another call has sealed it") {
    REQUIRE(SealSite(place, "c", "a", *backend).ok());
    CHECK(absl::IsAborted((*sealing)->Load()));
  }
  SECTION("the calibration was deleted") {
    place.store->Free(*place.records->Delete("p", "c"));
    CHECK(absl::IsNotFound((*sealing)->Load()));
  }
}

TEST_CASE("a full store: nothing is lost, and it may be tried again",
          "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  const auto shard = place.Shard("c", "s");
  for (int64_t i = 0; i < 7; ++i) REQUIRE(AddBatch(*shard, 0, *backend).ok());
  SetFailpointsForTest("blob.write=ENOSPC@2");
  CHECK(absl::IsResourceExhausted(shard->Checkpoint()));
  SetFailpointsForTest("");
  CHECK(shard->durable_seq() == 0);
  CHECK(place.blobs->bytes_used() == 0);
  REQUIRE(shard->Checkpoint().ok());
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  REQUIRE(SealSite(place, "c", "b", *backend).ok());
  CHECK(Digests(place, "c") == ReferenceDigests(1, 7));
}

TEST_CASE("a damaged blob is found", "[calibration_store]") {
  TemporaryFolder folder;
  const auto backend = NewCpuBackend(1);
  {
    const Place place(folder / "p");
    MustCreate(*place.records, NewCalibration("c"));
    const auto shard = place.Shard("c", "s");
    REQUIRE(AddBatch(*shard, 0, *backend).ok());
    REQUIRE(shard->Checkpoint().ok());
  }
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           folder / "p/blobs/blobs")) {
    if (!entry.is_regular_file() || entry.path().has_extension()) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out);
    file.seekp(100);
    file.put('\x7f');
  }
  const Place place(folder / "p");
  const auto shard = place.Shard("c", "s");
  CHECK(absl::IsDataLoss(shard->OpenSite(*shard->FindSite("a"), DType::kF32)));
  CHECK(absl::IsDataLoss(SealSite(place, "c", "a", *backend)));
}

TEST_CASE("a calibration file of sealed sites", "[calibration_store]") {
  TemporaryFolder folder;
  const Place place(folder / "p");
  const auto backend = NewCpuBackend(1);
  MustCreate(*place.records, NewCalibration("c"));
  const auto shard = place.Shard("c", "s");
  for (int64_t i = 0; i < 3; ++i) REQUIRE(AddBatch(*shard, 0, *backend).ok());
  REQUIRE(shard->Checkpoint().ok());
  REQUIRE(SealSite(place, "c", "a", *backend).ok());
  REQUIRE(SealSite(place, "c", "b", *backend).ok());
  const auto calibration = place.Find("c");
  REQUIRE(place.store->Export(*calibration, folder / "out").ok());
  const auto file = CalibrationFile::Open(folder / "out");
  INFO(file.status().ToString());
  REQUIRE(file.ok());
  REQUIRE(file->sites().size() == 2);
  CHECK(file->sites()[0].modules == Texts{"m.a", "m.b"});
  CHECK(file->metadata().at("data_hash") == "x\"y\n");
  const auto loaded = file->Load(0);
  REQUIRE(loaded.ok());
  const auto sealed = place.store->GetSealed(calibration->sites[0]);
  CHECK(loaded->tokens() == 2 * kTokens);
  CHECK(std::memcmp(loaded->second_moment(), sealed->second_moment(),
                    4 * 8 * 8) == 0);
}

// ---------------------------------------------------------------- kill loops

constexpr int64_t kBatches = 9;
constexpr int64_t kEvery = 2;

// A client and its server in one: goes on where the shard is, checkpoints, and
// seals. Writes each number that it was told is durable.
void Serve(const std::string& folder, const std::string& told) {
  const Place place(folder);
  if (!place.ok) _exit(3);
  const auto backend = NewCpuBackend(1);
  const auto shard = place.Shard("c", "s0");
  if (shard == nullptr) _exit(4);
  while (shard->durable_seq() < kBatches) {
    if (!AddBatch(*shard, 0, *backend).ok()) _exit(5);
    if (shard->last_seq() % kEvery != 0 && shard->last_seq() != kBatches) {
      continue;
    }
    if (!shard->Checkpoint().ok()) _exit(6);
    std::ofstream(told) << shard->durable_seq();
  }
  for (const char* site : {"a", "b"}) {
    if (!SealSite(place, "c", site, *backend).ok()) _exit(7);
  }
  _exit(0);
}

// True: it was killed.
bool RunKilled(const std::string& folder, const std::string& told,
               const std::string& failpoints) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    SetFailpointsForTest(failpoints);
    Serve(folder, told);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status)) {
    REQUIRE(WTERMSIG(status) == SIGKILL);
    return true;
  }
  REQUIRE(WEXITSTATUS(status) == 0);
  return false;
}

// Returns the number that is durable.
int64_t CheckAfterKill(const std::string& folder, const std::string& told) {
  const Place place(folder);
  REQUIRE(place.ok);
  int64_t acknowledged = 0;
  std::ifstream(told) >> acknowledged;
  const auto shard = place.Shard("c", "s0");
  REQUIRE(shard != nullptr);
  CHECK(shard->durable_seq() >= acknowledged);
  const auto named = *place.records->Blobs();
  for (const std::string& blob : named) CHECK(*place.blobs->Has(blob));
  // At most what one step makes or frees.
  CHECK(place.Sweep() <= 2);
  CHECK(place.blobs->Staged()->empty());
  return shard->durable_seq();
}

TEST_CASE("killed at every failpoint in turn: counted once, none lost",
          "[calibration_store]") {
  const std::vector<std::string> expected = ReferenceDigests(1, kBatches);
  int64_t kills = 0;
  for (const std::string point :
       {"blob.write", "blob.synced", "blob.before_rename", "blob.after_rename",
        "meta.committed", "calibration.blob", "calibration.before_record",
        "calibration.after_record", "calibration.free",
        "calibration.before_seal", "calibration.after_seal"}) {
    // Every hit, or every third of those that are many.
    for (int64_t hit = 1;; hit += hit < 6 ? 1 : 3) {
      TemporaryFolder folder;
      const std::string told = folder / "told";
      {
        const Place place(folder / "p");
        MustCreate(*place.records, NewCalibration("c"));
      }
      INFO(point << "@" << hit);
      const std::string plan = point + "=kill@" + std::to_string(hit);
      if (!RunKilled(folder / "p", told, plan)) break;
      ++kills;
      CheckAfterKill(folder / "p", told);
      REQUIRE_FALSE(RunKilled(folder / "p", told, ""));
      const Place place(folder / "p");
      CHECK(Digests(place, "c") == expected);
      place.Sweep();
      CHECK(place.blobs->List()->size() == 2);
    }
  }
  CHECK(kills > 30);
}

TEST_CASE("killed again and again", "[calibration_store]") {
  const std::vector<std::string> expected = ReferenceDigests(1, kBatches);
  TemporaryFolder folder;
  const std::string told = folder / "told";
  {
    const Place place(folder / "p");
    MustCreate(*place.records, NewCalibration("c"));
  }
  // Each life gets one step further at most.
  int64_t durable = 0;
  while (RunKilled(folder / "p", told, "calibration.after_record=kill@1")) {
    const int64_t now = CheckAfterKill(folder / "p", told);
    REQUIRE(now == std::min(durable + kEvery, kBatches));
    durable = now;
  }
  CHECK(durable == kBatches);
  const Place place(folder / "p");
  CHECK(Digests(place, "c") == expected);
}

}  // namespace
}  // namespace qs::testing
