// Requests of solve groups, for tests.
#ifndef QS_TESTS_SERVICE_GROUP_MESSAGES_H_
#define QS_TESTS_SERVICE_GROUP_MESSAGES_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/service/quantize_messages.h"

namespace qs::testing {

// A site's moments: of `tokens` Gaussian activations, a few columns large.
class TestSite {
 public:
  TestSite(std::string name, int64_t inputs, int64_t tokens, uint32_t seed)
      : name_(std::move(name)), inputs_(inputs), tokens_(tokens) {
    activations_ = GaussianValues(tokens * inputs, seed);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < inputs; i += 17) {
        activations_[static_cast<size_t>(t * inputs + i)] *= 8;
      }
    }
  }

  const std::string& name() const { return name_; }
  int64_t inputs() const { return inputs_; }
  int64_t tokens() const { return tokens_; }
  const std::vector<float>& activations() const { return activations_; }

  // As SiteBegin::SECOND_MOMENT travels.
  std::vector<float> Packed() const {
    const auto n = static_cast<size_t>(inputs_);
    std::vector<double> sums(n * (n + 1) / 2 + n);
    for (int64_t t = 0; t < tokens_; ++t) {
      const float* x = activations_.data() + t * inputs_;
      size_t at = 0;
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = i; j < n; ++j) sums[at++] += double{x[i]} * x[j];
      }
      for (size_t i = 0; i < n; ++i) sums[at++] += std::abs(double{x[i]});
    }
    return {sums.begin(), sums.end()};
  }

 private:
  static std::vector<float> GaussianValues(int64_t count, uint32_t seed) {
    const std::vector<uint8_t> bytes = Gaussian(count, DType::kF32, seed);
    std::vector<float> values(static_cast<size_t>(count));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  std::string name_;
  int64_t inputs_;
  int64_t tokens_;
  std::vector<float> activations_;
};

inline std::string AsBytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()),
          values.size() * sizeof(float)};
}

// A group of one site and its readers.
inline v1::QuantizeRequest Group(int64_t handle, const TestSite& site,
                                 const std::vector<TestWeight>& weights) {
  v1::QuantizeRequest request;
  v1::GroupBegin* group = request.mutable_group();
  group->set_handle(handle);
  group->set_name("group");
  v1::GroupSite* declared = group->add_sites();
  declared->set_name(site.name());
  declared->set_inputs(site.inputs());
  for (const TestWeight& weight : weights) {
    v1::GroupTensor* tensor = group->add_tensors();
    tensor->set_name(weight.info.name);
    tensor->set_dtype(v1::BF16);
    tensor->mutable_shape()->Add(weight.info.shape.begin(),
                                 weight.info.shape.end());
    tensor->set_site(site.name());
  }
  return request;
}

inline v1::QuantizeRequest SiteBegin(int64_t handle, int64_t group,
                                     const TestSite& site,
                                     v1::SiteBegin::Form form) {
  v1::QuantizeRequest request;
  v1::SiteBegin* begin = request.mutable_site();
  begin->set_handle(handle);
  begin->set_group(group);
  begin->set_name(site.name());
  begin->set_form(form);
  if (form == v1::SiteBegin::SECOND_MOMENT) {
    begin->set_token_count(site.tokens());
  } else {
    begin->set_dtype(v1::F32);
  }
  return request;
}

inline void AppendBytes(Requests* requests, int64_t handle,
                        const std::string& bytes, size_t chunk) {
  for (size_t at = 0; at < bytes.size(); at += chunk) {
    const std::string piece = bytes.substr(at, chunk);
    requests->push_back(Data(handle, static_cast<int64_t>(at), piece,
                             at + piece.size() == bytes.size()));
  }
}

// The site, whole.
inline void AppendSite(Requests* requests, int64_t handle, int64_t group,
                       const TestSite& site, v1::SiteBegin::Form form,
                       size_t chunk = 100000) {
  requests->push_back(SiteBegin(handle, group, site, form));
  AppendBytes(
      requests, handle,
      AsBytes(form == v1::SiteBegin::SECOND_MOMENT ? site.Packed()
                                                   : site.activations()),
      chunk);
}

// A tensor that its group has declared.
inline void AppendTensor(Requests* requests, int64_t group,
                         const TestWeight& weight, size_t chunk = 100000) {
  Requests own;
  weight.AppendTo(&own, chunk);
  v1::TensorBegin* begin = own.front().mutable_tensor();
  begin->set_group(group);
  begin->clear_shape();
  begin->clear_dtype();
  requests->insert(requests->end(), own.begin(), own.end());
}

}  // namespace qs::testing

#endif  // QS_TESTS_SERVICE_GROUP_MESSAGES_H_
