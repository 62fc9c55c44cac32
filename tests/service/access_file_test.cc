// The access file: what it may say, and who a call then is.
#include "service/access/access_file.h"

#include <fstream>
#include <string>
#include <vector>

#include "service/access/file_access.h"
#include "service/server/error.h"
#include "service/server/log.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/temporary_folder.h"

namespace qs {
namespace {

// printf %s open-sesame | sha256sum
const std::string kHash =
    "d7ecdf25eaf3deba0f2628771dbdd22d4138ab6cf38f91ed02a2ca0dec7c8ab7";
const std::string kOtherHash(64, 'a');

std::string Token(const std::string& hash, const std::string& role) {
  return R"({"sha256": ")" + hash + R"(", "project": "team-a", "role": ")" +
         role + R"("})";
}

AccessRules Parsed(const std::string& json) {
  const absl::StatusOr<AccessRules> rules = ParseAccessRules(json);
  INFO(rules.status().ToString());
  REQUIRE(rules.ok());
  return *rules;
}

std::string Refused(const std::string& json) {
  const absl::Status status = ParseAccessRules(json).status();
  REQUIRE(status.code() == absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST_CASE("an access file with tokens and certificates", "[access_file]") {
  const AccessRules rules =
      Parsed(R"({"tokens": [)" + Token(kOtherHash, "admin") + "," +
             Token(kHash, "user") + R"(],
          "certificates": [
            {"name": "dns:w.example", "project": "b", "role": "reader",
             "comment": "the worker"},
            {"name": "cn:w.example", "project": "c-1", "role": "admin"}]})");
  REQUIRE(FindToken(rules, "open-sesame") == Caller{"team-a", Role::kUser});
  REQUIRE_FALSE(FindToken(rules, "open-sesam").has_value());
  REQUIRE_FALSE(FindToken(rules, "").has_value());
  REQUIRE_FALSE(FindToken(rules, kHash).has_value());
  REQUIRE(rules.certificates.at("dns:w.example") == Caller{"b", Role::kReader});
  REQUIRE(rules.certificates.at("cn:w.example") == Caller{"c-1", Role::kAdmin});
}

TEST_CASE("what an access file must not say", "[access_file]") {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "access-file"},
      {"[]", "access-file"},
      {"{}", "access-file: file: got no entry"},
      {R"({"tokens": []})", "access-file: file: got no entry"},
      {R"({"token": []})", "access-file: file: got key \"token\""},
      {R"({"tokens": {}})", "access-file: tokens: got"},
      {R"({"tokens": [1]})", "access-file: tokens[0]: got 1"},
      {R"({"tokens": [], "tokens": []})", "access-file"},
      {R"({"tokens": [)" + Token(kHash, "user") + "," + Token(kHash, "user") +
           "]}",
       "access-file: tokens[1].sha256: got it twice"},
      {R"({"tokens": [)" + Token(kHash, "root") + "]}",
       "access-file: tokens[0].role: got \"root\", allowed reader, user, "
       "admin"},
      {R"({"tokens": [)" + Token("open-sesame", "user") + "]}",
       "access-file: tokens[0].sha256: got 11 characters, allowed 64"},
      {R"({"tokens": [)" + Token(std::string(64, 'A'), "user") + "]}",
       "access-file: tokens[0].sha256: got 64 characters"},
      {R"({"tokens": [{"sha256": ")" + kHash + R"(", "role": "user"}]})",
       "access-file: tokens[0].project: got nothing"},
      {R"({"tokens": [{"sha256": ")" + kHash +
           R"(", "role": "user", "project": "-"}]})",
       "access-file: tokens[0].project: got \"-\""},
      {R"({"tokens": [{"sha256": ")" + kHash +
           R"(", "role": "user", "project": "a/b"}]})",
       "access-file: tokens[0].project: got \"a/b\""},
      {R"({"tokens": [{"sha256": ")" + kHash +
           R"(", "role": 3, "project": "a"}]})",
       "access-file: tokens[0].role: got 3"},
      {R"({"tokens": [{"sha256": ")" + kHash +
           R"(", "role": "user", "project": "a", "expires": "never"}]})",
       "access-file: tokens[0]: got key \"expires\""},
      {R"({"certificates": [{"name": "w", "project": "a", "role": "user"}]})",
       "access-file: certificates[0].name: got \"w\""},
      {R"({"certificates": [{"name": "dns:", "project": "a",
                             "role": "user"}]})",
       "access-file: certificates[0].name: got \"dns:\""},
      {R"({"certificates": [
            {"name": "dns:w", "project": "a", "role": "user"},
            {"name": "dns:w", "project": "b", "role": "user"}]})",
       "access-file: certificates[1].name: got \"dns:w\" twice"}};
  for (const auto& [json, expected] : cases) {
    INFO(json);
    const std::string error = Refused(json);
    INFO(error);
    REQUIRE(error.find(expected) == 0);
  }
  // A token that was put in place of its hash is not repeated.
  REQUIRE(Refused(R"({"tokens": [)" + Token("open-sesame", "user") + "]}")
              .find("open-sesame") == std::string::npos);
}

