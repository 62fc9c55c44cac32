// Jobs that bring their calibration in the message: what a file has for one
// linear.
#ifndef QS_TESTS_SERVICE_JOBS_INLINE_REQUEST_H_
#define QS_TESTS_SERVICE_JOBS_INLINE_REQUEST_H_

#include <string>
#include <vector>

#include "tests/service/jobs/calibration_client.h"

namespace qs::testing {

// o_proj of one layer, and a file's site for it in the message.
inline v1::CreateJobRequest OneLayer(const JobFolders& folders,
                                     const std::string& out) {
  v1::CreateJobRequest request = JobRequest(folders, out, "W4A16-gptq");
  v1::Job* const job = request.mutable_job();
  job->mutable_quantization()->set_profile(v1::REFERENCE);
  job->mutable_source()->add_include("*layers.1.self_attn.o_proj.*");
  return request;
}

inline size_t SiteOf(const std::string& module) {
  const auto& sites = File().sites();
  for (size_t i = 0; i < sites.size(); ++i) {
    for (const std::string& one : sites[i].modules) {
      if (one == module) return i;
    }
  }
  FAIL("no site of " << module);
  return 0;
}

inline void AddSite(const std::string& module, v1::Job* job) {
  const size_t place = SiteOf(module);
  const auto moments = File().Load(place);
  REQUIRE(moments.ok());
  v1::InlineSite* const site =
      job->mutable_calibration()->mutable_inline_()->add_sites();
  const int64_t n = moments->inputs();
  site->set_name("mine");
  for (const std::string& one : File().sites()[place].modules) {
    site->add_modules(one);
  }
  site->set_token_count(moments->tokens());
  site->mutable_abs_sum()->Add(moments->abs_sum(), moments->abs_sum() + n);
  std::vector<float> packed(
      static_cast<size_t>(SiteMoments::PackedElements(n)));
  moments->CopyToPacked(packed.data());
  site->mutable_second_moment()->Add(packed.begin(), packed.end());
}

inline v1::CreateJobRequest InlineRequest(const JobFolders& folders,
                                          const std::string& out) {
  v1::CreateJobRequest request = OneLayer(folders, out);
  AddSite("model.layers.1.self_attn.o_proj", request.mutable_job());
  return request;
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_JOBS_INLINE_REQUEST_H_
