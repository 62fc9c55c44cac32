// Site: readers wait for the moments and share what is derived from them.
#include "quant/site.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

SiteMoments Moments(int64_t inputs) {
  SiteMoments moments = *SiteMoments::Create("site", inputs);
  moments.second_moment()[0] = 3;
  moments.set_tokens(7);
  return moments;
}

TEST_CASE("a reader waits for the moments") {
  Site site("site", 4);
  std::atomic<int64_t> tokens{0};
  std::thread reader([&] { tokens = (*site.Moments())->tokens(); });
  CHECK(tokens == 0);
  site.Fill(Moments(4));
  reader.join();
  CHECK(tokens == 7);
}

TEST_CASE("a failed site fails its readers") {
  Site site("site", 4);
  site.Fail(absl::InvalidArgumentError("no tokens"));
  CHECK(site.Moments().status().message() == "no tokens");
  const auto derived =
      site.Derive("factor", [](const SiteMoments&) -> Site::Derived {
        FAIL("made from nothing");
        return nullptr;
      });
  CHECK(derived.status().message() == "no tokens");
}

TEST_CASE("what is derived is made once for all readers") {
  Site site("site", 4);
  std::atomic<int> made{0};
  std::vector<const void*> seen(4);
  std::vector<std::thread> readers;
  for (size_t i = 0; i < seen.size(); ++i) {
    readers.emplace_back([&, i] {
      const auto derived =
          site.Derive("factor", [&](const SiteMoments& moments) {
            ++made;
            return std::make_shared<float>(moments.second_moment()[0]);
          });
      seen[i] = derived->get();
    });
  }
  site.Fill(Moments(4));
  for (std::thread& reader : readers) reader.join();
  CHECK(made == 1);
  for (const void* one : seen) CHECK(*static_cast<const float*>(one) == 3);
  CHECK(*std::static_pointer_cast<const int>(*site.Derive(
            "other",
            [](const SiteMoments&) { return std::make_shared<int>(5); })) == 5);
}

TEST_CASE("every caller gets the error of what could not be made") {
  Site site("site", 4);
  site.Fill(Moments(4));
  for (int i = 0; i < 2; ++i) {
    const auto derived = site.Derive(
        "factor", [&](const SiteMoments&) -> absl::StatusOr<Site::Derived> {
          if (i > 0) FAIL("made twice");
          return absl::CancelledError("stopped");
        });
    CHECK(derived.status().code() == absl::StatusCode::kCancelled);
  }
}

}  // namespace
}  // namespace qs
