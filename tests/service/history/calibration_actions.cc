// Used by tests/service/history/history_run.cc.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/stream/crc32c.h"
#include "tests/service/history/workload.h"

namespace qs::testing {
namespace {

using Stub = v1::CalibrationService::Stub;
using BatchStream = grpc::ClientReaderWriter<v1::WriteActivationsRequest,
                                             v1::WriteActivationsResponse>;

// n (n + 1) / 2 products, then the sums of |x|.
constexpr int64_t kProducts = kSiteInputs * (kSiteInputs + 1) / 2;

std::string BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), 4 * values.size()};
}

uint32_t CrcOf(const std::string& data) {
  return Crc32c({reinterpret_cast<const uint8_t*>(data.data()), data.size()});
}

// The token that counts.
std::string TokenOf(int64_t counter) {
  std::vector<float> token(kSiteInputs, 0.0f);
  token[static_cast<size_t>(counter)] = 1;
  return BytesOf(token);
}

// The same token's second moments.
std::string MomentsOf(int64_t counter) {
  std::vector<float> sums(kProducts + kSiteInputs, 0.0f);
  // Row `counter` of the upper triangle begins with its diagonal.
  const int64_t diagonal = counter * kSiteInputs - counter * (counter - 1) / 2;
  sums[static_cast<size_t>(diagonal)] = 1;
  sums[static_cast<size_t>(kProducts + counter)] = 1;
  return BytesOf(sums);
}

v1::WriteActivationsRequest Batch(const std::string& shard, int64_t seq) {
  v1::WriteActivationsRequest batch;
  batch.set_seq(seq);
  batch.set_site(SiteOfBatch(seq));
  batch.set_dtype(v1::F32);
  batch.set_data(TokenOf(CounterOfBatch(shard, seq)));
  batch.set_crc32c(CrcOf(batch.data()));
  return batch;
}

bool TakeAnswer(BatchStream* stream, Operation* op) {
  v1::WriteActivationsResponse response;
  if (!stream->Read(&response)) return false;
  op->numbers.push_back(response.durable_seq());
  return true;
}

std::vector<SiteView> ViewsOf(const v1::Calibration& calibration) {
  std::vector<SiteView> views;
  for (const v1::CalibrationSite& site : calibration.sites()) {
    views.push_back(
        {site.name(), site.sealed(), site.token_count(), site.digest()});
  }
  return views;
}

// Counters of moments: their number and site follow from the request_id.
constexpr char kMomentsPrefix[] = "m";

}  // namespace

std::string CalibrationId(int number) { return absl::StrCat("c-", number); }

void HistoryClient::ActOnCalibration() {
  const int number = board_.calibrations.Pick(&random_);
  const std::string id = CalibrationId(number);
  CreateCalibration(number);
  WriteActivations(number, OneIn(2) ? "0" : "1");
  if (OneIn(2)) WriteMoments(number);
  if (OneIn(3)) GetCalibration(number);
  if (OneIn(20)) Seal(number, OneIn(2) ? "a" : "b");
  if (OneIn(8)) ReadSite(number, OneIn(2) ? "a" : "b");
  // A server that is away would have them retired by the thousand, and kept.
  if (OneIn(25) && SealAndRead(number)) {
    if (OneIn(2)) DeleteCalibration(id);
    board_.calibrations.Retire(number);
  }
}

void HistoryClient::CreateCalibration(int number) {
  Operation op = Begin("CreateCalibration", CalibrationId(number));
  op.request = "calibration-" + op.object;
  v1::CreateCalibrationRequest request;
  request.set_calibration_id(op.object);
  request.set_request_id(op.request);
  for (const char* name : {"a", "b"}) {
    v1::CalibrationSite* site = request.add_sites();
    site->set_name(name);
    site->set_inputs(kSiteInputs);
    site->add_modules(std::string("m.") + name);
  }
  v1::Calibration made;
  const grpc::Status status =
      Call(*calibrations_, &Stub::CreateCalibration, request, &made);
  op.sites = ViewsOf(made);
  End(std::move(op), status);
}