TEST_CASE("who a call is", "[access_file]") {
  const AccessRules rules =
      Parsed(R"({"tokens": [)" + Token(kHash, "user") + R"(],
          "certificates": [
            {"name": "uri:spiffe://x/w", "project": "b", "role": "reader"}]})");
  const Caller by_token{"team-a", Role::kUser};
  const Caller by_certificate{"b", Role::kReader};
  REQUIRE(*FindCaller(rules, {{"Bearer open-sesame"}, {}}) == by_token);
  REQUIRE(*FindCaller(rules, {{"bearer open-sesame"}, {}}) == by_token);
  REQUIRE(*FindCaller(rules, {{}, {"dns:other", "uri:spiffe://x/w"}}) ==
          by_certificate);
  // A token says who calls, whatever the certificate.
  REQUIRE(*FindCaller(rules, {{"Bearer open-sesame"}, {"uri:spiffe://x/w"}}) ==
          by_token);
  const auto reason = [&rules](const Credentials& credentials) {
    const absl::Status status = FindCaller(rules, credentials).status();
    REQUIRE(status.code() == absl::StatusCode::kUnauthenticated);
    return ErrorReason(status);
  };
  REQUIRE(reason({{}, {}}) == "NO_CREDENTIAL");
  REQUIRE(reason({{"Bearer wrong"}, {"uri:spiffe://x/w"}}) ==
          "UNKNOWN_CREDENTIAL");
  REQUIRE(reason({{}, {"dns:spiffe://x/w"}}) == "UNKNOWN_CREDENTIAL");
  REQUIRE(reason({{"Basic b3Blbg=="}, {}}) == "BAD_CREDENTIAL");
  REQUIRE(reason({{"Bearer "}, {}}) == "BAD_CREDENTIAL");
  REQUIRE(reason({{""}, {}}) == "BAD_CREDENTIAL");
  REQUIRE(reason({{"Bearer open-sesame", "Bearer open-sesame"}, {}}) ==
          "BAD_CREDENTIAL");
}

TEST_CASE("a broken file keeps what the one before said", "[access_file]") {
  REQUIRE(SetLogLevel("off").ok());
  const testing::TemporaryFolder folder;
  const std::string path = folder / "access.json";
  REQUIRE_FALSE(FileAccess::Open(path, true).ok());
  std::ofstream(path) << R"({"tokens": [)" << Token(kHash, "user") << "]}";
  const auto access = FileAccess::Open(path, false);
  REQUIRE(access.ok());
  REQUIRE((*access)->Reload());
  std::ofstream(path) << R"({"tokens": [)";
  REQUIRE_FALSE((*access)->Reload());
  std::ofstream(path) << R"({"certificates": [
      {"name": "dns:w", "project": "a", "role": "user"}]})";
  // Nobody could ever show it.
  REQUIRE_FALSE((*access)->Reload());
  const absl::Status status = FileAccess::Open(path, false).status();
  REQUIRE(status.message() ==
          "access-file: certificates: got some, allowed with tls-client-ca");
  REQUIRE(FileAccess::Open(path, true).ok());
}

}  // namespace
}  // namespace qs
