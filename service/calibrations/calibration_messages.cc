// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/calibration_messages.h"

#include <algorithm>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/site_moments.h"
#include "quant/formats/json.h"
#include "service/base/random_id.h"
#include "service/calibrations/calibration_context.h"
#include "service/server/error.h"
#include "service/server/options.h"
#include "service/server/proto_convert.h"
#include "service/stream/digest.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr size_t kMaxRequestId = 128;
// Of metadata and sites in one answer, below the 4 MiB of a message.
constexpr size_t kMaxPageBytes = size_t{15} << 18;
constexpr size_t kFieldBytes = 5;  // a site's tag and length

// Of the texts, each with its length, so that no two lists are alike.
std::string HashOf(const std::vector<std::string>& texts) {
  Sha256 hash;
  for (const std::string& text : texts) {
    const std::string piece = absl::StrCat(text.size(), ":", text);
    hash.Update({reinterpret_cast<const uint8_t*>(piece.data()), piece.size()});
  }
  return hash.Finish();
}

absl::Status CheckText(const std::string& field, const std::string& text,
                       size_t least, size_t most) {
  if (text.size() >= least && text.size() <= most) return absl::OkStatus();
  return BadFieldError(
      field, absl::StrCat("got ", text.size(), " bytes, allowed ", least,
                          " to ", most));
}

absl::Status CheckId(const std::string& id) {
  const bool plain =
      id.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") ==
      std::string::npos;
  if (plain && id.size() <= 63) return absl::OkStatus();
  return BadFieldError(
      "calibration_id",
      absl::StrCat("got ", QuoteForError(id), ", allowed [a-z0-9-]{1,63}"));
}

// One site, and what it adds to `texts`.
absl::StatusOr<CalibrationSiteRecord> SiteFromProto(
    const v1::CalibrationSite& site, const std::string& field,
    std::set<std::string>* modules, std::vector<std::string>* texts) {
  QS_RETURN_IF_ERROR(CheckText(field + ".name", site.name(), 1, kMaxNameBytes));
  if (site.inputs() < 1 || site.inputs() > kMaxSiteInputs) {
    return BadFieldError(
        field + ".inputs",
        absl::StrCat("got ", site.inputs(), ", allowed 1 to ", kMaxSiteInputs));
  }
  if (site.modules().empty()) {
    return BadFieldError(field + ".modules", "got none, allowed at least one");
  }
  CalibrationSiteRecord record;
  record.name = site.name();
  record.inputs = site.inputs();
  texts->push_back(site.name());
  texts->push_back(absl::StrCat(site.inputs(), " ", site.modules_size()));
  for (const std::string& module : site.modules()) {
    QS_RETURN_IF_ERROR(CheckText(field + ".modules", module, 1, kMaxNameBytes));
    if (!modules->insert(module).second) {
      return BadFieldError(field + ".modules",
                           absl::StrCat("got ", QuoteForError(module),
                                        " twice, allowed at one site"));
    }
    record.modules.push_back(module);
    texts->push_back(module);
  }
  return record;
}