void HistoryClient::WriteActivations(int number, const std::string& shard) {
  Operation op = Begin("WriteActivations", CalibrationId(number));
  op.request = shard;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  const auto stream = calibrations_->WriteActivations(&context);
  v1::WriteActivationsRequest first;
  first.set_calibration(NameOf("calibrations", op.object));
  first.set_shard_id(shard);
  bool open = stream->Write(first) && TakeAnswer(stream.get(), &op);
  int64_t seq = open ? op.numbers.back() + 1 : 1;
  // Batches that were added may come again.
  if (OneIn(3)) seq = std::max<int64_t>(1, seq - 2);
  const int64_t last = std::min<int64_t>(kShardCounters, seq + random_() % 8);
  for (; open && seq <= last; ++seq) {
    v1::WriteActivationsRequest batch = Batch(shard, seq);
    batch.set_flush(OneIn(3));
    op.sent = seq;
    open = stream->Write(batch);
    if (open && batch.flush()) open = TakeAnswer(stream.get(), &op);
    if (open && OneIn(12)) {
      context.TryCancel();
      break;
    }
  }
  stream->WritesDone();
  while (TakeAnswer(stream.get(), &op)) {
  }
  End(std::move(op), stream->Finish());
}

void HistoryClient::WriteMoments(int number) {
  const auto moment = static_cast<int64_t>(random_() % kMomentCounters);
  Operation op = Begin("WriteSecondMoments", CalibrationId(number));
  op.request = absl::StrCat(kMomentsPrefix, moment);
  op.site = moment % 2 == 0 ? "a" : "b";
  op.counter = kShardCounters * kHistoryShards + moment;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  const auto stream = calibrations_->WriteSecondMoments(&context);
  v1::WriteSecondMomentsRequest begin;
  begin.mutable_begin()->set_calibration(NameOf("calibrations", op.object));
  begin.mutable_begin()->set_site(op.site);
  begin.mutable_begin()->set_token_count(1);
  begin.mutable_begin()->set_request_id(op.request);
  v1::WriteSecondMomentsRequest chunk;
  chunk.mutable_chunk()->set_data(MomentsOf(op.counter));
  chunk.mutable_chunk()->set_crc32c(CrcOf(chunk.chunk().data()));
  chunk.mutable_chunk()->set_last(true);
  if (stream->Write(begin)) stream->Write(chunk);
  stream->WritesDone();
  v1::WriteSecondMomentsResponse response;
  bool answered = false;
  while (stream->Read(&response)) {
    answered = true;
    op.already_added = response.already_added();
  }
  grpc::Status status = stream->Finish();
  // The answer counts, whatever became of the call after it.
  if (answered) status = grpc::Status::OK;
  End(std::move(op), status);
}

void HistoryClient::GetCalibration(int number) {
  Operation op = Begin("GetCalibration", CalibrationId(number));
  v1::GetCalibrationRequest request;
  request.set_name(NameOf("calibrations", op.object));
  v1::Calibration found;
  const grpc::Status status =
      Call(*calibrations_, &Stub::GetCalibration, request, &found);
  op.sites = ViewsOf(found);
  End(std::move(op), status);
}

void HistoryClient::Seal(int number, const std::string& site) {
  Operation op = Begin("SealSites", CalibrationId(number));
  v1::SealSitesRequest request;
  request.set_name(NameOf("calibrations", op.object));
  if (!site.empty()) request.add_sites(site);
  v1::Calibration sealed;
  const grpc::Status status =
      Call(*calibrations_, &Stub::SealSites, request, &sealed);
  op.sites = ViewsOf(sealed);
  End(std::move(op), status);
}

bool HistoryClient::ReadSite(int number, const std::string& site) {
  Operation op = Begin("ReadSite", CalibrationId(number));
  op.site = site;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kCallLimit));
  v1::ReadSiteRequest request;
  request.set_name(NameOf("calibrations", op.object));
  request.set_site(site);
  const auto stream = calibrations_->ReadSite(&context, request);
  std::string bytes;
  v1::ReadSiteResponse response;
  while (stream->Read(&response)) bytes += response.data();
  const grpc::Status status = stream->Finish();
  if (status.ok()) {
    std::vector<float> sums(bytes.size() / 4);
    std::memcpy(sums.data(), bytes.data(), sums.size() * 4);
    for (auto i = static_cast<size_t>(kProducts); i < sums.size(); ++i) {
      op.numbers.push_back(static_cast<int64_t>(sums[i]));
    }
    op.numbers.resize(kSiteInputs);  // a site without tokens has none
  }
  End(std::move(op), status);
  return status.ok();
}

bool HistoryClient::SealAndRead(int number) {
  Seal(number, "");
  const bool first = ReadSite(number, "a");
  return ReadSite(number, "b") && first;
}

void HistoryClient::DeleteCalibration(const std::string& id) {
  Operation op = Begin("DeleteCalibration", id);
  v1::DeleteCalibrationRequest request;
  request.set_name(NameOf("calibrations", id));
  google::protobuf::Empty response;
  End(std::move(op),
      Call(*calibrations_, &Stub::DeleteCalibration, request, &response));
}

}  // namespace qs::testing
