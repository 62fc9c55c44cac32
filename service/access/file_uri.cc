// Tested by tests/service/uri_roots_test.cc.
#include "service/access/file_uri.h"

#include <cctype>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "service/server/error.h"

namespace qs {
namespace {

constexpr size_t kMaxUriBytes = 4096;
constexpr char kPrefix[] = "file://";

// RFC 3986: pchar and "/", without the "%" of an escape. Spaces, controls and
// what is beyond ASCII come escaped.
bool IsPathByte(char byte) {
  return std::isalnum(static_cast<unsigned char>(byte)) != 0 ||
         std::string("-._~!$&'()*+,;=:@/").find(byte) != std::string::npos;
}

int HexValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

absl::Status BadUri(const std::string& field, const char* what) {
  return BadFieldError(
      field, absl::StrCat("got ", what, ", allowed file:///ABSOLUTE/PATH"));
}

absl::StatusOr<std::string> Unescape(const std::string& field,
                                     const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      if (!IsPathByte(text[i])) {
        return BadUri(field, "a byte that a URI's path has escaped only");
      }
      out.push_back(text[i]);
      continue;
    }
    const int high = i + 2 < text.size() ? HexValue(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? HexValue(text[i + 2]) : -1;
    if (high < 0 || low < 0) {
      return BadUri(field, "a % without two hexadecimal digits");
    }
    const char byte = static_cast<char>(high * 16 + low);
    // "a%2fb" is one part with a slash in its name, which no file has.
    if (byte == '\0' || byte == '/') {
      return BadUri(field, "an escaped NUL or slash");
    }
    out.push_back(byte);
    i += 2;
  }
  return out;
}

}  // namespace

absl::Status UriNotAllowed(const std::string& field, const std::string& text) {
  return RpcError(absl::StatusCode::kPermissionDenied, "URI_NOT_ALLOWED",
                  absl::StrCat(field, ": got ", text), {{"field", field}});
}

absl::StatusOr<std::string> PathOfFileUri(const std::string& field,
                                          const std::string& uri) {
  if (uri.size() > kMaxUriBytes) return BadUri(field, "more than 4096 bytes");
  if (!absl::StartsWith(uri, kPrefix)) return BadUri(field, "another scheme");
  const std::string text = uri.substr(sizeof(kPrefix) - 1);
  if (text.empty() || text[0] != '/') return BadUri(field, "a host");
  QS_ASSIGN_OR_RETURN(std::string path, Unescape(field, text));
  if (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path == "/") return path;
  const std::vector<std::string> parts = absl::StrSplit(path.substr(1), '/');
  for (const std::string& part : parts) {
    if (part == "..") return UriNotAllowed(field, "a path with a \"..\" part");
    if (part.empty() || part == ".") {
      return BadUri(field, "a path with an empty or \".\" part");
    }
  }
  return path;
}

std::string FileUriOf(const std::string& path) {
  std::string uri = kPrefix;
  for (const char byte : path) {
    if (IsPathByte(byte)) {
      uri += byte;
    } else {
      absl::StrAppendFormat(&uri, "%%%02X", static_cast<unsigned char>(byte));
    }
  }
  return uri;
}

bool IsBeneath(const std::string& path, const std::string& root) {
  if (root == "/") return true;
  return absl::StartsWith(path, root) &&
         (path.size() == root.size() || path[root.size()] == '/');
}

}  // namespace qs