absl::Status CheckNames(const std::vector<CalibrationSiteRecord>& sites) {
  for (size_t i = 1; i < sites.size(); ++i) {
    if (sites[i].name == sites[i - 1].name) {
      return BadFieldError("sites",
                           absl::StrCat("got ", QuoteForError(sites[i].name),
                                        " twice, allowed once"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSize(const v1::CreateCalibrationRequest& request,
                       const std::vector<std::string>& texts) {
  if (request.sites().empty() || request.sites_size() > kMaxCalibrationSites) {
    return BadFieldError(
        "sites", absl::StrCat("got ", request.sites_size(), ", allowed 1 to ",
                              kMaxCalibrationSites));
  }
  int64_t bytes = 0;
  for (const std::string& text : texts) {
    bytes += static_cast<int64_t>(text.size());
  }
  if (bytes <= kMaxCalibrationText) return absl::OkStatus();
  return BadFieldError(
      "sites", absl::StrCat("got ", bytes,
                            " bytes of names, modules and metadata, allowed ",
                            kMaxCalibrationText));
}

}  // namespace

absl::StatusOr<CalibrationRecord> RecordFromRequest(
    const std::string& project, const v1::CreateCalibrationRequest& request) {
  CalibrationRecord record;
  record.project = project;
  QS_RETURN_IF_ERROR(CheckId(request.calibration_id()));
  QS_RETURN_IF_ERROR(
      CheckText("request_id", request.request_id(), 0, kMaxRequestId));
  std::vector<std::string> texts = {request.calibration_id()};
  std::set<std::string> modules;
  QS_RETURN_IF_ERROR(CheckSize(request, {}));
  for (int i = 0; i < request.sites_size(); ++i) {
    QS_ASSIGN_OR_RETURN(
        CalibrationSiteRecord site,
        SiteFromProto(request.sites(i), absl::StrCat("sites[", i, "]"),
                      &modules, &texts));
    record.sites.push_back(std::move(site));
  }
  record.metadata = {request.metadata().begin(), request.metadata().end()};
  for (const auto& [key, value] : record.metadata) {
    if (key == "inputs") {
      return BadFieldError("metadata", "got \"inputs\", which sites make");
    }
    texts.push_back(key);
    texts.push_back(value);
  }
  QS_RETURN_IF_ERROR(CheckSize(request, texts));
  std::sort(record.sites.begin(), record.sites.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  QS_RETURN_IF_ERROR(CheckNames(record.sites));
  record.id =
      request.calibration_id().empty() ? RandomId() : request.calibration_id();
  record.request_id = request.request_id();
  record.request_hash = HashOf(texts);
  record.created_ms = absl::ToUnixMillis(absl::Now());
  return record;
}

v1::CalibrationSite SiteToProto(const CalibrationSiteRecord& site) {
  v1::CalibrationSite out;
  out.set_name(site.name);
  out.set_inputs(site.inputs);
  for (const std::string& module : site.modules) out.add_modules(module);
  out.set_sealed(site.sealed);
  out.set_token_count(site.tokens);
  out.set_digest(site.digest);
  return out;
}

absl::StatusOr<std::string> SiteOfPageToken(const std::string& token) {
  std::string site;
  if (absl::WebSafeBase64Unescape(token, &site)) return site;
  return BadFieldError("page_token",
                       "got none of this call, allowed next_page_token");
}

v1::Calibration CalibrationToProto(const CalibrationRecord& record,
                                   const std::string& after, size_t most) {
  v1::Calibration out;
  out.set_name(NameFromId(record.project, kCalibrations, record.id));
  size_t bytes = 0;
  if (after.empty()) {
    for (const auto& [key, value] : record.metadata) {
      (*out.mutable_metadata())[key] = value;
    }
    bytes = out.ByteSizeLong();
  }
  for (const CalibrationSiteRecord& site : record.sites) {
    if (!after.empty() && site.name <= after) continue;
    v1::CalibrationSite one = SiteToProto(site);
    bytes += one.ByteSizeLong() + kFieldBytes;
    const auto listed = static_cast<size_t>(out.sites_size());
    if (listed > 0 && (listed >= most || bytes > kMaxPageBytes)) {
      out.set_next_page_token(
          absl::WebSafeBase64Escape(out.sites(out.sites_size() - 1).name()));
      break;
    }
    *out.add_sites() = std::move(one);
  }
  out.set_site_count(record.site_count);
  out.set_sealed_count(record.sealed_count);
  out.mutable_create_time()->set_seconds(record.created_ms / 1000);
  out.mutable_create_time()->set_nanos(
      static_cast<int32_t>(record.created_ms % 1000 * 1'000'000));
  return out;
}

absl::StatusOr<CalibrationPart> PartFromBegin(
    const v1::SecondMomentsBegin& begin) {
  QS_RETURN_IF_ERROR(
      CheckText("begin.request_id", begin.request_id(), 1, kMaxRequestId));
  if (begin.token_count() < 0) {
    return BadFieldError(
        "begin.token_count",
        absl::StrCat("got ", begin.token_count(), ", allowed at least 0"));
  }
  CalibrationPart part;
  part.kind = CalibrationPart::Kind::kMoments;
  part.source = begin.request_id();
  part.site = begin.site();
  part.tokens = begin.token_count();
  part.request_hash = HashOf({begin.site(), absl::StrCat(part.tokens)});
  return part;
}

absl::Status CheckShardId(const std::string& shard_id) {
  const bool plain = shard_id.find_first_not_of(
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                         "0123456789_.-") == std::string::npos;
  if (plain && !shard_id.empty() && shard_id.size() <= 64) {
    return absl::OkStatus();
  }
  return BadFieldError("shard_id",
                       absl::StrCat("got ", QuoteForError(shard_id),
                                    ", allowed [A-Za-z0-9_.-]{1,64}"));
}

absl::StatusOr<DType> ActivationsDType(v1::DataType dtype) {
  switch (dtype) {
    case v1::F32:
      return DType::kF32;
    case v1::F16:
      return DType::kF16;
    case v1::BF16:
      return DType::kBF16;
    default:
      return BadFieldError("dtype", absl::StrCat("got ", DTypeText(dtype),
                                                 ", allowed F32, F16 or BF16"));
  }
}

const CalibrationSiteRecord* FindSite(const CalibrationRecord& calibration,
                                      const std::string& name) {
  const auto& sites = calibration.sites;
  const auto found = std::lower_bound(
      sites.begin(), sites.end(), name,
      [](const CalibrationSiteRecord& site, const std::string& wanted) {
        return site.name < wanted;
      });
  return found == sites.end() || found->name != name ? nullptr : &*found;
}

}  // namespace qs
