// Solve groups of a Quantize stream: sites and tensors that belong together.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/site.h"
#include "quant/site_accumulator.h"
#include "service/server/error.h"
#include "service/stream/group_job.h"
#include "service/stream/group_progress.h"
#include "tests/service/group_messages.h"
#include "tests/service/session_driver.h"
#include "tests/testing/catch_compat.h"

namespace qs::testing {
namespace {

using Form = v1::SiteBegin;

TestSite SmallSite() { return TestSite("block/in", 128, 300, 5); }

std::vector<TestWeight> TwoReaders() {
  return {TestWeight(11, "q.weight", 96, 128, 1),
          TestWeight(12, "k.weight", 700, 128, 2)};
}

// What the server makes of the site's transport form.
std::shared_ptr<Site> Direct(const TestSite& site, Form::Form form,
                             Backend& backend) {
  auto made = std::make_shared<Site>(site.name(), site.inputs());
  if (form == Form::ACTIVATIONS) {
    auto sums =
        SiteAccumulator::Create(site.name(), site.inputs(), DType::kF32);
    const std::string bytes = AsBytes(site.activations());
    REQUIRE((*sums)
                ->Add(reinterpret_cast<const uint8_t*>(bytes.data()),
                      site.tokens(), backend)
                .ok());
    made->Fill(*(*sums)->Finish(backend));
    return made;
  }
  SiteMoments moments = *SiteMoments::Create(site.name(), site.inputs());
  const std::vector<float> packed = site.Packed();
  moments.FillFromPacked(packed.data());
  std::copy(packed.end() - site.inputs(), packed.end(), moments.abs_sum());
  moments.set_tokens(site.tokens());
  made->Fill(std::move(moments));
  return made;
}

Requests WholeGroup(const std::string& preset, Form::Form form, size_t chunk) {
  const TestSite site = SmallSite();
  const std::vector<TestWeight> weights = TwoReaders();
  Requests requests = {Config(preset), Group(1, site, weights)};
  AppendSite(&requests, 2, 1, site, form, chunk);
  for (const TestWeight& weight : weights) {
    AppendTensor(&requests, 1, weight, chunk);
  }
  return requests;
}

void AppendReaders(Requests* requests) {
  for (const TestWeight& weight : TwoReaders()) {
    AppendTensor(requests, 1, weight);
  }
}

void RequireRefused(const Requests& requests, const std::string& reason,
                    const std::string& text) {
  QuantizeContext context(TestContextOptions(2));
  {
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status);
    CHECK(ErrorReason(answers.status) == reason);
    CHECK(std::string(answers.status.message()).find(text) !=
          std::string::npos);
  }
  RequireClean(context);
}

// The summary's figures are those of the reports together.
void CheckTotals(const Answers& answers, const std::vector<int64_t>& handles) {
  const v1::Summary& summary = *answers.summary;
  double seconds = 0;
  double encode = 0;
  double dot = 0;
  double energies[2] = {0, 0};
  double worst = 0;
  int64_t memory = 0;
  for (const int64_t handle : handles) {
    const v1::TensorReport& report = *answers.ReportOf(handle);
    seconds += report.quantize_seconds();
    encode += report.phases().encode();
    memory = std::max(memory, report.memory_bytes());
    dot += report.error().dot_product();
    energies[0] += report.error().weight_squared();
    energies[1] += report.error().decoded_squared();
    if (report.worst_groups().empty()) continue;
    worst = std::max(worst, report.worst_groups(0).mean_squared_error());
  }
  CHECK(seconds > 0);
  CHECK(summary.totals().worker_seconds() == Approx(seconds));
  CHECK(summary.totals().phases().encode() == Approx(encode));
  CHECK(summary.totals().memory_bytes() == memory);
  CHECK(memory > 0);
  CHECK(worst > 0);
  CHECK(summary.totals().worst_groups(0).mean_squared_error() == worst);
  CHECK(summary.totals().histogram().counts_size() > 0);
  CHECK(summary.totals().algorithms_size() == 1);
  CHECK(summary.error().cosine_similarity() ==
        Approx(dot / std::sqrt(energies[0] * energies[1])));
  CHECK(summary.error().cosine_similarity() > 0.9);
}

void CheckProgress(const Answers& answers, bool wanted) {
  REQUIRE(answers.progress.empty() != wanted);
  if (!wanted) return;
  double before = -1;
  for (const v1::Progress& told : answers.progress) {
    CHECK(told.handle() == 1);
    CHECK(told.done() > before);
    before = told.done();
  }
  CHECK(before == 1);
}

TEST_CASE("progress is told once a second, and its end once", "[group]") {
  GroupProgress progress(7);
  const absl::Time start = absl::UnixEpoch();
  const auto first = progress.Next(0, start);
  REQUIRE(first);
  CHECK(first->progress().handle() == 7);
  CHECK_FALSE(progress.Next(0.25, start + absl::Milliseconds(999)));
  const auto later = progress.Next(0.5, start + absl::Seconds(1));
  REQUIRE(later);
  CHECK(later->progress().done() == 0.5);
  CHECK_FALSE(progress.Next(0.4, start + absl::Seconds(9)));
  CHECK_FALSE(progress.Next(0.5, start + absl::Seconds(9)));
  CHECK(progress.Next(1, start + absl::Seconds(1)));
  CHECK_FALSE(progress.Next(1, start + absl::Seconds(9)));
}

TEST_CASE("a group's tensors equal the quantizer's with the same site",
          "[group]") {
  const Form::Form form = GENERATE(Form::SECOND_MOMENT, Form::ACTIVATIONS);
  const std::string preset = GENERATE("W4A16-gptq", "W4A16");
  const size_t chunk = GENERATE(size_t{100000}, size_t{7777});
  const int workers = GENERATE(1, 3);
  const bool gptq = preset == "W4A16-gptq";
  QuantizeContext context(TestContextOptions(workers));
  const auto backend = NewCpuBackend(1);
  QuantizeOptions options;
  options.site = Direct(SmallSite(), form, *backend);
  {
    SessionDriver stream(context);
    Requests requests = WholeGroup(preset, form, chunk);
    requests[0].mutable_config()->set_send_progress(true);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    REQUIRE(answers.summary->tensors() == 2);
    QuantSpec spec = PresetSpec(preset, Profile::kReference);
    if (spec.gptq() != nullptr) spec.method = DefaultGptqSpec(spec.profile);
    for (const TestWeight& weight : TwoReaders()) {
      INFO(weight.info.name);
      const QuantizedTensor direct =
          Quantize(spec, weight.info, weight.bytes, *backend, options);
      for (const OutputTensor& output : direct.tensors) {
        INFO(output.name);
        CHECK(answers.parts.at(weight.handle).at(output.name).bytes ==
              Bytes(output));
      }
      const v1::TensorReport* report = answers.ReportOf(weight.handle);
      REQUIRE(report != nullptr);
      CHECK(report->has_output_error());
      CHECK(report->tokens() == SmallSite().tokens());
      CHECK(report->output_error() ==
            RelativeOutputError(direct.report.output_error));
    }
    CHECK(answers.summary->has_output_error());
    CheckTotals(answers, {11, 12});
    CheckProgress(answers, gptq);  // of the factor
  }
  RequireClean(context);
}

TEST_CASE("AWQ's group is solved when all of it is there", "[group]") {
  const int workers = GENERATE(1, 3);
  const bool progress = GENERATE(false, true);
  QuantizeContext context(TestContextOptions(workers));
  const TestSite site = SmallSite();
  std::vector<TestWeight> weights = TwoReaders();
  const TestWeight norm(13, "norm.weight", 1, 128, 3);
  v1::QuantizeRequest group = Group(1, site, weights);
  v1::GroupTensor* fold_only = group.mutable_group()->add_tensors();
  fold_only->set_name(norm.info.name);
  fold_only->set_dtype(v1::BF16);
  fold_only->add_shape(128);
  fold_only->set_role(v1::GroupTensor::FOLD_ONLY);
  v1::Fold* fold = group.mutable_group()->mutable_sites(0)->mutable_fold();
  fold->set_kind(v1::Fold::NORM);
  fold->set_producer(norm.info.name);
  Requests requests = {Config("W4A16-awq"), group};
  requests[0].mutable_config()->set_send_progress(progress);
  AppendTensor(&requests, 1, norm);
  AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
  for (const TestWeight& weight : weights) AppendTensor(&requests, 1, weight);
  {
    SessionDriver stream(context);
    const Answers& answers = stream.Run(requests);
    INFO(answers.status << " " << answers.problem);
    REQUIRE(answers.status.ok());
    REQUIRE(answers.problem.empty());
    REQUIRE(answers.summary->tensors() == 3);
    const Answers::Part& folded =
        answers.parts.at(norm.handle).at(norm.info.name);
    CHECK(folded.dtype == v1::BF16);
    CHECK(folded.shape == std::vector<int64_t>{128});
    CHECK(folded.bytes.size() == norm.bytes.size());
    CHECK(answers.parts.at(11).count("q.weight_packed") == 1);
    CheckTotals(answers, {11, 12, norm.handle});
    // Of the search for the site's scales, which counts for the first reader.
    CHECK(answers.ReportOf(11)->phases().factor() > 0);
    CHECK(answers.ReportOf(12)->phases().factor() == 0);
    CheckProgress(answers, progress);
    // One reservation serves all.
    const int64_t memory = answers.reports[0].memory_bytes();
    CHECK(memory > 2 * static_cast<int64_t>(weights[1].bytes.size()));
    for (const v1::TensorReport& report : answers.reports) {
      CHECK(report.memory_bytes() == memory);
    }
  }
  RequireClean(context);
}

TEST_CASE("a group keeps nothing of a site that is complete", "[group]") {
  const TestSite source = SmallSite();
  const QuantSpec spec = PresetSpec("W4A16-awq", Profile::kBest);
  const auto info =
      GroupFromProto(spec, Group(1, source, TwoReaders()).group());
  REQUIRE(info.ok());
  ByteBudget budget(1 << 20);
  auto group =
      *GroupJob::Create(1, spec, *info, {}, *budget.TryReserve(1 << 10));
  Form begin;
  begin.set_handle(2);
  begin.set_group(1);
  begin.set_name(source.name());
  begin.set_form(Form::SECOND_MOMENT);
  begin.set_token_count(source.tokens());
  const std::shared_ptr<SiteJob> site = *group->BeginSite(begin, budget, {});
  CHECK(group->Missing() == "site \"block/in\"");
  const std::string packed = AsBytes(source.Packed());
  const ByteSpan piece(reinterpret_cast<const uint8_t*>(packed.data()),
                       packed.size());
  REQUIRE(site->Fill({&piece, 1}).ok());
  REQUIRE(site->Complete());
  group->SiteComplete(*site);
  // The job holds the site, and so the moments, which Solve is to free.
  CHECK(site.use_count() == 1);
  CHECK(group->Missing() == "tensor \"q.weight\"");
  CHECK(ErrorReason(group->BeginSite(begin, budget, {}).status()) ==
        "NOT_IN_GROUP");
}

TEST_CASE("what a group does not declare is refused", "[group]") {
  const TestSite site = SmallSite();
  const std::vector<TestWeight> weights = TwoReaders();
  const v1::QuantizeRequest config = Config("W4A16-gptq");
  const v1::QuantizeRequest group = Group(1, site, weights);
  const TestWeight foreign(13, "v.weight", 4, 128, 3);
  SECTION("no group at all") {
    Requests requests = {config};
    weights[0].AppendTo(&requests, 4096);
    RequireRefused(requests, "CALIBRATION_MISSING", "\"q.weight\"");
  }
  SECTION("a group that is not open") {
    Requests requests = {config};
    AppendTensor(&requests, 9, weights[0]);
    RequireRefused(requests, "HANDLE_UNKNOWN",
                   "tensor.group: got 9, which is not open, allowed that of a "
                   "group that has begun");
  }
  SECTION("another tensor") {
    Requests requests = {config, group};
    AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
    AppendTensor(&requests, 1, foreign);
    RequireRefused(requests, "NOT_IN_GROUP", "\"v.weight\"");
  }
  SECTION("a tensor before its site") {
    Requests requests = {config, group};
    AppendTensor(&requests, 1, weights[0]);
    RequireRefused(requests, "NOT_IN_GROUP", "\"block/in\" must be sent");
  }
  SECTION("another shape") {
    Requests requests = {config, group};
    AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
    requests.push_back(Begin(11, "q.weight", v1::BF16, {95, 128}));
    requests.back().mutable_tensor()->set_group(1);
    RequireRefused(requests, "NOT_IN_GROUP", "[95, 128]");
  }
  SECTION("another site") {
    Requests requests = {config, group};
    AppendSite(&requests, 2, 1, TestSite("other", 128, 8, 1),
               Form::SECOND_MOMENT);
    RequireRefused(requests, "NOT_IN_GROUP", "\"other\"");
  }
  SECTION("a site twice") {
    Requests requests = {config, group};
    AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
    AppendSite(&requests, 3, 1, site, Form::SECOND_MOMENT);
    RequireRefused(requests, "NOT_IN_GROUP", "came already");
  }
  SECTION("a site of another input size") {
    v1::QuantizeRequest wrong = group;
    wrong.mutable_group()->mutable_sites(0)->set_inputs(64);
    RequireRefused({config, wrong}, "BAD_FIELD", "allowed 64");
  }
  SECTION("more sites than a group may have") {
    v1::QuantizeRequest wrong = group;
    for (int i = 1; i < 40'000; ++i) {
      v1::GroupSite* more = wrong.mutable_group()->add_sites();
      more->set_name(absl::StrCat(i));
      more->set_inputs(1);
      more->set_pool("39999");
    }
    RequireRefused({config, wrong}, "BAD_FIELD",
                   "got 40000 sites and 2 tensors, allowed at most 4096 and "
                   "16384");
  }
  SECTION("the end before all of it") {
    Requests requests = {config, group};
    AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
    AppendTensor(&requests, 1, weights[0]);
    RequireRefused(requests, "TOO_FEW_BYTES", "\"k.weight\" is missing");
  }
  SECTION("a handle twice") {
    RequireRefused({config, group, group}, "HANDLE_IN_USE",
                   "group.handle: got 1, which is open, allowed a new one");
  }
}

TEST_CASE("moments that are none are refused", "[group]") {
  const TestSite site = SmallSite();
  const v1::QuantizeRequest group = Group(1, site, TwoReaders());
  std::vector<float> packed = site.Packed();
  const v1::QuantizeRequest begin = SiteBegin(2, 1, site, Form::SECOND_MOMENT);
  Requests requests = {Config("W4A16-gptq"), group, begin};
  SECTION("too few bytes") {
    packed.pop_back();
    AppendBytes(&requests, 2, AsBytes(packed), 100000);
    RequireRefused(requests, "TOO_FEW_BYTES",
                   "site \"block/in\": chunk.last: got it at 33532 bytes, "
                   "allowed at 33536");
  }
  SECTION("too many bytes") {
    packed.push_back(0);
    AppendBytes(&requests, 2, AsBytes(packed), 100000);
    RequireRefused(requests, "TOO_MANY_BYTES",
                   "site \"block/in\": chunk.data: got 33540 bytes, allowed "
                   "33536 more at offset 0");
  }
  SECTION("a negative diagonal") {
    packed[0] = -1;
    AppendBytes(&requests, 2, AsBytes(packed), 100000);
    AppendReaders(&requests);
    RequireRefused(requests, "BAD_CALIBRATION", "block/in");
  }
  SECTION("NaN") {
    packed[200] = std::nanf("");
    AppendBytes(&requests, 2, AsBytes(packed), 100000);
    AppendReaders(&requests);
    RequireRefused(requests, "NON_FINITE_INPUT", "block/in");
  }
  SECTION("of no tokens") {
    requests.back().mutable_site()->set_token_count(0);
    RequireRefused(requests, "BAD_FIELD", "site.token_count");
  }
  SECTION("of no form") {
    requests.back().mutable_site()->clear_form();
    RequireRefused(requests, "BAD_FIELD", "site.form");
  }
}

TEST_CASE("a zero point that the format has no room for", "[group]") {
  const TestSite site = SmallSite();
  // No weight is negative, so that zero is the least of every group.
  std::vector<TestWeight> weights = {TestWeight(11, "q.weight", 96, 128, 1)};
  for (size_t i = 1; i < weights[0].bytes.size(); i += 2) {
    weights[0].bytes[i] &= 0x7f;
  }
  v1::QuantizeRequest config = Config("W4A16-gptq");
  v1::QuantizationConfig& quantization =
      *config.mutable_config()->mutable_quantization();
  quantization.clear_preset();
  quantization.mutable_gptq()->set_symmetric(false);
  quantization.set_format(v1::GPTQ_V1);
  Requests requests = {config, Group(1, site, weights)};
  AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
  AppendTensor(&requests, 1, weights[0]);
  RequireRefused(requests, "FORMAT_LIMIT",
                 "\"q.weight\": zero point of row 0, group 0: got 0, allowed "
                 "1..15 in GPTQ v1; the format GPTQ_V2 holds it");
}

TEST_CASE("activations are checked", "[group]") {
  const TestSite site = SmallSite();
  Requests requests = {Config("W4A16-gptq"), Group(1, site, TwoReaders()),
                       SiteBegin(2, 1, site, Form::ACTIVATIONS)};
  std::vector<float> values = site.activations();
  SECTION("half a token") {
    values.pop_back();
    AppendBytes(&requests, 2, AsBytes(values), 100000);
    RequireRefused(requests, "TOO_FEW_BYTES",
                   "allowed at one or more whole tokens");
  }
  SECTION("Inf") {
    values[3 * 128 + 5] = INFINITY;
    AppendBytes(&requests, 2, AsBytes(values), 100000);
    AppendReaders(&requests);
    RequireRefused(requests, "NON_FINITE_INPUT", "Inf at token 3, input 5");
  }
  SECTION("typed, beyond their dtype") {
    requests.back().mutable_site()->set_dtype(v1::F16);
    v1::QuantizeRequest typed;
    typed.mutable_chunk()->set_handle(2);
    for (const float value : {1.0f, 65504.0f, -70000.0f}) {
      typed.mutable_chunk()->add_float_values(value);
    }
    requests.push_back(typed);
    RequireRefused(requests, "BAD_FIELD",
                   "chunk.float_values[2]: got -70000 for site");
  }
}

TEST_CASE("a group waits for memory, and is refused when it can have none",
          "[group]") {
  const int64_t budget = int64_t{24} << 20;
  QuantizeContext context(TestContextOptions(1, budget));
  {
    SessionDriver stream(context);
    const Answers& answers =
        stream.Run(WholeGroup("W4A16", Form::SECOND_MOMENT, 100000));
    INFO(answers.status);
    REQUIRE(answers.status.ok());
  }
  RequireClean(context);
  const TestSite site("block/in", 128, 30, 5);
  v1::QuantizeRequest group = Group(1, site, TwoReaders());
  v1::GroupSite* large = group.mutable_group()->add_sites();
  large->set_name("large");
  for (const int64_t inputs : {int64_t{4096}, int64_t{53248}, int64_t{65536}}) {
    large->set_inputs(inputs);
    SessionDriver stream(context);
    const Answers& answers = stream.Run({Config("W4A16"), group});
    INFO(answers.status);
    CHECK(ErrorReason(answers.status) == "TENSOR_TOO_LARGE");
    CHECK(std::stoll(ErrorMetadataValue(answers.status, "got")) >
          4 * inputs * inputs);
  }
}

TEST_CASE("a stream that ends inside a group leaves nothing", "[group]") {
  QuantizeContext context(TestContextOptions(2));
  const TestSite site = SmallSite();
  {
    SessionDriver stream(context);
    Requests requests = {Config("W4A16-awq"), Group(1, site, TwoReaders())};
    AppendSite(&requests, 2, 1, site, Form::SECOND_MOMENT);
    AppendTensor(&requests, 1, TwoReaders()[0]);
    for (const v1::QuantizeRequest& request : requests) {
      REQUIRE(stream.Send(request));
    }
    stream.Cancel();
    CHECK(stream.Finish().status.code() == absl::StatusCode::kCancelled);
  }
  RequireClean(context);
}

}  // namespace
}  // namespace qs::testing
